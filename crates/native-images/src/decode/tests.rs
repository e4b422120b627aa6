//! Block by block must come out what comes out from start to end, for good files and for damaged ones.

use std::io::{self, Cursor, Read, Write as _};

use liblzma::stream::{Check, Filters, LzmaOptions, MtStreamBuilder, Stream};
use liblzma::write::XzEncoder;

use super::container::{Block, EDGE};
use super::{Decoding, Spool, XzReader};
use crate::archive::budget::Budget;
use crate::pipeline::Input;
use crate::policy::Limits;

impl Input for Cursor<Vec<u8>> {
    fn spool(&mut self) -> io::Result<Option<std::fs::File>> {
        Ok(None)
    }
}

fn content(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if state.is_multiple_of(3) { state } else { 0x2020_2020_7461_6366 }
    });
    words.flat_map(u64::to_le_bytes).take(length).collect()
}

/// With sizes in the headers.
fn in_blocks(data: &[u8], block: u64) -> Vec<u8> {
    let stream = MtStreamBuilder::new().preset(0).check(Check::Crc64).threads(2).block_size(block).encoder().unwrap();
    let mut encoder = XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// Without.
fn in_one(data: &[u8]) -> Vec<u8> {
    let mut encoder = XzEncoder::new(Vec::new(), 0);
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn number(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    bytes.push(value.to_le_bytes()[0]);
    bytes
}

fn crc32(bytes: &[u8]) -> [u8; 4] {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum().to_le_bytes()
}

/// One stream of blocks with sizes and one without, which no encoder makes but the format allows.
fn mixed(first: &[u8], last: &[u8]) -> Vec<u8> {
    let (with, without) = (in_blocks(first, 1 << 20), in_one(last));
    let header = |file: &[u8]| Block::parse(&file[EDGE..EDGE + (usize::from(file[EDGE]) + 1) * 4]).unwrap();
    let sized = header(&with);
    let flags = super::container::Flags::of_header(with[..EDGE].try_into().unwrap()).unwrap();
    let unpadded = sized.unpadded(sized.sizes.unwrap(), flags);
    let end = EDGE + usize::try_from(unpadded.next_multiple_of(4)).unwrap();
    assert!(header(&without).sizes.is_none());
    // The index of the second file says how long its only block is: the numbers behind its first two bytes.
    let footer = &without[without.len() - EDGE..];
    let index = (usize::try_from(u32::from_le_bytes(footer[4..8].try_into().unwrap())).unwrap() + 1) * 4;
    let records = &without[without.len() - EDGE - index + 2..];
    let length = records.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
    let unsized_unpadded =
        records[..length].iter().rev().fold(0_u64, |value, byte| (value << 7) | u64::from(byte & 0x7f));
    let unsized_end = EDGE + usize::try_from(unsized_unpadded.next_multiple_of(4)).unwrap();
    assert_eq!(&with[..EDGE], &without[..EDGE], "the same check");
    let mut file = [&with[..end], &without[EDGE..unsized_end]].concat();
    let mut new = vec![0, 2];
    for value in [unpadded, first.len() as u64, unsized_unpadded, last.len() as u64] {
        new.extend(number(value));
    }
    new.resize(new.len().next_multiple_of(4), 0);
    new.extend(crc32(&new));
    let mut back = (u32::try_from(new.len()).unwrap() / 4 - 1).to_le_bytes().to_vec();
    back.extend(&footer[8..10]);
    file.extend(new);
    file.extend(crc32(&back));
    file.extend(back);
    file.extend(b"YZ");
    file
}

/// From start to end.
fn straight(file: &[u8]) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    XzReader::new(file, u64::MAX)?.read_to_end(&mut all).map(|_| all)
}

fn by_blocks(file: &[u8], threads: usize, limits: Limits) -> io::Result<Vec<u8>> {
    let dir = tempfile::Builder::new().prefix("fish-").tempdir().unwrap();
    let budget = Budget::new(limits, threads);
    let mut input = Cursor::new(file.to_vec());
    let decoding = Decoding::new(Spool::new(&mut input, dir.path()).unwrap(), dir.path(), &budget);
    std::thread::scope(|scope| {
        let mut reader = decoding.reader();
        scope.spawn(|| decoding.receive(&[], &mut input));
        for _ in 0..threads {
            scope.spawn(|| decoding.work());
        }
        let mut all = Vec::new();
        let result = reader.read_to_end(&mut all).map(|_| all);
        drop(reader);
        result
    })
}

#[test]
fn good_files_come_out_the_same() {
    let data = content(900_000);
    let (a, b) = data.split_at(412_345);
    let padded = |file: Vec<u8>, zeros| [file, vec![0; zeros]].concat();
    let files = [
        ("blocks", in_blocks(&data, 100_000)),
        ("one block", in_blocks(&data, 1 << 30)),
        ("tiny blocks", in_blocks(&data[..100_000], 1000)),
        ("without sizes", in_one(&data)),
        ("streams", [padded(in_blocks(a, 100_000), 8), in_blocks(b, 500_000)].concat()),
        ("streams, the last without sizes", [padded(in_blocks(a, 100_000), 4), padded(in_one(b), 12)].concat()),
        ("streams, the first without sizes", [in_one(a), in_blocks(b, 300_000)].concat()),
        ("a stream of nothing", [in_blocks(&[], 1000), in_blocks(&data, 300_000), in_one(&[])].concat()),
        ("blocks with and without sizes", mixed(&data[..300_000], b)),
    ];
    for (name, file) in files {
        let expected = straight(&file).unwrap();
        for threads in [2, 5] {
            let got = by_blocks(&file, threads, Limits::default()).unwrap_or_else(|error| panic!("{name}: {error:?}"));
            assert!(got == expected, "{name}, {threads} threads");
        }
    }
}

#[test]
fn damaged_files_are_damaged_either_way() {
    let data = content(40_000);
    let file = [in_blocks(&data, 9000), vec![0; 4], in_one(b"end")].concat();
    assert!(straight(&file).is_ok());
    // Every byte of what is not data, some of what is; every cut at those places.
    let places = (0..file.len()).filter(|at| at % 97 == 0 || *at < 64 || *at + 160 > file.len());
    for at in places {
        for changed in [
            [&file[..at], &[file[at] ^ 0x10], &file[at + 1..]].concat(),
            [&file[..at], &[0], &file[at..]].concat(),
            file[..at].to_vec(),
        ] {
            let (one, other) = (straight(&changed), by_blocks(&changed, 2, Limits::default()));
            match (&one, &other) {
                (Ok(one), Ok(other)) => assert!(one == other, "at {at}"),
                (Err(_), Err(_)) => {}
                // Nothing at all is no xz file, which is told before any decoder is asked.
                (Err(_), Ok(_)) if changed.is_empty() => {}
                _ => panic!("at {at}: {one:?}, but {other:?}"),
            }
        }
    }
}

#[test]
fn decoders_run_side_by_side_only_within_their_memory() {
    let filters = || {
        let mut options = LzmaOptions::new_preset(0).unwrap();
        options.dict_size(4 << 20);
        let mut filters = Filters::new();
        filters.lzma2(&options);
        filters
    };
    let stream = MtStreamBuilder::new().filters(filters()).threads(2).block_size(50_000).encoder().unwrap();
    let mut encoder = XzEncoder::new_stream(Vec::new(), stream);
    let data = content(400_000);
    encoder.write_all(&data).unwrap();
    let file = encoder.finish().unwrap();
    let decoders = |memory: u64, threads| {
        let limits = Limits { decoder_memory: memory, ..Limits::default() };
        super::blocks::decoders(&file[..512], &Budget::new(limits, threads))
    };
    assert_eq!(decoders(132 << 20, 8), 8);
    assert_eq!(decoders(9 << 20, 8), 2);
    assert_eq!(decoders(8 << 20, 8), 1);
    assert_eq!(decoders(132 << 20, 1), 1);
    let limits = |memory| Limits { decoder_memory: memory, ..Limits::default() };
    // Too many threads for it wait for each other.
    assert!(by_blocks(&file, 4, limits(5 << 20)).unwrap() == data);
    assert!(by_blocks(&file, 2, limits(1 << 20)).is_err());
    let without = Stream::new_stream_encoder(&filters(), Check::Crc32).unwrap();
    let mut encoder = XzEncoder::new_stream(Vec::new(), without);
    encoder.write_all(b"x").unwrap();
    let file = encoder.finish().unwrap();
    assert_eq!(super::blocks::decoders(&file, &Budget::new(Limits::default(), 8)), 1, "no sizes, no blocks");
}

#[test]
fn what_is_decoded_ahead_counts_against_the_limits() {
    let file = in_blocks(&vec![0; 8 << 20], 1 << 20);
    let limits = Limits { expanded: 3 << 20, ..Limits::default() };
    assert!(by_blocks(&file, 2, limits).is_err());
    let limits = Limits { ratio: 10, ratio_floor: 1 << 20, ..Limits::default() };
    assert!(by_blocks(&file, 2, limits).is_err());
}

#[test]
fn a_reader_that_goes_away_stops_everything() {
    let dir = tempfile::Builder::new().prefix("fish-").tempdir().unwrap();
    let budget = Budget::new(Limits::default(), 2);
    let mut input = Cursor::new(in_blocks(&content(1_200_000), 100_000));
    for read in [0, 1, 150_000, 1_000_000] {
        input.set_position(0);
        let decoding = Decoding::new(Spool::new(&mut input, dir.path()).unwrap(), dir.path(), &budget);
        // The scope ends only when all its threads have.
        std::thread::scope(|scope| {
            let mut reader = decoding.reader();
            scope.spawn(|| decoding.receive(&[], &mut input));
            for _ in 0..2 {
                scope.spawn(|| decoding.work());
            }
            reader.read_exact(&mut vec![0; read]).unwrap();
        });
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "files have no names");
}
