//! Reads tar archives strictly: what two programs could read in two ways is refused.
//!
//! The field layout comes from the `tar` crate's header types; the walk over entries is ours, because that crate skips
//! `..` entries, turns devices into empty files, mistakes sparse files in pax form and stops quietly at a cut archive.

use std::io::{self, Read};

use super::budget::Budget;
use super::error::{ArchiveError, Refusal};
use super::pax::{MAX_EXTENDED, MapText, Pax, SparseMap, clamp_time};

const BLOCK: usize = 512;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    Hardlink,
}

/// One entry's header; its content is read from the reader.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) mtime: (i64, u32),
    /// Bytes that are stored.
    pub(crate) size: u64,
    pub(crate) sparse: Option<SparseMap>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A tar archive that is read once, from front to back.
pub(crate) struct TarReader<'a, R> {
    inner: R,
    budget: &'a Budget,
    /// Bytes read so far.
    offset: u64,
    /// Bytes of the present entry that are not read yet.
    remaining: u64,
    /// Zeros that follow its content.
    padding: u64,
    done: bool,
}

impl<'a, R: Read> TarReader<'a, R> {
    pub(crate) fn new(inner: R, budget: &'a Budget) -> Self {
        Self { inner, budget, offset: 0, remaining: 0, padding: 0, done: false }
    }

    pub(crate) fn get_mut(&mut self) -> &mut R {
        &mut self.inner
    }

