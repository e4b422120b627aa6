//! What an xz file says about its parts, read as "The .xz File Format" 1.2 defines them (section numbers below): enough
//! to find blocks without decoding them, and to prove at the end that they were the ones of the index.

use std::io;

use sha2::{Digest as _, Sha256};

/// Bytes of a stream's header, and of its footer (2.1.1, 2.1.2).
pub(super) const EDGE: usize = 12;
pub(super) const MAGIC: &[u8] = b"\xfd7zXZ\0";
/// The largest block header (3.1.1).
pub(super) const MAX_BLOCK_HEADER: usize = 1024;
/// The largest number (1.2).
const MAX_NUMBER_BYTES: usize = 9;

pub(super) fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn little(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |value, byte| (value << 8) | u32::from(*byte))
}

/// A stream's flags: how long the check of each block is (2.1.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flags([u8; 2]);

impl Flags {
    /// Reads a stream's header (2.1.1).
    pub(super) fn of_header(bytes: &[u8; EDGE]) -> io::Result<Self> {
        if !bytes.starts_with(MAGIC) {
            return Err(damaged("something that is no stream follows"));
        }
        if crc32(&bytes[6..8]) != little(&bytes[8..12]) {
            return Err(damaged("a stream's header has a wrong check sum"));
        }
        if bytes[6] != 0 || bytes[7] & 0xf0 != 0 {
            return Err(damaged("a stream's header is of an unknown kind"));
        }
        Ok(Self([bytes[6], bytes[7]]))
    }

    /// Compares with a stream's footer (2.1.2).
    pub(super) fn check_footer(self, bytes: &[u8; EDGE], index_size: u64) -> io::Result<()> {
        let size = (u64::from(little(&bytes[4..8])) + 1) * 4;
        let right = little(&bytes[..4]) == crc32(&bytes[4..10]) && bytes[8..10] == self.0 && &bytes[10..] == b"YZ";
        if right && size == index_size { Ok(()) } else { Err(damaged("a stream's footer is damaged")) }
    }

    fn check_size(self) -> u64 {
        match self.0[1] {
            0 => 0,
            1..=3 => 4,
            4..=6 => 8,
            7..=9 => 16,
            10..=12 => 32,
            _ => 64,
        }
    }
}

/// What a block's header says (3.1).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Bytes of the header.
    pub(super) header: usize,
    /// Both only where the encoder knew them, as one with several threads does.
    pub(super) sizes: Option<Sizes>,
    /// Bytes of its dictionary.
    pub(super) dictionary: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    compressed: u64,
    pub(super) uncompressed: u64,
}

impl Block {
    /// Reads a whole header; its first byte says how long it is.
    pub(super) fn parse(bytes: &[u8]) -> io::Result<Self> {
        let (body, sum) = bytes.split_at(bytes.len().saturating_sub(4));
        if body.len() < 4 || crc32(body) != little(sum) {
            return Err(damaged("a block's header has a wrong check sum"));
        }
        let flags = body[1];
        if flags & 0x3c != 0 {
            return Err(damaged("a block's header is of an unknown kind"));
        }
        let mut rest = &body[2..];
        let number = |rest: &mut &[u8]| take_number(rest).ok_or_else(|| damaged("a block's header is damaged"));
        let compressed = if flags & 0x40 != 0 { Some(number(&mut rest)?) } else { None };
        let uncompressed = if flags & 0x80 != 0 { Some(number(&mut rest)?) } else { None };
        let sizes = compressed.zip(uncompressed).map(|(compressed, uncompressed)| Sizes { compressed, uncompressed });
        let mut dictionary = 0;
        for _ in 0..=flags & 3 {
            let (filter, length) = (number(&mut rest)?, number(&mut rest)?);
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let Some((properties, after)) = rest.split_at_checked(length) else {
                return Err(damaged("a block's header is damaged"));
            };
            // LZMA2 (5.3.1); whatever else there may be needs next to no memory.
            if let (0x21, [bits @ 0..=40]) = (filter, properties) {
                dictionary = match bits {
                    40 => u64::from(u32::MAX),
                    bits => u64::from(2 | (bits & 1)) << (bits / 2 + 11),
                };
            }
            rest = after;
        }
        Ok(Self { header: bytes.len(), sizes, dictionary })
    }

    /// Its size without the padding (4.3).
    pub(super) fn unpadded(&self, sizes: Sizes, flags: Flags) -> u64 {
        (self.header as u64).saturating_add(sizes.compressed).saturating_add(flags.check_size())
    }
}

/// Takes a number off the front (1.2): seven bits a byte, least first, no more bytes than it needs.
fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let length = bytes.iter().take(MAX_NUMBER_BYTES).position(|byte| byte & 0x80 == 0)? + 1;
    let (number, rest) = bytes.split_at(length);
    if length > 1 && number[length - 1] == 0 {
        return None;
    }
    *bytes = rest;
    Some(number.iter().rev().fold(0, |value, byte| (value << 7) | u64::from(byte & 0x7f)))
}

