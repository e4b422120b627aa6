//! [`CommandSpec`]: everything that is known of one command, as data.
//!
//! Each platform has one table of these, and nothing else is ever run there. From the table come the arguments, the sudo
//! rules, the page on commands, what `doctor` looks for, and what the endings of a command mean. There is one type for
//! all platforms, so that each of those is written once.
//!
//! ```
//! use native_platform::command::{CommandSpec, Piece, Site, Slot};
//!
//! const DELETE: CommandSpec = CommandSpec {
//!     id: "user-delete",
//!     tool: "userdel",
//!     args: &[&[Piece::Slot(Slot::User)]],
//!     what: "remove the account",
//!     why_root: "the user database is root's",
//!     ..CommandSpec::PLAIN
//! };
//! let site = Site::default();
//! assert_eq!(DELETE.bind(&site, &["fish-abcdef"])?, ["fish-abcdef"]);
//! assert!(DELETE.bind(&site, &["fish-abcdef root"]).is_err());
//! assert_eq!(DELETE.regex(&site), "^fish-[a-z]{6}$");
//! # Ok::<(), native_platform::command::BindError>(())
//! ```

mod site;
mod slot;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

pub use site::{Place, Places, Site};
pub use slot::Slot;

use crate::runner::{Ended, Output};

/// One command.
#[derive(Debug, Clone, Copy)]
pub struct CommandSpec {
    /// A stable name, in kebab-case.
    pub id: &'static str,
    /// The tool's name, which is also its configuration key without `_path`.
    pub tool: &'static str,
    /// Its arguments.
    pub args: &'static [Arg],
    /// More arguments: what a row has that shares the others with its neighbour.
    pub tail: &'static [Arg],
    /// What it reads.
    pub input: Input,
    /// Who runs it.
    pub by: By,
    /// What it does, for people.
    pub what: &'static str,
    /// Why it needs root; empty if it does not.
    pub why_root: &'static str,
    /// What its endings mean, first match first; 0 is success where no row says otherwise.
    pub outcomes: &'static [Outcome],
    /// How often an ending that may pass is tried again.
    pub retry: Retry,
    /// How long it may take, in seconds.
    pub limit_s: u32,
    /// The command that takes its effect away.
    pub undo: Option<&'static str>,
    /// The sudo rule that hosts have for it today, if they have one.
    pub published: Option<&'static str>,
    /// Whether a sudo rule for it can be tight enough to be written. One that can't runs as root and with the
    /// published rules only.
    pub fenceable: bool,
}

/// The commands of one platform.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// `Linux`, `macOS`.
    pub os: &'static str,
    /// All of them, in the order of an environment's life.
    pub commands: &'static [CommandSpec],
    /// Published sudo rules for commands that are not run any more. Hosts have them.
    pub retired: &'static [&'static str],
    /// Where the platform has a tool, given its name.
    pub tool_path: fn(&str) -> PathBuf,
    /// Why the commands can't be allowed one by one instead of the helper; `None` where they can.
    pub helper_only: Option<&'static str>,
}

impl Table {
    /// The row with this id.
    pub fn command(&self, id: &str) -> Option<&'static CommandSpec> {
        self.commands.iter().find(|row| row.id == id)
    }

    /// The commands that need root.
    pub fn privileged(&self) -> impl Iterator<Item = &'static CommandSpec> + use<> {
        self.commands.iter().filter(|row| row.privileged())
    }

    /// The tools, each once.
    pub fn tools(&self) -> BTreeSet<&'static str> {
        self.commands.iter().map(|row| row.tool).collect()
    }
}

/// Who runs a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The driver: with root rights if the row says why, else with its own.
    Driver,
    /// A job, as the environment's account.
    Account,
}

/// One argument: pieces that are joined.
pub type Arg = &'static [Piece];

/// A piece of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// This text.
    Text(&'static str),
    /// A place of the host.
    At(Place),
    /// A value.
    Slot(Slot),
}

