//! One pass over an archive: one thread decodes, or several decode block by block, while the caller's thread untars and
//! writes.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use bytes::{Buf as _, Bytes};

use crate::archive::ArchiveError;
use crate::archive::budget::Budget;
use crate::archive::image::{Staged, Wanted, unpack};
use crate::cache::Part;
use crate::decode::{self, Decoding, InputError};

const CHUNK: usize = 128 * 1024;
/// Decoded chunks in flight.
const CHUNKS: usize = 3;

/// The bytes of an archive.
pub(crate) trait Input: Read + Send {
    /// A file that holds, from its start, every byte that was and will be read of this, if there is one. From now on
    /// it is an error of reading when bytes can not be kept there.
    fn spool(&mut self) -> io::Result<Option<File>>;
}

impl Input for File {
    fn spool(&mut self) -> io::Result<Option<File>> {
        self.try_clone().map(Some)
    }
}

/// Decodes `input` and unpacks its layers below `staging`. Returns only when every thread of it has ended; `failed` is
/// called when nobody wants the rest of the input.
pub(crate) fn run(
    mut input: Box<dyn Input + '_>,
    wanted: &Wanted,
    staging: &Path,
    budget: &Budget,
    failed: impl FnOnce(),
) -> Result<Staged, ArchiveError> {
    let head = decode::head(&mut *input)?;
    if let Some((decoding, decoders)) = decode::blocks(&head, &mut *input, staging, budget)? {
        return in_blocks(&decoding, decoders, &head, input, wanted, staging, budget, failed);
    }
    let decoder = decode::decoder(head, input, budget)?;
    let (sender, receiver) = sync_channel(CHUNKS);
    let (returner, returned) = sync_channel(CHUNKS + 2);
    std::thread::scope(|scope| {
        let mut chunks = Chunks { receiver, returner, chunk: Vec::new(), at: 0, done: false };
        let started = thread(scope, "image-decode", move || decode_all(decoder, &sender, &returned));
        let result = started.and_then(|_| unpack(&mut chunks, wanted, staging, budget));
        if result.is_err() {
            // The decoder may be waiting for bytes: whoever feeds it has to learn that nobody wants them.
            drop(chunks);
            failed();
        }
        result
    })
}

/// As [`run`], by several decoders.
#[expect(clippy::too_many_arguments, reason = "the second half of `run`")]
fn in_blocks(
    decoding: &Decoding<'_>,
    decoders: u32,
    head: &[u8],
    mut input: Box<dyn Input + '_>,
    wanted: &Wanted,
    staging: &Path,
    budget: &Budget,
    failed: impl FnOnce(),
) -> Result<Staged, ArchiveError> {
    std::thread::scope(|scope| {
        let mut blocks = decoding.reader();
        // What the input keeps for a next process is needed until all is unpacked: its thread gives it back.
        let receiving = thread(scope, "image-receive", move || {
            decoding.receive(head, &mut *input);
            input
        });
        let receiving = match receiving {
            Ok(receiving) => receiving,
            Err(error) => {
                failed();
                return Err(error);
            }
        };
        let decoding = (0..decoders).try_for_each(|_| {
            thread(scope, "image-decode", move || decoding.work())?;
            Ok(())
        });
        let result = decoding.and_then(|()| unpack(&mut blocks, wanted, staging, budget));
        drop(blocks);
        if result.is_err() {
            failed();
        }
        match receiving.join() {
            Ok(input) => drop(input),
            Err(panic) => std::panic::resume_unwind(panic),
        }
        result
    })
}

/// Starts a thread that ends with its scope.
fn thread<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, ArchiveError> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder.spawn_scoped(scope, work).map_err(|source| ArchiveError::Input { source })
}

type Decoded = Result<Vec<u8>, io::Error>;

