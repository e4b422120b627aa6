//! [`Store`]: the workspace on disk. Directories of environments, their locks and their journals.
//!
//! ```text
//! workspace/.lock            held while capacity is checked and a name is claimed
//! workspace/<id>/lock        held during any operation that changes the environment
//! workspace/<id>/claim.json     the first journal, before there is any effect; not waited for to be on disk
//! workspace/<id>/journal.json   what a power cut must not take away
//! workspace/<id>/journal.now    what became of it since; not waited for to be on disk
//! workspace/.gone-<id>       an environment whose removal was interrupted; nothing of it is on the host
//! ```
//!
//! Locks are the kernel's (`flock`): a process that dies frees its own. A lock file is only trusted when it is
//! still the one at its path, because the previous holder may have removed the directory.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use native_config::EnvironmentId;

use crate::error::JournalError;

/// The journal's file name.
pub const JOURNAL: &str = "journal.json";
/// The workload's output.
pub const LOG: &str = "log";
const LOCK: &str = "lock";
const CLAIM: &str = "claim.json";
/// What is noted of it for this boot.
pub const NOTE: &str = "journal.now";
const TEMP: &str = "journal.json.new";
const GONE: &str = ".gone-";
/// More than any journal of ours; a file that is larger is not one.
const MOST: u64 = 16 << 20;

/// The workspace's lock. Freed when dropped.
#[derive(Debug)]
pub struct WorkspaceLock {
    _file: File,
}

/// An environment's lock. Freed when dropped.
#[derive(Debug)]
pub struct Held {
    /// The environment.
    pub id: EnvironmentId,
    /// Whether it was made by this holder and its directory's name is not on disk yet. Others make nothing.
    is_new: AtomicBool,
    _file: File,
}

/// What an attempt to lock finds.
#[derive(Debug)]
pub enum Hold<T> {
    /// The lock is ours.
    Got(T),
    /// Another operation has it.
    Busy,
    /// There is nothing to lock.
    NoSuch,
}

/// A journal as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The file's name.
    pub name: &'static str,
    /// What is in it.
    pub text: Vec<u8>,
}

/// Where environments are written down. The real one is [`FsStore`]; tests put one in between that fails or
/// dies at a chosen call.
pub trait Store: Send + Sync + fmt::Debug {
    /// An environment's directory, whether or not it exists.
    fn dir(&self, id: &EnvironmentId) -> PathBuf;

    /// Tries to take the workspace's lock.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    fn try_workspace(&self) -> Result<Hold<WorkspaceLock>, JournalError>;

    /// Makes an environment's directory, if there is none, and locks it. `None`: there is one.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    fn claim(&self, lock: &WorkspaceLock, id: &EnvironmentId) -> Result<Option<Held>, JournalError>;

    /// Tries to lock an environment.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    fn try_hold(&self, id: &EnvironmentId) -> Result<Hold<Held>, JournalError>;

    /// The environments that have a directory, sorted.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    fn ids(&self) -> Result<Vec<EnvironmentId>, JournalError>;

    /// An environment's last note, or else its journal; `None` if it has neither.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    fn read(&self, id: &EnvironmentId) -> Result<Option<Text>, JournalError>;

    /// The names of what an environment's directory holds beside its lock and journal.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    fn contents(&self, id: &EnvironmentId) -> Result<Vec<String>, JournalError>;

    /// Replaces an environment's journal. When this returns, the new text survives a power cut, and so does the
    /// environment's directory.
    ///
    /// # Errors
    /// [`JournalError::Io`]; then it is the old text or the new one, never a mixture.
    fn write(&self, held: &Held, text: &[u8]) -> Result<(), JournalError>;

    /// Notes what an environment's journal is now, where the one on disk serves as well after a power cut: before there is
    /// any effect, and when nothing that it speaks of runs any more. When this returns, other processes see the text.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    fn note(&self, held: &Held, text: &[u8]) -> Result<(), JournalError>;

    /// Removes an environment's directory with everything in it.
    ///
    /// # Errors
    /// [`JournalError::Io`]; once the directory's name is gone, the rest is [`Self::sweep`]'s.
    fn remove(&self, held: Held) -> Result<(), JournalError>;

    /// Removes what interrupted removals left.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    fn sweep(&self, lock: &WorkspaceLock) -> Result<(), JournalError>;

    /// Free space of the workspace, in bytes, as an ordinary user may use it.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    fn free_bytes(&self) -> Result<u64, JournalError>;
}

/// The workspace as a directory.
#[derive(Debug)]
pub struct FsStore {
    root: PathBuf,
}

/// Adds what was being done to an I/O error.
fn at<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> JournalError + 'a {
    move |source| JournalError::Io { action, path: path.to_owned(), source }
}

