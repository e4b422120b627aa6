//! The compressed bytes on the disk while they come, for decoders that work at several places of them.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::InputError;
use crate::archive::ArchiveError;
use crate::pipeline::Input;

const CHUNK: usize = 64 * 1024;

/// A file that grows, and how far it has grown.
pub(super) struct Spool {
    file: File,
    /// Whether the input keeps what is read of it in this very file, so that nothing is written twice.
    kept: bool,
    /// For messages.
    dir: PathBuf,
    state: Mutex<State>,
    grown: Condvar,
}

struct State {
    length: u64,
    end: End,
}

#[derive(Debug, Clone)]
enum End {
    /// More may come.
    Open,
    Complete,
    /// No more comes, for this reason.
    Failed(io::ErrorKind, String),
}

impl Spool {
    /// The file that the input keeps itself, else one without a name in `dir`.
    pub(super) fn new(input: &mut dyn Input, dir: &Path) -> io::Result<Self> {
        let kept = input.spool()?;
        let (file, kept) = match kept {
            Some(file) => (file, true),
            None => (tempfile::tempfile_in(dir)?, false),
        };
        let state = Mutex::new(State { length: 0, end: End::Open });
        Ok(Self { file, kept, dir: dir.to_owned(), state, grown: Condvar::new() })
    }

    /// Takes in what was read already, and then all of `input`.
    pub(super) fn fill(&self, head: &[u8], input: &mut dyn Read) {
        // Whatever happens here, decoders must not wait for ever.
        let guard = Guard(self);
        let result = self.add(head).and_then(|()| {
            let mut chunk = vec![0; CHUNK];
            loop {
                match input.read(&mut chunk) {
                    Ok(0) => return Ok(()),
                    Ok(got) => self.add(&chunk[..got])?,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        });
        self.lock().end = match result {
            Ok(()) => End::Complete,
            Err(error) => {
                // What could not be kept comes with the mark of an input error around it.
                let error = error.downcast::<InputError>().map_or_else(|error| error, |InputError(source)| source);
                End::Failed(error.kind(), error.to_string())
            }
        };
        drop(guard);
    }

    fn add(&self, bytes: &[u8]) -> io::Result<()> {
        if !self.kept {
            let length = self.lock().length;
            self.file.write_all_at(bytes, length)?;
        }
        self.lock().length += bytes.len() as u64;
        self.grown.notify_all();
        Ok(())
    }

    /// Reads at a place, once there is something; 0 at the end of a complete input.
    pub(super) fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.lock();
        let available = loop {
            if state.length > at {
                break state.length - at;
            }
            match &state.end {
                End::Open => state = self.grown.wait(state).unwrap_or_else(PoisonError::into_inner),
                End::Complete => return Ok(0),
                End::Failed(kind, why) => return Err(self.failure(*kind, why)),
            }
        };
        drop(state);
        let want = usize::try_from(available).unwrap_or(usize::MAX).min(buffer.len());
        match self.file.read_at(&mut buffer[..want], at)? {
            0 if want > 0 => {
                let gone = io::Error::other("somebody cut the file that keeps the download");
                Err(io::Error::other(InputError(gone)))
            }
            got => Ok(got),
        }
    }

    /// Why no more comes, told to each decoder that waits for it. A disk that is full is not the input's fault.
    fn failure(&self, kind: io::ErrorKind, why: &str) -> io::Error {
        let source = io::Error::new(kind, why.to_owned());
        match kind {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                io::Error::other(ArchiveError::Write { path: self.dir.clone(), source })
            }
            _ => io::Error::other(InputError(source)),
        }
    }

    /// Fills the buffer from a place; `false` if the input ends before that.
    pub(super) fn exact(&self, mut at: u64, mut buffer: &mut [u8]) -> io::Result<bool> {
        while !buffer.is_empty() {
            let got = self.read_at(at, buffer)?;
            if got == 0 {
                return Ok(false);
            }
            at += got as u64;
            buffer = &mut buffer[got..];
        }
        Ok(true)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Guard<'a>(&'a Spool);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if matches!(state.end, End::Open) {
            state.end = End::Failed(io::ErrorKind::Other, "the input's reader stopped".to_owned());
        }
        self.0.grown.notify_all();
    }
}

/// The spool from a place on, as a stream.
pub(super) struct From<'a> {
    spool: &'a Spool,
    pub(super) at: u64,
}

impl<'a> From<'a> {
    pub(super) fn new(spool: &'a Spool, at: u64) -> Self {
        Self { spool, at }
    }
}

impl Read for From<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.spool.read_at(self.at, buffer)?;
        self.at += got as u64;
        Ok(got)
    }
}
