//! File operations below a directory handle: one component at a time, never through a symbolic link.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT};

pub(crate) fn name(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

/// A file's mode in this system's type for it: 32 bits on Linux, 16 on macOS. No mode has more.
pub(crate) fn mode(bits: u32) -> Mode {
    fn narrow<T: TryFrom<u32> + Default>(bits: u32) -> T {
        T::try_from(bits).unwrap_or_default()
    }
    Mode::from_raw_mode(narrow(bits & 0o7777))
}

/// The bits of a mode in this system's type for it.
pub(crate) fn bits(mode: impl Into<u32>) -> u32 {
    mode.into()
}

/// Opens a directory by path: the one place where a path of the caller's is resolved as a whole.
pub(crate) fn open_root(path: &std::path::Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Opens a directory in a directory. A symbolic link there is an error.
pub(crate) fn open_dir(parent: BorrowedFd<'_>, component: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name(component), flags, Mode::empty())?)
}

/// Makes a new file in a directory; it is an error if anything has its name.
pub(crate) fn create_file(parent: BorrowedFd<'_>, component: &[u8]) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(parent, name(component), flags, Mode::from_raw_mode(0o600))?))
}

/// Opens a regular file for reading. Symbolic links, pipes and devices are errors.
pub(crate) fn open_file(parent: BorrowedFd<'_>, component: &[u8]) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(parent, name(component), flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(file)
}

/// What is there, symbolic links not followed. `None`: nothing.
pub(crate) fn stat(parent: BorrowedFd<'_>, component: &[u8]) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(parent, name(component), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Removes whatever has this name, directories with all that is in them.
pub(crate) fn remove(parent: BorrowedFd<'_>, component: &[u8]) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name(component), AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let dir = match open_dir(parent, component) {
        Ok(dir) => dir,
        // Ours, but its owner took the right to read it away from himself.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            rustix::fs::chmodat(parent, name(component), Mode::from_raw_mode(0o700), AtFlags::empty())?;
            open_dir(parent, component)?
        }
        Err(error) => return Err(error),
    };
    clear(&dir)?;
    Ok(rustix::fs::unlinkat(parent, name(component), AtFlags::REMOVEDIR)?)
}

/// Empties a directory. Holds one handle for each level; trees of ours are never deeper than the depth limit.
fn clear(dir: &OwnedFd) -> io::Result<()> {
    let mut writable = false;
    loop {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(dir)? {
            let entry = entry?;
            let bytes = entry.file_name().to_bytes();
            if bytes != b"." && bytes != b".." {
                names.push(bytes.to_vec());
            }
            if names.len() >= 4096 {
                break;
            }
        }
        if names.is_empty() {
            return Ok(());
        }
        for entry in &names {
            match remove(dir.as_fd(), entry) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !writable => {
                    rustix::fs::fchmod(dir, Mode::from_raw_mode(0o700))?;
                    writable = true;
                    remove(dir.as_fd(), entry)?;
                }
                other => other?,
            }
        }
    }
}

/// Only the modification time is set.
pub(crate) fn times(mtime: (i64, u32)) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.0, tv_nsec: mtime.1.into() },
    }
}
