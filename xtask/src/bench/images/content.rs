//! An image to measure with: what a tool chain with its sources looks like, made from nothing, the same on every run.
//!
//! Real images are source text, documents, tables and machine code, and xz makes them five to eight times smaller.
//! Noise would measure a copy, zeros would measure nothing; so words follow Zipf's law, files of one directory share
//! their words and begin with the same lines, and binaries repeat instructions with changing operands.

use std::io::{self, Write};

use tar::{Builder, EntryType, Header};

/// Files in the image.
pub(super) const FILES: usize = 20_000;
/// Of them so many binaries, one each so many files.
const BINARY_EACH: usize = 100;
const FILES_OF_A_DIRECTORY: usize = 18;

/// Numbers that look random and are the same every time.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        // splitmix64, by Sebastiano Vigna, in the public domain.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end.max(1) as u64)).unwrap_or(0)
    }

    /// Small numbers far more often than large ones.
    fn skewed(&mut self, end: usize) -> usize {
        let fraction = self.below(1 << 16) as f64 / f64::from(1 << 16);
        ((fraction * fraction * fraction) * end as f64) as usize
    }
}

const SYLLABLES: [&str; 40] = [
    "get", "set", "buf", "len", "node", "ctx", "err", "map", "key", "val", "size", "type", "name", "list", "next",
    "prev", "file", "path", "read", "write", "open", "close", "init", "free", "hash", "code", "sym", "tab", "reg",
    "op", "arg", "ret", "str", "int", "ptr", "flag", "mask", "bit", "lock", "state",
];

fn word(chance: &mut Chance) -> String {
    let mut word = SYLLABLES[chance.below(40)].to_owned();
    for _ in 0..chance.below(4) {
        if chance.below(2) == 0 {
            word.push('_');
        }
        word.push_str(SYLLABLES[chance.below(40)]);
    }
    if chance.below(3) == 0 {
        word.push_str(&chance.below(64).to_string());
    }
    word
}

/// Everything that files are made of.
struct Maker {
    chance: Chance,
    words: Vec<String>,
    instructions: Vec<Vec<u8>>,
}

impl Maker {
    fn new() -> Self {
        let mut chance = Chance(42);
        let words = (0..12_000).map(|_| word(&mut chance)).collect();
        let instructions =
            (0..6000).map(|_| (0..2 + chance.below(6)).map(|_| chance.next().to_le_bytes()[0]).collect()).collect();
        Self { chance, words, instructions }
    }

    /// A word: usually one of the directory's own.
    fn pick<'a>(&mut self, own: &'a [usize], words: &'a [String]) -> &'a str {
        let index =
            if self.chance.below(4) > 0 { own[self.chance.skewed(own.len())] } else { self.chance.skewed(words.len()) };
        &words[index]
    }

    fn text(&mut self, size: usize, head: &str, own: &[usize]) -> Vec<u8> {
        let words = std::mem::take(&mut self.words);
        let mut text = head.to_owned();
        while text.len() < size {
            let indent = "    ".repeat(self.chance.below(4));
            let (a, b) = (self.pick(own, &words), self.pick(own, &words));
            let (c, d) = (self.pick(own, &words), self.pick(own, &words));
            let number = self.chance.skewed(4096);
            let line = match self.chance.below(11) {
                0 => format!("{indent}if ({a}->{b} == {number}) {{\n"),
                1 => format!("{indent}}}\n\n"),
                2 => format!("{indent}/* {a} {b} the {c} of {d} until it is {b} again */\n"),
                3 => format!("{indent}return {a}({b}, {c});\n"),
                4 => format!("{indent}static int {a}(struct {b} *{c}, size_t {d})\n{indent}{{\n"),
                5 => format!("{indent}{a}.{b} = {c}[{number}];\n"),
                6 => format!("\"{a}\": {{\"{b}\": {number}, \"{c}\": \"{d}\"}},\n"),
                7 => format!("{indent}for (i = 0; i < {a}->{b}; i++)\n"),
                8 => format!("{indent}{a} = {b}({c}, {number:#06x});\n"),
                9 => format!("#define {} ({a} | {number})\n", b.to_uppercase()),
                _ => format!("{indent}assert({a} != {b} && {c} < {number});\n"),
            };
            text.push_str(&line);
        }
        self.words = words;
        text.truncate(size);
        text.into_bytes()
    }

    fn binary(&mut self, size: usize) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        while bytes.len() < size {
            let instruction = &self.instructions[self.chance.skewed(self.instructions.len())];
            bytes.extend_from_slice(instruction);
            match self.chance.below(8) {
                0 => bytes.extend_from_slice(&(self.chance.skewed(1 << 20) as u32).to_le_bytes()),
                1 => bytes.push(self.chance.next().to_le_bytes()[0]),
                // A piece of code as it was a little earlier: an inlined function.
                2 if bytes.len() > 4096 => {
                    let from = bytes.len() - 64 - self.chance.below(4000);
                    bytes.extend_from_within(from..from + 48);
                }
                _ => {}
            }
        }
        bytes.truncate(size);
        bytes
    }
}

fn header(kind: EntryType, size: u64, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(1_700_000_000);
    header
}

/// Writes the image's tar archive.
///
/// # Errors
/// When it can not be written.
pub(super) fn write(out: impl Write) -> io::Result<()> {
    let mut maker = Maker::new();
    let mut tar = Builder::new(out);
    let (mut dir, mut head, mut own) = (String::new(), String::new(), Vec::new());
    for number in 0..FILES {
        if number % FILES_OF_A_DIRECTORY == 0 {
            let part = number / FILES_OF_A_DIRECTORY;
            dir = format!("usr/src/part-{:02}/{}-{part}/", part / 40, word(&mut maker.chance));
            tar.append_data(&mut header(EntryType::Directory, 0, 0o755), &dir, io::empty())?;
            own = (0..150).map(|_| maker.chance.skewed(12_000)).collect();
            head =
                format!("/* Part {part} of the image. */\n{}", "/* All of this was made by a program. */\n".repeat(8));
        }
        let path = format!("{dir}{}-{number}", word(&mut maker.chance));
        let (content, mode) = if number % BINARY_EACH == 7 {
            let size = 20_000 + maker.chance.skewed(2_300_000);
            (maker.binary(size), 0o755)
        } else {
            let size = 400 + maker.chance.skewed(60_000);
            (maker.text(size, &head, &own), 0o644)
        };
        tar.append_data(&mut header(EntryType::Regular, content.len() as u64, mode), &path, &content[..])?;
    }
    tar.into_inner()?.flush()
}
