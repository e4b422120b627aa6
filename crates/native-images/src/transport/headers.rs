//! What the headers of an answer say, read strictly.

use std::time::Duration;

use reqwest::header::{ETAG, HeaderMap, HeaderName, HeaderValue, LAST_MODIFIED};
use serde::{Deserialize, Serialize};

use crate::image::{Algo, Checksum};

/// What a server says about one state of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Validators {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) etag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_modified: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) length: Option<u64>,
}

impl Validators {
    pub(super) fn of(headers: &HeaderMap, length: Option<u64>) -> Self {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).map(str::to_owned);
        Self { etag: text(ETAG), last_modified: text(LAST_MODIFIED), length }
    }

    /// Whether a server can be asked if it still has this state.
    pub(crate) fn usable(&self) -> bool {
        self.etag.is_some() || self.last_modified.is_some()
    }

    pub(super) fn if_range(&self) -> Option<&str> {
        self.etag.as_deref().filter(|etag| !etag.starts_with("W/")).or(self.last_modified.as_deref())
    }

    /// Whether `other` can be the same state of the file.
    pub(super) fn agree(&self, other: &Self) -> bool {
        let same = |a: &Option<String>, b: &Option<String>| a.is_none() || b.is_none() || a == b;
        let length = self.length.is_none() || other.length.is_none() || self.length == other.length;
        same(&self.etag, &other.etag) && same(&self.last_modified, &other.last_modified) && length
    }
}

/// Seconds, or a date.
#[expect(clippy::disallowed_methods, reason = "the server said a date; the wait is limited by the caller")]
pub(super) fn retry_after(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp();
    let wait = date.as_second() - jiff::Timestamp::now().as_second();
    Some(Duration::from_secs(u64::try_from(wait).unwrap_or(0)))
}

/// `bytes 10-19/20`: the first byte and the length of the whole, where it is known.
pub(super) fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, length) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let length = if length.trim() == "*" { None } else { Some(length.trim().parse().ok()?) };
    (first <= last && length.is_none_or(|length| last < length)).then_some((first, length))
}

/// The checksums that artifact servers send; what can not be read is no checksum.
pub(super) fn header_sums(headers: &HeaderMap) -> Vec<Checksum> {
    let known = [
        ("x-checksum-sha256", Algo::Sha256),
        ("x-checksum-sha512", Algo::Sha512),
        ("x-checksum-sha1", Algo::Sha1),
        ("x-checksum-md5", Algo::Md5),
    ];
    let read = |name, algo| Checksum::from_hex(algo, headers.get(name)?.to_str().ok()?).ok();
    known.into_iter().filter_map(|(name, algo)| read(name, algo)).collect()
}

pub(super) fn insert(headers: &mut HeaderMap, name: HeaderName, value: Option<&str>) {
    if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_strictly() {
        assert_eq!(content_range("bytes 10-19/20"), Some((10, Some(20))));
        assert_eq!(content_range("bytes 10-19/*"), Some((10, None)));
        for bad in ["bytes 10-19/15", "bytes 19-10/20", "bytes */20", "10-19/20", "bytes -1-2/3", "bytes a-b/c"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(retry_after(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(retry_after("soon"), None);
    }
}