fn no_follow() -> i32 {
    i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0)
}

/// Removes a tree; one that is not there, or that a sweep of another process removes meanwhile, is fine.
fn remove_all(path: &Path) -> Result<(), JournalError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(at("remove", path)),
    }
}

impl FsStore {
    /// The workspace at this absolute path, which must exist.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn open_lock(path: &Path, create: bool) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(create).truncate(false).mode(0o600).custom_flags(no_follow());
        options.open(path)
    }

    /// Locks a file that must still be the one at `path` afterwards.
    fn try_lock(path: &Path, create: bool) -> Result<Hold<File>, JournalError> {
        let file = match Self::open_lock(path, create) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Hold::NoSuch),
            Err(e) => return Err(at("open the lock", path)(e)),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Hold::Busy),
            Err(TryLockError::Error(e)) => return Err(at("lock", path)(e)),
        }
        let ours = file.metadata().map_err(at("look at", path))?;
        match fs::symlink_metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => Ok(Hold::Got(file)),
            // Another file has taken its place meanwhile: whoever asks again will see that one.
            Ok(_) => Ok(Hold::Busy),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Hold::NoSuch),
            Err(e) => Err(at("look at", path)(e)),
        }
    }

    fn text(&self, id: &EnvironmentId, name: &'static str) -> Result<Option<Text>, JournalError> {
        let path = self.dir(id).join(name);
        let file = match OpenOptions::new().read(true).custom_flags(no_follow()).open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(at("open", &path)(e)),
        };
        let mut text = Vec::new();
        file.take(MOST).read_to_end(&mut text).map_err(at("read", &path))?;
        Ok(Some(Text { name, text }))
    }

    fn replace(&self, held: &Held, name: &str, text: &[u8], on_disk: bool) -> Result<(), JournalError> {
        let dir = self.dir(&held.id);
        let (path, temp) = (dir.join(name), dir.join(TEMP));
        // Only the lock's holder writes here, so the temporary name needs no randomness; what an earlier
        // process left under it is overwritten.
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(no_follow());
        let mut file = options.open(&temp).map_err(at("create", &temp))?;
        file.write_all(text).map_err(at("write", &temp))?;
        let put = if on_disk {
            file.sync_all().map_err(at("sync", &temp))?;
            fs::rename(&temp, &path)
        } else {
            Self::put_in_place(&temp, &path)
        };
        put.map_err(at("replace", &path))
    }

    /// Gives a file that need not be on disk the name of another one, in one step, and removes that.
    ///
    /// By exchanging the two: ext4 writes a file out that is renamed over another one (ext4(5), `auto_da_alloc`), for
    /// programs that forget `fsync`.
    fn put_in_place(from: &Path, to: &Path) -> io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE) {
            Ok(()) => fs::remove_file(from),
            // There is none yet, or the file system can't.
            Err(_) => fs::rename(from, to),
        }
    }

    fn sync_dir(path: &Path) -> Result<(), JournalError> {
        File::open(path).and_then(|d| d.sync_all()).map_err(at("sync", path))
    }
}

impl Store for FsStore {
    fn dir(&self, id: &EnvironmentId) -> PathBuf {
        self.root.join(id.to_string())
    }

    fn try_workspace(&self) -> Result<Hold<WorkspaceLock>, JournalError> {
        Ok(match Self::try_lock(&self.root.join(".lock"), true)? {
            Hold::Got(file) => Hold::Got(WorkspaceLock { _file: file }),
            Hold::Busy => Hold::Busy,
            Hold::NoSuch => Hold::NoSuch,
        })
    }

