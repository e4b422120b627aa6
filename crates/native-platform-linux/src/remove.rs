//! Removing a tree that a workload has written, as root.
//!
//! A workload can make trees that defeat a walk by path: deeper than `PATH_MAX`, deeper than the limit of open
//! files (`std::fs::remove_dir_all` fails with EMFILE at a depth of about 1,000), with symbolic links swapped in.
//! Here nothing is ever named by more than one component below an open directory, links are never followed, and
//! a directory found inside another one is first moved up, so that two descriptors do for any depth. What is a
//! mount point can be neither moved nor unlinked: the kernel says EBUSY, and so do we.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::dir::{Dir, Type};
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

const OPEN_DIR: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Removes the directory and everything in it. That it is not there is success.
///
/// # Errors
/// When something can't be removed; what could be removed is gone.
pub(crate) fn tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a path below a directory"));
    };
    let parent = match openat(nix::fcntl::AT_FDCWD, parent, OPEN_DIR, Mode::empty()) {
        Ok(parent) => parent,
        Err(nix::Error::ENOENT) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let top = match openat(&parent, name, OPEN_DIR, Mode::empty()) {
        Ok(top) => top,
        Err(nix::Error::ENOENT) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    empty(&top)?;
    drop(top);
    Ok(unlinkat(&parent, name, UnlinkatFlags::RemoveDir)?)
}

/// Empties an open directory.
fn empty(top: &OwnedFd) -> io::Result<()> {
    let mut moved = 0_u64;
    loop {
        let mut directories = Vec::new();
        for_each(top, |name, is_dir| {
            if is_dir {
                directories.push(name.to_owned());
                return Ok(());
            }
            Ok(unlinkat(top, name, UnlinkatFlags::NoRemoveDir)?)
        })?;
        if directories.is_empty() {
            return Ok(());
        }
        for name in directories {
            let dir = openat(top, name.as_c_str(), OPEN_DIR, Mode::empty())?;
            for_each(&dir, |inner, is_dir| {
                if !is_dir {
                    return Ok(unlinkat(&dir, inner, UnlinkatFlags::NoRemoveDir)?);
                }
                loop {
                    moved += 1;
                    let up = format!(".fish-{moved}");
                    match renameat2(&dir, inner, top, up.as_str(), RenameFlags::RENAME_NOREPLACE) {
                        Err(nix::Error::EEXIST) => {}
                        other => return Ok(other?),
                    }
                }
            })?;
            drop(dir);
            unlinkat(top, name.as_c_str(), UnlinkatFlags::RemoveDir)?;
        }
    }
}

/// Calls `f` with each entry's name and whether it is a directory.
fn for_each(dir: &OwnedFd, mut f: impl FnMut(&CStr, bool) -> io::Result<()>) -> io::Result<()> {
    // A descriptor of its own, because reading moves its position.
    let mut entries = Dir::openat(dir.as_fd(), ".", OPEN_DIR, Mode::empty())?;
    for entry in entries.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let is_dir = match entry.file_type() {
            Some(kind) => kind == Type::Directory,
            None => kind_of(&fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?) == SFlag::S_IFDIR,
        };
        f(name, is_dir)?;
    }
    Ok(())
}

fn kind_of(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::mkdirat;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn scratch() -> tempfile::TempDir {
        tempfile::Builder::new().prefix("fish-remove-").tempdir().unwrap()
    }

    #[test]
    fn removes_a_tree_that_is_deeper_than_any_path_or_descriptor_limit() {
        let dir = scratch();
        let top = dir.path().join("tree");
        fs::create_dir(&top).unwrap();
        let mut at = openat(nix::fcntl::AT_FDCWD, &top, OPEN_DIR, Mode::empty()).unwrap();
        for _ in 0..5_000 {
            mkdirat(&at, "d", Mode::S_IRWXU).unwrap();
            at = openat(&at, "d", OPEN_DIR, Mode::empty()).unwrap();
        }
        tree(&top).unwrap();
        assert!(!top.exists());
    }

    #[test]
    fn never_follows_a_link_out_of_the_tree() {
        let dir = scratch();
        let (outside, top) = (dir.path().join("outside"), dir.path().join("tree"));
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("precious"), "x").unwrap();
        symlink(&outside, top.join("a/link")).unwrap();
        symlink(&outside, top.join("a/b/link")).unwrap();
        fs::write(top.join(".fish-1"), "in the way").unwrap();
        tree(&top).unwrap();
        assert!(!top.exists() && outside.join("precious").exists());
        symlink(&outside, &top).unwrap();
        assert!(tree(&top).is_err(), "a link in place of the tree is refused");
        assert!(outside.join("precious").exists());
    }

    #[test]
    fn what_is_not_there_is_removed_already() {
        tree(&scratch().path().join("no/such")).unwrap();
    }
}
