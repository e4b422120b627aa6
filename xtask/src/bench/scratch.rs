//! A journaled ext4 in a file, on which everything that a bench measures lies: also the user database, root's records
//! and the homes, so that each `fsync` costs what it costs on such a disk.
//!
//! Not the machine's own disk, because that may be an ext4 without a journal, where untar after a deletion is twelve
//! times slower (`find_inode_bit` looks at recently deleted inodes one by one).

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::run::tool;

/// What is moved to the disk, by binds in this process's mount namespace.
const MOVED: [&str; 3] = ["/etc", "/home", "/var/lib/fish-native"];

/// The disk, mounted. It goes with the mount namespace.
pub(crate) struct Scratch {
    dir: PathBuf,
}

impl Scratch {
    /// Makes the disk, sparse, of so many GB, and moves what is written during a bench onto it. To be called in a mount
    /// namespace of the bench's own.
    pub(crate) fn new(gb: u64) -> anyhow::Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "this bench makes environments: run it as root");
        let own = fs::read_link("/proc/self/ns/mnt")?;
        let parent = fs::read_link(format!("/proc/{}/ns/mnt", std::os::unix::process::parent_id()))?;
        ensure!(own != parent, "this bench moves /etc: it runs in a mount namespace of its own (unshare --mount)");
        let file = tempfile::Builder::new().prefix("fish-bench-").tempfile_in("/var/tmp")?;
        file.as_file().set_len(gb << 30)?;
        let path = file.path().to_str().context("a path that is not text")?;
        let options = "nodiscard,lazy_itable_init=1,lazy_journal_init=1";
        tool("mkfs.ext4", &["-q", "-F", "-m", "0", "-E", options, path]).output()?;
        let device = tool("losetup", &["--find", "--show", "--direct-io=on", path]).output()?;
        let device = device.trim();
        let dir = PathBuf::from("/mnt");
        let mounted = tool("mount", &["-o", "noinit_itable", device, "/mnt"]).output();
        // Untied when the mount goes; the file, which has no name any more, with it.
        tool("losetup", &["--detach", device]).output()?;
        mounted?;
        drop(file);
        for place in MOVED {
            fs::create_dir_all(place)?;
            let moved = dir.join(place.trim_start_matches('/').replace('/', "-"));
            if place == "/etc" {
                tool("cp", &["-a", place, text(&moved)?]).output()?;
            } else {
                fs::create_dir_all(&moved)?;
            }
            tool("mount", &["--bind", text(&moved)?, place]).output()?;
        }
        Ok(Self { dir })
    }

    /// A directory on it.
    pub(crate) fn dir(&self, name: &str) -> anyhow::Result<PathBuf> {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// Bytes in use on it, everything written back.
    pub(crate) fn used(&self) -> anyhow::Result<u64> {
        rustix::fs::syncfs(File::open(&self.dir)?)?;
        let stat = rustix::fs::statvfs(&self.dir)?;
        Ok((stat.f_blocks - stat.f_bfree) * stat.f_frsize)
    }

    /// Writes everything back, so that what is measured next does not pay for what was before.
    pub(crate) fn settle(&self) -> anyhow::Result<()> {
        Ok(rustix::fs::syncfs(File::open(&self.dir)?)?)
    }
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is not text")
}
