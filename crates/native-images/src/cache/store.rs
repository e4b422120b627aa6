//! Records and layers on the disk.
//!
//! ```text
//! format                      the layout's version
//! blobs/<key>/.image.json     what is known of one image; its time of change is when it was last used
//! blobs/<key>/<layer>         a link to the layer's tree, for people
//! layers/<sha256>/tree        a layer; `list` beside it names its files, `lock` is held while it is in use
//! pins/<user>                 layers that an environment needs while no process of ours runs
//! staging/                    half-made things
//! <name>-<version>/           placed by the operator, never touched
//! ```

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::staging::{Staging, is_at, open_lock, sync_dir};
use super::types::{Hold, Layer};
use crate::archive::image::StagedLayer;
use crate::image::{Checksum, ImageRef, Layout, bare};
use crate::transport::Validators;

pub(crate) const FORMAT: u32 = 1;
/// No layer can have this name.
const RECORD: &str = ".image.json";
/// How temporary files begin.
const TEMPORARY: &str = ".new-";

/// What is known of one image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// [`FORMAT`] of its writer.
    pub(crate) format: u32,
    /// Differs from record to record, so that a waiter can tell a new one.
    pub(crate) stamp: String,
    pub(crate) name: String,
    pub(crate) version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<String>,
    pub(crate) layout: Layout,
    /// Digests of the archive, sha256 always among them.
    pub(crate) digests: Vec<Checksum>,
    pub(crate) bytes: u64,
    #[serde(default)]
    pub(crate) validators: Validators,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) placed: Option<Identity>,
    pub(crate) layers: Vec<LayerRecord>,
}

/// A file as it was when it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) path: PathBuf,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) mtime: i64,
    pub(crate) mtime_nanos: i64,
}

/// One layer of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) name: String,
    pub(crate) digest: String,
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
}

impl Record {
    /// `sha256:` of the archive.
    pub(crate) fn digest(&self) -> String {
        crate::digest::find(&self.digests, crate::image::Algo::Sha256).map(ToString::to_string).unwrap_or_default()
    }

    /// Whether these are the bytes that a label with this sum means.
    pub(crate) fn matches(&self, sum: &Checksum) -> bool {
        self.placed.is_none() && self.digests.contains(sum)
    }
}

/// A record's name on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) String);

impl Key {
    /// The content's identity where the label gives it, else where it comes from; and what it is called.
    pub(crate) fn of(image: &ImageRef) -> Self {
        let content = image.sum.as_ref().map_or_else(|| bare(&image.url).to_string(), ToString::to_string);
        Self::hash(&[&content, &image.name, &image.version, &format!("{:?}", image.layout)])
    }

    pub(crate) fn placed(path: &Path) -> Self {
        Self::hash(&["placed", &path.to_string_lossy()])
    }

    fn hash(parts: &[&str]) -> Self {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        Self(hex::encode(&hasher.finalize()[..20]))
    }
}

/// A step that failed on a file.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) what: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
}

/// Names the step and the file of an error.
pub(crate) fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Failed {
    move |source| Failed { what, path: path.to_owned(), source }
}

/// The directories of a cache.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    pub(crate) root: PathBuf,
}

