//! Fresh file systems without running mkfs each time.
//!
//! An empty file system of 10 GB is a few blocks of metadata in a sparse file. The first one of a size is made by
//! mkfs and kept as a template below root's records; every further one is a copy of the template's data, about 150 KB,
//! which takes a fraction of a millisecond where mkfs takes six to fifteen. ext4 does not mind two mounted file
//! systems with the same UUID; others do, and have no templates.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use native_platform::{CommandSpec, StepError, StepKind};
use nix::unistd::{Whence, lseek};

use crate::commands::{MAKE_TEMPLATE, Tools};
use crate::layout::Paths;
use crate::volume;

/// More sizes than a node's labels have. Beyond this no template is kept: a label could name a new size each time.
const MOST: usize = 64;
/// Changes when the options of mkfs do: an older template is then not used any more.
const SERIES: &str = "ext4-2";

/// What every volume has: a place for the workload's files and one for the overlay's; and what a temp volume has, below a
/// place of its own. What is in a template need not be made on each disk, which takes a block and more for each directory.
const TREE: [(&str, u32); 6] = [
    ("data", 0o700),
    ("work", 0o700),
    ("temp", 0o755),
    ("temp/tmp", 0o1777),
    ("temp/var-tmp", 0o1777),
    ("temp/lock", 0o1777),
];

/// Puts an empty file system of this size into an empty file.
pub(crate) fn fill(
    tools: &Tools,
    paths: &Paths,
    spec: &CommandSpec,
    bytes: u64,
    image: &File,
) -> Result<(), StepError> {
    if spec.tool != "mkfs.ext4" {
        return make(tools, spec, "fish", bytes, image);
    }
    let dir = paths.state.join("templates");
    let path = dir.join(format!("{SERIES}-{bytes}.img"));
    if let Ok(template) = File::open(&path) {
        return copy(&template, image).map_err(volume::doing(format!("copy {}", path.display())));
    }
    let may_keep = kept(&dir).unwrap_or(false);
    let Some(template) = may_keep.then(|| volume::nameless(&dir).ok()).flatten() else {
        // One size too many, or nowhere to keep it (a file system without O_TMPFILE): made each time.
        return make(tools, spec, "fish", bytes, image);
    };
    let tree = tree(&dir).map_err(volume::doing(format!("make what disks begin with in {}", dir.display())))?;
    run(tools, &MAKE_TEMPLATE, &[&tree.to_string_lossy(), journal(bytes), "fish"], bytes, &template)?;
    copy(&template, image).map_err(volume::doing(format!("copy {}", path.display())))?;
    match template.sync_all().and_then(|()| volume::name(&template, &path)) {
        // Another helper was quicker with the same size.
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(volume::doing(format!("keep {}", path.display()))(e)),
        _ => Ok(()),
    }
}

/// Makes the directory of templates and says whether there is room for one more.
fn kept(dir: &Path) -> io::Result<bool> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    Ok(fs::read_dir(dir)?.count() < MOST)
}

/// Makes [`TREE`] below this directory, if it is not there. Whoever reads one that is half made gets a template without some
/// of it, and each volume of that makes the rest.
fn tree(dir: &Path) -> io::Result<PathBuf> {
    let tree = dir.join("tree");
    for (name, mode) in [("", 0o700)].into_iter().chain(TREE) {
        let path = tree.join(name);
        match fs::create_dir(&path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        // The mode of mkdir is cut by the umask.
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    Ok(tree)
}

/// Makes a file system by its tool.
pub(crate) fn make(tools: &Tools, spec: &CommandSpec, label: &str, bytes: u64, image: &File) -> Result<(), StepError> {
    if spec.tool == "mkfs.ext4" {
        run(tools, spec, &[journal(bytes), label], bytes, image)
    } else {
        run(tools, spec, &[label], bytes, image)
    }
}

/// ext4 alone is told how large its journal is, in MB: small is quick to make, and 4 is the least.
fn journal(bytes: u64) -> &'static str {
    if bytes >= 256 << 20 { "16" } else { "4" }
}

/// Runs a maker with these words and, last, the image.
fn run(tools: &Tools, spec: &CommandSpec, words: &[&str], bytes: u64, image: &File) -> Result<(), StepError> {
    image.set_len(bytes).map_err(volume::doing(format!("make an image of {bytes} bytes")))?;
    // mkfs runs in another process: it reaches the nameless file through ours.
    let path = format!("/proc/{}/fd/{}", std::process::id(), image.as_raw_fd());
    let values: Vec<&str> = words.iter().copied().chain([&*path]).collect();
    tools.check(StepKind::Volume, spec, &values).map(drop)
}

/// Copies what is not a hole.
fn copy(from: &File, to: &File) -> io::Result<()> {
    let length = from.metadata()?.len();
    to.set_len(length)?;
    // Small: the keeper, which is forked from here, keeps what the helper had.
    let mut chunk = vec![0; 32 << 10];
    let mut at = 0;
    while let Ok(start) = lseek(from, at, Whence::SeekData) {
        let end = lseek(from, start, Whence::SeekHole)?;
        let mut offset = u64::try_from(start).map_err(io::Error::other)?;
        let end_offset = u64::try_from(end).map_err(io::Error::other)?;
        while offset < end_offset {
            let want = usize::try_from(end_offset - offset).unwrap_or(usize::MAX).min(chunk.len());
            let read = from.read_at(&mut chunk[..want], offset)?;
            if read == 0 {
                break;
            }
            to.write_all_at(&chunk[..read], offset)?;
            offset += u64::try_from(read).map_err(io::Error::other)?;
        }
        at = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn copies_data_and_leaves_holes() {
        let dir = tempfile::Builder::new().prefix("fish-template-").tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let template = File::options().read(true).write(true).create_new(true).open(&from).unwrap();
        template.set_len(64 << 20).unwrap();
        template.write_all_at(b"head", 0).unwrap();
        template.write_all_at(b"middle", 33 << 20).unwrap();
        let image = File::create_new(&to).unwrap();
        copy(&template, &image).unwrap();
        assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap());
        let blocks = fs::metadata(&to).unwrap().blocks();
        assert!(blocks < 2048, "{blocks} blocks of 512 bytes");
    }
}
