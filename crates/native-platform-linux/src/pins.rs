//! Disks that somebody else keeps from going: who, and how to take the space back all the same.
//!
//! An environment can hand a descriptor (a file of its disk, its mount namespace) to one that works with it. Where the
//! kernel has Landlock scopes they can't reach each other; where not, the disk stays after the last process of its own
//! environment. It can't be detached then, but it can be ended: its file system is shut down, so that whoever holds it
//! gets EIO, and its space is given back to the host. The device goes with its holder, and until then it is told.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::waitpid;

use crate::proc::{self, LoopDevice};
use crate::sys::{self, Forked};

/// A process that keeps a disk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Holder {
    pid: i32,
    name: String,
    uid: u32,
    /// By what it holds it: `fd 5`, `cwd`, `namespace fd 7`.
    how: String,
    /// Whether it is by a mount namespace that has the disk mounted.
    pub(crate) mounts: bool,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({}) of uid {}: {}", self.pid, self.name, self.uid, self.how)
    }
}

/// Who keeps this device. A descriptor on its way between two processes belongs to nobody and is not found.
///
/// # Errors
/// When `/proc` can't be listed.
pub(crate) fn holders(device: &LoopDevice) -> io::Result<Vec<Holder>> {
    let number = fs::metadata(&device.device)?.rdev();
    let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
    let in_mountinfo = format!(" {major}:{minor} ");
    let in_maps = format!(" {major:02x}:{minor:02x} ");
    let mut seen = BTreeSet::new();
    let mut holders = Vec::new();
    for process in proc::processes(&|p| !p.zombie)? {
        let dir = PathBuf::from(format!("/proc/{}", process.pid));
        let mut hold = |how: String, mounts: bool| {
            let uid = process.uids.get(1).copied().unwrap_or_default();
            holders.push(Holder { pid: process.pid, name: process.name.clone(), uid, how, mounts });
        };
        let on_it = |path: &Path| fs::metadata(path).is_ok_and(|m| m.dev() == number);
        for link in ["cwd", "root"] {
            if on_it(&dir.join(link)) {
                hold(link.to_owned(), false);
            }
        }
        if fs::read_to_string(dir.join("maps")).is_ok_and(|maps| maps.contains(&in_maps)) {
            hold("a mapped file".to_owned(), false);
        }
        // One look into each namespace, and in the name of the first process that is found in it.
        if let Ok(space) = fs::read_link(dir.join("ns/mnt"))
            && seen.insert(space)
            && fs::read_to_string(dir.join("mountinfo")).is_ok_and(|text| text.contains(&in_mountinfo))
        {
            hold("its mount namespace".to_owned(), true);
        }
        // A process that has just ended has no descriptors.
        for entry in fs::read_dir(dir.join("fd")).into_iter().flatten().flatten() {
            let fd = entry.file_name().to_string_lossy().into_owned();
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            if target.as_os_str().as_encoded_bytes().starts_with(b"mnt:[") {
                if !seen.contains(&target) && mounts_through(&entry.path()).is_ok_and(|t| t.contains(&in_mountinfo)) {
                    hold(format!("namespace fd {fd}"), true);
                }
            } else if on_it(&entry.path()) {
                hold(format!("fd {fd}"), false);
            }
        }
    }
    Ok(holders)
}

/// The mounts of a namespace that only a descriptor keeps.
fn mounts_through(space: &Path) -> io::Result<String> {
    let space = File::open(space)?;
    let proc = File::open("/proc")?;
    from_child(|| {
        setns(&space, CloneFlags::CLONE_NEWNS)?;
        // The namespace may have no /proc of its own; the host's knows us as before.
        let path = format!("{}/mountinfo", std::process::id());
        let file =
            nix::fcntl::openat(&proc, path.as_str(), nix::fcntl::OFlag::O_RDONLY, nix::sys::stat::Mode::empty())?;
        let mut text = String::new();
        File::from(file).read_to_string(&mut text)?;
        Ok(text)
    })
}

/// Asks the kernel to untie a device: at once, or with its last user.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn detach(device: &LoopDevice) -> io::Result<()> {
    sys::loop_clear(File::open(&device.device)?.as_fd())
}

/// The file under a device: a place on its file system, and its handle there.
pub(crate) type Image<'a> = (&'a Path, &'a [u8]);

/// Puts an end to a device that somebody keeps: its file system is shut down, whichever of ours it is, and with `image`
/// its space is given back. Without, it is a disk that is kept for the next environment, and what it has is written out.
///
/// # Errors
/// When the file system could not be shut down, or the space not be given back.
pub(crate) fn end(device: &LoopDevice, run: &Path, image: Option<Image<'_>>) -> io::Result<()> {
    let mut problems = Vec::new();
    for file_system in ["ext4", "xfs", "btrfs"] {
        match shut_down(&device.device, file_system, run, image.is_none()) {
            Ok(()) => {
                let Some((place, handle)) = image else { return Ok(()) };
                let place = File::open(place)?;
                // Holes can't be punched through a device that is in use.
                return File::from(sys::open_by_handle(place.as_fd(), handle)?).set_len(0);
            }
            Err(e) => problems.push(format!("{file_system}: {e}")),
        }
    }
    Err(io::Error::other(problems.join(", ")))
}

fn shut_down(device: &Path, file_system: &str, run: &Path, keep: bool) -> io::Result<()> {
    // Mounting the device again shows the very file system that is kept, wherever its other mounts are.
    let done = in_namespace_of_its_own(run, |point| {
        mount(Some(device), point, Some(file_system), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, None::<&str>)?;
        sys::shut_down(File::open(point)?.as_fd(), keep)?;
        Ok(String::new())
    });
    done.map(drop)
}

/// Runs something in a child with a mount namespace of its own, with a directory to mount at, and returns what it says.
///
/// # Errors
/// When the namespace can't be had, and what the child's work ended with.
pub(crate) fn in_namespace_of_its_own(
    point: &Path,
    run: impl FnOnce(&Path) -> io::Result<String>,
) -> io::Result<String> {
    fs::create_dir_all(point)?;
    from_child(|| {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        run(point)
    })
}

/// Runs something in a child and returns what it says.
///
/// # Errors
/// When there can be no child, and what its work ended with.
pub(crate) fn from_child(run: impl FnOnce() -> io::Result<String>) -> io::Result<String> {
    let (read, write) = nix::unistd::pipe()?;
    match sys::fork()? {
        Forked::Child => {
            drop(read);
            let (mark, text) = match run() {
                Ok(text) => (b'+', text),
                Err(e) => (b'-', e.to_string()),
            };
            let mut pipe = File::from(write);
            drop(pipe.write_all(&[mark]).and_then(|()| pipe.write_all(text.as_bytes())));
            sys::exit_now(0);
        }
        Forked::Parent(pid) => {
            drop(write);
            let mut said = Vec::new();
            let read = File::from(read).read_to_end(&mut said);
            waitpid(pid, None)?;
            read?;
            match said.split_first() {
                Some((b'+', text)) => Ok(String::from_utf8_lossy(text).into_owned()),
                Some((_, text)) => Err(io::Error::other(String::from_utf8_lossy(text).into_owned())),
                None => Err(io::Error::other("the child died")),
            }
        }
    }
}
