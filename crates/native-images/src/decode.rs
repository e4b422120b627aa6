//! Compressed bytes in, a tar archive out; the format is told by the content.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use liblzma::stream::{Action, Error as XzError, MtStreamBuilder, Status, Stream};

use crate::archive::ArchiveError;
use crate::archive::budget::Budget;

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Xz,
    Zstd,
    Gzip,
    Bzip2,
    Tar,
}

impl Format {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Tar => "tar",
        }
    }

    /// Tells the format from the first bytes, 512 if there are so many.
    pub(crate) fn detect(head: &[u8]) -> Result<Self, ArchiveError> {
        if head.starts_with(b"\xfd7zXZ\0") {
            Ok(Self::Xz)
        } else if head.starts_with(b"\x28\xb5\x2f\xfd") || is_skippable_frame(head) {
            Ok(Self::Zstd)
        } else if head.starts_with(b"\x1f\x8b") {
            Ok(Self::Gzip)
        } else if head.len() >= 10 && head.starts_with(b"BZh") && matches!(head[3], b'1'..=b'9') {
            Ok(Self::Bzip2)
        } else if head.len() >= 512
            && (head[257..].starts_with(b"ustar") || head[..512] == [0; 512] || is_old_tar(head))
        {
            Ok(Self::Tar)
        } else {
            Err(ArchiveError::NotAnArchive { what: describe(head) })
        }
    }
}

fn is_skippable_frame(head: &[u8]) -> bool {
    head.len() >= 4 && head[0] & 0xf0 == 0x50 && head[1..4] == [0x2a, 0x4d, 0x18]
}

/// Archives from before 1988 have no magic, but a check sum.
fn is_old_tar(head: &[u8]) -> bool {
    let digits = head[148..156].iter().filter(|byte| (b'0'..=b'7').contains(*byte));
    let stated = digits.fold(0u64, |value, byte| value * 8 + u64::from(byte - b'0'));
    let spaces = 8 * u64::from(b' ');
    let sum: u64 = head[..148].iter().chain(&head[156..512]).map(|byte| u64::from(*byte)).sum();
    head[0] != 0 && stated == sum + spaces
}

fn describe(head: &[u8]) -> String {
    let known: [(&[u8], &str); 6] = [
        (b"PK\x03\x04", "it looks like a zip file"),
        (b"7z\xbc\xaf", "it looks like a 7z file"),
        (b"Rar!", "it looks like a rar file"),
        (b"\x5d\x00\x00", "it looks like the older lzma format"),
        (b"\x04\x22\x4d\x18", "it looks like an lz4 file"),
        (b"LZIP", "it looks like an lzip file"),
    ];
    if head.is_empty() {
        return "it is empty".to_owned();
    }
    if let Some((_, text)) = known.iter().find(|(magic, _)| head.starts_with(magic)) {
        return (*text).to_owned();
    }
    let start = head.trim_ascii_start();
    if start.starts_with(b"<") {
        return "it looks like a web page".to_owned();
    }
    if start.starts_with(b"{") {
        return "it looks like JSON".to_owned();
    }
    format!("it starts with the bytes {}", hex::encode(&head[..head.len().min(8)]))
}

/// Reads up to 512 bytes without consuming them for the decoder.
pub(crate) fn head(input: &mut dyn Read) -> Result<Vec<u8>, ArchiveError> {
    let mut head = Vec::with_capacity(512);
    input.take(512).read_to_end(&mut head).map_err(crate::archive::from_io)?;
    Ok(head)
}

/// The decoded stream of `head` followed by `input`.
pub(crate) fn decoder<'a>(
    head: Vec<u8>,
    input: Box<dyn Read + Send + 'a>,
    budget: &'a Budget,
) -> Result<Box<dyn Read + Send + 'a>, ArchiveError> {
    let format = Format::detect(&head)?;
    let input = BufReader::with_capacity(64 * 1024, Metered { inner: Cursor::new(head).chain(input), budget });
    let failed = |source| ArchiveError::Compressed { format: format.name(), source };
    let decoder: Box<dyn Read + Send + 'a> = match format {
        Format::Xz => Box::new(XzReader::new(input, budget.limits.decoder_memory, budget.threads).map_err(failed)?),
        Format::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(failed)?;
            let window = budget.limits.decoder_memory.max(1 << 10).ilog2().clamp(10, 31);
            decoder.window_log_max(window).map_err(failed)?;
            Box::new(decoder)
        }
        Format::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Format::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
        Format::Tar => return Ok(Box::new(Counted { inner: input, budget, format })),
    };
    Ok(Box::new(Counted { inner: decoder, budget, format }))
}

