//! Lists, pins and prunes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use super::names::is_safe_name;
use super::placed;
use super::staging::ignore_missing;
use super::store::{Key, Record, Store, at, write_for_this_boot};
use super::types::{CachedImage, Layer, PruneOptions, PruneReport, Source};
use crate::error::CacheError;

/// The list of a pin.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Pin {
    format: u32,
    layers: Vec<String>,
}

/// Everything cached and placed.
pub(super) fn list(store: &Store) -> Result<Vec<CachedImage>, CacheError> {
    let pinned = pinned(store)?;
    let mut images = Vec::new();
    let mut used_placed = BTreeSet::new();
    for (key, record) in store.records()? {
        if let Some(placed) = &record.placed {
            if !placed.path.is_dir() {
                continue;
            }
            used_placed.insert(placed.path.clone());
        }
        let layers = store.layers_of(&record);
        if layers.iter().any(|layer| !layer.dir.is_dir()) {
            continue;
        }
        let in_use = layers.iter().any(|layer| pinned.contains(&layer.digest) || is_held(store, &layer.digest));
        images.push(CachedImage {
            digest: record.digest(),
            url: record.url.clone(),
            source: if record.placed.is_some() { Source::Placed } else { Source::Downloaded },
            path: record.placed.as_ref().map_or_else(|| store.blob(&key), |placed| placed.path.clone()),
            bytes: record.bytes,
            unpacked: layers.iter().map(|layer| layer.bytes).sum(),
            layers,
            last_used: last_used(store, &key),
            in_use,
            name: record.name,
            version: record.version,
        });
    }
    images.extend(never_used(store, &used_placed)?);
    images.sort_by(|a, b| (&a.name, &a.version, &a.url).cmp(&(&b.name, &b.version, &b.url)));
    Ok(images)
}

/// Placed directories that nobody asked for yet. Where the name ends and the version begins is told by the archive.
fn never_used(store: &Store, used: &BTreeSet<PathBuf>) -> Result<Vec<CachedImage>, CacheError> {
    let mut images = Vec::new();
    for entry in fs::read_dir(&store.root).map_err(at("read", &store.root))?.flatten() {
        let path = entry.path();
        let id = entry.file_name().to_string_lossy().into_owned();
        if used.contains(&path) || !path.is_dir() || !is_safe_name(&id) {
            continue;
        }
        let splits = id.match_indices('-').map(|(dash, _)| (&id[..dash], &id[dash + 1..]));
        for (name, version) in splits {
            let Ok(found) = placed::archives(&path, name) else { continue };
            let Some(file) = found.first() else { continue };
            images.push(CachedImage {
                name: name.to_owned(),
                version: version.to_owned(),
                digest: String::new(),
                url: None,
                source: Source::Placed,
                bytes: fs::metadata(file).map_or(0, |meta| meta.size()),
                unpacked: 0,
                layers: Vec::new(),
                last_used: 0,
                in_use: false,
                path: path.clone(),
            });
            break;
        }
    }
    Ok(images)
}

fn last_used(store: &Store, key: &Key) -> u64 {
    fs::metadata(store.record_path(key)).map_or(0, |meta| u64::try_from(meta.mtime()).unwrap_or(0))
}

