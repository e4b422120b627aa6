//! Removing a tree that a workload has written, as root.
//!
//! A workload can make trees that defeat a walk by path: deeper than `PATH_MAX`, deeper than the limit of open
//! files (`std::fs::remove_dir_all` fails with EMFILE at a depth of about 1,000), with symbolic links swapped in.
//! Here nothing is ever named by more than one component below an open directory, links are never followed, and
//! a directory found inside another one is first moved up, so that two descriptors do for any depth. Nothing is
//! entered that is a mount: what lies below a bind mount is somebody else's, and would be lost (that a mount has the
//! same device number as its directory is no sign: bind mounts do).

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::{Dir, Type};
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, RenameFlags, ResolveFlag, openat, openat2, renameat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::sys;

const OPEN_DIR: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Removes the directory and everything in it. That it is not there is success.
///
/// # Errors
/// When something can't be removed; what could be removed is gone.
pub(crate) fn tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a path below a directory"));
    };
    match openat(AT_FDCWD, parent, OPEN_DIR, Mode::empty()) {
        Ok(parent) => tree_in(&parent, &CString::new(name.as_bytes())?),
        Err(nix::Error::ENOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Removes the file or the directory, if `ours` says so of its uid and name. Nothing on the way there may be a link: the
/// directories of such a path may be other accounts' to swap.
///
/// # Errors
/// When it is not ours, or can't be removed.
pub(crate) fn owned(path: &Path, ours: &dyn Fn(u32, &OsStr) -> bool) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a path below a directory"));
    };
    let how =
        OpenHow::new().flags(OPEN_DIR).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let parent = match openat2(AT_FDCWD, parent, how) {
        Err(nix::Error::ENOENT) => return Ok(()),
        opened => opened?,
    };
    let stat = match fstatat(&parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(nix::Error::ENOENT) => return Ok(()),
        stat => stat?,
    };
    if !ours(stat.st_uid, name) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is somebody else's by now"));
    }
    let name = CString::new(name.as_bytes())?;
    if kind_of(&stat) == SFlag::S_IFDIR { tree_in(&parent, &name) } else { unlink(&parent, &name) }
}

/// Removes a directory of an open one, and everything in it.
fn tree_in(parent: &OwnedFd, name: &CStr) -> io::Result<()> {
    let top = match open_here(parent, name) {
        Ok(top) => top,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    empty(&top)?;
    drop(top);
    Ok(unlinkat(parent, name, UnlinkatFlags::RemoveDir)?)
}

/// Opens a directory of an open one: this very one, not what is mounted on it.
fn open_here(parent: &OwnedFd, name: &CStr) -> io::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_BENEATH;
    openat2(parent, name, OpenHow::new().flags(OPEN_DIR).resolve(resolve)).map_err(|e| mounted(name, e))
}

/// Says that something is a mount point, which the kernel tells in several ways.
fn mounted(name: &CStr, error: nix::Error) -> io::Error {
    match error {
        nix::Error::EXDEV | nix::Error::EBUSY => {
            let message = format!("{} is a mount point: unmount it first", name.to_string_lossy());
            io::Error::new(io::ErrorKind::ResourceBusy, message)
        }
        e => e.into(),
    }
}

/// Unlinks what is no directory, also where an immutable file or directory is in the way.
fn unlink(dir: &OwnedFd, name: &CStr) -> io::Result<()> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Err(nix::Error::EPERM) => {}
        done => return done.map_err(|e| mounted(name, e)),
    }
    drop(sys::clear_fixed(dir.as_fd()));
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    if let Ok(file) = openat(dir, name, flags, Mode::empty()) {
        drop(sys::clear_fixed(file.as_fd()));
    }
    Ok(unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)?)
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
            unlink(top, name)
        })?;
        if directories.is_empty() {
            return Ok(());
        }
        for name in directories {
            let dir = open_here(top, &name)?;
            drop(sys::clear_fixed(dir.as_fd()));
            for_each(&dir, |inner, is_dir| {
                if !is_dir {
                    return unlink(&dir, inner);
                }
                // Moving it up changes it as well.
                drop(open_here(&dir, inner).and_then(|d| sys::clear_fixed(d.as_fd())));
                loop {
                    moved += 1;
                    let up = format!(".fish-{moved}");
                    match renameat2(&dir, inner, top, up.as_str(), RenameFlags::RENAME_NOREPLACE) {
                        Err(nix::Error::EEXIST) => {}
                        other => return other.map_err(|e| mounted(inner, e)),
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