/// What a command reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Nothing.
    Nothing,
    /// A job: one line of shell that runs as the environment's user, then that job's own input.
    Job,
}

/// What one ending means.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// The ending.
    pub ending: Ended,
    /// Text that its output contains; empty: any.
    pub text: &'static str,
    /// What it means.
    pub means: Means,
    /// Where that is known from.
    pub source: &'static str,
}

/// What an ending means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// As good as success.
    Done,
    /// What it was about is not there.
    Absent,
    /// It may pass; try again.
    Again,
    /// Something holds what it was about; try again, then harder.
    Busy,
    /// The system does not allow it to this program, whoever runs it (macOS: step 5 of the set-up in `docs/src/macos.md`).
    Denied,
}

/// How often a command is tried, and how long the pauses are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Tries after the first.
    pub times: u32,
    /// Pause before each, in ms.
    pub pause_ms: u32,
}

impl Retry {
    /// Once is enough.
    pub const NEVER: Self = Self { times: 0, pause_ms: 0 };
}

impl CommandSpec {
    /// What a row is that says nothing else: unprivileged, 10 s, tried once.
    pub const PLAIN: Self = Self {
        id: "",
        tool: "",
        args: &[],
        tail: &[],
        input: Input::Nothing,
        by: By::Driver,
        what: "",
        why_root: "",
        outcomes: &[],
        retry: Retry::NEVER,
        limit_s: 10,
        undo: None,
        published: None,
        fenceable: true,
    };

    /// Whether it needs root.
    pub fn privileged(&self) -> bool {
        !self.why_root.is_empty()
    }

    /// All its arguments.
    pub fn arguments(&self) -> impl Iterator<Item = Arg> {
        self.args.iter().chain(self.tail).copied()
    }

    /// Its slots, in order.
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        self.arguments().flatten().filter_map(|piece| match piece {
            Piece::Slot(slot) => Some(*slot),
            _ => None,
        })
    }

    /// What an ending means, if the row knows.
    pub fn meaning(&self, output: &Output) -> Option<Means> {
        let says = |text: &str| output.stderr.contains(text) || output.stdout.contains(text);
        self.outcomes.iter().find(|o| o.ending == output.ended && says(o.text)).map(|o| o.means)
    }
}

/// A value that a slot does not admit, or a wrong number of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
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

impl CommandSpec {
    /// The arguments with these values in the slots, in order.
    ///
    /// # Errors
    /// [`BindError`] when a value is not of its slot's form.
    pub fn bind(&self, site: &Site, values: &[&str]) -> Result<Vec<String>, BindError> {
        let wanted = self.slots().count();
        if wanted != values.len() {
            return Err(BindError::Count { command: self.id, given: values.len(), wanted });
        }
        let mut rest = values.iter();
        let mut argv = Vec::new();
        for arg in self.arguments() {
            let mut text = String::new();
            for piece in arg {
                match piece {
                    Piece::Text(fixed) => text.push_str(fixed),
                    Piece::At(place) => text.push_str(&site.places.of(*place)),
                    Piece::Slot(slot) => {
                        let value = rest.next().copied().unwrap_or_default();
                        if !slot.admits(value, site) {
                            return Err(BindError::Refused { command: self.id, slot: *slot, value: value.to_owned() });
                        }
                        text.push_str(value);
                    }
                }
            }
            argv.push(text);
        }
        Ok(argv)
    }

    /// The arguments with an example in each slot.
    pub fn example(&self, site: &Site) -> Vec<String> {
        let values: Vec<_> = self.slots().map(|s| s.example(site)).collect();
        self.bind(site, &values.iter().map(String::as_str).collect::<Vec<_>>()).unwrap_or_default()
    }

