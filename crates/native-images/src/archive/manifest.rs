//! The list of what was unpacked: written while unpacking, read to set directory times and to verify the tree later.
//!
//! One line for each entry: `d MODE SECONDS.NANOS - - PATH`, `f MODE TIME SIZE CRC32 PATH` (`MAP` behind the sum for sparse
//! files), `l - TIME - TARGET PATH`, `h - - - TARGET PATH`, `x - - - - PATH` for something that was replaced. Bytes that
//! would break a line are escaped. The sum finds decay and accidents; it is no proof against who may write here anyway.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;

/// What one line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    Directory { mode: u32, mtime: (i64, u32) },
    File { mode: u32, mtime: (i64, u32), size: u64, crc: u32, segments: Option<Vec<(u64, u64)>> },
    Symlink { mtime: (i64, u32), target: Vec<u8> },
    Hardlink { target: Vec<u8> },
    Replaced,
}

const FIRST_LINE: &str = "fish-native layer list 1";

pub(crate) struct ManifestWriter {
    out: BufWriter<File>,
}

impl ManifestWriter {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let mut out = BufWriter::with_capacity(64 * 1024, File::options().write(true).create_new(true).open(path)?);
        writeln!(out, "{FIRST_LINE}")?;
        Ok(Self { out })
    }

    pub(crate) fn add(&mut self, path: &[u8], record: &Record) -> io::Result<()> {
        let out = &mut self.out;
        match record {
            Record::Directory { mode, mtime } => write!(out, "d {mode:o} {}.{} - - ", mtime.0, mtime.1)?,
            Record::File { mode, mtime, size, crc, segments } => {
                write!(out, "f {mode:o} {}.{} {size} {crc:08x}", mtime.0, mtime.1)?;
                if let Some(segments) = segments {
                    out.write_all(b"@")?;
                    for (offset, length) in segments {
                        write!(out, "{offset}+{length},")?;
                    }
                }
                out.write_all(b" ")?;
            }
            Record::Symlink { mtime, target } => {
                write!(out, "l - {}.{} - ", mtime.0, mtime.1)?;
                escape(out, target)?;
                out.write_all(b" ")?;
            }
            Record::Hardlink { target } => {
                out.write_all(b"h - - - ")?;
                escape(out, target)?;
                out.write_all(b" ")?;
            }
            Record::Replaced => out.write_all(b"x - - - - ")?,
        }
        escape(out, path)?;
        out.write_all(b"\n")
    }

    pub(crate) fn finish(self) -> io::Result<()> {
        self.out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Calls `each` for every line.
pub(crate) fn read(path: &Path, mut each: impl FnMut(Vec<u8>, Record) -> io::Result<()>) -> io::Result<()> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the list of the layer's files is damaged");
    let mut input = BufReader::with_capacity(64 * 1024, File::open(path)?);
    let mut line = Vec::new();
    input.read_until(b'\n', &mut line)?;
    if line.trim_ascii_end() != FIRST_LINE.as_bytes() {
        return Err(damaged());
    }
    loop {
        line.clear();
        if input.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let text = line.strip_suffix(b"\n").ok_or_else(damaged)?;
        let (path, record) = parse(text).ok_or_else(damaged)?;
        each(path, record)?;
    }
}

fn parse(line: &[u8]) -> Option<(Vec<u8>, Record)> {
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let (kind, mode, time, size) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let (extra, path) = (fields.next()?, unescape(fields.next()?)?);
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<u64>().ok();
    let mode = || u32::from_str_radix(std::str::from_utf8(mode).ok()?, 8).ok();
    let mtime = || {
        let (seconds, nanos) = std::str::from_utf8(time).ok()?.split_once('.')?;
        Some((seconds.parse::<i64>().ok()?, nanos.parse::<u32>().ok()?))
    };
    let record = match kind {
        b"d" => Record::Directory { mode: mode()?, mtime: mtime()? },
        b"f" => {
            let extra = std::str::from_utf8(extra).ok()?;
            let (crc, map) = extra.split_once('@').map_or((extra, None), |(crc, map)| (crc, Some(map)));
            let segments = match map {
                None => None,
                Some(map) => Some(
                    map.split_terminator(',')
                        .map(|piece| {
                            let (offset, length) = piece.split_once('+')?;
                            Some((offset.parse().ok()?, length.parse().ok()?))
                        })
                        .collect::<Option<Vec<_>>>()?,
                ),
            };
            let crc = u32::from_str_radix(crc, 16).ok()?;
            Record::File { mode: mode()?, mtime: mtime()?, size: number(size)?, crc, segments }
        }
        b"l" => Record::Symlink { mtime: mtime()?, target: unescape(extra)? },
        b"h" => Record::Hardlink { target: unescape(extra)? },
        b"x" => Record::Replaced,
        _ => return None,
    };
    Some((path, record))
}

fn escape(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    for piece in bytes.split_inclusive(|byte| matches!(byte, b'\\' | b'\n' | b' ')) {
        let (last, body) = match piece.split_last() {
            Some((last, body)) if matches!(last, b'\\' | b'\n' | b' ') => (Some(*last), body),
            _ => (None, piece),
        };
        out.write_all(body)?;
        match last {
            Some(b'\\') => out.write_all(b"\\\\")?,
            Some(b'\n') => out.write_all(b"\\n")?,
            Some(_) => out.write_all(b"\\s")?,
            None => {}
        }
    }
    Ok(())
}

fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut input = text.iter();
    while let Some(byte) = input.next() {
        bytes.push(match byte {
            b'\\' => match input.next()? {
                b'\\' => b'\\',
                b'n' => b'\n',
                b's' => b' ',
                _ => return None,
            },
            byte => *byte,
        });
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_as_they_went() {
        let dir = tempfile::Builder::new().prefix("fish-").tempdir().unwrap();
        let path = dir.path().join("list");
        let records = [
            (b"a b".to_vec(), Record::Directory { mode: 0o1755, mtime: (5, 0) }),
            (
                b"a\n\\\\b ".to_vec(),
                Record::File {
                    mode: 0o644,
                    mtime: (7, 9),
                    size: 3,
                    crc: 0xdead_beef,
                    segments: Some(vec![(0, 1), (8, 2)]),
                },
            ),
            (vec![0xff, b' '], Record::File { mode: 0o400, mtime: (0, 1), size: 0, crc: 0, segments: None }),
            (b"l".to_vec(), Record::Symlink { mtime: (1, 2), target: b"/x y\n".to_vec() }),
            (b"h".to_vec(), Record::Hardlink { target: b"a b".to_vec() }),
            (b"gone".to_vec(), Record::Replaced),
        ];
        let mut writer = ManifestWriter::create(&path).unwrap();
        for (path, record) in &records {
            writer.add(path, record).unwrap();
        }
        writer.finish().unwrap();
        let mut read_back = Vec::new();
        read(&path, |path, record| {
            read_back.push((path, record));
            Ok(())
        })
        .unwrap();
        assert_eq!(read_back, records);
    }
}
