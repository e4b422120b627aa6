//! [`Slot`]: what may stand at one place of a command, as a check, as a regular expression and as a shell
//! pattern.
//!
//! No slot but [`Slot::Path`] admits a blank, a slash, `..` or a leading dash: sudo compares the arguments as
//! one string joined by spaces, so a value with a space could be read as two arguments.

use std::fmt;

use native_config::{DiskName, EnvironmentId, GroupName};

use super::Site;

/// What may stand at one place of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// An environment's name.
    User,
    /// A uid of our range.
    Uid,
    /// The number of an allowed group.
    Gid,
    /// The name of an allowed group.
    Group,
    /// Names of groups, separated by commas.
    Groups,
    /// A decimal number.
    Number,
    /// A word of letters, digits, `.`, `_`, `-`, `=`, `^` and `,`.
    Word,
    /// A disk of a label, or `home` or `temp`.
    Disk,
    /// A device node's name, such as `disk4`.
    Device,
    /// A size in MiB.
    Megabytes,
    /// A volume's name, for people.
    Label,
    /// A file system's name.
    FileSystem,
    /// `m`, `q` or `s`: System V shared memory, queues, semaphores.
    IpcKind,
    /// An absolute path without `..`. Only in commands that need no root.
    Path,
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "environment name",
            Self::Uid => "uid of the range",
            Self::Gid => "group number",
            Self::Group => "group name",
            Self::Groups => "list of group names",
            Self::Number => "number",
            Self::Word => "word",
            Self::Disk => "disk name",
            Self::Device => "disk device",
            Self::Megabytes => "size in MiB",
            Self::Label => "volume name",
            Self::FileSystem => "file system",
            Self::IpcKind => "kind of System V object",
            Self::Path => "absolute path",
        })
    }
}

/// An expression that no argument matches.
const NEVER: &str = "(never)";

fn digits(text: &str, most: usize) -> bool {
    !text.is_empty() && text.len() <= most && text.bytes().all(|b| b.is_ascii_digit())
}

impl Slot {
    /// Whether the slot admits the value at this site.
    pub fn admits(self, value: &str, site: &Site) -> bool {
        match self {
            Self::User => value.parse::<EnvironmentId>().is_ok(),
            Self::Uid => value.parse().is_ok_and(|n| (site.uids.0..=site.uids.1).contains(&n)) && digits(value, 10),
            Self::Gid => digits(value, 10),
            Self::Group => value.parse::<GroupName>().is_ok(),
            Self::Groups => value.split(',').all(|g| g.parse::<GroupName>().is_ok()),
            Self::Number => digits(value, 20),
            Self::Word => {
                !value.is_empty()
                    && !value.starts_with('-')
                    && !value.contains("..")
                    && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-=,^".contains(&b))
            }
            Self::Disk => value.parse::<DiskName>().is_ok(),
            Self::Device => value.strip_prefix("disk").is_some_and(|n| digits(n, 5)),
            Self::Megabytes => digits(value, 12),
            Self::Label => {
                !value.is_empty()
                    && value.len() <= 64
                    && value.starts_with(|c: char| c.is_ascii_alphanumeric())
                    && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
                    && !value.contains("..")
            }
            Self::FileSystem => matches!(value, "APFS" | "HFS+"),
            Self::IpcKind => matches!(value, "m" | "q" | "s"),
            Self::Path => {
                value.starts_with('/')
                    && !value.bytes().any(|b| b == 0 || b == b'\n')
                    && !value.split('/').any(|part| part == "..")
            }
        }
    }

    /// A POSIX extended regular expression that admits no more than the slot does.
    pub fn regex(self, site: &Site) -> String {
        match self {
            Self::User => "fish-[a-z]{6}".to_owned(),
            Self::Uid => alternatives(range_patterns(site.uids.0, site.uids.1)),
            Self::Gid => alternatives(site.groups.iter().map(|(_, gid)| gid.to_string()).collect()),
            Self::Group => {
                alternatives(site.groups.iter().map(|(name, _)| name.as_str().replace('.', "[.]")).collect())
            }
            Self::Disk => "[A-Za-z0-9][A-Za-z0-9_-]*".to_owned(),
            Self::Device => "disk[0-9]{1,5}".to_owned(),
            Self::Megabytes => "[0-9]{1,12}".to_owned(),
            Self::Label => "[A-Za-z0-9][A-Za-z0-9_-]*".to_owned(),
            Self::FileSystem => "(APFS|HFS[+])".to_owned(),
            Self::IpcKind => "[mqs]".to_owned(),
            Self::Number => "[0-9]{1,20}".to_owned(),
            // These can't be fenced by an expression: no rule may hold one, and none does (tested).
            Self::Path | Self::Word | Self::Groups => NEVER.to_owned(),
        }
    }

    /// Shell patterns that together admit no more than the slot does, as far as a pattern can say it.
    pub fn globs(self, site: &Site) -> Vec<String> {
        match self {
            Self::User => vec![format!("fish-{}", "[a-z]".repeat(6))],
            Self::Uid => range_patterns(site.uids.0, site.uids.1).iter().map(|p| unroll(p)).collect(),
            Self::Gid => site.groups.iter().map(|(_, gid)| gid.to_string()).collect(),
            Self::Group => site.groups.iter().map(|(name, _)| name.to_string()).collect(),
            // No rule holds one.
            Self::Groups
            | Self::Number
            | Self::Word
            | Self::Disk
            | Self::Device
            | Self::Megabytes
            | Self::Label
            | Self::FileSystem
            | Self::IpcKind
            | Self::Path => Vec::new(),
        }
    }