fn is_held(store: &Store, digest: &str) -> bool {
    let lock = store.layer(digest).and_then(|dir| File::open(dir.join("lock")).ok());
    lock.is_some_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Writes a pin.
pub(super) fn pin(store: &Store, user: &str, layers: &[Layer]) -> Result<(), CacheError> {
    let path = pin_path(store, user)?;
    let pin = Pin { format: super::store::FORMAT, layers: layers.iter().map(|layer| layer.digest.clone()).collect() };
    let text = serde_json::to_vec(&pin).map_err(|error| at("write", &path)(error.into()))?;
    Ok(write_for_this_boot(&path, &text).map_err(at("write", &path))?)
}

/// Removes a pin.
pub(super) fn unpin(store: &Store, user: &str) -> Result<(), CacheError> {
    let path = pin_path(store, user)?;
    Ok(ignore_missing(fs::remove_file(&path)).map_err(at("remove", &path))?)
}

fn pin_path(store: &Store, user: &str) -> Result<PathBuf, CacheError> {
    if !is_safe_name(user) {
        return Err(CacheError::PinName { name: user.chars().take(80).collect() });
    }
    Ok(store.pins().join(user))
}

/// Who pins.
pub(super) fn pins(store: &Store) -> Result<Vec<String>, CacheError> {
    let dir = store.pins();
    let mut users = Vec::new();
    for entry in fs::read_dir(&dir).map_err(at("read", &dir))? {
        let name = entry.map_err(at("read", &dir))?.file_name().to_string_lossy().into_owned();
        if is_safe_name(&name) {
            users.push(name);
        }
    }
    users.sort();
    Ok(users)
}

/// All digests that are pinned.
fn pinned(store: &Store) -> Result<BTreeSet<String>, CacheError> {
    let mut digests = BTreeSet::new();
    for user in pins(store)? {
        let path = store.pins().join(user);
        match fs::read(&path) {
            // What a power cut leaves of a file that was not written back: whoever used the layers is gone with it.
            Ok(text) if text.iter().all(|byte| *byte == 0) => {}
            Ok(text) => {
                // A pin that can not be read must not cost an environment its files.
                let pin: Pin = serde_json::from_slice(&text).map_err(|error| at("read", &path)(error.into()))?;
                digests.extend(pin.layers);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(at("read", &path)(error).into()),
        }
    }
    Ok(digests)
}

/// One layer on the disk, and the records that name it.
struct Candidate {
    digest: String,
    bytes: u64,
    last_used: u64,
    records: Vec<(Key, String)>,
}

/// Removes layers that nobody uses, least recently used first, with the records that name them.
pub(super) fn prune(store: &Store, options: &PruneOptions) -> Result<PruneReport, CacheError> {
    let mut report = PruneReport::default();
    let mut candidates = candidates(store)?;
    candidates.sort_by_key(|candidate| candidate.last_used);
    let mut total: u64 = candidates.iter().map(|candidate| candidate.bytes).sum();
    let limit = options.max_size.unwrap_or(0);
    let mut gone = BTreeSet::new();
    for candidate in candidates {
        if options.max_size.is_some() && total <= limit {
            break;
        }
        if options.keep.contains(&candidate.digest) {
            continue;
        }
        if !take_away(store, &candidate, options.dry_run)? {
            report.in_use.extend(candidate.records.into_iter().map(|(_, id)| id));
            continue;
        }
        total -= candidate.bytes;
        report.freed += candidate.bytes;
        gone.extend(candidate.records.into_iter().map(|(_, id)| id));
    }
    report.removed = gone.into_iter().collect();
    report.in_use.sort();
    report.in_use.dedup();
    report.remaining = total;
    if !options.dry_run {
        sweep_records(store)?;
    }
    Ok(report)
}

fn candidates(store: &Store) -> Result<Vec<Candidate>, CacheError> {
    let mut by_digest: BTreeMap<String, Candidate> = BTreeMap::new();
    let dir = store.layers();
    for entry in fs::read_dir(&dir).map_err(at("read", &dir))?.flatten() {
        let digest = format!("sha256:{}", entry.file_name().to_string_lossy());
        if store.layer(&digest).is_some() {
            let candidate = Candidate { digest: digest.clone(), bytes: 0, last_used: 0, records: Vec::new() };
            by_digest.insert(digest, candidate);
        }
    }
    for (key, record) in store.records()? {
        let used = last_used(store, &key);
        for layer in &record.layers {
            if let Some(candidate) = by_digest.get_mut(&layer.digest) {
                candidate.bytes = layer.bytes;
                candidate.last_used = candidate.last_used.max(used);
                candidate.records.push((key.clone(), id(&record)));
            }
        }
    }
    Ok(by_digest.into_values().collect())
}

fn id(record: &Record) -> String {
    if record.version.is_empty() { record.name.clone() } else { format!("{}-{}", record.name, record.version) }
}

/// `false` when the layer is in use.
fn take_away(store: &Store, candidate: &Candidate, dry_run: bool) -> Result<bool, CacheError> {
    let Some(dir) = store.layer(&candidate.digest) else { return Ok(false) };
    let path = dir.join("lock");
    let lock = match File::open(&path) {
        Ok(lock) => Some(lock),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(at("open", &path)(error).into()),
    };
    if let Some(lock) = &lock {
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(at("lock", &path)(error).into()),
        }
    }
    // Pins are read under the lock: whoever pins holds the layer, so a pin is either seen here or held above.
    if pinned(store)?.contains(&candidate.digest) {
        return Ok(false);
    }
    if !dry_run {
        for (key, _) in &candidate.records {
            store.discard(&store.blob(key))?;
        }
        store.discard(&dir)?;
    }
    Ok(true)
}

/// Records that lead nowhere, and locks that nobody holds.
fn sweep_records(store: &Store) -> Result<(), CacheError> {
    let dir = store.blobs();
    for entry in fs::read_dir(&dir).map_err(at("read", &dir))?.flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".lock") {
            if let Ok(lock) = File::open(&path)
                && lock.try_lock().is_ok()
            {
                let _ = fs::remove_file(&path);
            }
            continue;
        }
        let lock = store.blobs().join(format!("{name}.lock"));
        if lock.exists() {
            continue;
        }
        let Ok(record) = store.record(&Key(name)) else { continue };
        let whole = record.is_some_and(|record| store.layers_of(&record).iter().all(|layer| layer.dir.is_dir()));
        if !whole {
            store.discard(&path)?;
        }
    }
    Ok(())
}

/// Keeps the cache within its size, as well as that goes without waiting for anybody.
pub(super) fn keep_within(store: &Store, max_size: u64) {
    let options = PruneOptions { max_size: Some(max_size), ..PruneOptions::default() };
    match prune(store, &options) {
        Ok(report) if report.removed.is_empty() => {}
        Ok(report) => tracing::info!(removed = ?report.removed, freed = report.freed, "cache kept within its size"),
        Err(error) => tracing::warn!(%error, "the cache could not be kept within its size"),
    }
}
