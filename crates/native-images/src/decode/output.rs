//! What comes out of the decoder of one block, until it is read: in memory while it is being read, in a file before.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::archive::ArchiveError;

/// Chunks in memory.
const CHUNKS: usize = 3;
/// How much is read from the file at once.
const READ: u64 = 128 * 1024;

/// One block's output. One thread writes, one reads.
pub(super) struct Output {
    dir: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// It is this block's turn to be read.
    current: bool,
    /// Nobody wants the rest.
    abandoned: bool,
    /// Written before its turn, and read of that.
    file: Option<Arc<File>>,
    written: u64,
    read: u64,
    /// Comes after what is in the file.
    chunks: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    end: Option<io::Result<()>>,
}

/// The right to write. Dropped without [`Writer::finish`] (its thread panicked), the reader gets an error.
pub(super) struct Writer<'a>(&'a Output);

impl Writer<'_> {
    pub(super) fn finish(self, result: io::Result<()>) {
        self.0.lock().end = Some(result);
        self.0.changed.notify_all();
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        self.0.lock().end.get_or_insert_with(|| Err(io::Error::other("the decoder stopped")));
        self.0.changed.notify_all();
    }
}

impl Output {
    /// Files are made in `dir`, without a name.
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), state: Mutex::default(), changed: Condvar::new() }
    }

    pub(super) fn writer(&self) -> Writer<'_> {
        Writer(self)
    }

    /// A buffer that was used before, if there is one.
    pub(super) fn buffer(&self) -> Vec<u8> {
        self.lock().spare.pop().unwrap_or_default()
    }

    /// Adds bytes. Waits while it is this block's turn and the reader has enough.
    pub(super) fn put(&self, chunk: Vec<u8>) -> io::Result<()> {
        if chunk.is_empty() {
            return Ok(());
        }
        let mut state = self.lock();
        loop {
            if state.abandoned {
                return Err(io::Error::other("nobody reads what is decoded"));
            }
            if !state.current || state.read < state.written {
                break;
            }
            if state.chunks.len() < CHUNKS {
                state.chunks.push_back(chunk);
                self.changed.notify_all();
                return Ok(());
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        // A disk that is full is not the archive's fault.
        let failed = |source| io::Error::other(ArchiveError::Write { path: self.dir.clone(), source });
        let file = match &state.file {
            Some(file) => Arc::clone(file),
            None => Arc::clone(state.file.insert(Arc::new(tempfile::tempfile_in(&self.dir).map_err(failed)?))),
        };
        let at = state.written;
        drop(state);
        file.write_all_at(&chunk, at).map_err(failed)?;
        let mut state = self.lock();
        state.written += chunk.len() as u64;
        state.spare.push(chunk);
        self.changed.notify_all();
        Ok(())
    }

    /// Exchanges what was read for what comes next; `false` at the end.
    pub(super) fn take(&self, chunk: &mut Vec<u8>) -> io::Result<bool> {
        let mut state = self.lock();
        state.current = true;
        loop {
            if state.read < state.written {
                let (at, length) = (state.read, (state.written - state.read).min(READ));
                let file = state.file.clone().ok_or_else(|| io::Error::other("the decoded bytes are gone"))?;
                drop(state);
                chunk.resize(usize::try_from(length).unwrap_or(0), 0);
                file.read_exact_at(chunk, at)?;
                state = self.lock();
                state.read += length;
                if state.read == state.written {
                    self.changed.notify_all();
                }
                return Ok(true);
            }
            if let Some(next) = state.chunks.pop_front() {
                let used = std::mem::replace(chunk, next);
                state.spare.push(used);
                self.changed.notify_all();
                return Ok(true);
            }
            if let Some(end) = state.end.take() {
                chunk.clear();
                state.end = Some(Ok(()));
                return end.map(|()| false);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets the writer end.
    pub(super) fn abandon(&self) {
        self.lock().abandoned = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(output: &Output) -> io::Result<Vec<u8>> {
        let (mut all, mut chunk) = (Vec::new(), Vec::new());
        while output.take(&mut chunk)? {
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }

    #[test]
    fn bytes_come_out_as_they_went_in_whenever_the_reader_comes() {
        let dir = tempfile::Builder::new().prefix("fish-").tempdir().unwrap();
        for early in [0, 1, 5, 100] {
            let output = Output::new(dir.path());
            let put = |from: usize, to: usize| (from..to).for_each(|n| output.put(vec![n as u8; 1000 + n]).unwrap());
            let writer = output.writer();
            put(0, early);
            let all = std::thread::scope(|scope| {
                scope.spawn(|| {
                    put(early, 100);
                    writer.finish(Ok(()));
                });
                read(&output).unwrap()
            });
            let expected: Vec<u8> = (0..100).flat_map(|n| vec![n as u8; 1000 + n]).collect();
            assert!(all == expected, "{early}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_end_that_is_none_is_an_error() {
        let dir = tempfile::Builder::new().prefix("fish-").tempdir().unwrap();
        let output = Output::new(dir.path());
        drop(output.writer());
        assert!(read(&output).is_err());
        output.abandon();
        assert!(output.put(vec![1]).is_err());
    }

    #[test]
    fn a_disk_that_takes_nothing_is_named() {
        let dir = tempfile::Builder::new().prefix("fish-").tempdir().unwrap();
        let error = Output::new(&dir.path().join("gone")).put(vec![1]).unwrap_err();
        let error = error.downcast::<ArchiveError>().unwrap();
        assert!(matches!(error, ArchiveError::Write { .. }), "{error:?}");
    }
}
