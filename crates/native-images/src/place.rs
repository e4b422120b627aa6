//! Puts layers over a directory, as the calling user.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, SeekFrom, Stat};

use crate::archive::beneath;
use crate::cache::Layer;
use crate::error::PlaceError;

/// What was placed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Placed {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
}

/// Puts `layers` over `dir` in their order, as an overlay would show them: directories merge, anything else replaces what
/// is there. Symbolic links are put as they are and never followed, also those that were in `dir` before. `dir` is made
/// if it is not there.
///
/// # Errors
/// When something can not be read or written; what was placed until then stays.
pub fn unpack_over(layers: &[Layer], dir: &Path) -> Result<Placed, PlaceError> {
    let mut placed = Placed::default();
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |source| PlaceError { what, path, source }
    };
    std::fs::create_dir_all(dir).map_err(failed("create", dir))?;
    let target = beneath::open_root(dir).map_err(failed("open", dir))?;
    for layer in layers {
        let source = beneath::open_root(&layer.dir).map_err(failed("open", &layer.dir))?;
        let mut over = Over { root: &target, links: HashMap::new(), placed: &mut placed, buffer: vec![0; 256 * 1024] };
        over.directory(&source, &target, &mut PathBuf::new())
            .map_err(|(path, source)| failed("place", &dir.join(path))(source))?;
    }
    Ok(placed)
}

type Failure = (PathBuf, io::Error);

struct Over<'a> {
    root: &'a OwnedFd,
    /// Where the first name of a file with several was put.
    links: HashMap<(i128, u64), PathBuf>,
    placed: &'a mut Placed,
    buffer: Vec<u8>,
}

