//! The log in two halves, so that its size is bounded and its end is always there.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::{Dir, LOG, OLD_LOG};

pub(super) struct Log {
    dir: Dir,
    file: File,
    written: u64,
    half: u64,
}

impl Log {
    pub(super) fn open(dir: &Path, most: u64) -> io::Result<Self> {
        let dir = Dir::open(dir)?;
        Ok(Self { file: dir.create(LOG)?, dir, written: 0, half: (most / 2).max(1) })
    }

    /// Writes; a full disk costs the log its text and the workload nothing.
    pub(super) fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.written >= self.half {
                drop(self.dir.rename(LOG, OLD_LOG));
                match self.dir.create(LOG) {
                    Ok(file) => (self.file, self.written) = (file, 0),
                    Err(_) => return,
                }
            }
            let room = usize::try_from(self.half - self.written).unwrap_or(usize::MAX).min(bytes.len());
            if self.file.write_all(&bytes[..room]).is_err() {
                return;
            }
            self.written += room as u64;
            bytes = &bytes[room..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_oldest_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(dir.path(), 20).unwrap();
        (0..10).for_each(|n| log.write(format!("line {n}\n").as_bytes()));
        let read = |name| fs::read_to_string(dir.path().join(name)).unwrap();
        let both = read(OLD_LOG) + &read(LOG);
        assert!(both.len() <= 20 && both.ends_with("line 9\n"), "{both:?}");
    }
}
