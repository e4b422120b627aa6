//! One task of one process works on an image at a time. The kernel frees the lock of a process that dies.

use std::fs::{File, TryLockError};
use std::path::PathBuf;
use std::time::Duration;

use super::fetch::Request;
use super::staging::{is_at, open_lock};
use super::store::{Key, at};
use crate::error::EnsureError;
use crate::events::Phase;

/// The lock of one image, and its file, which goes away with it.
#[derive(Debug)]
pub(super) struct ImageLock {
    _file: File,
    path: PathBuf,
}

impl Drop for ImageLock {
    fn drop(&mut self) {
        // Removed while it is still locked: whoever waits for it looks if it is still there.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Request<'_> {
    /// Waits until this call alone works on the image, among all tasks and processes.
    pub(super) async fn lock(&self, key: &Key) -> Result<ImageLock, EnsureError> {
        let path = self.cache.store.blobs().join(format!("{}.lock", key.0));
        let fail = |source| Self::cache_error(at("lock", &path)(source));
        let mut pause = Duration::from_millis(5);
        let mut told = false;
        loop {
            let file = open_lock(&path).map_err(fail)?;
            match file.try_lock() {
                Ok(()) if is_at(&file, &path).map_err(fail)? => return Ok(ImageLock { _file: file, path }),
                Ok(()) => continue, // the holder before removed it
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(fail(error)),
            }
            if !std::mem::replace(&mut told, true) {
                self.events.phase(&self.id, Phase::Waiting);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }
}