impl Over<'_> {
    fn directory(&mut self, from: &OwnedFd, to: &OwnedFd, path: &mut PathBuf) -> Result<(), Failure> {
        let here = |error: io::Error| (PathBuf::new(), error);
        for entry in rustix::fs::Dir::read_from(from).map_err(|error| here(error.into()))? {
            let entry = entry.map_err(|error| here(error.into()))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            path.push(beneath::name(name));
            self.entry(from, to, name, path).map_err(|(inner, error)| {
                let whole = if inner.as_os_str().is_empty() { path.clone() } else { inner };
                (whole, error)
            })?;
            path.pop();
        }
        Ok(())
    }

    fn entry(&mut self, from: &OwnedFd, to: &OwnedFd, name: &[u8], path: &mut PathBuf) -> Result<(), Failure> {
        let here = |error: io::Error| (PathBuf::new(), error);
        let gone = || io::Error::new(io::ErrorKind::NotFound, "it vanished while it was read");
        let stat = beneath::stat(from.as_fd(), name).and_then(|stat| stat.ok_or_else(gone)).map_err(here)?;
        let mtime = mtime(&stat);
        self.placed.entries += 1;
        match beneath::kind(&stat) {
            FileType::Directory => {
                let source = beneath::open_dir(from.as_fd(), name).map_err(here)?;
                let target = merged(to.as_fd(), name).map_err(here)?;
                self.directory(&source, &target, path)?;
                let finished = rustix::fs::fchmod(&target, Mode::from_raw_mode(stat.st_mode & 0o1777))
                    .and_then(|()| rustix::fs::futimens(&target, &beneath::times(mtime)));
                finished.map_err(|error| here(error.into()))
            }
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(from, beneath::name(name), Vec::new()).map_err(|e| here(e.into()))?;
                let made = replacing(to.as_fd(), name, |to| {
                    rustix::fs::symlinkat(link.as_c_str(), to, beneath::name(name))?;
                    let times = beneath::times(mtime);
                    Ok(rustix::fs::utimensat(to, beneath::name(name), &times, AtFlags::SYMLINK_NOFOLLOW)?)
                });
                made.map_err(here)
            }
            FileType::RegularFile => self.file(from, to, name, &stat, path).map_err(here),
            _ => Err(here(io::Error::new(io::ErrorKind::InvalidData, "neither a file, a directory nor a link"))),
        }
    }

    fn file(&mut self, from: &OwnedFd, to: &OwnedFd, name: &[u8], stat: &Stat, path: &Path) -> io::Result<()> {
        // Device numbers are of another type on each system.
        let identity = (i128::from(stat.st_dev), stat.st_ino);
        if stat.st_nlink > 1
            && let Some(first) = self.links.get(&identity)
        {
            let (dir, first_name) = self.beneath_root(first)?;
            return replacing(to.as_fd(), name, |to| {
                Ok(rustix::fs::linkat(&dir, &first_name, to, beneath::name(name), AtFlags::empty())?)
            });
        }
        let source = beneath::open_file(from.as_fd(), name)?;
        let mut target = replacing(to.as_fd(), name, |to| beneath::create_file(to, name))?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let allocated = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        if allocated < size {
            self.sparse(&source, &target, size)?;
        } else {
            let mut source = &source;
            loop {
                let got = source.read(&mut self.buffer)?;
                if got == 0 {
                    break;
                }
                target.write_all(&self.buffer[..got])?;
            }
        }
        copy_xattrs(&source, &target)?;
        rustix::fs::fchmod(&target, Mode::from_raw_mode(stat.st_mode & 0o777))?;
        rustix::fs::futimens(&target, &beneath::times(mtime(stat)))?;
        self.placed.bytes += size;
        if stat.st_nlink > 1 {
            self.links.insert(identity, path.to_owned());
        }
        Ok(())
    }

    fn sparse(&mut self, source: &File, target: &File, size: u64) -> io::Result<()> {
        target.set_len(size)?;
        let mut at = 0;
        while at < size {
            let start = match rustix::fs::seek(source, SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(rustix::io::Errno::NXIO) => break,
                Err(error) => return Err(error.into()),
            };
            let end = rustix::fs::seek(source, SeekFrom::Hole(start))?;
            at = start;
            while at < end {
                let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(self.buffer.len());
                let got = source.read_at(&mut self.buffer[..want], at)?;
                if got == 0 {
                    return Ok(());
                }
                target.write_all_at(&self.buffer[..got], at)?;
                at += got as u64;
            }
        }
        Ok(())
    }

    /// The directory and last name of a path that was placed before.
    fn beneath_root(&self, path: &Path) -> io::Result<(OwnedFd, std::ffi::OsString)> {
        use std::os::unix::ffi::OsStrExt as _;

        let mut dir = rustix::io::fcntl_dupfd_cloexec(self.root, 0)?;
        let name = path.file_name().unwrap_or_default().to_owned();
        for component in path.parent().into_iter().flat_map(Path::components) {
            dir = beneath::open_dir(dir.as_fd(), component.as_os_str().as_bytes())?;
        }
        Ok((dir, name))
    }
}

/// The directory of this name: the one that is there, or a new one instead of whatever else is there.
fn merged(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    match beneath::stat(parent, name)? {
        Some(stat) if beneath::kind(&stat) == FileType::Directory => {
            if stat.st_mode & 0o700 != 0o700 {
                rustix::fs::chmodat(
                    parent,
                    beneath::name(name),
                    Mode::from_raw_mode(stat.st_mode & 0o1777 | 0o700),
                    AtFlags::empty(),
                )?;
            }
        }
        there => {
            if there.is_some() {
                beneath::remove(parent, name)?;
            }
            rustix::fs::mkdirat(parent, beneath::name(name), Mode::from_raw_mode(0o700))?;
        }
    }
    beneath::open_dir(parent, name)
}

fn replacing<T>(parent: BorrowedFd<'_>, name: &[u8], make: impl Fn(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
    match make(parent) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            beneath::remove(parent, name)?;
            make(parent)
        }
        other => other,
    }
}

/// Only `user.*`, and only where both file systems keep them.
fn copy_xattrs(from: &File, to: &File) -> io::Result<()> {
    let mut names = vec![0u8; 65536];
    let length = match rustix::fs::flistxattr(from, &mut names[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::RANGE) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for name in names[..length].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user.")) {
        let mut value = vec![0u8; 65536];
        let length = rustix::fs::fgetxattr(from, beneath::name(name), &mut value[..])?;
        match rustix::fs::fsetxattr(to, beneath::name(name), &value[..length], rustix::fs::XattrFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::NOSPC) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn mtime(stat: &Stat) -> (i64, u32) {
    (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0))
}
