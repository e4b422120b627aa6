//! Root's documents on disk: read as a whole, replaced as a whole, with a version that is looked at first.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::NixPath;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat, renameat2};
use nix::unistd::{UnlinkatFlags, unlinkat};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::store::{StoreError, VERSION};

/// Both documents start with a version, which is looked at before anything else.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StoreError::io(path)(e)),
    };
    let damaged = |source| StoreError::Damaged { path: path.to_owned(), source };
    let version = serde_json::from_str::<Versioned>(&text).map_err(damaged)?.version;
    if version > VERSION {
        return Err(damaged(serde::de::Error::custom(format!("version {version}; this program knows {VERSION}"))));
    }
    serde_json::from_str(&text).map(Some).map_err(damaged)
}

/// Replaces a document, on disk when this returns.
pub(crate) fn write<T: Serialize>(path: &Path, document: &T) -> Result<(), StoreError> {
    let dir = path.parent().unwrap_or(path);
    put(path, document, true)?;
    File::open(dir).and_then(|d| d.sync_all()).map_err(StoreError::io(dir))
}

/// Replaces a document for other processes to see.
pub(crate) fn replace<T: Serialize>(path: &Path, document: &T) -> Result<(), StoreError> {
    put(path, document, false)
}

/// Gives a file that need not be on disk the name of another one, in one step, and removes that.
///
/// By exchanging the two: ext4 writes a file out that is renamed over another one (ext4(5), `auto_da_alloc`), for programs
/// that forget `fsync`.
pub(crate) fn put_in_place<F: AsFd, P: NixPath + ?Sized, Q: NixPath + ?Sized>(
    (from_dir, from): (F, &P),
    (to_dir, to): (F, &Q),
) -> nix::Result<()> {
    match renameat2(&from_dir, from, &to_dir, to, RenameFlags::RENAME_EXCHANGE) {
        Ok(()) => unlinkat(from_dir, from, UnlinkatFlags::NoRemoveDir),
        // There is none yet, or the file system can't.
        Err(_) => renameat(from_dir, from, to_dir, to),
    }
}

fn put<T: Serialize>(path: &Path, document: &T, on_disk: bool) -> Result<(), StoreError> {
    let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
    let text = serde_json::to_vec(document).map_err(|source| StoreError::Damaged { path: path.to_owned(), source })?;
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&text)?;
        if on_disk {
            file.sync_all()?;
            return fs::rename(&temporary, path);
        }
        Ok(put_in_place((AT_FDCWD, temporary.as_path()), (AT_FDCWD, path))?)
    })();
    written.map_err(|source| {
        // Not there, or not to be had: the first error is the one to tell.
        drop(fs::remove_file(&temporary));
        StoreError::Io { path: path.to_owned(), source }
    })
}
