//! What root remembers: the uid ledger and one record per environment, below `/var/lib/fish-native`.
//!
//! The driver's journal says what an environment *should* have; these records say what root *did*, so that a
//! request is checked against our own word and never against the caller's. Documents are replaced atomically.
//!
//! What can outlive a power cut (an account, a directory, a uid) is on disk before the
//! effect that it announces. What can't (processes, mounts, loop devices of files without names) is *noted*: other
//! processes see it at once, and after another boot nothing of it is believed.

mod ledger;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use native_config::EnvironmentId;
use native_platform::{ErrorKind, Scope, StepError, StepKind, VolumeStep};
use serde::{Deserialize, Serialize};

use crate::document::{read, replace, write};
use crate::proc;

/// The version of both documents. An older reader refuses a newer one.
pub(crate) const VERSION: u32 = 1;
/// Longer than any operation on one environment takes.
const OPERATION: Duration = Duration::from_secs(180);

/// A process, told apart from a later one with the same id by its start time and boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The process id on the host.
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`.
    pub started: u64,
}

/// What root did for one environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The document's version.
    pub version: u32,
    /// The environment.
    pub scope: Scope,
    /// The user who asked for it; only this one and root may ask again.
    pub caller: u32,
    /// The account's uid.
    pub uid: u32,
    /// The account's primary group.
    pub gid: u32,
    /// Its other groups.
    pub groups: Vec<u32>,
    /// Whether the host's user database has it.
    pub real: bool,
    /// The boot it was made in: after another one, no process or mount of it is left.
    pub boot: String,
    /// The volumes, each noted before it was made.
    pub volumes: Vec<VolumeStep>,
    /// The nameless files under volumes, by the volume's tag and the file's handle.
    #[serde(default)]
    pub images: Vec<(String, Vec<u8>)>,
    /// The keeper.
    pub keeper: Option<ProcessId>,
    /// The first process inside the namespaces.
    pub init: Option<ProcessId>,
    /// The entry's process id on the host.
    pub entry: Option<i32>,
    /// Time between SIGINT and SIGKILL, in ms.
    pub stop_grace_ms: u64,
    /// Open files of each process of the workload.
    pub open_files: u64,
    /// Whether set-uid programs work inside.
    pub allow_setuid: bool,
    /// Host directories that stayed writable for it.
    #[serde(default)]
    pub writable_paths: Vec<PathBuf>,
}

/// The directory of root's records.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

/// A record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system said no.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The document is not one of ours.
    #[error("{} is damaged or was written by a newer version", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Another helper works on the environment and does not come to an end.
    #[error("another operation on {id} goes on and on ({})", path.display())]
    Busy {
        /// The environment.
        id: EnvironmentId,
        /// Its lock.
        path: PathBuf,
    },
    /// Every uid of the range is in use or held back.
    #[error("no uid from {from} to {to} is free: {held} are held by environments that are alive or not clean")]
    NoUid {
        /// The first of the range.
        from: u32,
        /// The last of the range.
        to: u32,
        /// How many are held.
        held: usize,
    },
}

impl StoreError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    /// The same as the error of a step, causes included.
    pub fn of_step(&self, step: StepKind) -> StepError {
        let error = StepError::caused(step, ErrorKind::Failed, self);
        match self {
            Self::Damaged { path, .. } => error.hint(format!(
                "look at {}; if nothing of it is alive, move it away and run `fish-native audit`",
                path.display()
            )),
            Self::NoUid { .. } => error.hint("run `fish-native audit --fix`, or widen uid_min..uid_max in the config"),
            Self::Busy { path, .. } => error.hint(format!("`fuser {}` names the process", path.display())),
            Self::Io { .. } => error,
        }
    }
}

impl Store {
    /// The records below this directory, which is made if it is not there.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        for dir in [dir.to_owned(), dir.join("environments"), dir.join("locks")] {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(&dir).map_err(StoreError::io(&dir))?;
        }
        Ok(Self { dir: dir.to_owned() })
    }

    fn record_path(&self, id: &EnvironmentId) -> PathBuf {
        self.dir.join("environments").join(format!("{id}.json"))
    }

    /// Holds a lock until the file is dropped. The kernel frees it if we die.
    ///
    /// # Errors
    /// When the lock file can't be opened.
    pub fn lock(&self, name: &str) -> Result<File, StoreError> {
        let path = self.dir.join(format!("{name}.lock"));
        let file = open_lock(&path)?;
        file.lock().map_err(StoreError::io(&path))?;
        Ok(file)
    }

    /// Holds the one lock of an environment: a helper that reverts what its dead driver began, and the next one that
    /// recovers the same environment, must take turns.
    ///
    /// # Errors
    /// When the lock file can't be opened, or somebody else has the lock for longer than any operation takes.
    pub fn lock_environment(&self, id: &EnvironmentId) -> Result<File, StoreError> {
        let path = self.environment_lock(id);
        let deadline = Instant::now() + OPERATION;
        loop {
            let file = open_lock(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(2));
                    continue;
                }
                Err(TryLockError::WouldBlock) => return Err(StoreError::Busy { id: id.clone(), path }),
                Err(TryLockError::Error(e)) => return Err(StoreError::io(&path)(e)),
            }
            // Whoever had it before may have removed the file with the environment.
            if is_at(&file, &path).map_err(StoreError::io(&path))? {
                return Ok(file);
            }
        }
    }

    /// Lets go of an environment's lock. Where nothing was made, or nothing is left, its file goes.
    pub(crate) fn unlock_environment(&self, id: &EnvironmentId, lock: &File) {
        let path = self.environment_lock(id);
        if !self.record_path(id).exists() && is_at(lock, &path).unwrap_or(false) {
            // Still held. One that can't be removed is the next sweep's.
            drop(fs::remove_file(&path));
        }
    }

    fn environment_lock(&self, id: &EnvironmentId) -> PathBuf {
        self.dir.join("locks").join(format!("{id}.lock"))
    }

    /// What root did for this environment.
    ///
    /// # Errors
    /// When the record is there and can't be read.
    pub fn record(&self, id: &EnvironmentId) -> Result<Option<Record>, StoreError> {
        Ok(read(&self.record_path(id))?.map(|kept| self.with_notes(kept)))
    }

    /// What this boot noted since the record was kept. What a power cut left of a note is no document, and what another
    /// boot noted is gone.
    fn with_notes(&self, kept: Record) -> Record {
        let noted = fs::read(self.note_path(&kept.scope.id)).ok();
        let noted: Option<Record> = noted.and_then(|text| serde_json::from_slice(&text).ok());
        let boot = boot_id();
        noted.filter(|n| n.scope.id == kept.scope.id && n.boot == boot).unwrap_or_else(|| kept.in_boot(&boot))
    }

    fn note_path(&self, id: &EnvironmentId) -> PathBuf {
        self.dir.join("environments").join(format!("{id}.now"))
    }

    /// Keeps a record, on disk when this returns: for what can outlive a power cut.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn keep(&self, record: &Record) -> Result<(), StoreError> {
        write(&self.record_path(&record.scope.id), record)?;
        let note = self.note_path(&record.scope.id);
        // In this order: whoever stops in between sees the older note, without what has no effect yet.
        if note.exists() { replace(&note, record) } else { Ok(()) }
    }

    /// Notes a change of a record for whoever comes next, as long as this boot lasts.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn note(&self, record: &Record) -> Result<(), StoreError> {
        if record.boot == boot_id() { replace(&self.note_path(&record.scope.id), record) } else { self.keep(record) }
    }

    /// Every record.
    ///
    /// # Errors
    /// When the directory or one of them can't be read.
    pub fn records(&self) -> Result<Vec<Record>, StoreError> {
        let dir = self.dir.join("environments");
        let mut records = Vec::new();
        for entry in fs::read_dir(&dir).map_err(StoreError::io(&dir))? {
            let path = entry.map_err(StoreError::io(&dir))?.path();
            if path.extension().is_some_and(|e| e == "json") {
                // One that is deleted in this moment is no longer of interest.
                records.extend(read(&path)?.map(|kept| self.with_notes(kept)));
            }
        }
        Ok(records)
    }

    /// Whether somebody works on this environment right now.
    pub(crate) fn is_busy(&self, id: &EnvironmentId) -> bool {
        let lock = OpenOptions::new().write(true).open(self.environment_lock(id));
        lock.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
    }

    /// What those who died have left of records: halves of documents, and notes without a record.
    ///
    /// # Errors
    /// When the directories can't be listed.
    pub(crate) fn halves(&self) -> Result<Vec<PathBuf>, StoreError> {
        let mut found = Vec::new();
        for dir in [self.dir.clone(), self.dir.join("environments")] {
            for entry in fs::read_dir(&dir).map_err(StoreError::io(&dir))?.flatten() {
                let path = entry.path();
                let is_orphan = path.extension().is_some_and(|e| e == "now") && !path.with_extension("json").exists();
                if is_half(&path) || is_orphan {
                    found.push(path);
                }
            }
        }
        Ok(found)
    }

    /// Takes away what writers who died have left of an environment's record. Whoever calls this has the environment's
    /// lock.
    pub(crate) fn forget_halves(&self, id: &EnvironmentId) {
        self.remove_halves(&self.dir.join("environments"), id.as_ref());
    }

    /// What can't be removed is an audit's to tell.
    fn remove_halves(&self, dir: &Path, name: &str) {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let left = |path: &Path| path.file_stem().is_some_and(|stem| stem == name) && is_half(path);
        entries.filter(|path| left(path)).for_each(|path| drop(fs::remove_file(path)));
    }

    /// Locks that nobody holds, of environments without a record. Whoever takes one of them just now looks again whether
    /// it is still there.
    ///
    /// # Errors
    /// When the directory can't be listed.
    pub(crate) fn idle_locks(&self) -> Result<Vec<PathBuf>, StoreError> {
        let dir = self.dir.join("locks");
        let entries = fs::read_dir(&dir).map_err(StoreError::io(&dir))?.flatten().map(|entry| entry.path());
        let id = |path: &Path| path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse::<EnvironmentId>().ok());
        let is_idle = |id: EnvironmentId| !self.is_busy(&id) && !self.record_path(&id).exists();
        Ok(entries.filter(|path| id(path).is_some_and(is_idle)).collect())
    }
}

impl Record {
    /// A record of an account that is about to be made.
    pub(crate) fn new(scope: &Scope, caller: u32, uid: u32, real: bool) -> Self {
        Self {
            version: VERSION,
            scope: scope.clone(),
            caller,
            uid,
            gid: uid,
            groups: Vec::new(),
            real,
            boot: boot_id(),
            volumes: Vec::new(),
            images: Vec::new(),
            keeper: None,
            init: None,
            entry: None,
            stop_grace_ms: 0,
            open_files: 1024,
            allow_setuid: false,
            writable_paths: Vec::new(),
        }
    }
}

impl Record {
    /// As it is to be understood now: the processes of another boot are gone, whoever has their ids and start times.
    fn in_boot(self, boot: &str) -> Self {
        if self.boot == boot { self } else { Self { keeper: None, init: None, entry: None, ..self } }
    }
}

/// Whether a file is what a writer who died has left of a document (see [`crate::document`]).
fn is_half(path: &Path) -> bool {
    let writer = path.extension().and_then(|e| e.to_str()).and_then(|e| e.strip_prefix("tmp-"));
    // One that has ended and that nobody has asked how does not write any more.
    writer.is_some_and(|pid| pid.parse().ok().and_then(proc::identify).is_none())
}

/// Whether the open file is still the one of this name.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    Ok(fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())))
}

fn open_lock(path: &Path) -> Result<File, StoreError> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    options.open(path).map_err(StoreError::io(path))
}

/// The kernel's id of this boot.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use native_config::Isolation;

    pub(super) fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::Builder::new().prefix("fish-store-").tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    pub(super) fn record(id: &str, uid: u32) -> Record {
        let scope = Scope {
            id: id.parse().unwrap(),
            dir: PathBuf::from("/w").join(id),
            isolation: Isolation::Private,
            uids: (70000, 70003),
        };
        Record::new(&scope, 0, uid, true)
    }

    pub(super) fn id(name: &str) -> EnvironmentId {
        name.parse().unwrap()
    }

    #[test]
    fn after_a_boot_nothing_noted_is_believed() {
        let (dir, store) = store();
        let mut kept = record("fish-bbbbbb", 70001);
        store.keep(&kept).unwrap();
        kept.open_files = 7;
        store.note(&kept).unwrap();
        assert_eq!(store.record(&kept.scope.id).unwrap().unwrap().open_files, 7);
        // What is kept later does not hide what was noted, nor the other way round.
        kept.stop_grace_ms = 3;
        store.keep(&kept).unwrap();
        assert_eq!(store.records().unwrap(), [kept.clone()]);
        // What file systems leave of a file that was not written back.
        for left in ["", "\0\0"] {
            fs::write(dir.path().join("environments/fish-bbbbbb.now"), left).unwrap();
            assert_eq!(store.record(&kept.scope.id).unwrap(), Some(kept.clone()), "as it was kept");
        }
        // One of another boot is kept as ever.
        kept.boot = "another".to_owned();
        store.keep(&kept).unwrap();
        kept.open_files = 9;
        store.note(&kept).unwrap();
        assert!(fs::read_to_string(dir.path().join("environments/fish-bbbbbb.json")).unwrap().contains(":9"));
        store.release(&kept).unwrap();
        assert_eq!(store.records().unwrap(), []);
        let left: Vec<_> = fs::read_dir(dir.path().join("environments")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn a_record_survives_and_a_newer_one_is_refused() {
        let (dir, store) = store();
        let mut kept = record("fish-bbbbbb", 70000);
        store.keep(&kept).unwrap();
        assert_eq!(store.record(&kept.scope.id).unwrap().as_ref(), Some(&kept));
        kept.boot = "another one".to_owned();
        kept.keeper = Some(ProcessId { pid: 1, started: 1 });
        store.keep(&kept).unwrap();
        let now = store.record(&kept.scope.id).unwrap().unwrap();
        assert_eq!((now.keeper, now.boot), (None, "another one".to_owned()), "nobody of another boot lives");
        kept.version = 2;
        store.keep(&kept).unwrap();
        let error = store.record(&kept.scope.id).unwrap_err();
        assert!(error.of_step(StepKind::Account).message.contains("version 2; this program knows 1"), "{error}");
        fs::write(dir.path().join("environments/fish-cccccc.json"), "").unwrap();
        assert!(matches!(store.record(&"fish-cccccc".parse().unwrap()), Err(StoreError::Damaged { .. })));
    }

    /// What a power cut can leave of a document, and worse: none of it is taken for a document.
    #[test]
    fn a_damaged_document_is_an_error_and_stays_as_it_is() {
        let (dir, store) = store();
        let kept = record("fish-dddddd", store.mint_uid(&id("fish-dddddd"), (70000, 70003), &|_| false).unwrap());
        store.keep(&kept).unwrap();
        for (file, is_record) in [("environments/fish-dddddd.json", true), ("uids.json", false)] {
            let path = dir.path().join(file);
            let whole = fs::read(&path).unwrap();
            let torn = (0..whole.len()).map(|n| whole[..n].to_vec());
            let zeroed = (0..whole.len()).map(|n| [&whole[..n], &vec![0; whole.len() - n][..]].concat());
            let twice = [whole.repeat(2), [&whole[..], &[0]].concat(), b"null".to_vec(), vec![0xFF; 64]];
            for damaged in torn.chain(zeroed).chain(twice) {
                fs::write(&path, &damaged).unwrap();
                let error = if is_record {
                    store.record(&kept.scope.id).map(drop).unwrap_err()
                } else {
                    store.mint_uid(&id("fish-dddddd"), (70000, 70003), &|_| false).map(drop).unwrap_err()
                };
                assert!(matches!(error, StoreError::Damaged { .. } | StoreError::Io { .. }), "{error}");
                assert!(error.of_step(StepKind::Account).message.contains(file), "{error}");
                assert_eq!(fs::read(&path).unwrap(), damaged, "nothing is lost");
            }
            fs::write(&path, &whole).unwrap();
        }
        assert_eq!(store.record(&kept.scope.id).unwrap(), Some(kept));
    }

    #[test]
    fn what_the_dead_left_of_records_is_found_and_nothing_else() {
        let (dir, store) = store();
        let kept = record("fish-aaaaaa", 70000);
        store.keep(&kept).unwrap();
        store.note(&kept).unwrap();
        let _used = store.lock_environment(&id("fish-bbbbbb")).unwrap();
        drop(store.lock_environment(&kept.scope.id).unwrap());
        let left =
            ["environments/fish-cccccc.now", "environments/fish-cccccc.json.tmp-4194305", "locks/fish-cccccc.lock"];
        let left = left.map(|name| dir.path().join(name));
        left.iter().for_each(|path| fs::write(path, "{").unwrap());
        let mut found = store.halves().unwrap();
        found.extend(store.idle_locks().unwrap());
        found.sort();
        let mut expected = left.to_vec();
        expected.sort();
        assert_eq!(found, expected);
        fs::write(dir.path().join("environments/fish-cccccc.tmp-4194305"), "{").unwrap();
        fs::write(dir.path().join("environments/fish-aaaaaa.tmp-4194305"), "{").unwrap();
        store.forget_halves(&id("fish-cccccc"));
        assert!(!dir.path().join("environments/fish-cccccc.tmp-4194305").exists());
        assert!(dir.path().join("environments/fish-aaaaaa.tmp-4194305").exists(), "another one's");
        store.release(&kept).unwrap();
        assert!(!dir.path().join("environments/fish-aaaaaa.tmp-4194305").exists());
    }

    #[test]
    fn a_document_that_cannot_be_written_leaves_the_one_before() {
        let (dir, store) = store();
        let kept = record("fish-eeeeee", 70000);
        store.keep(&kept).unwrap();
        let changed = Record { stop_grace_ms: 7, ..kept.clone() };
        // A directory in the way of the temporary file: as a full or read-only file system, also for root.
        let temporary = dir.path().join(format!("environments/fish-eeeeee.tmp-{}", std::process::id()));
        fs::create_dir(&temporary).unwrap();
        assert!(matches!(store.keep(&changed), Err(StoreError::Io { .. })));
        assert_eq!(store.record(&kept.scope.id).unwrap(), Some(kept));
        fs::remove_dir(&temporary).unwrap();
        store.keep(&changed).unwrap();
        assert_eq!(store.record(&changed.scope.id).unwrap(), Some(changed));
    }
}