    /// The arguments as one anchored POSIX expression over their joined text.
    pub fn regex(&self, site: &Site) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => escape(text),
            Piece::At(place) => escape(&site.places.of(*place)),
            Piece::Slot(slot) => slot.regex(site),
        };
        let args: Vec<String> = self.arguments().map(|arg| arg.iter().map(piece).collect()).collect();
        format!("^{}$", args.join(" "))
    }

    /// The arguments as shell patterns over their joined text: one for each combination of what slots admit.
    pub fn globs(&self, site: &Site) -> Vec<String> {
        let mut patterns = vec![String::new()];
        for (index, arg) in self.arguments().enumerate() {
            if index > 0 {
                patterns.iter_mut().for_each(|p| p.push(' '));
            }
            for piece in arg {
                let texts = match piece {
                    Piece::Text(text) => vec![glob_escape(text)],
                    Piece::At(place) => vec![glob_escape(&site.places.of(*place))],
                    Piece::Slot(slot) => slot.globs(site),
                };
                patterns = patterns.iter().flat_map(|p| texts.iter().map(move |t| format!("{p}{t}"))).collect();
            }
        }
        patterns
    }
}

/// Text in an expression. A bracket instead of a backslash where it can be: sudo's own lexer eats backslashes
/// before `,`, `:`, `=` and `\`, so the fewer the better.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '.' if out.is_empty() && text == "." => out.push_str("\\."),
            '.' | '+' | '*' | '?' | '(' | ')' | '{' | '}' | '|' | '$' => {
                out.push('[');
                out.push(c);
                out.push(']');
            }
            '[' | ']' | '^' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

/// Text in a pattern. sudoers(5) asks for a backslash before `,`, `:`, `=` and `\` in arguments.
fn glob_escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if matches!(c, ',' | ':' | '=' | '\\' | '*' | '?' | '[' | ']') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

impl fmt::Display for Means {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "done",
            Self::Absent => "not there",
            Self::Again => "try again",
            Self::Busy => "busy",
            Self::Denied => "denied by the system",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[Arg] = &[&[Piece::Text(".")], &[Piece::Text("delete")]];
    const DELETE: CommandSpec = CommandSpec {
        id: "user-delete",
        tool: "dscl",
        args: HEAD,
        tail: &[&[Piece::Text("/Users/"), Piece::Slot(Slot::User)]],
        why_root: "the user database is root's",
        outcomes: &[Outcome { ending: Ended::Code(1), text: "no such", means: Means::Absent, source: "a manual page" }],
        ..CommandSpec::PLAIN
    };

    #[test]
    fn binds_values_to_slots() {
        let site = Site::default();
        assert_eq!(DELETE.bind(&site, &["fish-abcdef"]).unwrap(), [".", "delete", "/Users/fish-abcdef"]);
        assert_eq!(DELETE.regex(&site), "^\\. delete /Users/fish-[a-z]{6}$");
        assert_eq!(DELETE.globs(&site), [format!(". delete /Users/fish-{}", "[a-z]".repeat(6))]);
    }

    #[test]
    fn refuses_what_a_slot_does_not_admit() {
        let site = Site::default();
        for bad in ["root", "fish-abcdef root", "-r", "fish-abcde/", "../fish-abcdef", "fish-abcdef\n", ""] {
            assert!(matches!(DELETE.bind(&site, &[bad]), Err(BindError::Refused { .. })), "{bad}");
        }
        assert!(matches!(DELETE.bind(&site, &[]), Err(BindError::Count { given: 0, wanted: 1, .. })));
    }

    #[test]
    fn an_ending_means_what_the_row_says() {
        let said =
            |code, text: &str| Output { ended: Ended::Code(code), stdout: String::new(), stderr: text.to_owned() };
        assert_eq!(DELETE.meaning(&said(1, "there is no such user")), Some(Means::Absent));
        assert_eq!(DELETE.meaning(&said(1, "denied")), None);
        assert_eq!(DELETE.meaning(&said(2, "no such")), None);
    }
}
