//! Compares a cached tree with the list of what was unpacked.

use std::collections::HashMap;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::FileType;

use super::store::{Store, at};
use super::types::{Problem, VerifyReport};
use crate::archive::beneath;
use crate::archive::manifest::{self, Record};
use crate::error::CacheError;

const MAX_PROBLEMS: usize = 100;

/// Verifies all images, or those that `name` means.
pub(super) fn verify(store: &Store, name: Option<&str>) -> Result<Vec<VerifyReport>, CacheError> {
    let mut reports = Vec::new();
    let mut seen: HashMap<String, (u64, Vec<Problem>)> = HashMap::new();
    for (_, record) in store.records()? {
        let digest = record.digest();
        let id = format!("{}-{}", record.name, record.version);
        if name.is_some_and(|name| name != record.name && name != id && name != digest) {
            continue;
        }
        let (mut files, mut problems) = (0, Vec::new());
        for layer in &record.layers {
            let (count, found) = match seen.get(&layer.digest) {
                Some(known) => known.clone(),
                None => {
                    let result = layer_problems(store, &layer.digest)?;
                    seen.insert(layer.digest.clone(), result.clone());
                    result
                }
            };
            files += count;
            problems.extend(found);
        }
        problems.truncate(MAX_PROBLEMS);
        reports.push(VerifyReport { name: record.name, version: record.version, digest, files, problems });
    }
    match name {
        Some(name) if reports.is_empty() => Err(CacheError::Unknown { name: name.to_owned() }),
        _ => Ok(reports),
    }
}

fn layer_problems(store: &Store, digest: &str) -> Result<(u64, Vec<Problem>), CacheError> {
    let missing = || Ok((0, vec![Problem::LayerMissing { digest: digest.to_owned() }]));
    let Some(dir) = store.layer(digest) else { return missing() };
    let Some(_held) = store.hold(digest)? else { return missing() };
    let list = dir.join("list");
    let mut wanted: HashMap<Vec<u8>, Record> = HashMap::new();
    let read = manifest::read(&list, |path, record| {
        if record == Record::Replaced {
            let below = [&path[..], b"/"].concat();
            wanted.retain(|known, _| *known != path && !known.starts_with(&below));
        } else {
            wanted.insert(path, record);
        }
        Ok(())
    });
    match read {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => return missing(),
        other => other.map_err(at("read", &list))?,
    }
    let tree = dir.join("tree");
    let Ok(root) = beneath::open_root(&tree) else { return missing() };
    let mut check = Check { files: 0, problems: Vec::new(), buffer: vec![0; 256 * 1024] };
    if let Some(Record::Directory { mode, .. }) = wanted.remove(&b""[..]) {
        let stat = rustix::fs::fstat(&root).map_err(|error| at("read", &tree)(error.into()))?;
        if beneath::bits(stat.st_mode) & 0o7777 != mode {
            check.changed(b".", "mode");
        }
    }
    check.directory(&root, &mut Vec::new(), &mut wanted).map_err(at("read", &tree))?;
    let mut missing: Vec<_> = wanted.into_keys().collect();
    missing.sort();
    for path in missing {
        check.problem(Problem::Missing { path: shown(&path) });
    }
    Ok((check.files, check.problems))
}

struct Check {
    files: u64,
    problems: Vec<Problem>,
    buffer: Vec<u8>,
}

impl Check {
    fn directory(
        &mut self,
        dir: &OwnedFd,
        path: &mut Vec<u8>,
        wanted: &mut HashMap<Vec<u8>, Record>,
    ) -> io::Result<()> {
        for entry in rustix::fs::Dir::read_from(dir)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let length = path.len();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            self.entry(dir, name, path, wanted)?;
            path.truncate(length);
        }
        Ok(())
    }

    fn entry(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        path: &mut Vec<u8>,
        wanted: &mut HashMap<Vec<u8>, Record>,
    ) -> io::Result<()> {
        let Some(stat) = beneath::stat(dir.as_fd(), name)? else { return Ok(()) };
        let Some(record) = wanted.remove(&path[..]) else {
            self.problem(Problem::Added { path: shown(path) });
            return Ok(());
        };
        self.files += 1;
        match (record, beneath::kind(&stat)) {
            (Record::Directory { mode, .. }, FileType::Directory) => {
                if beneath::bits(stat.st_mode) & 0o7777 != mode {
                    self.changed(path, "mode");
                }
                let inner = beneath::open_dir(dir.as_fd(), name)?;
                self.directory(&inner, path, wanted)?;
            }
            (Record::File { mode, mtime, size, crc, segments }, FileType::RegularFile) => {
                if beneath::bits(stat.st_mode) & 0o7777 != mode {
                    self.changed(path, "mode");
                }
                if u64::try_from(stat.st_size) != Ok(size) {
                    self.changed(path, "size");
                } else if self.sum(dir, name, segments.as_deref())? != crc {
                    self.changed(path, "content");
                }
                if stat.st_mtime != mtime.0 {
                    self.changed(path, "time");
                }
            }
            (Record::Symlink { target, .. }, FileType::Symlink) => {
                let found = rustix::fs::readlinkat(dir, beneath::name(name), Vec::new())?;
                if found.as_bytes() != target {
                    self.changed(path, "target");
                }
            }
            // Its content is that of the name it was linked to, which is looked at under that name.
            (Record::Hardlink { .. }, FileType::RegularFile | FileType::Symlink) => {}
            _ => self.changed(path, "type"),
        }
        Ok(())
    }

    fn sum(&mut self, dir: &OwnedFd, name: &[u8], segments: Option<&[(u64, u64)]>) -> io::Result<u32> {
        let mut file = beneath::open_file(dir.as_fd(), name)?;
        let mut crc = flate2::Crc::new();
        let Some(segments) = segments else {
            loop {
                let got = file.read(&mut self.buffer)?;
                if got == 0 {
                    return Ok(crc.sum());
                }
                crc.update(&self.buffer[..got]);
            }
        };
        for &(offset, length) in segments {
            let mut done = 0;
            while done < length {
                let want = usize::try_from(length - done).unwrap_or(usize::MAX).min(self.buffer.len());
                let got = file.read_at(&mut self.buffer[..want], offset + done)?;
                if got == 0 {
                    return Ok(!crc.sum());
                }
                crc.update(&self.buffer[..got]);
                done += got as u64;
            }
        }
        Ok(crc.sum())
    }

    fn changed(&mut self, path: &[u8], what: &str) {
        self.problem(Problem::Changed { path: shown(path), what: what.to_owned() });
    }

    fn problem(&mut self, problem: Problem) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
