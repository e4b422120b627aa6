//! Extended headers: the records of POSIX pax, and the sparse maps that GNU tar and bsdtar keep in them.

use super::error::{ArchiveError, Refusal};

/// The longest extended header that is read into memory.
pub(crate) const MAX_EXTENDED: u64 = 8 << 20;
/// The most pieces a sparse file may have.
const MAX_SEGMENTS: usize = 1 << 20;

/// What the records of one extended header say about the next entry.
#[derive(Debug, Default)]
pub(crate) struct Pax {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) mtime: Option<(i64, u32)>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: SparseRecords,
}

/// The `GNU.sparse.*` records.
#[derive(Debug, Default)]
pub(crate) struct SparseRecords {
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) major: Option<u64>,
    pub(crate) minor: Option<u64>,
    real_size: Option<u64>,
    count: Option<u64>,
    map: Option<Vec<(u64, u64)>>,
    offsets: Vec<(u64, Option<u64>)>,
}

/// Where the bytes of a sparse file go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SparseMap {
    /// Offset and length, ascending.
    pub(crate) segments: Vec<(u64, u64)>,
    /// The file's size.
    pub(crate) real_size: u64,
}

impl SparseMap {
    /// Checked: pieces ascend, do not overlap, lie within the file and hold exactly `stored` bytes.
    pub(crate) fn checked(segments: Vec<(u64, u64)>, real_size: u64, stored: u64) -> Option<Self> {
        let (mut end, mut sum) = (0u64, 0u64);
        for &(offset, length) in &segments {
            if offset < end {
                return None;
            }
            end = offset.checked_add(length)?;
            sum = sum.checked_add(length)?;
        }
        (end <= real_size && sum == stored && i64::try_from(real_size).is_ok()).then_some(Self { segments, real_size })
    }

    /// Bytes that are not stored.
    pub(crate) fn holes(&self) -> u64 {
        self.real_size - self.segments.iter().map(|(_, length)| length).sum::<u64>()
    }
}

