//! What this platform remembers: the uid counter and one record per environment, below the state directory.
//!
//! The driver's journal says what an environment *should* have; these records say what was *done*, and are on
//! disk before each effect. Documents are replaced atomically. `job.sh` lies there too: the one script that
//! every job runs through.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use native_config::{EnvironmentId, GroupName};
use native_platform::{ErrorKind, Scope, StepError, StepKind, VolumeName};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version of both documents. An older reader refuses a newer one.
const VERSION: u32 = 1;

/// Reads one line of shell from standard input and runs it, with the rest of the input as the job's own.
/// `read` takes single bytes from a pipe, so it never takes what is the job's. Nothing here is exported, and
/// nothing here is secret: anybody may read this file.
pub(crate) const JOB_SCRIPT: &str = "# fish-native: runs the job that the driver sends.\nfish_native_nl='\n'\nIFS= read -r fish_native_job && eval \"$fish_native_job\"\n";

/// A volume that was made, or was about to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeRecord {
    pub(crate) volume: VolumeName,
    /// Where the workload sees it.
    pub(crate) path: PathBuf,
    /// The image that holds it; absent for a plain home.
    pub(crate) image: Option<PathBuf>,
    /// Whether the image stays for the next environment.
    pub(crate) keep: bool,
    /// Whether layers were put over it, completely or not.
    pub(crate) layers: bool,
}

/// What was done for one environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    pub(crate) scope: Scope,
    /// The uid on whose behalf it was made.
    #[serde(default)]
    pub(crate) caller: u32,
    /// The account's uid, while there may be an account.
    pub(crate) uid: Option<u32>,
    pub(crate) gid: u32,
    /// The name of the primary group.
    pub(crate) group: String,
    /// The groups beside the primary one.
    pub(crate) groups: Vec<GroupName>,
    pub(crate) volumes: Vec<VolumeRecord>,
    /// The workload's grace time in ms, while there may be one.
    pub(crate) workload: Option<u64>,
}

impl Record {
    fn new(scope: &Scope, caller: u32) -> Self {
        Self {
            version: VERSION,
            scope: scope.clone(),
            caller,
            uid: None,
            gid: 0,
            group: String::new(),
            groups: Vec::new(),
            volumes: Vec::new(),
            workload: None,
        }
    }

    fn is_empty(&self) -> bool {
        self.uid.is_none() && self.volumes.is_empty() && self.workload.is_none()
    }

    /// The record of a volume.
    pub(crate) fn volume(&self, name: &VolumeName) -> Option<&VolumeRecord> {
        self.volumes.iter().find(|v| v.volume == *name)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Counter {
    version: u32,
    next: u32,
}

/// A document that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{} is no document of ours: {source}", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("{} has version {found}, this program knows versions up to {VERSION}", path.display())]
    Newer { path: PathBuf, found: u32 },
    #[error("no uid is free between {} and {}", range.0, range.1)]
    NoUid { range: (u32, u32) },
}

impl StoreError {
    /// As the error of a step.
    pub(crate) fn at(self, step: StepKind) -> StepError {
        let hint = match &self {
            Self::File { path, source } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some(make_hint(path.parent().unwrap_or(path)))
            }
            Self::NoUid { .. } => {
                Some("remove what `fish-native audit` names, or widen uid_min and uid_max".to_owned())
            }
            _ => None,
        };
        let kind = if hint.is_some() { ErrorKind::NotReady } else { ErrorKind::Failed };
        StepError { step, kind, message: self.to_string(), hint }
    }
}

/// How to make the state directory for a driver that is not root.
pub(crate) fn make_hint(state: &Path) -> String {
    format!("sudo install -d -o \"$USER\" -g staff -m 0711 {}", state.display())
}

/// The state directory.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    root: PathBuf,
    /// The uid on whose behalf records are made.
    caller: u32,
}

impl Store {
    pub(crate) fn new(root: &Path, caller: u32) -> Self {
        Self { root: root.to_owned(), caller }
    }

    /// Makes what is missing.
    pub(crate) fn prepare(&self) -> Result<(), StoreError> {
        // 0711: accounts may enter it to read the script, and may not list it.
        self.directory(&self.root.clone(), 0o711)?;
        self.directory(&self.root.join("records"), 0o700)?;
        let script = self.root.join("job.sh");
        if fs::read(&script).is_ok_and(|text| text == JOB_SCRIPT.as_bytes()) {
            return Ok(());
        }
        self.replace(&script, JOB_SCRIPT.as_bytes(), 0o644)
    }

    fn directory(&self, path: &Path, mode: u32) -> Result<(), StoreError> {
        match DirBuilder::new().recursive(false).mode(mode).create(path) {
            // The umask may have taken bits away.
            Ok(()) => fs::set_permissions(path, Permissions::from_mode(mode)).map_err(|e| at(path, e)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(e) => Err(at(path, e)),
        }
    }

    fn replace(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<(), StoreError> {
        // A node makes several environments at once, and all of them want `job.sh`.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let temp = path.with_extension(format!("{}-{number}.tmp", std::process::id()));
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temp)?;
            file.write_all(bytes)?;
            file.set_permissions(Permissions::from_mode(mode))?;
            file.sync_all()?;
            fs::rename(&temp, path)?;
            File::open(path.parent().unwrap_or(path))?.sync_all()
        };
        write().map_err(|e| at(path, e))
    }

