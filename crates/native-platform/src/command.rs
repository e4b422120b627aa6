//! [`CommandSpec`]: the shape of a tool's arguments, as data.
//!
//! One table of these per platform is the single source of what is run: argv, sudo rules, the reference page
//! and the preflight checks are all made from it.

use std::fmt;

/// One command of a platform.
#[derive(Debug, Clone, Copy)]
pub struct CommandSpec {
    /// A stable name, in kebab-case.
    pub id: &'static str,
    /// The tool's name, which is also its configuration key without `_path`.
    pub tool: &'static str,
    /// Its arguments.
    pub args: &'static [Part],
    /// Why it needs root; empty if it does not.
    pub why_root: &'static str,
}

/// A piece of one argument, or a whole one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// This text, as one argument.
    Text(&'static str),
    /// A prefix, then a slot, as one argument.
    Slot(&'static str, Slot),
}

/// What may stand in a slot. No slot but [`Slot::Path`] admits a space, a slash, `..` or a leading dash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// An environment's name.
    User,
    /// A decimal number.
    Number,
    /// A group name.
    Group,
    /// A list of group names, separated by commas.
    Groups,
    /// A word of letters, digits, `.`, `_`, `-`, `=` and `,`.
    Word,
    /// An absolute path without `..`.
    Path,
}

/// A value that a slot does not admit, or a wrong number of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// The value is not of the slot's form.
    #[error("{command}: {value:?} is not a {slot}")]
    Refused {
        /// The command's id.
        command: &'static str,
        /// The slot's form.
        slot: Slot,
        /// The value.
        value: String,
    },
    /// More or fewer values than slots.
    #[error("{command}: {given} values for {wanted} slots")]
    Count {
        /// The command's id.
        command: &'static str,
        /// How many values were given.
        given: usize,
        /// How many slots there are.
        wanted: usize,
    },
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "environment name",
            Self::Number => "number",
            Self::Group => "group name",
            Self::Groups => "list of group names",
            Self::Word => "word",
            Self::Path => "absolute path",
        })
    }
}

impl Slot {
    /// Whether the slot admits the value.
    pub fn admits(self, value: &str) -> bool {
        match self {
            Self::User => value.parse::<native_config::EnvironmentId>().is_ok(),
            Self::Number => !value.is_empty() && value.len() <= 20 && value.bytes().all(|b| b.is_ascii_digit()),
            Self::Group => value.parse::<native_config::GroupName>().is_ok(),
            Self::Groups => value.split(',').all(|g| g.parse::<native_config::GroupName>().is_ok()),
            Self::Word => {
                !value.is_empty()
                    && !value.starts_with('-')
                    && !value.contains("..")
                    && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-=,^".contains(&b))
            }
            Self::Path => {
                value.starts_with('/')
                    && !value.bytes().any(|b| b == 0 || b == b'\n')
                    && !value.split('/').any(|part| part == "..")
            }
        }
    }
}

impl CommandSpec {
    /// The arguments with these values in the slots, in order.
    ///
    /// # Errors
    /// [`SlotError`] when a value is not of its slot's form.
    pub fn bind(&self, values: &[&str]) -> Result<Vec<String>, SlotError> {
        let wanted = self.args.iter().filter(|p| matches!(p, Part::Slot(..))).count();
        if wanted != values.len() {
            return Err(SlotError::Count { command: self.id, given: values.len(), wanted });
        }
        let mut rest = values.iter();
        let mut argv = Vec::with_capacity(self.args.len());
        for part in self.args {
            match part {
                Part::Text(text) => argv.push((*text).to_owned()),
                Part::Slot(prefix, slot) => {
                    let value = rest.next().copied().unwrap_or_default();
                    if !slot.admits(value) {
                        return Err(SlotError::Refused { command: self.id, slot: *slot, value: value.to_owned() });
                    }
                    argv.push(format!("{prefix}{value}"));
                }
            }
        }
        Ok(argv)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELETE: CommandSpec = CommandSpec {
        id: "user-delete",
        tool: "userdel",
        args: &[Part::Text("--"), Part::Slot("", Slot::User)],
        why_root: "the user database is root's",
    };

    #[test]
    fn binds_values_to_slots() {
        assert_eq!(DELETE.bind(&["fish-abcdef"]).unwrap(), ["--", "fish-abcdef"]);
    }

    #[test]
    fn refuses_what_a_slot_does_not_admit() {
        for bad in ["root", "fish-abcdef root", "-r", "fish-abcde/", "../fish-abcdef", ""] {
            assert!(matches!(DELETE.bind(&[bad]), Err(SlotError::Refused { .. })), "{bad}");
        }
        assert!(matches!(DELETE.bind(&[]), Err(SlotError::Count { given: 0, wanted: 1, .. })));
    }

    #[test]
    fn only_paths_admit_slashes() {
        for slot in [Slot::User, Slot::Number, Slot::Group, Slot::Groups, Slot::Word] {
            for bad in ["a/b", "a b", "..", "-x", "a\nb", ""] {
                assert!(!slot.admits(bad), "{slot}: {bad:?}");
            }
        }
        assert!(Slot::Path.admits("/srv/a b"));
        assert!(!Slot::Path.admits("/srv/../etc") && !Slot::Path.admits("etc"));
    }
}
