//! Root's documents on disk: read as a whole, replaced as a whole, with a version that is looked at first.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

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
    put(path, document, File::sync_all)?;
    File::open(dir).and_then(|d| d.sync_all()).map_err(StoreError::io(dir))
}

/// Replaces a document for other processes to see.
pub(crate) fn replace<T: Serialize>(path: &Path, document: &T) -> Result<(), StoreError> {
    put(path, document, |_| Ok(()))
}

fn put<T: Serialize>(path: &Path, document: &T, sync: fn(&File) -> io::Result<()>) -> Result<(), StoreError> {
    let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
    let text = serde_json::to_vec(document).map_err(|source| StoreError::Damaged { path: path.to_owned(), source })?;
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&text)?;
        sync(&file)?;
        fs::rename(&temporary, path)
    })();
    written.map_err(|source| {
        // Not there, or not to be had: the first error is the one to tell.
        drop(fs::remove_file(&temporary));
        StoreError::Io { path: path.to_owned(), source }
    })
}