/// All blocks of a stream, in constant memory: what the index must say.
#[derive(Default, Clone)]
pub(super) struct Blocks {
    count: u64,
    sums: Sha256,
}

impl Blocks {
    pub(super) fn add(&mut self, unpadded: u64, uncompressed: u64) {
        self.count += 1;
        self.sums.update(unpadded.to_le_bytes());
        self.sums.update(uncompressed.to_le_bytes());
    }

    /// Reads an index (4) from its first byte on and compares it; `next` gives one byte after the other. Returns its size.
    pub(super) fn check_index(self, mut next: impl FnMut() -> io::Result<u8>) -> io::Result<u64> {
        let wrong = || damaged("the index does not fit the blocks");
        let mut crc = flate2::Crc::new();
        let mut size = 0_u64;
        let mut byte = || {
            let byte = next()?;
            crc.update(&[byte]);
            size += 1;
            Ok::<u8, io::Error>(byte)
        };
        let number = |byte: &mut dyn FnMut() -> io::Result<u8>| {
            let mut bytes = Vec::with_capacity(MAX_NUMBER_BYTES);
            while bytes.len() < MAX_NUMBER_BYTES {
                bytes.push(byte()?);
                if bytes.last().is_some_and(|byte| byte & 0x80 == 0) {
                    break;
                }
            }
            take_number(&mut &bytes[..]).ok_or_else(wrong)
        };
        if byte()? != 0 || number(&mut byte)? != self.count {
            return Err(wrong());
        }
        let mut found = Self::default();
        for _ in 0..self.count {
            let (unpadded, uncompressed) = (number(&mut byte)?, number(&mut byte)?);
            found.add(unpadded, uncompressed);
        }
        if found.sums.finalize() != self.sums.finalize() {
            return Err(wrong());
        }
        while !size.is_multiple_of(4) {
            let byte = next()?;
            crc.update(&[byte]);
            size += 1;
            if byte != 0 {
                return Err(wrong());
            }
        }
        let stated = [next()?, next()?, next()?, next()?];
        if little(&stated) != crc.sum() {
            return Err(damaged("the index has a wrong check sum"));
        }
        Ok(size + 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_strictly() {
        let number = |mut bytes: &[u8]| (take_number(&mut bytes), bytes.len());
        assert_eq!(number(b"\x7f\x01"), (Some(127), 1));
        assert_eq!(number(b"\x80\x01"), (Some(128), 0));
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f"), (Some(u64::MAX >> 1), 0));
        for bad in [&b""[..], b"\x80", b"\x80\0", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"] {
            assert_eq!(number(bad).0, None, "{bad:?}");
        }
    }

    #[test]
    fn a_file_of_liblzma_is_walked_from_block_to_block() {
        use std::io::Write as _;

        let stream =
            liblzma::stream::MtStreamBuilder::new().preset(6).threads(2).block_size(100_000).encoder().unwrap();
        let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        encoder.write_all(&vec![7; 250_000]).unwrap();
        let file = encoder.finish().unwrap();
        let flags = Flags::of_header(file[..EDGE].try_into().unwrap()).unwrap();
        let (mut at, mut blocks, mut sizes) = (EDGE, Blocks::default(), Vec::new());
        while file[at] != 0 {
            let header = (usize::from(file[at]) + 1) * 4;
            let block = Block::parse(&file[at..at + header]).unwrap();
            assert_eq!(block.dictionary, 8 << 20, "preset 6");
            let found = block.sizes.unwrap();
            blocks.add(block.unpadded(found, flags), found.uncompressed);
            at += usize::try_from(block.unpadded(found, flags).next_multiple_of(4)).unwrap();
            sizes.push(found.uncompressed);
            let mut damaged = file[at - 200.min(at)..][..header].to_vec();
            damaged[1] ^= 1;
            assert!(Block::parse(&damaged).is_err());
        }
        assert_eq!(sizes, [100_000, 100_000, 50_000]);
        let read = |from: &[u8], blocks: Blocks| {
            let mut bytes = from.iter();
            blocks.check_index(|| bytes.next().copied().ok_or_else(|| io::ErrorKind::UnexpectedEof.into()))
        };
        let size = read(&file[at..], blocks.clone()).unwrap();
        assert_eq!(at as u64 + size + EDGE as u64, file.len() as u64);
        let footer: [u8; EDGE] = file[file.len() - EDGE..].try_into().unwrap();
        flags.check_footer(&footer, size).unwrap();
        assert!(flags.check_footer(&footer, size + 4).is_err());
        let mut more = blocks.clone();
        more.add(1, 1);
        assert!(read(&file[at..], more).is_err());
        for bit in 0..8 * usize::try_from(size).unwrap() {
            let mut changed = file[at..].to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&changed, blocks.clone()).is_err(), "bit {bit}");
        }
    }
}
