//! Writes a tree below a directory handle, entry by entry. Knows nothing of tar.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode};

use super::beneath;
use super::error::{ArchiveError, Refusal};
use super::manifest::{self, ManifestWriter, Record};
use super::pax::SparseMap;
use super::reader::{Entry, Kind};
use super::writeback::Writeback;
use crate::policy::Limits;

/// A tree in the making.
pub(crate) struct TreeWriter<'a> {
    limits: &'a Limits,
    /// For messages only.
    place: PathBuf,
    root: OwnedFd,
    /// Open directories of the path last used, so that neighbours cost one call.
    stack: Vec<(Vec<u8>, OwnedFd)>,
    list: ManifestWriter,
    list_path: PathBuf,
    writeback: Writeback,
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
}

impl<'a> TreeWriter<'a> {
    /// Makes `tree` (it must not exist) and writes its list to `list`.
    pub(crate) fn create(tree: &Path, list: &Path, limits: &'a Limits) -> Result<Self, ArchiveError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| ArchiveError::Write { path, source }
        };
        std::fs::create_dir(tree).map_err(failed(tree))?;
        let root = beneath::open_root(tree).map_err(failed(tree))?;
        rustix::fs::fchmod(&root, Mode::from_raw_mode(0o755)).map_err(|error| failed(tree)(error.into()))?;
        let writeback = Writeback::new(tree).map_err(failed(tree))?;
        let writer = ManifestWriter::create(list).map_err(failed(list))?;
        Ok(Self {
            limits,
            place: tree.to_owned(),
            root,
            stack: Vec::new(),
            list: writer,
            list_path: list.to_owned(),
            writeback,
            bytes: 0,
            entries: 0,
        })
    }

    /// Writes one entry; `content` fills a buffer with the next bytes of a file and gives 0 at its end.
    pub(crate) fn put(
        &mut self,
        entry: &Entry,
        mut content: impl FnMut(&mut [u8]) -> Result<usize, ArchiveError>,
        buffer: &mut [u8],
    ) -> Result<(), ArchiveError> {
        let components = components(&entry.path, self.limits)?;
        let refuse = |refusal| ArchiveError::entry(&entry.path, refusal);
        let Some((last, parents)) = components.split_last() else {
            if entry.kind != Kind::Directory {
                return Err(refuse(Refusal::Root));
            }
            let mode = (entry.mode & 0o1777) | 0o700;
            let result = rustix::fs::fchmod(&self.root, beneath::mode(mode));
            self.wrote(&entry.path, result.map_err(Into::into))?;
            return self.note(b"", &entry.path, &Record::Directory { mode, mtime: entry.mtime });
        };
        let path = components.join(&b'/');
        self.enter(parents, &entry.path)?;
        self.entries += 1;
        let record = match entry.kind {
            Kind::Directory => {
                let mode = (entry.mode & 0o1777) | 0o700;
                self.directory(last, mode, &path, &entry.path)?;
                Record::Directory { mode, mtime: entry.mtime }
            }
            Kind::File => self.file(entry, last, &path, &mut content, buffer)?,
            Kind::Symlink => {
                if entry.link.is_empty() || entry.link.len() > 4095 {
                    return Err(refuse(Refusal::SymlinkTarget));
                }
                if entry.link.contains(&0) {
                    return Err(refuse(Refusal::Nul));
                }
                self.fresh(last, &path, &entry.path, |parent| {
                    rustix::fs::symlinkat(beneath::name(&entry.link), parent, beneath::name(last))?;
                    let times = beneath::times(entry.mtime);
                    Ok(rustix::fs::utimensat(parent, beneath::name(last), &times, AtFlags::SYMLINK_NOFOLLOW)?)
                })?;
                Record::Symlink { mtime: entry.mtime, target: entry.link.clone() }
            }
            Kind::Hardlink => self.hard_link(entry, &components, last, &path)?,
        };
        self.note(&path, &entry.path, &record)
    }

    fn directory(&mut self, last: &[u8], mode: u32, path: &[u8], shown: &[u8]) -> Result<(), ArchiveError> {
        let parent = self.parent();
        let exists = match beneath::stat(parent, last) {
            Ok(Some(stat)) if beneath::kind(&stat) == FileType::Directory => true,
            Ok(Some(_)) => {
                let removed = beneath::remove(parent, last);
                self.wrote(shown, removed)?;
                self.note(path, shown, &Record::Replaced)?;
                false
            }
            Ok(None) => false,
            Err(error) => return Err(self.write_error(shown, error)),
        };
        let parent = self.parent();
        let made = (|| {
            if !exists {
                rustix::fs::mkdirat(parent, beneath::name(last), Mode::from_raw_mode(0o700))?;
            }
            let dir = beneath::open_dir(parent, last)?;
            rustix::fs::fchmod(&dir, beneath::mode(mode))?;
            Ok(dir)
        })();
        let dir = self.wrote(shown, made)?;
        self.stack.push((last.to_vec(), dir));
        Ok(())
    }

    fn file(
        &mut self,
        entry: &Entry,
        last: &[u8],
        path: &[u8],
        content: &mut impl FnMut(&mut [u8]) -> Result<usize, ArchiveError>,
        buffer: &mut [u8],
    ) -> Result<Record, ArchiveError> {
        let mut file = self.fresh(last, path, &entry.path, |parent| beneath::create_file(parent, last))?;
        let mode = (entry.mode & 0o777) | 0o400;
        let (crc, size) = match &entry.sparse {
            None => {
                let mut crc = flate2::Crc::new();
                let mut size = 0u64;
                loop {
                    let got = content(buffer)?;
                    if got == 0 {
                        break;
                    }
                    crc.update(&buffer[..got]);
                    size += got as u64;
                    let written = file.write_all(&buffer[..got]);
                    self.wrote(&entry.path, written)?;
                }
                (crc.sum(), size)
            }
            Some(map) => (self.sparse(&file, map, &entry.path, content, buffer)?, map.real_size),
        };
        let finished = (|| {
            for (name, value) in &entry.xattrs {
                set_xattr(&file, name, value)?;
            }
            rustix::fs::fchmod(&file, beneath::mode(mode))?;
            Ok(rustix::fs::futimens(&file, &beneath::times(entry.mtime))?)
        })();
        self.wrote(&entry.path, finished)?;
        self.bytes += entry.size;
        self.writeback.wrote(entry.size);
        let segments = entry.sparse.as_ref().map(|map| map.segments.clone());
        Ok(Record::File { mode, mtime: entry.mtime, size, crc, segments })
    }

    fn sparse(
        &mut self,
        file: &File,
        map: &SparseMap,
        shown: &[u8],
        content: &mut impl FnMut(&mut [u8]) -> Result<usize, ArchiveError>,
        buffer: &mut [u8],
    ) -> Result<u32, ArchiveError> {
        let mut crc = flate2::Crc::new();
        self.wrote(shown, file.set_len(map.real_size))?;
        for &(offset, length) in &map.segments {
            let mut done = 0u64;
            while done < length {
                let want = usize::try_from(length - done).unwrap_or(usize::MAX).min(buffer.len());
                let got = content(&mut buffer[..want])?;
                if got == 0 {
                    return Err(ArchiveError::Truncated { place: "within a sparse file" });
                }
                crc.update(&buffer[..got]);
                self.wrote(shown, file.write_all_at(&buffer[..got], offset + done))?;
                done += got as u64;
            }
        }
        Ok(crc.sum())
    }

    fn hard_link(
        &mut self,
        entry: &Entry,
        components_of_link: &[&[u8]],
        last: &[u8],
        path: &[u8],
    ) -> Result<Record, ArchiveError> {
        let refuse = |refusal| ArchiveError::entry(&entry.path, refusal);
        let target = components(&entry.link, self.limits).map_err(|error| match error {
            ArchiveError::Entry { refusal, .. } => refuse(refusal),
            other => other,
        })?;
        let Some((target_last, target_parents)) = target.split_last() else {
            return Err(refuse(Refusal::LinkTarget));
        };
        if target == components_of_link {
            return Err(refuse(Refusal::LinkTarget));
        }
        let mut dir: Option<OwnedFd> = None;
        for component in target_parents {
            let from = dir.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
            dir = Some(beneath::open_dir(from, component).map_err(|_| refuse(Refusal::LinkTarget))?);
        }
        let from = dir.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
        let stat = beneath::stat(from, target_last).map_err(|error| self.write_error(&entry.path, error))?;
        if !stat.is_some_and(|stat| matches!(beneath::kind(&stat), FileType::RegularFile | FileType::Symlink)) {
            return Err(refuse(Refusal::LinkTarget));
        }
        let from =
            rustix::io::fcntl_dupfd_cloexec(from, 0).map_err(|error| self.write_error(&entry.path, error.into()))?;
        self.fresh(last, path, &entry.path, |parent| {
            let (old, new) = (beneath::name(target_last), beneath::name(last));
            Ok(rustix::fs::linkat(&from, old, parent, new, AtFlags::empty())?)
        })?;
        Ok(Record::Hardlink { target: target.join(&b'/') })
    }

    /// Makes something new; what has the name already goes away first: the later entry wins.
    fn fresh<T>(
        &mut self,
        last: &[u8],
        path: &[u8],
        shown: &[u8],
        make: impl Fn(BorrowedFd<'_>) -> io::Result<T>,
    ) -> Result<T, ArchiveError> {
        match make(self.parent()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return self.wrote(shown, other),
        }
        let removed = beneath::remove(self.parent(), last);
        self.wrote(shown, removed)?;
        self.note(path, shown, &Record::Replaced)?;
        let made = make(self.parent());
        self.wrote(shown, made)
    }

    fn parent(&self) -> BorrowedFd<'_> {
        self.stack.last().map_or(self.root.as_fd(), |(_, dir)| dir.as_fd())
    }

    /// Makes the stack the directories of `parents`; those that no entry named are made with mode 0755.
    fn enter(&mut self, parents: &[&[u8]], shown: &[u8]) -> Result<(), ArchiveError> {
        let common = self.stack.iter().zip(parents).take_while(|((open, _), wanted)| open == *wanted).count();
        self.stack.truncate(common);
        for (depth, component) in parents.iter().enumerate().skip(common) {
            let dir = match beneath::open_dir(self.parent(), component) {
                Ok(dir) => dir,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let parent = self.parent();
                    let made = (|| {
                        rustix::fs::mkdirat(parent, beneath::name(component), Mode::from_raw_mode(0o700))?;
                        let dir = beneath::open_dir(parent, component)?;
                        rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o755))?;
                        Ok(dir)
                    })();
                    let dir = self.wrote(shown, made)?;
                    let path = parents[..=depth].join(&b'/');
                    self.note(&path, shown, &Record::Directory { mode: 0o755, mtime: (0, 0) })?;
                    dir
                }
                Err(error) => {
                    let there = beneath::stat(self.parent(), component);
                    return Err(match there.ok().flatten().map(|stat| beneath::kind(&stat)) {
                        Some(FileType::Symlink) => ArchiveError::entry(shown, Refusal::ThroughSymlink),
                        Some(FileType::Directory) | None => self.write_error(shown, error),
                        Some(_) => ArchiveError::entry(shown, Refusal::NotADirectory),
                    });
                }
            };
            self.stack.push((component.to_vec(), dir));
        }
        Ok(())
    }

    /// Sets the times of directories, which every later entry in them changed. The list is complete after it.
    pub(crate) fn finish(mut self) -> Result<(u64, u64), ArchiveError> {
        let list_path = self.list_path.clone();
        let failed = |source| ArchiveError::Write { path: list_path.clone(), source };
        self.list.flush().map_err(failed)?;
        self.stack.clear();
        manifest::read(&list_path, |path, record| {
            let Record::Directory { mtime, .. } = record else { return Ok(()) };
            let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
            let common = self.stack.iter().zip(&names).take_while(|((open, _), wanted)| open == *wanted).count();
            self.stack.truncate(common);
            for name in &names[common..] {
                match beneath::open_dir(self.parent(), name) {
                    Ok(dir) => self.stack.push((name.to_vec(), dir)),
                    Err(_) => return Ok(()), // replaced by a later entry
                }
            }
            Ok(rustix::fs::futimens(self.parent(), &beneath::times(mtime))?)
        })
        .map_err(failed)?;
        self.list.finish().map_err(failed)?;
        let place = self.place;
        self.writeback.finish().map_err(|source| ArchiveError::Write { path: place, source })?;
        Ok((self.bytes, self.entries))
    }

    fn note(&mut self, path: &[u8], shown: &[u8], record: &Record) -> Result<(), ArchiveError> {
        let added = self.list.add(path, record);
        self.wrote(shown, added)
    }

    fn wrote<T>(&self, shown: &[u8], result: io::Result<T>) -> Result<T, ArchiveError> {
        result.map_err(|source| self.write_error(shown, source))
    }

    fn write_error(&self, shown: &[u8], source: io::Error) -> ArchiveError {
        ArchiveError::Write { path: self.place.join(super::error::show(shown).trim_start_matches('/')), source }
    }
}