    fn claim(&self, _lock: &WorkspaceLock, id: &EnvironmentId) -> Result<Option<Held>, JournalError> {
        let dir = self.dir(id);
        // The environment's user passes through it; what is inside has modes of its own.
        match fs::DirBuilder::new().mode(0o711).create(&dir) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            Err(e) => return Err(at("create", &dir)(e)),
        }
        let made = Self::try_lock(&dir.join(LOCK), true).and_then(|hold| {
            let Hold::Got(file) = hold else {
                return Err(at("lock", &dir)(io::Error::other("another process took it the moment it was made")));
            };
            Ok(Some(Held { id: id.clone(), is_new: AtomicBool::new(true), _file: file }))
        });
        if made.is_err() {
            // Nothing is in it but perhaps the lock file: a full disk must not leave a claim behind.
            drop(fs::remove_dir_all(&dir));
        }
        made
    }

    fn try_hold(&self, id: &EnvironmentId) -> Result<Hold<Held>, JournalError> {
        let dir = self.dir(id);
        let path = dir.join(LOCK);
        // A claim that died between making the directory and its lock has no lock file: it is made here.
        let create = fs::symlink_metadata(&dir).is_ok_and(|m| m.is_dir());
        Ok(match Self::try_lock(&path, create)? {
            Hold::Got(file) => Hold::Got(Held { id: id.clone(), is_new: AtomicBool::new(false), _file: file }),
            Hold::Busy => Hold::Busy,
            Hold::NoSuch => Hold::NoSuch,
        })
    }

    fn ids(&self) -> Result<Vec<EnvironmentId>, JournalError> {
        let mut ids = Vec::new();
        let entries = match fs::read_dir(&self.root) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(ids),
            entries => entries.map_err(at("read", &self.root))?,
        };
        for entry in entries {
            let entry = entry.map_err(at("read", &self.root))?;
            // What is not named like an environment is not ours.
            if let Some(id) = entry.file_name().to_str().and_then(|n| n.parse().ok())
                && entry.file_type().is_ok_and(|t| t.is_dir())
            {
                ids.push(id);
            }
        }
        ids.sort();
        Ok(ids)
    }

    fn read(&self, id: &EnvironmentId) -> Result<Option<Text>, JournalError> {
        // What a power cut leaves of a file that was not waited for. Anything else that is no journal is an error: what
        // runs may not be taken for something half made.
        let is_lost = |found: &Text| found.text.last().is_none_or(|byte| *byte == 0);
        if let Some(found) = self.text(id, NOTE)?.filter(|found| !is_lost(found)) {
            return Ok(Some(found));
        }
        if let Some(found) = self.text(id, JOURNAL)? {
            return Ok(Some(found));
        }
        // While its holder writes the journal, it has both or that.
        let is_whole = |found: &Text| found.text.ends_with(b"}\n") && !found.text.contains(&0);
        match self.text(id, CLAIM)?.filter(is_whole) {
            Some(found) => Ok(Some(found)),
            None => self.text(id, JOURNAL),
        }
    }

    fn contents(&self, id: &EnvironmentId) -> Result<Vec<String>, JournalError> {
        let dir = self.dir(id);
        let mut names = Vec::new();
        for entry in fs::read_dir(&dir).map_err(at("read", &dir))? {
            let name = entry.map_err(at("read", &dir))?.file_name().to_string_lossy().into_owned();
            if ![LOCK, JOURNAL, CLAIM, NOTE, TEMP].contains(&name.as_str()) {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn write(&self, held: &Held, text: &[u8]) -> Result<(), JournalError> {
        let dir = self.dir(&held.id);
        let note = dir.join(NOTE);
        // Before the journal that it would hide: what is in between is the journal of before, which is reverted.
        match fs::remove_file(&note) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at("remove", &note)(e)),
            _ => {}
        }
        self.replace(held, JOURNAL, text, true)?;
        Self::sync_dir(&dir)?;
        if held.is_new.load(Ordering::Relaxed) {
            Self::sync_dir(&self.root)?;
            held.is_new.store(false, Ordering::Relaxed);
            // Nobody reads it any more; it goes with the directory at the latest.
            drop(fs::remove_file(dir.join(CLAIM)));
        }
        Ok(())
    }

    fn note(&self, held: &Held, text: &[u8]) -> Result<(), JournalError> {
        let name = if held.is_new.load(Ordering::Relaxed) { CLAIM } else { NOTE };
        self.replace(held, name, text, false)
    }

    fn remove(&self, held: Held) -> Result<(), JournalError> {
        let dir = self.dir(&held.id);
        // One rename makes it gone for everyone; a removal that stops half-way then can't be mistaken for an
        // environment without a journal.
        let gone = self.root.join(format!("{GONE}{}", held.id));
        remove_all(&gone)?;
        // Where a power cut undoes this, the journal says that all is to be reverted, and finds nothing.
        fs::rename(&dir, &gone).map_err(at("rename", &dir))?;
        drop(held);
        remove_all(&gone)
    }

    fn sweep(&self, _lock: &WorkspaceLock) -> Result<(), JournalError> {
        for entry in fs::read_dir(&self.root).map_err(at("read", &self.root))? {
            let entry = entry.map_err(at("read", &self.root))?;
            let name = entry.file_name();
            let id = name.to_str().and_then(|n| n.strip_prefix(GONE)).and_then(|n| n.parse::<EnvironmentId>().ok());
            if id.is_none() || !entry.file_type().is_ok_and(|t| t.is_dir()) {
                continue;
            }
            remove_all(&entry.path())?;
        }
        Ok(())
    }

    fn free_bytes(&self) -> Result<u64, JournalError> {
        // A workspace that is not made yet will be where its nearest parent is.
        let there = self.root.ancestors().find(|p| p.exists()).unwrap_or(&self.root);
        let stat = rustix::fs::statvfs(there).map_err(|e| at("measure", there)(e.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}
