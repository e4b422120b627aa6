//! [`LogReader`]: what a workload printed, and what it goes on to print.
//!
//! The keeper writes `log` and, when it is full, renames it to `log.1` and begins a new one. The reader begins with
//! `log.1`, goes on with `log`, and notices a rename by the file's identity: it reads the old file to its end before
//! it opens the new one. Pieces are lost only when two renames happen between two looks.

use std::fmt;
use std::future::Future;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tokio::fs::{self, File};
use tokio::io::AsyncReadExt;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::ObserveError;

/// How often a log is looked at for more. Below what a person notices.
const LOOK: Duration = Duration::from_millis(30);
/// The most that is handed out at once.
const PIECE: usize = 64 << 10;

/// Reads a workload's log from its beginning.
pub struct LogReader {
    path: PathBuf,
    /// The older part, until it was read.
    old: Begin,
    file: Option<File>,
    follow: Option<Follow>,
    buffer: Vec<u8>,
}

enum Begin {
    NotYet,
    Reading(File),
    Done,
}

struct Follow {
    /// Cancelled when the workload has ended.
    ended: CancellationToken,
    /// Stops waiting for the workload when the reader is dropped.
    _stop: DropGuard,
}

impl fmt::Debug for LogReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogReader").field("path", &self.path).field("follow", &self.follow.is_some()).finish()
    }
}

impl LogReader {
    pub(crate) fn to_the_end(path: PathBuf) -> Self {
        Self { path, old: Begin::NotYet, file: None, follow: None, buffer: vec![0; PIECE] }
    }

    /// Follows until the future that `wait` makes has come to its end. Its token stops it early.
    pub(crate) fn following<F>(path: PathBuf, wait: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (ended, stop) = (CancellationToken::new(), CancellationToken::new());
        let (waiting, over) = (wait(stop.clone()), ended.clone().drop_guard());
        tokio::spawn(async move {
            waiting.await;
            drop(over);
        });
        Self { follow: Some(Follow { ended, _stop: stop.drop_guard() }), ..Self::to_the_end(path) }
    }

    /// The next piece; `None` at the end. With `follow`, the end is when the workload has ended and all that it
    /// printed was read. Cancel-safe: a dropped call loses nothing.
    ///
    /// # Errors
    /// [`ObserveError::Log`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, ObserveError> {
        loop {
            // Asked before the file is: what was printed before the end is then seen by this very look.
            let over = self.follow.as_ref().is_none_or(|f| f.ended.is_cancelled());
            if let Some(piece) = self.read().await.map_err(|e| self.wrong(e))? {
                return Ok(Some(piece));
            }
            if self.renamed().await.map_err(|e| self.wrong(e))? {
                continue;
            }
            let Some(follow) = self.follow.as_ref().filter(|_| !over) else { return Ok(None) };
            tokio::select! {
                () = follow.ended.cancelled() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    fn wrong(&self, source: io::Error) -> ObserveError {
        ObserveError::Log { path: self.path.clone(), source }
    }

    /// What can be read now, from the older part or the current file.
    async fn read(&mut self) -> io::Result<Option<Bytes>> {
        if matches!(self.old, Begin::NotYet) {
            // The current file first: if it is renamed meanwhile, both names are the same file, read once.
            let current = open(&self.path).await?;
            let mut older = self.path.clone().into_os_string();
            older.push(".1");
            let older = open(Path::new(&older)).await?;
            let same = match (&current, &older) {
                (Some(a), Some(b)) => identity(&a.metadata().await?) == identity(&b.metadata().await?),
                _ => false,
            };
            self.old = older.filter(|_| !same).map_or(Begin::Done, Begin::Reading);
            self.file = current;
        }
        if let Begin::Reading(file) = &mut self.old {
            match file.read(&mut self.buffer).await? {
                0 => self.old = Begin::Done,
                n => return Ok(Some(Bytes::copy_from_slice(&self.buffer[..n]))),
            }
        }
        let Some(file) = &mut self.file else { return Ok(None) };
        Ok(match file.read(&mut self.buffer).await? {
            0 => None,
            n => Some(Bytes::copy_from_slice(&self.buffer[..n])),
        })
    }

    /// Whether there is a new file at the path, which is then opened. The old one was read to its end.
    async fn renamed(&mut self) -> io::Result<bool> {
        let there = match fs::symlink_metadata(&self.path).await {
            Ok(there) => identity(&there),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        if let Some(file) = &mut self.file {
            if identity(&file.metadata().await?) == there {
                return Ok(false);
            }
            // It may have grown between our last look and its renaming.
            if file.metadata().await?.len() > file_position(file).await? {
                return Ok(true);
            }
        }
        self.file = open(&self.path).await?;
        Ok(self.file.is_some())
    }
}

async fn file_position(file: &mut File) -> io::Result<u64> {
    use tokio::io::AsyncSeekExt;
    file.stream_position().await
}

fn identity(metadata: &std::fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// `None`: there is no such file (yet).
async fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path).await {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}