/// The components of a name. `.` and doubled slashes are nothing; everything else that is not a plain name is refused.
fn components<'e>(path: &'e [u8], limits: &Limits) -> Result<Vec<&'e [u8]>, ArchiveError> {
    let refuse = |refusal| ArchiveError::entry(path, refusal);
    if path.is_empty() {
        return Err(refuse(Refusal::EmptyName));
    }
    if path.len() > limits.path_length {
        return Err(refuse(Refusal::NameTooLong));
    }
    if path.contains(&0) {
        return Err(refuse(Refusal::Nul));
    }
    if path[0] == b'/' {
        return Err(refuse(Refusal::Absolute));
    }
    let mut components = Vec::new();
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err(refuse(Refusal::DotDot)),
            component if component.len() > limits.name_length => return Err(refuse(Refusal::NameTooLong)),
            component => components.push(component),
        }
    }
    if components.len() > limits.depth {
        return Err(refuse(Refusal::TooDeep));
    }
    Ok(components)
}

/// A file system that keeps no extended attributes is no reason to refuse an image.
fn set_xattr(file: &File, name: &[u8], value: &[u8]) -> io::Result<()> {
    match rustix::fs::fsetxattr(file, beneath::name(name), value, rustix::fs::XattrFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::NOSPC | rustix::io::Errno::TOOBIG) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