impl Pax {
    /// Reads the records of a header at `offset`.
    pub(crate) fn parse(mut data: &[u8], offset: u64) -> Result<Self, ArchiveError> {
        let bad = |why| ArchiveError::Header { why, offset };
        let mut pax = Self::default();
        while !data.is_empty() {
            let space = data
                .iter()
                .take(8)
                .position(|byte| *byte == b' ')
                .ok_or_else(|| bad("has a malformed extended record"))?;
            let length = decimal(&data[..space]).and_then(|length| usize::try_from(length).ok());
            let record = length
                .filter(|length| *length > space + 2 && *length <= data.len())
                .map(|length| &data[space + 1..length])
                .filter(|record| record.last() == Some(&b'\n'))
                .ok_or_else(|| bad("has a malformed extended record"))?;
            data = &data[space + 1 + record.len()..];
            let record = &record[..record.len() - 1];
            let equals =
                record.iter().position(|byte| *byte == b'=').ok_or_else(|| bad("has a malformed extended record"))?;
            pax.take(&record[..equals], &record[equals + 1..])
                .ok_or_else(|| bad("has an extended record with a wrong value"))?;
        }
        Ok(pax)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            // An empty value takes an earlier one back, by the standard.
            b"path" => self.path = Some(value.to_vec()).filter(|value| !value.is_empty()),
            b"linkpath" => self.link = Some(value.to_vec()).filter(|value| !value.is_empty()),
            b"size" => self.size = Some(decimal(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            b"GNU.sparse.name" => self.sparse.name = Some(value.to_vec()),
            b"GNU.sparse.major" => self.sparse.major = Some(decimal(value)?),
            b"GNU.sparse.minor" => self.sparse.minor = Some(decimal(value)?),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.real_size = Some(decimal(value)?),
            b"GNU.sparse.numblocks" => self.sparse.count = Some(decimal(value)?),
            b"GNU.sparse.offset" => {
                if self.sparse.offsets.len() >= MAX_SEGMENTS {
                    return None;
                }
                self.sparse.offsets.push((decimal(value)?, None));
            }
            b"GNU.sparse.numbytes" => self.sparse.offsets.last_mut()?.1 = Some(decimal(value)?),
            b"GNU.sparse.map" => {
                let numbers: Option<Vec<u64>> = value.split(|byte| *byte == b',').map(decimal).collect();
                let numbers = numbers.filter(|numbers| numbers.len() % 2 == 0 && numbers.len() / 2 <= MAX_SEGMENTS)?;
                self.sparse.map = Some(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect());
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.")
                    && name.starts_with(b"user.")
                    && name.len() <= 255
                    && !name.contains(&0)
                    && value.len() <= 65536
                {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Some(())
    }
}

impl SparseRecords {
    pub(crate) fn any(&self) -> bool {
        self.major.is_some()
            || self.minor.is_some()
            || self.real_size.is_some()
            || self.count.is_some()
            || self.map.is_some()
            || !self.offsets.is_empty()
    }

    /// Whether the map stands before the content (format 1.0).
    pub(crate) fn map_in_content(&self) -> bool {
        self.major == Some(1) && self.minor == Some(0)
    }

    /// The size of the file with its holes.
    pub(crate) fn real_size(&self) -> Option<u64> {
        self.real_size
    }

    /// The map of formats 0.0 and 0.1.
    pub(crate) fn map(self, stored: u64) -> Result<SparseMap, Refusal> {
        if !matches!((self.major, self.minor), (None, None) | (Some(0), Some(0 | 1))) {
            return Err(Refusal::SparseMap);
        }
        let segments = match self.map {
            Some(map) if self.offsets.is_empty() => Some(map),
            Some(_) => None,
            None => self.offsets.into_iter().map(|(offset, length)| Some((offset, length?))).collect(),
        };
        let segments = segments
            .filter(|segments| self.count.is_none_or(|count| count == segments.len() as u64))
            .ok_or(Refusal::SparseMap)?;
        let real_size = self.real_size.ok_or(Refusal::SparseMap)?;
        SparseMap::checked(segments, real_size, stored).ok_or(Refusal::SparseMap)
    }
}

/// The map of format 1.0 in the making: decimal numbers, one on a line.
#[derive(Debug, Default)]
pub(crate) struct MapText {
    count: Option<usize>,
    numbers: Vec<u64>,
    digits: Vec<u8>,
}

impl MapText {
    /// Takes a block of 512 bytes. `Ok(true)` when the map is complete.
    pub(crate) fn feed(&mut self, block: &[u8]) -> Result<bool, Refusal> {
        for &byte in block {
            if byte != b'\n' {
                if self.digits.len() >= 20 {
                    return Err(Refusal::SparseMap);
                }
                self.digits.push(byte);
                continue;
            }
            let number = decimal(&self.digits).ok_or(Refusal::SparseMap)?;
            self.digits.clear();
            match self.count {
                None => {
                    let count = usize::try_from(number).ok().filter(|count| *count <= MAX_SEGMENTS);
                    self.count = Some(count.ok_or(Refusal::SparseMap)?);
                }
                Some(_) => self.numbers.push(number),
            }
            if self.count.is_some_and(|count| self.numbers.len() == count * 2) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(crate) fn segments(self) -> Vec<(u64, u64)> {
        self.numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
    }
}

/// A plain decimal number, nothing else.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `1700000000.123456789`, perhaps negative; what no file system keeps is moved to what it can.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let (seconds, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) || seconds.len() > 18 {
        return None;
    }
    let seconds = decimal(seconds)?;
    let mut nanos = 0u32;
    for index in 0..9 {
        nanos = nanos * 10 + fraction.get(index).map_or(0, |digit| u32::from(digit - b'0'));
    }
    if negative { Some((0, 0)) } else { Some((clamp_time(seconds), nanos)) }
}

/// Times that ext4 can keep.
pub(crate) fn clamp_time(seconds: u64) -> i64 {
    i64::try_from(seconds.min(0x3_7fff_ffff)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_may_hold_newlines_and_must_have_their_length() {
        let pax = Pax::parse(b"12 path=a\nb\n", 0).unwrap();
        assert_eq!(pax.path.unwrap(), b"a\nb");
        for bad in [&b"11 path=a\nb\n"[..], b"99 path=a\n", b"path=a\n", b"0 \n", b"13 size=12x4\n", b" 1", b"7 noeq\n"]
        {
            assert!(Pax::parse(bad, 0).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn times_keep_their_fraction() {
        assert_eq!(time(b"1700000000.5"), Some((1_700_000_000, 500_000_000)));
        assert_eq!(time(b"-5.25"), Some((0, 0)));
        assert_eq!(time(b"1e400"), None);
        assert_eq!(time(b"99999999999999999"), Some((0x3_7fff_ffff, 0)));
    }

    #[test]
    fn sparse_maps_must_add_up() {
        assert!(SparseMap::checked(vec![(0, 4), (8, 4)], 16, 8).is_some());
        assert!(SparseMap::checked(vec![(0, 4), (2, 4)], 16, 8).is_none());
        assert!(SparseMap::checked(vec![(8, 4), (0, 4)], 16, 8).is_none());
        assert!(SparseMap::checked(vec![(8, 4)], 10, 4).is_none());
        assert!(SparseMap::checked(vec![(8, 4)], 16, 5).is_none());
        assert!(SparseMap::checked(vec![(u64::MAX, 4)], u64::MAX, 4).is_none());
    }
}
