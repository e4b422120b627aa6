//! The bytes of a download that is under way, kept so that the next process goes on where a killed one was.
//!
//! Compressed bytes only, beside the tree that is unpacked from them at the same time, and only for images with a sum:
//! what a dead process left is believed no more than a server, and the sum proves both. The file goes away with the
//! download, however that ends; only a process that dies leaves it, and the next one takes it or removes it after a day.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::store::{Key, write_atomically};
use crate::transport::Validators;

/// A kept part, and where it came from. Removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Part {
    file: File,
    path: PathBuf,
    note: PathBuf,
}

/// What a part is a part of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PartNote {
    format: u32,
    pub(crate) url: String,
    pub(crate) validators: Validators,
}

fn paths(staging: &Path, key: &Key) -> (PathBuf, PathBuf) {
    (staging.join(format!("{}.part", key.0)), staging.join(format!("{}.part.json", key.0)))
}

impl Part {
    /// Begins one; an older one goes away. Only the holder of the image's lock may.
    pub(super) fn create(staging: &Path, key: &Key, url: &str, validators: &Validators) -> io::Result<Self> {
        let (path, note) = paths(staging, key);
        let file = File::options().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        let part = Self { file, path, note };
        let content = PartNote { format: 1, url: url.to_owned(), validators: validators.clone() };
        write_atomically(&part.note, &serde_json::to_vec(&content)?)?;
        Ok(part)
    }

    /// Takes over what a dead process left of this url: ready to be added to, and its bytes to be read.
    pub(super) fn adopt(staging: &Path, key: &Key, url: &str) -> Option<(Self, File, PartNote)> {
        let (path, note) = paths(staging, key);
        let there: PartNote = serde_json::from_slice(&fs::read(&note).ok()?).ok()?;
        let flags = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
        let old = File::options().read(true).custom_flags(flags).open(&path).ok()?;
        let file = File::options().read(true).append(true).custom_flags(flags).open(&path).ok()?;
        let part = Self { file, path, note };
        let usable =
            there.format == 1 && there.url == url && old.metadata().is_ok_and(|meta| meta.is_file() && meta.len() > 0);
        usable.then_some((part, old, there))
    }

    /// All of it so far, to be read at any place.
    pub(crate) fn reader(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.note);
        let _ = fs::remove_file(&self.path);
    }
}
