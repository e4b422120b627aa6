//! Durations: Go's `time.ParseDuration`, Fish's longer units on top of it, and the lifetime of an environment.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not a number where a number is needed.
    #[error("invalid duration {text:?}, expected something like `1h30m`")]
    Invalid {
        /// The text.
        text: String,
    },
    /// A number without a unit.
    #[error("missing unit in duration {text:?}, expected something like `1h30m`")]
    MissingUnit {
        /// The text.
        text: String,
    },
    /// A unit that does not exist.
    #[error("unknown unit {unit:?} in duration {text:?}, expected {expected}")]
    UnknownUnit {
        /// The text.
        text: String,
        /// What stands where a unit should.
        unit: String,
        /// The units there are.
        expected: &'static str,
    },
    /// More than 2^63-1 nanoseconds (292 years).
    #[error("duration {text:?} is longer than 292 years")]
    Overflow {
        /// The text.
        text: String,
    },
    /// A negative value where only a length of time makes sense.
    #[error("duration {text:?} is negative")]
    Negative {
        /// The text.
        text: String,
    },
}

const SECOND: u64 = 1_000_000_000;
const HOUR: u64 = 3_600 * SECOND;

/// Go's own units.
const GO_UNITS: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),  // micro sign
    ("\u{3bc}s", 1_000), // Greek letter mu
    ("ms", 1_000_000),
    ("s", SECOND),
    ("m", 60 * SECOND),
    ("h", HOUR),
];

/// What Fish adds: a month is 30 days and a year 365, and the case only tells months from minutes.
const FISH_UNITS: &[(&str, u64)] = &[
    ("d", 24 * HOUR),
    ("D", 24 * HOUR),
    ("w", 7 * 24 * HOUR),
    ("W", 7 * 24 * HOUR),
    ("M", 30 * 24 * HOUR),
    ("y", 365 * 24 * HOUR),
    ("Y", 365 * 24 * HOUR),
];

/// Parses what Go's `time.ParseDuration` parses, to nanoseconds: a sign, then numbers each with a unit; or `0`.
///
/// ```
/// assert_eq!(native_config::parse_go_duration("-1.5h"), Ok(-5_400_000_000_000));
/// assert!(native_config::parse_go_duration("1d").is_err());
/// ```
///
/// # Errors
///
/// As Go: an empty text, a number without a unit, an unknown unit, more than 2^63-1 nanoseconds.
pub fn parse_go_duration(text: &str) -> Result<i64, DurationError> {
    parse(text, &[GO_UNITS], "ns, us, ms, s, m or h")
}

/// Parses Go's durations and Fish's longer units (`d`, `w`, `M` = 30 days, `y` = 365 days), to nanoseconds.
///
/// # Errors
///
/// As [`parse_go_duration`].
pub fn parse_fish_duration(text: &str) -> Result<i64, DurationError> {
    parse(text, &[GO_UNITS, FISH_UNITS], "ns, us, ms, s, m, h, d, w, M or y")
}