    /// A value that the slot admits, for documentation and tests.
    pub fn example(self, site: &Site) -> String {
        match self {
            Self::User => "fish-abcdef".to_owned(),
            Self::Uid => site.uids.0.to_string(),
            Self::Gid => site.groups.first().map_or_else(|| "20".to_owned(), |(_, gid)| gid.to_string()),
            Self::Group => site.groups.first().map_or_else(|| "staff".to_owned(), |(name, _)| name.to_string()),
            Self::Groups => "staff,everyone".to_owned(),
            Self::Number => "1024".to_owned(),
            Self::Word => "ws".to_owned(),
            Self::Disk => "ws".to_owned(),
            Self::Device => "disk4".to_owned(),
            Self::Megabytes => "1024".to_owned(),
            Self::Label => "ws".to_owned(),
            Self::FileSystem => "APFS".to_owned(),
            Self::IpcKind => "m".to_owned(),
            Self::Path => "/private/var/fish/x".to_owned(),
        }
    }
}

fn alternatives(mut parts: Vec<String>) -> String {
    match parts.len() {
        // A group that no site has: the rule is there and admits nothing.
        0 => "(none-allowed)".to_owned(),
        1 => parts.remove(0),
        _ => format!("({})", parts.join("|")),
    }
}

/// Patterns that together admit exactly the numbers from `low` to `high`: `7[0-9]{4}` for 70000 to 79999.
fn range_patterns(low: u32, high: u32) -> Vec<String> {
    let (mut from, high) = (u64::from(low), u64::from(high));
    let mut patterns = Vec::new();
    while from <= high {
        // The widest block of powers of ten that starts here and ends within the range: its low digits are
        // free, its lowest fixed digit may span several values.
        let mut free = 0;
        while from.is_multiple_of(10_u64.pow(free + 1))
            && from + 10_u64.pow(free + 1) - 1 <= high
            && from.max(1).ilog10() > free
        {
            free += 1;
        }
        let block = 10_u64.pow(free);
        let digit = from / block % 10;
        let span = (9 - digit).min((high + 1 - from) / block - 1);
        let head = (from / block / 10).to_string();
        let head = if from / block / 10 == 0 { String::new() } else { head };
        let last = if span == 0 { digit.to_string() } else { format!("[{digit}-{}]", digit + span) };
        let tail = match free {
            0 => String::new(),
            1 => "[0-9]".to_owned(),
            n => format!("[0-9]{{{n}}}"),
        };
        patterns.push(format!("{head}{last}{tail}"));
        from += block * (span + 1);
    }
    patterns
}

/// A pattern without `{n}`, which the shell does not know.
fn unroll(pattern: &str) -> String {
    match pattern.split_once("[0-9]{") {
        Some((head, tail)) => {
            let count = tail.trim_end_matches('}').parse().unwrap_or(1);
            format!("{head}{}", "[0-9]".repeat(count))
        }
        None => pattern.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_becomes_as_few_patterns_as_possible() {
        assert_eq!(range_patterns(70000, 79999), ["7[0-9]{4}"]);
        assert_eq!(range_patterns(600, 699), ["6[0-9]{2}"]);
        assert_eq!(range_patterns(95, 121), ["9[5-9]", "1[0-1][0-9]", "12[0-1]"]);
        assert_eq!(unroll("7[0-9]{4}"), "7[0-9][0-9][0-9][0-9]");
    }

    #[test]
    fn range_patterns_admit_exactly_the_range() {
        for (low, high) in [(0, 105), (998, 1203), (500, 500), (1, 2000), (70000, 70123)] {
            let patterns = range_patterns(low, high);
            let admits = |n: u32| patterns.iter().any(|p| matches(p, &n.to_string()));
            for n in 0..3000_u32 {
                assert_eq!(admits(n), (low..=high).contains(&n), "{low}-{high}: {n} in {patterns:?}");
            }
        }
    }

    /// Compares with the few forms that `range_patterns` writes.
    fn matches(pattern: &str, text: &str) -> bool {
        let flat = unroll(pattern);
        let (mut rest, mut text) = (flat.as_str(), text.chars());
        while !rest.is_empty() {
            let Some(c) = text.next() else { return false };
            if let Some(class) = rest.strip_prefix('[') {
                let bytes = class.as_bytes();
                if !(bytes[0]..=bytes[2]).contains(&(c as u8)) {
                    return false;
                }
                rest = &class[4..];
            } else if rest.starts_with(c) {
                rest = &rest[1..];
            } else {
                return false;
            }
        }
        text.next().is_none()
    }

    #[test]
    fn only_paths_admit_what_could_be_read_as_more() {
        let site = Site::default();
        let slots = [
            Slot::User,
            Slot::Uid,
            Slot::Gid,
            Slot::Group,
            Slot::Groups,
            Slot::Number,
            Slot::Word,
            Slot::Disk,
            Slot::Device,
            Slot::Megabytes,
            Slot::Label,
            Slot::FileSystem,
            Slot::IpcKind,
        ];
        for slot in slots {
            for bad in ["", "a b", "a/b", "..", "-x", "a\nb", "a\0b", "a\\b", "a%2fb"] {
                assert!(!slot.admits(bad, &site), "{slot}: {bad:?}");
            }
            assert!(slot.admits(&slot.example(&site), &site), "{slot}");
        }
    }
}
