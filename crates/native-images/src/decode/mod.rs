//! Compressed bytes in, a tar archive out; the format is told by the content.

mod blocks;
mod container;
mod output;
mod spool;
#[cfg(test)]
mod tests;
mod xz;

use std::io::{self, BufReader, Cursor, Read};
use std::path::Path;

pub(crate) use blocks::Decoding;

use self::spool::Spool;
use self::xz::XzReader;
use crate::archive::ArchiveError;
use crate::archive::budget::Budget;
use crate::pipeline::Input;

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
        if head.starts_with(container::MAGIC) {
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

/// What several decoders share, and how many of them there should be, for an archive that can be decoded block by block
/// and has memory for more than one. Files without a name are made in `dir`.
pub(crate) fn blocks<'a>(
    head: &[u8],
    input: &mut dyn Input,
    dir: &'a Path,
    budget: &'a Budget,
) -> Result<Option<(Decoding<'a>, u32)>, ArchiveError> {
    let decoders = blocks::decoders(head, budget);
    if decoders < 2 {
        return Ok(None);
    }
    let spool = Spool::new(input, dir).map_err(|source| ArchiveError::Write { path: dir.to_owned(), source })?;
    Ok(Some((Decoding::new(spool, dir, budget), decoders)))
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
        Format::Xz => Box::new(XzReader::new(input, budget.limits.decoder_memory).map_err(failed)?),
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
