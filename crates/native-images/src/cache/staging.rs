//! Half-made things: each has a directory of its own and a lock that the kernel frees when its maker dies, so that the
//! next process can tell what is stale.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::archive::beneath;

/// A directory that is removed with all that is in it when this is dropped.
#[derive(Debug)]
pub(crate) struct Staging {
    dir: PathBuf,
    lock_path: PathBuf,
    /// Opened before anything is written in it.
    handle: File,
    _lock: File,
}

impl Staging {
    #[expect(clippy::disallowed_methods, reason = "a name, for which any number does")]
    pub(crate) fn new(staging: &Path) -> io::Result<Self> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        loop {
            let count = COUNTER.fetch_add(1, Ordering::Relaxed);
            let name = format!("{}-{:x}-{count}", std::process::id(), jiff::Timestamp::now().as_nanosecond());
            let lock_path = staging.join(format!("{name}.lock"));
            let lock = open_lock(&lock_path)?;
            // A sweeper may have taken the file away before it was locked.
            if lock.try_lock().is_err() || !is_at(&lock, &lock_path)? {
                continue;
            }
            let dir = staging.join(name);
            fs::DirBuilder::new().mode(0o700).create(&dir)?;
            let handle = File::open(&dir)?;
            return Ok(Self { dir, lock_path, handle, _lock: lock });
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    /// Makes everything in it durable. A large tree by one call for the whole file system, which tells also of what went
    /// wrong since the directory was made; a small one file by file, so that it does not wait for what others write there.
    pub(crate) fn sync(&self, entries: u64) -> io::Result<()> {
        if entries <= MANY {
            return sync_each(&self.dir);
        }
        #[cfg(target_os = "linux")]
        rustix::fs::syncfs(&self.handle)?;
        #[cfg(not(target_os = "linux"))]
        {
            rustix::fs::sync();
            self.handle.sync_all()?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.dir) {
            tracing::warn!(dir = %self.dir.display(), %error, "staging could not be removed; the next start tries again");
            return;
        }
        let _ = fs::remove_file(&self.lock_path);
    }
}

/// Removes what dead processes left. Interrupted downloads (`.part`) stay for a day, so that the next process goes on
/// from there.
pub(crate) fn sweep(staging: &Path) -> io::Result<()> {
    for entry in fs::read_dir(staging)? {
        let entry = entry?;
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(".part") || name.ends_with(".part.json") {
            let old = entry.metadata().and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
            if old.is_some_and(|age| age.as_secs() > 24 * 3600) {
                let _ = fs::remove_file(&path);
            }
            continue;
        }
        let (dir, lock_path) = match name.strip_suffix(".lock") {
            Some(stem) => (staging.join(stem), path),
            None => (path.clone(), staging.join(format!("{name}.lock"))),
        };
        let lock = match File::options().write(true).open(&lock_path) {
            Ok(lock) => match lock.try_lock() {
                Ok(()) => Some(lock),
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => return Err(error),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if let Some(lock) = &lock
            && !is_at(lock, &lock_path)?
        {
            continue;
        }
        remove_tree(&dir)?;
        ignore_missing(fs::remove_file(&lock_path))?;
    }
    Ok(())
}

/// Opens or makes a lock file.
pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Whether `path` still leads to the very file that is open.
pub(crate) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok(there.dev() == open.dev() && there.ino() == open.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes a directory (or file) with all that is in it, also where its modes forbid it.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    use std::os::fd::AsFd as _;
    use std::os::unix::ffi::OsStrExt as _;

    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no such name"));
    };
    let parent = beneath::open_root(parent)?;
    beneath::remove(parent.as_fd(), name.as_bytes())
}

pub(crate) fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Above so many entries it is faster to sync the file system than each file.
const MANY: u64 = 64;

fn sync_each(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_each(&entry.path())?;
        } else if kind.is_file() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_dir(dir)
}