/// Counts what goes into a decoder.
struct Metered<'a, R> {
    inner: R,
    budget: &'a Budget,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.budget.consumed(got as u64);
        Ok(got)
    }
}

/// Counts what comes out of a decoder and names its errors.
struct Counted<'a, R> {
    inner: R,
    budget: &'a Budget,
    format: Format,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buffer) {
            Ok(got) => {
                self.budget.expand(got as u64).map_err(io::Error::other)?;
                Ok(got)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => Err(io::Error::other(classify(error, self.format, self.budget))),
        }
    }
}

/// Errors of the input pass through a decoder unchanged; all others are its own.
fn classify(error: io::Error, format: Format, budget: &Budget) -> ArchiveError {
    match error.downcast::<InputError>() {
        Ok(InputError(source)) => ArchiveError::Input { source },
        Err(error) => match error.downcast::<ArchiveError>() {
            Ok(error) => error,
            // zstd has no kind for it.
            Err(error) if error.to_string().contains("too much memory") => {
                ArchiveError::Memory { limit: budget.limits.decoder_memory }
            }
            Err(source) => ArchiveError::Compressed { format: format.name(), source },
        },
    }
}

/// Marks an error as one of the source of bytes, not of a decoder.
#[derive(Debug, thiserror::Error)]
#[error("the bytes stopped coming")]
pub(crate) struct InputError(#[source] pub(crate) io::Error);

/// All streams of an xz file, with the padding between and after them.
///
/// The blocks of a stream are decoded at once by several threads as far as the memory limit goes: liblzma needs a block's
/// input, output and dictionary for each, and falls back to one thread and one dictionary where that is too much. Its
/// threaded decoder knows one stream only, so the walk over streams and padding is ours.
pub(crate) struct XzReader<R> {
    input: R,
    stream: Option<Stream>,
    limit: u64,
    threads: u32,
    /// Bytes of padding since the last stream.
    padding: u64,
}

impl<R: BufRead> XzReader<R> {
    pub(crate) fn new(input: R, limit: u64, threads: u32) -> io::Result<Self> {
        let stream = Some(Self::stream(limit, threads)?);
        Ok(Self { input, stream, limit, threads, padding: 0 })
    }

    fn stream(limit: u64, threads: u32) -> io::Result<Stream> {
        if threads <= 1 {
            return Ok(Stream::new_stream_decoder(limit, 0)?);
        }
        Ok(MtStreamBuilder::new().threads(threads).memlimit_threading(limit).memlimit_stop(limit).decoder()?)
    }

    /// After a stream: zeros by fours, then the end or another stream. `false` at the end.
    fn between(&mut self) -> io::Result<bool> {
        loop {
            let input = self.input.fill_buf()?;
            let zeros = input.iter().take_while(|byte| **byte == 0).count();
            let (at_end, more) = (input.is_empty(), zeros < input.len());
            self.input.consume(zeros);
            self.padding += zeros as u64;
            if !at_end && !more {
                continue;
            }
            if !self.padding.is_multiple_of(4) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the padding after a stream has a wrong length",
                ));
            }
            if at_end {
                return Ok(false);
            }
            self.padding = 0;
            self.stream = Some(Self::stream(self.limit, self.threads)?);
            return Ok(true);
        }
    }
}

impl<R: BufRead> Read for XzReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.stream.is_none() && !self.between()? {
                return Ok(0);
            }
            let Some(stream) = self.stream.as_mut() else { return Ok(0) };
            let input = self.input.fill_buf()?;
            let at_end = input.is_empty();
            let action = if at_end { Action::Finish } else { Action::Run };
            let (in_before, out_before) = (stream.total_in(), stream.total_out());
            let status = stream.process(input, buffer, action);
            let used = usize::try_from(stream.total_in() - in_before).unwrap_or(0);
            let made = usize::try_from(stream.total_out() - out_before).unwrap_or(0);
            self.input.consume(used);
            match status {
                Ok(Status::StreamEnd) => {
                    self.stream = None;
                    if made > 0 {
                        return Ok(made);
                    }
                }
                Ok(_) if made > 0 => return Ok(made),
                Ok(Status::MemNeeded) if at_end => return Err(cut()),
                // Threads may still be at work; a file that ends too early is told by the status above.
                Ok(_) if at_end && used == 0 && self.threads <= 1 => return Err(cut()),
                Ok(_) => {}
                Err(error) => return Err(xz_error(error, self.limit)),
            }
        }
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the data end too early")
}

pub(crate) fn xz_error(error: XzError, limit: u64) -> io::Error {
    match error {
        XzError::MemLimit => io::Error::other(ArchiveError::Memory { limit }),
        error => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}