    /// The next entry; `None` only after a proper end with nothing but zeros behind it.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, ArchiveError> {
        if self.done {
            return Ok(None);
        }
        let mut pax: Option<Pax> = None;
        let (mut long_name, mut long_link): (Option<Vec<u8>>, Option<Vec<u8>>) = (None, None);
        loop {
            self.finish_entry()?;
            let at = self.offset;
            let mut block = [0u8; BLOCK];
            if !self.block(&mut block)? {
                return Err(ArchiveError::Truncated { place: "before its end mark" });
            }
            if block == [0u8; BLOCK] {
                if pax.is_some() || long_name.is_some() || long_link.is_some() {
                    return Err(ArchiveError::Header { why: "has no entry after it", offset: at });
                }
                self.end()?;
                return Ok(None);
            }
            let header = tar::Header::from_byte_slice(&block);
            check_sum(&block, at)?;
            self.budget.entry()?;
            let raw = header.as_old();
            let size = number(&raw.size, at)?;
            match raw.linkflag[0] {
                b'x' => {
                    if pax.is_some() {
                        return Err(ArchiveError::Header { why: "follows another extended header", offset: at });
                    }
                    pax = Some(Pax::parse(&self.extended(size, at)?, at)?);
                }
                b'g' => {
                    // `git archive` writes its commit here; nothing that would rename or resize entries is accepted.
                    let global = Pax::parse(&self.extended(size, at)?, at)?;
                    if global.path.is_some() || global.link.is_some() || global.size.is_some() || global.sparse.any() {
                        return Err(ArchiveError::Header { why: "would name or size all entries", offset: at });
                    }
                }
                b'L' if long_name.is_none() => long_name = Some(self.long(size, at)?),
                b'K' if long_link.is_none() => long_link = Some(self.long(size, at)?),
                b'L' | b'K' => return Err(ArchiveError::Header { why: "gives a long name twice", offset: at }),
                flag => {
                    let entry = self.entry(header, flag, size, at, pax.unwrap_or_default(), long_name, long_link)?;
                    return Ok(Some(entry));
                }
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one entry, gathered by `next`")]
    fn entry(
        &mut self,
        header: &tar::Header,
        flag: u8,
        size: u64,
        at: u64,
        mut pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, ArchiveError> {
        let twice = (pax.path.is_some() && long_name.is_some()) || (pax.link.is_some() && long_link.is_some());
        if twice {
            return Err(ArchiveError::Header { why: "gives a long name twice", offset: at });
        }
        let sparse_name = pax.sparse.name.take();
        let path = sparse_name.or(pax.path.take()).or(long_name).unwrap_or_else(|| header.path_bytes().into_owned());
        let link = pax
            .link
            .take()
            .or(long_link)
            .unwrap_or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default());
        let refuse = |refusal| ArchiveError::entry(&path, refusal);
        let size = pax.size.unwrap_or(size);
        let mut kind = match flag {
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::Hardlink,
            b'2' => Kind::Symlink,
            b'5' => Kind::Directory,
            b'3' | b'4' => return Err(refuse(Refusal::Device)),
            b'6' => return Err(refuse(Refusal::Fifo)),
            _ => return Err(refuse(Refusal::UnknownType)),
        };
        if kind == Kind::File && path.ends_with(b"/") {
            kind = Kind::Directory; // how archives from before 1988 write it
        }
        if kind != Kind::File && (size != 0 || pax.sparse.any()) {
            return Err(refuse(Refusal::ContentOfLink));
        }
        self.remaining = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;

        let raw = header.as_old();
        let mode = u32::try_from(number(&raw.mode, at)? & 0o7777).unwrap_or(0);
        let mtime = match pax.mtime {
            Some(mtime) => mtime,
            None => (clamp_time(signed(&raw.mtime, at)?), 0),
        };
        let sparse = if flag == b'S' {
            if pax.sparse.any() {
                return Err(refuse(Refusal::SparseMap));
            }
            Some(self.old_sparse(header, &path, size)?)
        } else if pax.sparse.any() {
            Some(self.pax_sparse(pax.sparse, &path, size)?)
        } else {
            None
        };
        if let Some(map) = &sparse {
            self.budget.expand(map.holes())?;
        }
        Ok(Entry { path, kind, link, mode, mtime, size: self.remaining, sparse, xattrs: pax.xattrs })
    }

    /// The map of GNU's own format: four pieces in the header, 21 in each block that follows.
    fn old_sparse(&mut self, header: &tar::Header, path: &[u8], size: u64) -> Result<SparseMap, ArchiveError> {
        let refuse = || ArchiveError::entry(path, Refusal::SparseMap);
        let gnu = header.as_gnu().ok_or_else(refuse)?;
        let mut segments = Vec::new();
        let mut take = |pieces: &[tar::GnuSparseHeader]| -> Result<(), ArchiveError> {
            for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                segments.push((number(&piece.offset, 0)?, number(&piece.numbytes, 0)?));
            }
            Ok(())
        };
        take(&gnu.sparse)?;
        let mut more = gnu.is_extended();
        let mut blocks = 0;
        while more {
            let mut block = tar::GnuExtSparseHeader::new();
            blocks += 1;
            if blocks > 50_000 || !self.block(block.as_mut_bytes())? {
                return Err(refuse());
            }
            take(block.sparse())?;
            more = block.is_extended();
        }
        // The last piece may be an empty one that only marks the end.
        segments.retain(|(_, length)| *length != 0);
        SparseMap::checked(segments, number(&gnu.realsize, 0)?, size).ok_or_else(refuse)
    }

    fn pax_sparse(
        &mut self,
        records: super::pax::SparseRecords,
        path: &[u8],
        size: u64,
    ) -> Result<SparseMap, ArchiveError> {
        let refuse = |refusal| ArchiveError::entry(path, refusal);
        if !records.map_in_content() {
            return records.map(size).map_err(refuse);
        }
        let real_size = records.real_size().ok_or_else(|| refuse(Refusal::SparseMap))?;
        let mut text = MapText::default();
        loop {
            if self.remaining < BLOCK as u64 {
                return Err(refuse(Refusal::SparseMap));
            }
            let mut block = [0u8; BLOCK];
            if !self.block(&mut block)? {
                return Err(ArchiveError::Truncated { place: "within a sparse map" });
            }
            self.remaining -= BLOCK as u64;
            if text.feed(&block).map_err(refuse)? {
                break;
            }
        }
        SparseMap::checked(text.segments(), real_size, self.remaining).ok_or_else(|| refuse(Refusal::SparseMap))
    }

    /// Reads content of the present entry. 0 at its end.
    pub(crate) fn content(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        let want = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        let got = read(&mut self.inner, &mut buffer[..want])?;
        if got == 0 {
            return Err(ArchiveError::Truncated { place: "within an entry" });
        }
        self.remaining -= got as u64;
        self.offset += got as u64;
        Ok(got)
    }

    fn finish_entry(&mut self) -> Result<(), ArchiveError> {
        let mut sink = [0u8; 16 * BLOCK];
        while self.content(&mut sink)? != 0 {}
        let padding = usize::try_from(std::mem::take(&mut self.padding)).unwrap_or(0);
        self.exact(&mut sink[..padding], "within an entry")
    }

    fn extended(&mut self, size: u64, at: u64) -> Result<Vec<u8>, ArchiveError> {
        if size > MAX_EXTENDED {
            return Err(ArchiveError::Header { why: "is an extended header that is too long", offset: at });
        }
        let mut data = Vec::new();
        let mut left = usize::try_from(size).unwrap_or(0);
        let mut block = [0u8; BLOCK];
        while left > 0 {
            self.exact(&mut block, "within an extended header")?;
            let used = left.min(BLOCK);
            data.extend_from_slice(&block[..used]);
            left -= used;
        }
        Ok(data)
    }

    /// GNU's long names, which end with a zero byte.
    fn long(&mut self, size: u64, at: u64) -> Result<Vec<u8>, ArchiveError> {
        if size > 65536 {
            return Err(ArchiveError::Header { why: "gives a name that is too long", offset: at });
        }
        let mut name = self.extended(size, at)?;
        if name.last() == Some(&0) {
            name.pop();
        }
        if name.is_empty() || name.contains(&0) {
            return Err(ArchiveError::Header { why: "gives a long name with zero bytes in it", offset: at });
        }
        Ok(name)
    }

    /// After the first block of zeros: the second, and then zeros up to the end of the input.
    fn end(&mut self) -> Result<(), ArchiveError> {
        let mut block = [0u8; BLOCK];
        if !self.block(&mut block)? {
            return Err(ArchiveError::Truncated { place: "within its end mark" });
        }
        if block != [0u8; BLOCK] {
            return Err(ArchiveError::Trailing { what: "tar archive's first end block" });
        }
        let mut sink = vec![0u8; 64 * 1024];
        loop {
            let got = read(&mut self.inner, &mut sink)?;
            if got == 0 {
                break;
            }
            self.offset += got as u64;
            if sink[..got].iter().any(|byte| *byte != 0) {
                return Err(ArchiveError::Trailing { what: "tar archive" });
            }
        }
        self.done = true;
        Ok(())
    }

    /// One block; `false` at the very end of the input.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, ArchiveError> {
        let mut filled = 0;
        while filled < BLOCK {
            let got = read(&mut self.inner, &mut block[filled..])?;
            if got == 0 {
                if filled == 0 {
                    return Ok(false);
                }
                return Err(ArchiveError::Truncated { place: "within a header" });
            }
            filled += got;
            self.offset += got as u64;
        }
        Ok(true)
    }

