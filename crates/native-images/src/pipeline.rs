//! One pass over an archive: a thread decodes while the caller's thread untars and writes.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::{Buf as _, Bytes};

use crate::archive::ArchiveError;
use crate::archive::budget::Budget;
use crate::archive::image::{Staged, Wanted, unpack};
use crate::cache::Part;
use crate::decode::{self, InputError};

const CHUNK: usize = 128 * 1024;
/// Decoded chunks in flight.
const CHUNKS: usize = 3;

/// Decodes `input` and unpacks its layers below `staging`. Returns only when every thread of it has ended.
pub(crate) fn run(
    mut input: Box<dyn Read + Send + '_>,
    wanted: &Wanted,
    staging: &Path,
    budget: &Budget,
    failed: impl FnOnce(),
) -> Result<Staged, ArchiveError> {
    let head = decode::head(&mut *input)?;
    let decoder = decode::decoder(head, input, budget)?;
    let (sender, receiver) = sync_channel(CHUNKS);
    let (returner, returned) = sync_channel(CHUNKS + 2);
    std::thread::scope(|scope| {
        let decoding = std::thread::Builder::new()
            .name("image-decode".to_owned())
            .spawn_scoped(scope, move || decode_all(decoder, &sender, &returned));
        if let Err(source) = decoding {
            return Err(ArchiveError::Input { source });
        }
        let mut chunks = Chunks { receiver, returner, chunk: Vec::new(), at: 0, done: false };
        let result = unpack(&mut chunks, wanted, staging, budget);
        if result.is_err() {
            // The decoder may be waiting for bytes: whoever feeds it has to learn that nobody wants them.
            drop(chunks);
            failed();
        }
        result
    })
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
    (Feed { sender, complete: Arc::clone(&complete) }, Incoming { receiver, complete, chunk: Bytes::new(), keep })
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

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(Piece::Old(chunk)) => self.chunk = chunk,
                Some(Piece::New(chunk)) => {
                    if self.keep.as_mut().is_some_and(|part| part.add(&chunk).is_err()) {
                        self.keep = None;
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
