//! Go's `path.Match`, and the node filter patterns that use it.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The pattern is malformed: an unclosed `[`, an empty or reversed range, or a `\` at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed pattern: {reason}")]
pub struct PatternError {
    reason: &'static str,
}

const UNCLOSED: PatternError = PatternError { reason: "`[` without its `]`" };
const ESCAPE: PatternError = PatternError { reason: "`\\` with nothing after it" };
const RANGE: PatternError = PatternError { reason: "an empty set or a bad range between `[` and `]`" };

/// Whether `name` as a whole matches `pattern`, exactly as Go's `path.Match` decides it.
///
/// `*` is any run of characters but `/`, `?` any one character but `/`, `[a-z]` and `[^a-z]` a set, `\` takes the
/// next character literally. There is no `**`, no `{a,b}` and no `[!a]`. The work is bounded by the product of both
/// lengths: a star never has to be tried again once a later one has been reached.
///
/// ```
/// # fn main() -> Result<(), native_config::PatternError> {
/// assert!(native_config::path_match("OS*:li[a-n]ux", "OSPlatform:linux")?);
/// assert!(native_config::path_match("[", "a").is_err());
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// For a malformed pattern, also when the name would not have matched anyway.
pub fn path_match(mut pattern: &str, mut name: &str) -> Result<bool, PatternError> {
    'chunks: while !pattern.is_empty() {
        let (star, chunk, rest) = scan_chunk(pattern);
        pattern = rest;
        if star && chunk.is_empty() {
            // A star at the end takes the rest of the name, if there is no `/` in it.
            return Ok(!name.contains('/'));
        }
        match match_chunk(chunk, name)? {
            // The last chunk must also use up the name; otherwise the star in front of it has to take more.
            Some(left) if left.is_empty() || !pattern.is_empty() => {
                name = left;
                continue;
            }
            _ => {}
        }
        if star {
            let mut skipped = name.char_indices().peekable();
            while let Some((_, c)) = skipped.next() {
                if c == '/' {
                    break;
                }
                let from = skipped.peek().map_or(name.len(), |(index, _)| *index);
                if let Some(left) = match_chunk(chunk, &name[from..])? {
                    if pattern.is_empty() && !left.is_empty() {
                        continue;
                    }
                    name = left;
                    continue 'chunks;
                }
            }
        }
        // No match. What is left of the pattern is still checked, so that a malformed one is always told.
        while !pattern.is_empty() {
            let (_, chunk, rest) = scan_chunk(pattern);
            pattern = rest;
            match_chunk(chunk, "")?;
        }
        return Ok(false);
    }
    Ok(name.is_empty())
}

/// The next run of the pattern up to a star outside brackets, and whether stars stood before it.
fn scan_chunk(pattern: &str) -> (bool, &str, &str) {
    let body = pattern.trim_start_matches('*');
    let star = body.len() < pattern.len();
    let mut in_set = false;
    let mut bytes = body.bytes().enumerate();
    while let Some((index, byte)) = bytes.next() {
        match byte {
            // A `\` at the very end is reported by match_chunk.
            b'\\' => {
                bytes.next();
            }
            b'[' => in_set = true,
            b']' => in_set = false,
            b'*' if !in_set => return (star, &body[..index], &body[index..]),
            _ => {}
        }
    }
    (star, body, "")
}

/// Matches a chunk without stars at the start of `name`; the rest of the name if it fits.
///
/// After a mismatch the chunk is read to its end, for malformed patterns only.
fn match_chunk<'n>(mut chunk: &str, mut name: &'n str) -> Result<Option<&'n str>, PatternError> {
    let mut failed = false;
    while let Some(first) = chunk.chars().next() {
        if !failed && name.is_empty() {
            failed = true;
        }
        let next = if failed { None } else { name.chars().next() };
        let advance = next.map_or(0, char::len_utf8);
        match first {
            '[' => {
                name = &name[advance..];
                chunk = &chunk[1..];
                let negated = chunk.starts_with('^');
                if negated {
                    chunk = &chunk[1..];
                }
                let (mut hit, mut ranges) = (false, 0);
                loop {
                    if ranges > 0 && chunk.starts_with(']') {
                        chunk = &chunk[1..];
                        break;
                    }
                    let (low, rest) = set_char(chunk)?;
                    chunk = rest;
                    let mut high = low;
                    if chunk.starts_with('-') {
                        let (end, rest) = set_char(&chunk[1..])?;
                        high = end;
                        chunk = rest;
                    }
                    hit |= next.is_some_and(|c| low <= c && c <= high);
                    ranges += 1;
                }
                failed |= hit == negated;
            }
            '?' => {
                failed |= next == Some('/');
                name = &name[advance..];
                chunk = &chunk[1..];
            }
            _ => {
                let mut literal = first;
                if first == '\\' {
                    chunk = &chunk[1..];
                    literal = chunk.chars().next().ok_or(ESCAPE)?;
                }
                failed |= next != Some(literal);
                name = &name[advance..];
                chunk = &chunk[literal.len_utf8()..];
            }
        }
    }
    Ok(if failed { None } else { Some(name) })
}

/// One character of a set, which `\` may quote.
fn set_char(chunk: &str) -> Result<(char, &str), PatternError> {
    let mut chars = chunk.chars();
    let c = match chars.next() {
        None => return Err(UNCLOSED),
        Some('-' | ']') => return Err(RANGE),
        Some('\\') => chars.next().ok_or(ESCAPE)?,
        Some(c) => c,
    };
    let rest = chars.as_str();
    // A set that ends with the pattern can't be closed any more.
    if rest.is_empty() { Err(UNCLOSED) } else { Ok((c, rest)) }
}

/// A well-formed pattern of a node filter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodePattern(String);

impl NodePattern {
    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether one node identifier (such as `OS:linux`) matches.
    pub fn matches(&self, identifier: &str) -> bool {
        // It was checked when it was made.
        path_match(&self.0, identifier).unwrap_or(false)
    }

    /// Whether any of the node's identifiers matches.
    pub fn matches_any<S: AsRef<str>>(&self, identifiers: &[S]) -> bool {
        identifiers.iter().any(|identifier| self.matches(identifier.as_ref()))
    }
}

impl FromStr for NodePattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError { reason: "it is empty" });
        }
        path_match(text, "").map(|_| Self(text.to_owned()))
    }
}

impl fmt::Display for NodePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for NodePattern {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NodePattern {
    type Error = PatternError;
    fn try_from(text: String) -> Result<Self, PatternError> {
        text.parse()
    }
}

impl From<NodePattern> for String {
    fn from(pattern: NodePattern) -> Self {
        pattern.0
    }
}
