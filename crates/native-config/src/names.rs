//! Names that become paths, accounts or mount points: one newtype and one strict alphabet each.
//!
//! Every alphabet excludes `/`, control characters, blanks and a leading `-` or `.`; `..` is refused anywhere.
//! A value of such a type can be joined to a path or put on a command line without a further check.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Why a text is not a name of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was written.
    #[error("{what} is empty")]
    Empty {
        /// The kind of name.
        what: &'static str,
    },
    /// More characters than the kind allows.
    #[error("{what} has {length} characters, at most {limit} are allowed")]
    TooLong {
        /// The kind of name.
        what: &'static str,
        /// Characters found.
        length: usize,
        /// Characters allowed.
        limit: usize,
    },
    /// `..` could leave a directory.
    #[error("{what} {text:?} contains `..`")]
    DotDot {
        /// The kind of name.
        what: &'static str,
        /// The text.
        text: String,
    },
    /// A character outside the alphabet, or at a place where it may not stand.
    #[error("{what} {text:?}: {found:?} is not allowed at character {at}, {rule}")]
    Character {
        /// The kind of name.
        what: &'static str,
        /// The text.
        text: String,
        /// The character.
        found: char,
        /// Its place, from 1.
        at: usize,
        /// The alphabet in words.
        rule: &'static str,
    },
    /// The text as a whole has another form than the kind asks for.
    #[error("{what} {text:?} is not allowed, {rule}")]
    Form {
        /// The kind of name.
        what: &'static str,
        /// The text.
        text: String,
        /// The form in words.
        rule: &'static str,
    },
}

/// What a kind of name may hold.
struct Alphabet {
    what: &'static str,
    rule: &'static str,
    limit: usize,
    first: fn(char) -> bool,
    rest: fn(char) -> bool,
}

fn alnum(c: char) -> bool {
    c.is_ascii_alphanumeric()
}

fn alnum_dot(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// Texts in messages stay short whatever the input was.
pub(crate) fn shorten(text: &str) -> String {
    const KEEP: usize = 80;
    match text.char_indices().nth(KEEP) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text.to_owned(),
    }
}

fn check(alphabet: &Alphabet, text: &str) -> Result<(), NameError> {
    let Alphabet { what, rule, limit, first, rest } = *alphabet;
    if text.is_empty() {
        return Err(NameError::Empty { what });
    }
    let length = text.chars().count();
    if length > limit {
        return Err(NameError::TooLong { what, length, limit });
    }
    for (index, c) in text.chars().enumerate() {
        let fine = if index == 0 { first(c) } else { rest(c) };
        if !fine {
            return Err(NameError::Character { what, text: shorten(text), found: c, at: index + 1, rule });
        }
    }
    if text.contains("..") {
        return Err(NameError::DotDot { what, text: shorten(text) });
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> Result<(), NameError> = $check;
                check(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

const FILE_RULE: &str = "use letters, digits, `.`, `_` and `-`, with a letter or digit first";

name!(
    /// A disk of a definition: 1 to 64 of letters, digits, `.`, `_`, `-`, with a letter or digit first.
    DiskName,
    |text| check(&Alphabet { what: "the disk name", rule: FILE_RULE, limit: 64, first: alnum, rest: alnum_dot }, text)
);

name!(
    /// The name of an image: 1 to 128 of letters, digits, `.`, `_`, `-`, with a letter or digit first.
    ImageName,
    |text| check(&Alphabet { what: "the image name", rule: FILE_RULE, limit: 128, first: alnum, rest: alnum_dot }, text)
);

name!(
    /// The version of an image: 1 to 128 of letters, digits, `.`, `_`, `-`, `+`, with a letter or digit first.
    ImageVersion,
    |text| check(
        &Alphabet {
            what: "the image version",
            rule: "use letters, digits, `.`, `_`, `-` and `+`, with a letter or digit first",
            limit: 128,
            first: alnum,
            rest: |c| alnum_dot(c) || c == '+',
        },
        text,
    )
);

name!(
    /// A group of the host, by name: 1 to 64 of letters, digits, `.`, `_`, `-`, with a letter, digit or `_` first,
    /// and not only digits (a number would be taken for a gid by some tools and for a name by others).
    GroupName,
    |text| {
        const RULE: &str = "use letters, digits, `.`, `_` and `-`, with a letter, digit or `_` first";
        check(
            &Alphabet {
                what: "the group name",
                rule: RULE,
                limit: 64,
                first: |c| alnum(c) || c == '_',
                rest: alnum_dot,
            },
            text,
        )?;
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(NameError::Form {
                what: "the group name",
                text: text.to_owned(),
                rule: "a group is given by its name, not by its number",
            });
        }
        Ok(())
    }
);

name!(
    /// The identifier of an environment, which is its account's name too: `fish-` and six lower-case letters.
    EnvironmentId,
    |text| {
        let fine = text
            .strip_prefix("fish-")
            .is_some_and(|tail| tail.len() == 6 && tail.bytes().all(|b| b.is_ascii_lowercase()));
        if fine {
            return Ok(());
        }
        Err(NameError::Form {
            what: "the environment identifier",
            text: shorten(text),
            rule: "it is `fish-` and six lower-case letters",
        })
    }
);

name!(
    /// A configured instance of the driver: `native`, or `native/NAME` with the alphabet of a disk name.
    InstanceName,
    |text| match text.strip_prefix("native") {
        Some("") => Ok(()),
        Some(rest) if rest.starts_with('/') => check(
            &Alphabet { what: "the instance name", rule: FILE_RULE, limit: 64, first: alnum, rest: alnum_dot },
            &rest[1..],
        ),
        _ => Err(NameError::Form {
            what: "the instance name",
            text: shorten(text),
            rule: "it is `native` or `native/NAME`",
        }),
    }
);

impl Default for InstanceName {
    fn default() -> Self {
        Self("native".to_owned())
    }
}
