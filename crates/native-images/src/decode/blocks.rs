//! Decodes the blocks of an xz file at once, each by a decoder of its own that costs a dictionary.
//!
//! Encoders with several threads write into each block's header how long it is, so that the blocks can be found one
//! behind the other without decoding them and without asking the server for the index first. Compressed bytes go into a
//! [`Spool`] as they come. Whoever is free takes the next block and decodes it from there. What comes out is read in order:
//! the block that is being read hands its bytes over in memory and waits for the reader; one further on writes into a file
//! without a name until its turn comes. So memory is a dictionary for each decoder whatever the size of blocks, and disk
//! is a few blocks. liblzma's own threaded decoder keeps whole blocks in memory instead.
//!
//! A stream whose headers give no sizes is decoded as a whole. Every block's check, every stream's index and footer are
//! compared, as when a file is decoded from its start to its end.

use std::collections::VecDeque;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::container::{self, Block, EDGE, Flags, Sizes, damaged};
use super::output::Output;
use super::spool::{From, Spool};
use super::xz::{XzReader, check_padding};
use super::{Format, classify};
use crate::archive::budget::Budget;

const CHUNK: usize = 128 * 1024;
const INPUT: usize = 32 * 1024;
/// What a decoder needs besides its dictionary; liblzma says a third of it.
const DECODER: u64 = 256 * 1024;
/// Blocks that may be decoded and not yet read, besides those that are being decoded.
const AHEAD: usize = 1;

/// Blocks that are being decoded or wait to be read, in order.
#[derive(Default)]
struct Queue {
    outputs: VecDeque<Arc<Output>>,
    /// Of decoders at work.
    memory: u64,
    working: usize,
    /// Nothing comes after what is queued, for this reason if it is none of a good file.
    closed: bool,
    failed: Option<io::Error>,
}

/// Where in the file the next block is.
#[derive(Default)]
struct Walk {
    at: u64,
    stream: Option<Within>,
    padding: u64,
}

/// A stream that is being walked through.
struct Within {
    start: u64,
    header: [u8; EDGE],
    flags: Flags,
    blocks: container::Blocks,
    /// Bytes that its blocks so far become.
    uncompressed: u64,
}

/// Something for one decoder.
enum Job {
    Block {
        header: [u8; EDGE],
        at: u64,
        length: u64,
        sizes: Sizes,
        memory: u64,
    },
    /// A stream from its start; its first bytes were given out already.
    Stream {
        start: u64,
        skip: u64,
    },
}

/// Everything that the threads share.
pub(crate) struct Decoding<'a> {
    spool: Spool,
    dir: &'a Path,
    budget: &'a Budget,
    walk: Mutex<Walk>,
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// How many decoders a file that begins so can keep busy. 1: it can not be decoded block by block.
pub(super) fn decoders(head: &[u8], budget: &Budget) -> u32 {
    let block = || {
        Flags::of_header(head.get(..EDGE)?.try_into().ok()?).ok()?;
        let length = (usize::from(*head.get(EDGE).filter(|byte| **byte != 0)?) + 1) * 4;
        let block = Block::parse(head.get(EDGE..EDGE + length)?).ok()?;
        block.sizes.map(|_| block.dictionary + DECODER)
    };
    let fit = block().map_or(1, |memory| budget.limits.decoder_memory / memory);
    u32::try_from(fit).unwrap_or(u32::MAX).min(budget.threads).max(1)
}

impl<'a> Decoding<'a> {
    pub(super) fn new(spool: Spool, dir: &'a Path, budget: &'a Budget) -> Self {
        let (walk, queue) = (Mutex::default(), Mutex::default());
        Self { spool, dir, budget, walk, queue, changed: Condvar::new() }
    }

    /// Takes all of the input in. `head` was read of it already.
    pub(crate) fn receive(&self, head: &[u8], input: &mut dyn Read) {
        self.spool.fill(head, &mut super::Metered { inner: input, budget: self.budget });
    }

    /// Decodes block after block until there are no more. As many threads as there are to be decoders do this.
    pub(crate) fn work(&self) {
        loop {
            let mut walk = lock(&self.walk);
            let job = match self.next(&mut walk) {
                Ok(Some(job)) => job,
                Ok(None) => return self.close(None),
                Err(error) => return self.close(Some(error)),
            };
            let output = Arc::new(Output::new(self.dir));
            {
                let mut queue = lock(&self.queue);
                if queue.closed {
                    return;
                }
                queue.outputs.push_back(Arc::clone(&output));
                queue.working += 1;
                queue.memory += job.memory();
                self.changed.notify_all();
            }
            let memory = job.memory();
            let writer = output.writer();
            let result = match job {
                Job::Block { header, at, length, sizes, .. } => {
                    drop(walk);
                    self.block(&header, at, length, sizes, &output)
                }
                // Where it ends only its decoder knows, so nobody looks for the next one meanwhile.
                Job::Stream { start, skip } => self.stream(start, skip, &output).map(|end| {
                    *walk = Walk { at: end, ..Walk::default() };
                }),
            };
            writer.finish(result.map_err(|error| io::Error::other(classify(error, Format::Xz, self.budget))));
            let mut queue = lock(&self.queue);
            queue.working -= 1;
            queue.memory -= memory;
            self.changed.notify_all();
        }
    }