fn decode_all(mut decoder: Box<dyn Read + Send + '_>, sender: &SyncSender<Decoded>, returned: &Receiver<Vec<u8>>) {
    loop {
        let mut chunk = returned.try_recv().unwrap_or_else(|_| vec![0; CHUNK]);
        chunk.resize(CHUNK, 0);
        let mut filled = 0;
        let mut end = false;
        while filled < CHUNK && !end {
            match decoder.read(&mut chunk[filled..]) {
                Ok(0) => end = true,
                Ok(got) => filled += got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // What was decoded before the error is handed over first. (An empty chunk would be the end.)
                    chunk.truncate(filled);
                    if filled == 0 || sender.send(Ok(chunk)).is_ok() {
                        let _ = sender.send(Err(error));
                    }
                    return;
                }
            }
        }
        chunk.truncate(filled);
        if filled > 0 && sender.send(Ok(chunk)).is_err() {
            return;
        }
        if end {
            // An empty chunk is the end; a channel that closes without one is none.
            let _ = sender.send(Ok(Vec::new()));
            return;
        }
    }
}

/// The decoded bytes, as a stream.
struct Chunks {
    receiver: Receiver<Decoded>,
    returner: SyncSender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
    done: bool,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() {
            if self.done {
                return Ok(0);
            }
            let next = self.receiver.recv().map_err(|_| io::Error::other("the decoder stopped"))??;
            let _ = self.returner.try_send(std::mem::replace(&mut self.chunk, next));
            self.at = 0;
            self.done = self.chunk.is_empty();
        }
        let got = (self.chunk.len() - self.at).min(buffer.len());
        buffer[..got].copy_from_slice(&self.chunk[self.at..self.at + got]);
        self.at += got;
        Ok(got)
    }
}

/// The bytes of a download, as a stream for a thread that may block.
pub(crate) struct Incoming {
    receiver: tokio::sync::mpsc::Receiver<Piece>,
    complete: Arc<AtomicBool>,
    chunk: Bytes,
    keep: Option<Part>,
    /// Whether what can not be kept is an error.
    must_keep: bool,
}

/// Bytes of a download.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Just received.
    New(Bytes),
    /// From what an earlier process received.
    Old(Bytes),
}

/// The other end of [`Incoming`].
#[derive(Debug)]
pub(crate) struct Feed {
    sender: tokio::sync::mpsc::Sender<Piece>,
    complete: Arc<AtomicBool>,
}

/// A stream and what fills it. Dropping the filling end without [`Feed::finish`] is an error at the other one. New bytes
/// are also written to `keep`, for a next process that goes on when this one dies.
pub(crate) fn feed(keep: Option<Part>) -> (Feed, Incoming) {
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let complete = Arc::new(AtomicBool::new(false));
    (
        Feed { sender, complete: Arc::clone(&complete) },
        Incoming { receiver, complete, chunk: Bytes::new(), keep, must_keep: false },
    )
}

impl Feed {
    /// Hands bytes over; waits while the other side is busy. `false`: nobody wants them any more.
    pub(crate) async fn send(&self, piece: Piece) -> bool {
        self.sender.send(piece).await.is_ok()
    }

    /// These were all.
    pub(crate) fn finish(self) {
        self.complete.store(true, Ordering::Release);
    }
}

impl Input for Incoming {
    fn spool(&mut self) -> io::Result<Option<File>> {
        self.must_keep = true;
        self.keep.as_ref().map(Part::reader).transpose()
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(Piece::Old(chunk)) => self.chunk = chunk,
                Some(Piece::New(chunk)) => {
                    match self.keep.as_mut().map(|part| part.add(&chunk)) {
                        Some(Err(source)) if self.must_keep => return Err(io::Error::other(InputError(source))),
                        Some(Err(_)) => self.keep = None,
                        _ => {}
                    }
                    self.chunk = chunk;
                }
                None if self.complete.load(Ordering::Acquire) => return Ok(0),
                None => {
                    let source = io::Error::new(io::ErrorKind::ConnectionAborted, "the download ended");
                    return Err(io::Error::other(InputError(source)));
                }
            }
        }
        let got = self.chunk.len().min(buffer.len());
        self.chunk.copy_to_slice(&mut buffer[..got]);
        Ok(got)
    }
}