    fn exact(&mut self, mut buffer: &mut [u8], place: &'static str) -> Result<(), ArchiveError> {
        while !buffer.is_empty() {
            let got = read(&mut self.inner, buffer)?;
            if got == 0 {
                return Err(ArchiveError::Truncated { place });
            }
            self.offset += got as u64;
            buffer = &mut buffer[got..];
        }
        Ok(())
    }
}

/// Reads once, and unwraps an archive error that came through an `io::Error`.
fn read(inner: &mut impl Read, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
    loop {
        match inner.read(buffer) {
            Ok(got) => return Ok(got),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(from_io(error)),
        }
    }
}

/// The archive error inside an `io::Error`, or the error as one of the input.
pub(crate) fn from_io(error: io::Error) -> ArchiveError {
    match error.downcast::<ArchiveError>() {
        Ok(error) => error,
        Err(source) => ArchiveError::Input { source },
    }
}

fn check_sum(block: &[u8; BLOCK], at: u64) -> Result<(), ArchiveError> {
    let mut sum = 0u64;
    for (index, byte) in block.iter().enumerate() {
        sum += if (148..156).contains(&index) { u64::from(b' ') } else { u64::from(*byte) };
    }
    if number(&block[148..156], at)? == sum {
        Ok(())
    } else {
        Err(ArchiveError::Header { why: "has a wrong check sum", offset: at })
    }
}

/// A number of a header: octal digits, or GNU's binary form. Nothing negative, nothing beyond 64 bits.
fn number(field: &[u8], at: u64) -> Result<u64, ArchiveError> {
    let bad = || ArchiveError::Header { why: "has a number that can not be read", offset: at };
    match field.first() {
        Some(0x80) => {
            let (high, low) = field[1..].split_at(field.len() - 1 - 8.min(field.len() - 1));
            if high.iter().any(|byte| *byte != 0) {
                return Err(bad());
            }
            Ok(low.iter().fold(0u64, |value, byte| (value << 8) | u64::from(*byte)))
        }
        Some(byte) if *byte >= 0x80 => Err(bad()),
        _ => {
            let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
            let digits = field[..end].trim_ascii();
            let digits_only = digits.iter().all(|byte| (b'0'..=b'7').contains(byte));
            let text = std::str::from_utf8(digits).ok().filter(|_| digits_only).ok_or_else(bad)?;
            if text.is_empty() { Ok(0) } else { u64::from_str_radix(text, 8).map_err(|_| bad()) }
        }
    }
}

/// As [`number`]; what is negative (before 1970) becomes 0.
fn signed(field: &[u8], at: u64) -> Result<u64, ArchiveError> {
    let negative = field.first() == Some(&0xff) || field.trim_ascii_start().first() == Some(&b'-');
    if negative { Ok(0) } else { number(field, at) }
}
