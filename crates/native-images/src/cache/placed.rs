//! Images that the operator put into the cache by hand: `<name>-<version>/<name>-*/<name>.tar`, directories or links to
//! them. They are used as they are and never changed; what was read of them is remembered by the file's identity.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::fetch::{Request, layer_records, stamp};
use super::staging::Staging;
use super::store::{FORMAT, Identity, Key, Record, at};
use super::types::ImageHandle;
use crate::archive::ArchiveError;
use crate::archive::budget::Budget;
use crate::archive::image::{Staged, Wanted};
use crate::error::EnsureError;
use crate::events::Phase;
use crate::image::{Algo, Checksum};
use crate::pipeline;

impl Identity {
    pub(super) fn of(path: &Path, file: &fs::Metadata) -> Self {
        Self {
            path: path.to_owned(),
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            mtime: file.mtime(),
            mtime_nanos: file.mtime_nsec(),
        }
    }
}

/// The layer archives in a placed directory: every `<name>-*/<name>.tar`, sorted.
pub(super) fn archives(dir: &Path, name: &str) -> std::io::Result<Vec<PathBuf>> {
    let prefix = format!("{name}-");
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let file = entry.path().join(format!("{name}.tar"));
        if entry.file_name().to_string_lossy().starts_with(&prefix) && file.is_file() {
            found.push(file);
        }
    }
    found.sort();
    Ok(found)
}

impl Request<'_> {
    /// The placed image of this name and version, if there is one.
    pub(super) async fn placed(&self) -> Result<Option<ImageHandle>, EnsureError> {
        let dir = self.cache.store.root.join(&self.id);
        if self.image.version.is_empty() || !dir.is_dir() {
            return Ok(None);
        }
        let wanted = format!("{0}-*/{0}.tar", self.image.name);
        let found = archives(&dir, &self.image.name).map_err(|error| Self::cache_error(at("read", &dir)(error)))?;
        let [file] = &found[..] else {
            let wanted = if found.is_empty() { wanted } else { format!("single {wanted} (there are several)") };
            return Err(EnsureError::Placed { path: dir, wanted });
        };
        let key = Key::placed(file);
        if let Some(handle) = self.remembered(&key, &dir, file)? {
            return Ok(Some(self.warned(handle)));
        }
        let lock = self.lock(&key).await?;
        if let Some(handle) = self.remembered(&key, &dir, file)? {
            return Ok(Some(self.warned(handle)));
        }
        self.events.phase(&self.id, Phase::Unpack);
        let store = &self.cache.store;
        let staging =
            Staging::new(&store.staging()).map_err(|error| Self::cache_error(at("create", &store.staging())(error)))?;
        let (path, cache, name) = (file.clone(), Arc::clone(self.cache), self.image.name.clone());
        let span = tracing::info_span!("unpack", image = %self.id);
        let unpacked = tokio::task::spawn_blocking(move || {
            let _entered = span.enter();
            let result = read(&path, &name, &staging, &cache.client.policy);
            (result, staging, lock)
        });
        let (result, staging, lock) = match unpacked.await {
            Ok(unpacked) => unpacked,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return Err(EnsureError::Interrupted { image: self.id.clone() }),
        };
        let (staged, meta) = result.map_err(|source| EnsureError::Archive { image: self.id.clone(), source })?;
        let digest = staged.layers.first().map(|layer| layer.digest.trim_start_matches("sha256:").to_owned());
        let digests = digest.and_then(|digest| Checksum::from_hex(Algo::Sha256, &digest).ok()).into_iter().collect();
        let record = Record {
            format: FORMAT,
            stamp: stamp(),
            name: self.image.name.clone(),
            version: self.image.version.clone(),
            url: None,
            layout: self.image.layout,
            digests,
            bytes: meta.size(),
            validators: Default::default(),
            placed: Some(Identity::of(&dir, &meta)),
            layers: layer_records(&staged.layers),
        };
        self.events.phase(&self.id, Phase::Publish);
        let handle = self.publish(&key, record, staged, staging, lock, true).await?;
        self.tell_done(&handle);
        Ok(Some(self.warned(handle)))
    }

    /// What was read of this very file before.
    fn remembered(&self, key: &Key, dir: &Path, file: &Path) -> Result<Option<ImageHandle>, EnsureError> {
        let Some(record) = self.cache.store.record(key).map_err(Self::cache_error)? else { return Ok(None) };
        let meta = fs::metadata(file).map_err(|error| Self::cache_error(at("read", file)(error)))?;
        if record.placed.as_ref() != Some(&Identity::of(dir, &meta)) {
            return Ok(None);
        }
        self.handle(key, &record, true)
    }

    fn warned(&self, handle: ImageHandle) -> ImageHandle {
        if self.image.sum.is_some() {
            let path = handle.path().display();
            self.events.warn(&self.id, format!("{path} was placed by hand; the label's sum can not be checked"));
        }
        handle
    }
}

fn read(
    path: &Path,
    name: &str,
    staging: &Staging,
    policy: &crate::policy::Policy,
) -> Result<(Staged, fs::Metadata), ArchiveError> {
    let failed = |source| ArchiveError::Input { source };
    let file = File::open(path).map_err(failed)?;
    let before = file.metadata().map_err(failed)?;
    let mut limits = policy.limits.clone();
    // A file of zeros on the operator's disk is no bomb: it has its size there already.
    limits.ratio = u64::MAX;
    let budget = Budget::new(limits, policy.threads);
    let started = Instant::now();
    let wanted = Wanted { name: name.to_owned(), layout: crate::image::Layout::Plain };
    let input = file.try_clone().map_err(failed)?;
    let staged = pipeline::run(Box::new(input), &wanted, staging.path(), &budget, || {})?;
    tracing::debug!(path = %path.display(), elapsed = ?started.elapsed(), "placed image unpacked");
    let after = file.metadata().map_err(failed)?;
    if Identity::of(path, &before) != Identity::of(path, &after) {
        return Err(failed(std::io::Error::other("the file changed while it was read")));
    }
    Ok((staged, after))
}