    fn read<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, StoreError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(at(path, e)),
        };
        let json = |source| StoreError::Json { path: path.to_owned(), source };
        let Version { version } = serde_json::from_slice(&text).map_err(json)?;
        if version > VERSION {
            return Err(StoreError::Newer { path: path.to_owned(), found: version });
        }
        serde_json::from_slice(&text).map(Some).map_err(json)
    }

    /// Held while one thing is done that two drivers may not do at the same time. The kernel frees it.
    pub(crate) fn lock(&self, name: &str) -> Result<File, StoreError> {
        let path = self.root.join(format!("{name}.lock"));
        let open = || OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        open().and_then(|file| file.lock().map(|()| file)).map_err(|e| at(&path, e))
    }

    /// A uid that nobody in `used` has. The counter is on disk before the uid is known to anybody: a uid that
    /// returned would own what an earlier account left behind.
    pub(crate) fn new_uid(&self, range: (u32, u32), used: &[i64]) -> Result<u32, StoreError> {
        let _lock = self.lock("uids")?;
        let path = self.root.join("uids.json");
        let counter: Counter = self.read(&path)?.unwrap_or(Counter { version: VERSION, next: range.0 });
        let kept: Vec<u32> = self.records()?.into_iter().filter_map(|r| r.uid).collect();
        let start = if (range.0..=range.1).contains(&counter.next) { counter.next } else { range.0 };
        // Once around: after the end of the range come uids whose environments were audited clean long ago.
        let free = |uid: &u32| !used.contains(&i64::from(*uid)) && !kept.contains(uid);
        let uid = (start..=range.1).chain(range.0..start).find(free).ok_or(StoreError::NoUid { range })?;
        let counter = Counter { version: VERSION, next: uid.saturating_add(1) };
        let text = serde_json::to_vec(&counter).map_err(|source| StoreError::Json { path: path.clone(), source })?;
        self.replace(&path, &text, 0o600)?;
        Ok(uid)
    }

    fn path(&self, id: &EnvironmentId) -> PathBuf {
        self.root.join("records").join(format!("{id}.json"))
    }

    /// The record of an environment, if there is one.
    pub(crate) fn record(&self, id: &EnvironmentId) -> Result<Option<Record>, StoreError> {
        self.read(&self.path(id))
    }

    /// Changes the record of an environment, on disk when this returns. An empty one is removed.
    pub(crate) fn change(&self, scope: &Scope, change: impl FnOnce(&mut Record)) -> Result<Record, StoreError> {
        let path = self.path(&scope.id);
        let mut record = self.record(&scope.id)?.unwrap_or_else(|| Record::new(scope, self.caller));
        change(&mut record);
        if record.is_empty() {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at(&path, e)),
                _ => return Ok(record),
            }
        }
        let text = serde_json::to_vec(&record).map_err(|source| StoreError::Json { path: path.clone(), source })?;
        self.replace(&path, &text, 0o600)?;
        Ok(record)
    }

    /// Locked by the keeper of an environment for as long as it lives. Here and not in the environment's own
    /// directory, which may be another user's than ours: a link there would lead root elsewhere.
    pub(crate) fn keeper_lock(&self, id: &EnvironmentId) -> PathBuf {
        self.root.join("records").join(format!("{id}.keeper"))
    }

    /// All records.
    pub(crate) fn records(&self) -> Result<Vec<Record>, StoreError> {
        let dir = self.root.join("records");
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(at(&dir, e)),
        };
        let mut records = Vec::new();
        for entry in entries {
            let path = entry.map_err(|e| at(&dir, e))?.path();
            let id = path.file_stem().and_then(|n| n.to_str()).and_then(|n| n.parse::<EnvironmentId>().ok());
            if id.is_some() && path.extension().is_some_and(|e| e == "json") {
                records.extend(self.read::<Record>(&path)?);
            }
        }
        Ok(records)
    }
}

fn at(path: &Path, source: io::Error) -> StoreError {
    StoreError::File { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use native_config::Isolation;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("state"), 0);
        store.prepare().unwrap();
        (dir, store)
    }

    #[test]
    fn a_uid_never_comes_back_before_the_range_is_through() {
        let (_dir, store) = store();
        let range = (70000, 70003);
        let uids: Vec<_> = (0..3).map(|_| store.new_uid(range, &[70001]).unwrap()).collect();
        assert_eq!(uids, [70000, 70002, 70003]);
        assert_eq!(store.new_uid(range, &[70001]).unwrap(), 70000);
        let all = [70000, 70001, 70002, 70003];
        assert!(matches!(store.new_uid(range, &all), Err(StoreError::NoUid { .. })));
    }

    #[test]
    fn an_empty_record_is_no_record_and_a_newer_one_is_refused() {
        let (_dir, store) = store();
        let id: EnvironmentId = "fish-abcdef".parse().unwrap();
        let scope = Scope { id: id.clone(), dir: "/w".into(), isolation: Isolation::Basic, uids: (1, 2) };
        store.change(&scope, |r| r.uid = Some(1)).unwrap();
        assert_eq!(store.records().unwrap().len(), 1);
        store.change(&scope, |r| r.uid = None).unwrap();
        assert_eq!(store.record(&id).unwrap(), None);
        fs::write(store.path(&id), "{\"version\":2}").unwrap();
        assert!(matches!(store.record(&id), Err(StoreError::Newer { found: 2, .. })));
    }
}