/// The algorithm of Go's `time.ParseDuration`, step for step, so that rounding of fractions agrees as well.
fn parse(text: &str, units: &[&[(&str, u64)]], expected: &'static str) -> Result<i64, DurationError> {
    // Up to 2^63 is fine on the way: the smallest negative value has that magnitude.
    const LIMIT: u64 = 1 << 63;
    let shown = || crate::names::shorten(text);
    let invalid = || DurationError::Invalid { text: shown() };
    let overflow = || DurationError::Overflow { text: shown() };

    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        if !rest.starts_with(|c: char| c == '.' || c.is_ascii_digit()) {
            return Err(invalid());
        }
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let mut whole: u64 = 0;
        for digit in rest[..digits].bytes() {
            whole = whole
                .checked_mul(10)
                .and_then(|value| value.checked_add(u64::from(digit - b'0')))
                .filter(|value| *value <= LIMIT)
                .ok_or_else(overflow)?;
        }
        rest = &rest[digits..];

        // Digits past the point that no longer fit are dropped, as Go does: they can't change a nanosecond count.
        let (mut fraction, mut scale, mut fraction_digits) = (0u64, 1f64, 0);
        if let Some(after) = rest.strip_prefix('.') {
            fraction_digits = after.bytes().take_while(u8::is_ascii_digit).count();
            for digit in after[..fraction_digits].bytes() {
                let next = fraction.checked_mul(10).and_then(|value| value.checked_add(u64::from(digit - b'0')));
                match next.filter(|value| *value < LIMIT) {
                    Some(value) => fraction = value,
                    None => break,
                }
                scale *= 10.0;
            }
            rest = &after[fraction_digits..];
        }
        if digits == 0 && fraction_digits == 0 {
            return Err(invalid());
        }

        let end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = &rest[..end];
        if unit.is_empty() {
            return Err(DurationError::MissingUnit { text: shown() });
        }
        let Some(size) = units.iter().flat_map(|list| list.iter()).find(|(name, _)| *name == unit).map(|u| u.1) else {
            return Err(DurationError::UnknownUnit { text: shown(), unit: crate::names::shorten(unit), expected });
        };
        rest = &rest[end..];

        let mut value = whole.checked_mul(size).filter(|value| *value <= LIMIT).ok_or_else(overflow)?;
        if fraction > 0 {
            value = value.checked_add((fraction as f64 * (size as f64 / scale)) as u64).ok_or_else(overflow)?;
        }
        total = total.checked_add(value).filter(|value| *value <= LIMIT).ok_or_else(overflow)?;
    }
    match (negative, total) {
        (true, LIMIT) => Ok(i64::MIN),
        (true, value) => i64::try_from(value).map(|v| -v).map_err(|_| overflow()),
        (false, value) => i64::try_from(value).map_err(|_| overflow()),
    }
}

/// A length of time in Go's or Fish's units; never negative.
///
/// # Errors
///
/// As [`parse_fish_duration`], and for a negative value.
pub fn parse_length(text: &str) -> Result<Duration, DurationError> {
    let nanos = parse_fish_duration(text)?;
    let nanos = u64::try_from(nanos).map_err(|_| DurationError::Negative { text: crate::names::shorten(text) })?;
    Ok(Duration::from_nanos(nanos))
}

/// How long an environment may live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Lifetime {
    /// As the configuration says: the text is empty or zero.
    #[default]
    Default,
    /// No limit: the value is negative.
    Unlimited,
    /// This long.
    For(Duration),
}

impl FromStr for Lifetime {
    type Err = DurationError;

    /// Empty or zero is the default, anything negative is no limit (`-1` counts, it needs no unit).
    fn from_str(text: &str) -> Result<Self, DurationError> {
        if text.is_empty() {
            return Ok(Self::Default);
        }
        if let Some(digits) = text.strip_prefix('-')
            && !digits.is_empty()
            && digits.bytes().all(|b| b.is_ascii_digit())
        {
            return Ok(if digits.bytes().all(|b| b == b'0') { Self::Default } else { Self::Unlimited });
        }
        Ok(match parse_fish_duration(text)? {
            0 => Self::Default,
            nanos => match u64::try_from(nanos) {
                Ok(nanos) => Self::For(Duration::from_nanos(nanos)),
                Err(_) => Self::Unlimited,
            },
        })
    }
}

impl fmt::Display for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("0"),
            Self::Unlimited => f.write_str("-1s"),
            Self::For(length) => {
                let (seconds, nanos) = (length.as_secs(), length.subsec_nanos());
                for (size, unit) in [(3_600, "h"), (60, "m")] {
                    let count = if size == 60 { seconds % 3_600 / 60 } else { seconds / size };
                    if count > 0 {
                        write!(f, "{count}{unit}")?;
                    }
                }
                match (seconds % 60, nanos) {
                    (0, 0) if seconds > 0 => Ok(()),
                    (rest, 0) => write!(f, "{rest}s"),
                    (rest, nanos) => write!(f, "{}s", format!("{rest}.{nanos:09}").trim_end_matches('0')),
                }
            }
        }
    }
}

impl TryFrom<String> for Lifetime {
    type Error = DurationError;
    fn try_from(text: String) -> Result<Self, DurationError> {
        text.parse()
    }
}

impl From<Lifetime> for String {
    fn from(lifetime: Lifetime) -> Self {
        lifetime.to_string()
    }
}