    fn close(&self, error: Option<io::Error>) {
        let mut queue = lock(&self.queue);
        if !queue.closed {
            queue.closed = true;
            queue.failed = error.map(|error| io::Error::other(classify(error, Format::Xz, self.budget)));
        }
        self.changed.notify_all();
    }

    /// The decoded bytes, in order. Dropping it stops all decoders.
    pub(crate) fn reader(&self) -> Blocks<'_> {
        Blocks { decoding: self, output: None, chunk: Vec::new(), at: 0 }
    }

    /// Finds the next block, and waits until it may be decoded.
    fn next(&self, walk: &mut Walk) -> io::Result<Option<Job>> {
        loop {
            let Some(within) = &mut walk.stream else {
                if !self.next_stream(walk)? {
                    return Ok(None);
                }
                continue;
            };
            let mut header = vec![0; container::MAX_BLOCK_HEADER];
            self.read(walk.at, &mut header[..1])?;
            if header[0] == 0 {
                walk.at = self.end_of_stream(walk.at, within)?;
                walk.stream = None;
                continue;
            }
            header.truncate((usize::from(header[0]) + 1) * 4);
            self.read(walk.at, &mut header)?;
            let block = Block::parse(&header)?;
            let memory = block.dictionary.saturating_add(DECODER);
            if !self.may_start(memory) {
                return Ok(None);
            }
            let Some(sizes) = block.sizes else {
                let (start, skip) = (within.start, within.uncompressed);
                return Ok(Some(Job::Stream { start, skip }));
            };
            let unpadded = block.unpadded(sizes, within.flags);
            let too_large = || damaged("a block is larger than a file can be");
            let length = unpadded.checked_next_multiple_of(4).ok_or_else(too_large)?;
            let job = Job::Block { header: within.header, at: walk.at, length, sizes, memory };
            within.blocks.add(unpadded, sizes.uncompressed);
            within.uncompressed = within.uncompressed.checked_add(sizes.uncompressed).ok_or_else(too_large)?;
            walk.at = walk.at.checked_add(length).ok_or_else(too_large)?;
            return Ok(Some(job));
        }
    }

    /// Goes over padding to the next stream; `false` at the end of the file.
    fn next_stream(&self, walk: &mut Walk) -> io::Result<bool> {
        let mut chunk = [0; 4096];
        loop {
            let got = self.spool.read_at(walk.at, &mut chunk)?;
            let zeros = chunk[..got].iter().take_while(|byte| **byte == 0).count();
            walk.at += zeros as u64;
            walk.padding += zeros as u64;
            if got > 0 && zeros == got {
                continue;
            }
            check_padding(walk.padding)?;
            if got == 0 {
                return Ok(false);
            }
            break;
        }
        let mut header = [0; EDGE];
        self.read(walk.at, &mut header)?;
        let flags = Flags::of_header(&header)?;
        let (start, blocks) = (walk.at, container::Blocks::default());
        walk.stream = Some(Within { start, header, flags, blocks, uncompressed: 0 });
        walk.at += EDGE as u64;
        walk.padding = 0;
        Ok(true)
    }

    /// Compares the index at this place and the footer behind it with the blocks. Returns where the stream ends.
    fn end_of_stream(&self, at: u64, within: &Within) -> io::Result<u64> {
        let mut index = BufReader::with_capacity(4096, From::new(&self.spool, at));
        let mut byte = [0];
        let size = within.blocks.clone().check_index(|| {
            index.read_exact(&mut byte)?;
            Ok(byte[0])
        })?;
        let mut footer = [0; EDGE];
        index.read_exact(&mut footer)?;
        within.flags.check_footer(&footer, size)?;
        Ok(at + size + EDGE as u64)
    }

    fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        if self.spool.exact(at, buffer)? {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the data end too early"))
    }

    /// Waits until there is memory for one more decoder and the reader is not too far behind. `false`: nobody reads.
    fn may_start(&self, memory: u64) -> bool {
        let mut queue = lock(&self.queue);
        loop {
            if queue.closed {
                return false;
            }
            let fits = queue.working == 0 || queue.memory.saturating_add(memory) <= self.budget.limits.decoder_memory;
            let waiting = queue.outputs.len() - queue.working.min(queue.outputs.len());
            if fits && waiting <= AHEAD {
                return true;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Decodes one block, as a stream of this one alone.
    fn block(&self, header: &[u8; EDGE], at: u64, length: u64, sizes: Sizes, output: &Output) -> io::Result<()> {
        let input = (&header[..]).chain(From::new(&self.spool, at).take(length));
        let input = BufReader::with_capacity(INPUT, input);
        let mut decoder = XzReader::new(input, self.budget.limits.decoder_memory)?;
        let mut made = 0;
        loop {
            match self.chunk(&mut decoder, output, 0) {
                Ok(0) => return Err(damaged("a block ends with its stream")),
                Ok(got) => made += got,
                // The stream is cut where the block ends: then the block is whole, and its check was compared.
                Err((error, got)) => {
                    made += got;
                    let whole = decoder.consumed() == EDGE as u64 + length && made == sizes.uncompressed;
                    return if whole && error.kind() == io::ErrorKind::UnexpectedEof { Ok(()) } else { Err(error) };
                }
            }
        }
    }

    /// Decodes a whole stream, without its first bytes. Returns where it ends.
    fn stream(&self, start: u64, mut skip: u64, output: &Output) -> io::Result<u64> {
        let input = BufReader::with_capacity(INPUT, From::new(&self.spool, start));
        let mut decoder = XzReader::new(input, self.budget.limits.decoder_memory)?;
        loop {
            match self.chunk(&mut decoder, output, skip) {
                Ok(0) => return Ok(start + decoder.consumed()),
                Ok(got) => skip = skip.saturating_sub(got),
                Err((error, _)) => return Err(error),
            }
        }
    }

    /// Hands over the next decoded bytes but for the first `skip`; says how many there were, also before an error.
    fn chunk(
        &self,
        decoder: &mut XzReader<impl io::BufRead>,
        output: &Output,
        skip: u64,
    ) -> Result<u64, (io::Error, u64)> {
        let mut chunk = output.buffer();
        chunk.resize(CHUNK, 0);
        let mut filled = 0;
        let mut result = Ok(());
        while filled < CHUNK {
            match decoder.read_stream(&mut chunk[filled..]) {
                Ok(0) => break,
                Ok(got) => filled += got,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        let got = filled as u64;
        chunk.truncate(filled);
        chunk.drain(..usize::try_from(skip).unwrap_or(usize::MAX).min(filled));
        let expanded = self.budget.expand(chunk.len() as u64).map_err(io::Error::other);
        expanded.and_then(|()| output.put(chunk)).map_err(|error| (error, got))?;
        result.map(|()| got).map_err(|error| (error, got))
    }
}

impl Job {
    fn memory(&self) -> u64 {
        match self {
            Self::Block { memory, .. } => *memory,
            Self::Stream { .. } => u64::MAX / 2,
        }
    }
}

/// The decoded bytes of all blocks, in order.
pub(crate) struct Blocks<'a> {
    decoding: &'a Decoding<'a>,
    output: Option<Arc<Output>>,
    chunk: Vec<u8>,
    at: usize,
}

impl Blocks<'_> {
    /// The next block's output; `None` at the end of a good file.
    fn next(&self) -> io::Result<Option<Arc<Output>>> {
        let mut queue = lock(&self.decoding.queue);
        loop {
            if let Some(output) = queue.outputs.front() {
                return Ok(Some(Arc::clone(output)));
            }
            if queue.closed {
                return queue.failed.take().map_or(Ok(None), Err);
            }
            queue = self.decoding.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Read for Blocks<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() {
            let output = match &self.output {
                Some(output) => output,
                None => match self.next()? {
                    Some(output) => self.output.insert(output),
                    None => return Ok(0),
                },
            };
            self.at = 0;
            if !output.take(&mut self.chunk)? {
                self.output = None;
                lock(&self.decoding.queue).outputs.pop_front();
                self.decoding.changed.notify_all();
            }
        }
        let got = (self.chunk.len() - self.at).min(buffer.len());
        buffer[..got].copy_from_slice(&self.chunk[self.at..self.at + got]);
        self.at += got;
        Ok(got)
    }
}

impl Drop for Blocks<'_> {
    fn drop(&mut self) {
        let mut queue = lock(&self.decoding.queue);
        queue.closed = true;
        for output in &queue.outputs {
            output.abandon();
        }
        self.decoding.changed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