impl Store {
    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub(crate) fn blob(&self, key: &Key) -> PathBuf {
        self.blobs().join(&key.0)
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    pub(crate) fn pins(&self) -> PathBuf {
        self.root.join("pins")
    }

    /// The directory of a layer. `None` for what is no sha256 digest.
    pub(crate) fn layer(&self, digest: &str) -> Option<PathBuf> {
        let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
        let fits = hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        fits.then(|| self.layers().join(hex))
    }

    pub(crate) fn record_path(&self, key: &Key) -> PathBuf {
        self.blob(key).join(RECORD)
    }

    /// A record, if there is one that this program can read.
    pub(crate) fn record(&self, key: &Key) -> Result<Option<Record>, Failed> {
        let path = self.record_path(key);
        match fs::read(&path) {
            Ok(text) => Ok(serde_json::from_slice::<Record>(&text).ok().filter(|record| record.format <= FORMAT)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at("read", &path)(error)),
        }
    }

    /// All records.
    pub(crate) fn records(&self) -> Result<Vec<(Key, Record)>, Failed> {
        let mut records = Vec::new();
        let dir = self.blobs();
        for entry in fs::read_dir(&dir).map_err(at("read", &dir))? {
            let key = Key(entry.map_err(at("read", &dir))?.file_name().to_string_lossy().into_owned());
            if let Ok(Some(record)) = self.record(&key) {
                records.push((key, record));
            }
        }
        records.sort_by(|(_, a), (_, b)| (&a.name, &a.version, &a.url).cmp(&(&b.name, &b.version, &b.url)));
        Ok(records)
    }

    /// Writes a record: complete or not at all.
    pub(crate) fn write_record(&self, key: &Key, record: &Record) -> Result<(), Failed> {
        let dir = self.blob(key);
        match fs::create_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(at("create", &dir)(error)),
            _ => {}
        }
        for entry in fs::read_dir(&dir).map_err(at("read", &dir))?.flatten() {
            // Links of an earlier record, and what a killed writer left.
            let left = entry.file_name().to_string_lossy().starts_with(TEMPORARY);
            if left || entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                let _ = fs::remove_file(entry.path());
            }
        }
        for layer in &record.layers {
            let target = Path::new("../../layers").join(layer.digest.trim_start_matches("sha256:")).join("tree");
            let link = dir.join(&layer.name);
            std::os::unix::fs::symlink(target, &link).map_err(at("create", &link))?;
        }
        let path = dir.join(RECORD);
        let text = serde_json::to_vec_pretty(record).map_err(|error| at("write", &path)(error.into()))?;
        write_atomically(&path, &text).map_err(at("write", &path))?;
        let blobs = self.blobs();
        sync_dir(&blobs).map_err(at("write", &blobs))
    }

    /// Notes that a record was used just now.
    #[expect(
        clippy::disallowed_methods,
        reason = "a clock that jumped makes another layer the least recently used one"
    )]
    pub(crate) fn touch(&self, key: &Key) {
        let touched = File::options().append(true).open(self.record_path(key));
        let now = std::time::SystemTime::now();
        if let Err(error) = touched.and_then(|file| file.set_modified(now)) {
            tracing::debug!(%error, "the time of use could not be noted");
        }
    }

    /// Holds a layer against pruning, if it is here.
    pub(crate) fn hold(&self, digest: &str) -> Result<Option<File>, Failed> {
        let Some(dir) = self.layer(digest) else { return Ok(None) };
        let path = dir.join("lock");
        let lock = match File::open(&path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at("open", &path)(error)),
        };
        for _ in 0..100 {
            match lock.try_lock_shared() {
                Ok(()) => return Ok(is_at(&lock, &path).map_err(at("lock", &path))?.then_some(lock)),
                // Somebody looks if it is in use, or removes it: the one is over in a moment, the other takes it away.
                Err(fs::TryLockError::WouldBlock) => {
                    if !is_at(&lock, &path).map_err(at("lock", &path))? {
                        return Ok(None);
                    }
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                Err(fs::TryLockError::Error(error)) => return Err(at("lock", &path)(error)),
            }
        }
        Ok(None)
    }

    /// Holds all layers of a record. `None` when one is missing.
    pub(crate) fn hold_all<'a>(&self, digests: impl IntoIterator<Item = &'a str>) -> Result<Option<Hold>, Failed> {
        let mut locks = Vec::new();
        for digest in digests {
            match self.hold(digest)? {
                Some(lock) => locks.push(lock),
                None => return Ok(None),
            }
        }
        Ok(Some(Hold::new(locks)))
    }

    /// Renames a complete staged layer into place and holds it. One that is there already wins.
    pub(crate) fn publish_layer(&self, staged: &StagedLayer) -> Result<File, Failed> {
        let no_digest = || at("name", &staged.dir)(io::Error::other("the layer has no digest"));
        let dir = self.layer(&staged.digest).ok_or_else(no_digest)?;
        loop {
            if let Some(lock) = self.hold(&staged.digest)? {
                return Ok(lock);
            }
            // Held before it has its name, so that nobody prunes it in between.
            let path = staged.dir.join("lock");
            let lock = open_lock(&path).map_err(at("lock", &path))?;
            lock.lock_shared().map_err(at("lock", &path))?;
            match fs::rename(&staged.dir, &dir) {
                Ok(()) => {
                    let layers = self.layers();
                    sync_dir(&layers).map_err(at("write", &layers))?;
                    return Ok(lock);
                }
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty) =>
                {
                    if self.hold(&staged.digest)?.is_none() && !dir.join("lock").exists() {
                        // Something without a lock is nothing of ours that anybody could use.
                        self.discard(&dir)?;
                    }
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                Err(error) => return Err(at("create", &dir)(error)),
            }
        }
    }

    /// Takes a directory out of the cache at once, and removes it.
    pub(crate) fn discard(&self, dir: &Path) -> Result<(), Failed> {
        let staging = Staging::new(&self.staging()).map_err(at("create", &self.staging()))?;
        match fs::rename(dir, staging.path().join("discarded")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove", dir)(error)),
            _ => Ok(()),
        }
    }

    pub(crate) fn layers_of(&self, record: &Record) -> Vec<Layer> {
        let layer = |layer: &LayerRecord| {
            Some(Layer {
                name: layer.name.clone(),
                digest: layer.digest.clone(),
                dir: self.layer(&layer.digest)?.join("tree"),
                bytes: layer.bytes,
                entries: layer.entries,
            })
        };
        record.layers.iter().filter_map(layer).collect()
    }
}

/// Temp file, fsync, rename, fsync of the directory. Any number of processes may write the same file at once: each has a
/// temporary file of its own, and one of them is the last.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    replace(path, content, File::sync_all)?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// The same for other processes to see, without waiting for the disk.
pub(crate) fn write_for_this_boot(path: &Path, content: &[u8]) -> io::Result<()> {
    replace(path, content, |_| Ok(()))
}

fn replace(path: &Path, content: &[u8], sync: fn(&File) -> io::Result<()>) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(dir)?;
    file.write_all(content)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o640))?;
    sync(file.as_file())?;
    file.persist(path).map(drop).map_err(|error| error.error)
}
