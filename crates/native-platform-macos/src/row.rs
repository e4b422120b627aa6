//! [`CommandRow`]: everything that is known of one command, as data.
//!
//! `native_platform::CommandSpec` holds the shape of a command; a row holds more, because on macOS more is made
//! from it: an argument may be built from several pieces (`. /private/var/fish-native/job.sh` is one), and
//! each row says what its exit codes mean, how often it is tried, and what takes its effect away again.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::slot::{Site, Slot};

/// One command.
#[derive(Debug, Clone, Copy)]
pub struct CommandRow {
    /// A stable name, in kebab-case.
    pub id: &'static str,
    /// The tool's name, which is also its configuration key without `_path`.
    pub tool: &'static str,
    /// Its arguments.
    pub args: &'static [Arg],
    /// What it reads.
    pub input: Input,
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
    /// The rule that hosts have for it today, if they have one; see [`crate::sudoers`].
    pub published: Option<&'static str>,
    /// Whether a rule for it can be tight enough to be written. One that can't runs as root and with the
    /// published rules only.
    pub fenceable: bool,
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

/// A place of the host that its settings fix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// What stands before `/Users`: nothing, but for the emulated host.
    System,
    /// The state directory.
    State,
    /// The shell of accounts.
    Shell,
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
    pub ending: Ending,
    /// Text that its output contains; empty: any.
    pub text: &'static str,
    /// What it means.
    pub means: Means,
    /// Where that is known from.
    pub source: &'static str,
}

/// How a tool ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
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
    /// macOS does not allow it to this program (step 5 of the set-up in `docs/src/macos.md`).
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

impl CommandRow {
    /// What a row is that says nothing else: unprivileged, 10 s, tried once.
    pub const PLAIN: Self = Self {
        id: "",
        tool: "",
        args: &[],
        input: Input::Nothing,
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

    /// Its slots, in order.
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        self.args.iter().flat_map(|arg| arg.iter()).filter_map(|piece| match piece {
            Piece::Slot(slot) => Some(*slot),
            _ => None,
        })
    }
}

/// Where a host keeps things. All of it but `state` is fixed on a real Mac.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// What stands before `/Users`, `/Volumes`, `/private`. Empty on a real Mac.
    pub system: PathBuf,
    /// Our own directory: uid counter, records, the script that jobs run through.
    pub state: PathBuf,
    /// The shell of accounts.
    pub shell: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            system: PathBuf::new(),
            // `/var` is a symbolic link and mount(8) prints the real path.
            state: PathBuf::from("/private/var/fish-native"),
            shell: PathBuf::from("/bin/sh"),
        }
    }
}

impl Places {
    fn of(&self, place: Place) -> String {
        let path: &Path = match place {
            Place::System => &self.system,
            Place::State => &self.state,
            Place::Shell => &self.shell,
        };
        path.display().to_string()
    }

    /// A path of the host, given as on a real Mac.
    pub fn path(&self, absolute: &str) -> PathBuf {
        if self.system.as_os_str().is_empty() {
            PathBuf::from(absolute)
        } else {
            self.system.join(absolute.trim_start_matches('/'))
        }
    }

    /// The home of an account.
    pub fn home(&self, user: &str) -> PathBuf {
        self.path("/Users").join(user)
    }

    /// Where a disk of an account is mounted.
    pub fn volume(&self, user: &str, disk: &str) -> PathBuf {
        self.path("/Volumes").join(format!("{user}_{disk}"))
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

impl CommandRow {
    /// The arguments with these values in the slots, in order.
    ///
    /// # Errors
    /// [`BindError`] when a value is not of its slot's form.
    pub fn bind(&self, places: &Places, site: &Site, values: &[&str]) -> Result<Vec<String>, BindError> {
        let wanted = self.slots().count();
        if wanted != values.len() {
            return Err(BindError::Count { command: self.id, given: values.len(), wanted });
        }
        let mut rest = values.iter();
        let mut argv = Vec::with_capacity(self.args.len());
        for arg in self.args {
            let mut text = String::new();
            for piece in *arg {
                match piece {
                    Piece::Text(fixed) => text.push_str(fixed),
                    Piece::At(place) => text.push_str(&places.of(*place)),
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
    pub fn example(&self, places: &Places, site: &Site) -> Vec<String> {
        let values: Vec<_> = self.slots().map(|s| s.example(site)).collect();
        self.bind(places, site, &values.iter().map(String::as_str).collect::<Vec<_>>()).unwrap_or_default()
    }

    /// The arguments as one anchored POSIX expression over their joined text.
    pub fn regex(&self, places: &Places, site: &Site) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => escape(text),
            Piece::At(place) => escape(&places.of(*place)),
            Piece::Slot(slot) => slot.regex(site),
        };
        let args: Vec<String> = self.args.iter().map(|arg| arg.iter().map(piece).collect()).collect();
        format!("^{}$", args.join(" "))
    }

    /// The arguments as shell patterns over their joined text: one for each combination of what slots admit.
    pub fn globs(&self, places: &Places, site: &Site) -> Vec<String> {
        let mut patterns = vec![String::new()];
        for (index, arg) in self.args.iter().enumerate() {
            if index > 0 {
                patterns.iter_mut().for_each(|p| p.push(' '));
            }
            for piece in *arg {
                let texts = match piece {
                    Piece::Text(text) => vec![glob_escape(text)],
                    Piece::At(place) => vec![glob_escape(&places.of(*place))],
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

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

impl fmt::Display for Means {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "done",
            Self::Absent => "not there",
            Self::Again => "try again",
            Self::Busy => "busy",
            Self::Denied => "denied by macOS",
        })
    }
}
