//! The keeper: our own program again, in a hidden entry, as the process that stays beside a workload.
//!
//! It runs with the driver's rights: as root in the root mode, as the service's user with `sudo -n` in front of
//! each command otherwise; so one program serves both. Four modes, each of which reads one document:
//!
//! 1. `job` runs one job as the account, with an archive of a tree as its input if asked to, and answers.
//! 2. `workload` starts a second process of itself and answers when the entry has started. The second one
//!    (`workload-stays`) holds the log, the lifetime and the memory limit, and writes how the entry ended.
//! 3. `archive` writes a tree as an archive; as the driver's user where the keeper is root.
//! 4. `enter` runs a command of `exec` and passes its streams through in frames.
//!
//! Nothing secret is in an argument or a file: variables come by standard input and go on by standard input.

mod enter;
mod frame;
mod job;
mod log;
mod workload;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::fchown;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use native_platform::{Exit, Invocation, Runner, SystemRunner};
use rustix::fs::{AtFlags, Mode, OFlags};
use serde::{Deserialize, Serialize};

pub(crate) use frame::{Frame, read_frame};

use crate::mac::Answer;

/// What a workload printed, in the environment's directory.
pub(crate) const LOG: &str = "log";
/// The older half of it.
pub(crate) const OLD_LOG: &str = "log.1";
/// How the entry is doing.
pub(crate) const STATUS: &str = "status";
/// The version of the `status` document.
pub(crate) const VERSION: u32 = 1;

/// A whole command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Command(pub(crate) Vec<String>);

impl Command {
    /// The process to be, with an empty environment but for what tools get.
    fn process(&self) -> std::process::Command {
        #[expect(clippy::disallowed_methods, reason = "the keeper is the one other place that starts processes")]
        let mut process = std::process::Command::new(self.0.first().map(String::as_str).unwrap_or_default());
        process.args(self.0.get(1..).unwrap_or_default()).env_clear().current_dir("/");
        process.env("PATH", native_platform::runner::TOOL_PATH).env("LC_ALL", "C");
        process
    }

    /// Runs it and returns what it printed; nothing if it can't be run or takes too long. One that hangs must not hold
    /// up the workload's output, nor its end.
    fn output(&self) -> String {
        let Some((program, args)) = self.0.split_first() else { return String::new() };
        let invocation = Invocation::new("keeper", PathBuf::from(program), args.to_vec());
        let output = SystemRunner::real().run(&Invocation { limit: PATIENCE, ..invocation });
        output.map(|o| o.stdout).unwrap_or_default()
    }
}

/// How long a command may take that is short by nature.
const PATIENCE: Duration = Duration::from_secs(5);

/// A job to run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct JobSpec {
    /// Starts this keeper again, without the mode.
    pub(crate) keeper: Vec<String>,
    pub(crate) command: Command,
    /// The line of shell.
    pub(crate) job: String,
    /// What its report starts with.
    pub(crate) token: String,
    /// Whose rights the tree is read with, where this process is root.
    pub(crate) reader: u32,
    /// A tree to write to it as an archive.
    pub(crate) tree: Option<PathBuf>,
}

/// A command to run inside an environment.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EnterSpec {
    pub(crate) command: Command,
    pub(crate) job: String,
    pub(crate) token: String,
}

/// A workload to start and to stay with.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WorkloadSpec {
    /// Starts this keeper again, without the mode.
    pub(crate) keeper: Vec<String>,
    pub(crate) command: Command,
    pub(crate) job: String,
    pub(crate) token: String,
    /// The environment's directory.
    pub(crate) dir: PathBuf,
    /// Locked for as long as the keeper lives; holds its process id.
    pub(crate) lock: PathBuf,
    pub(crate) uid: u32,
    /// The most that the log takes.
    pub(crate) log_bytes: u64,
    pub(crate) lifetime_ms: Option<u64>,
    pub(crate) grace_ms: u64,
    /// The most memory that the account's processes may take together.
    pub(crate) memory_bytes: Option<u64>,
    /// [`crate::table::PROCESSES`].
    pub(crate) processes: Command,
    /// [`crate::table::INTERRUPT`].
    pub(crate) interrupt: Command,
    /// [`crate::table::KILL`], then [`crate::table::KILL_BY_NAME`].
    pub(crate) kill: Vec<Command>,
    /// How often memory is looked at, in ms.
    pub(crate) tick_ms: u64,
}

/// The `status` document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) version: u32,
    pub(crate) pid: u32,
    /// How the entry ended, once it has.
    pub(crate) exit: Option<Exit>,
}

/// An environment's directory. It may be the driver's while we are root, so it is opened once and never through a link,
/// no file that is there is ever opened (it may be a link), and new ones become the driver's.
pub(crate) struct Dir(OwnedFd);

impl Dir {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// Makes a file instead of the one that is there.
    pub(crate) fn create(&self, name: &str) -> io::Result<File> {
        match rustix::fs::unlinkat(&self.0, name, AtFlags::empty()) {
            Err(e) if e != rustix::io::Errno::NOENT => return Err(e.into()),
            _ => {}
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&self.0, name, flags, Mode::from_raw_mode(0o640))?);
        if rustix::process::geteuid().is_root() {
            let owner = rustix::fs::fstat(&self.0)?;
            fchown(&file, Some(owner.st_uid), Some(owner.st_gid))?;
        }
        Ok(file)
    }

    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0, from, &self.0, to)?)
    }
}

/// Runs the keeper. The binary calls this from its hidden entry; there is no other use for it.
///
/// # Streams
/// Reads its document from standard input and answers on standard output.
pub fn main(mode: &str) -> ExitCode {
    let answer = match mode {
        "job" => read().map_or_else(failed, |spec| job::run(&spec)),
        "workload" => read().map_or_else(failed, |spec| workload::start(&spec)),
        "workload-stays" => return read().map_or(ExitCode::FAILURE, |spec| workload::stay(&spec)),
        "enter" => return enter::run(),
        "archive" => return read::<PathBuf>().map_or(ExitCode::FAILURE, |tree| job::write_archive(&tree)),
        other => failed(format!("the keeper has no mode {other:?}")),
    };
    say(&answer);
    ExitCode::SUCCESS
}

fn failed(message: String) -> Answer {
    Answer::Failed { message }
}

fn read<T: for<'de> Deserialize<'de>>() -> Result<T, String> {
    let mut text = Vec::new();
    std::io::stdin().lock().read_to_end(&mut text).map_err(|e| e.to_string())?;
    serde_json::from_slice(&text).map_err(|e| e.to_string())
}

/// Answers; whether anybody heard it.
fn say(answer: &Answer) -> bool {
    let Ok(text) = serde_json::to_string(answer) else { return false };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).is_ok()
}

/// What a line of the control stream says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Report {
    /// The entry's process id.
    Started(u32),
    /// The exit code, 128 + n for a signal.
    Ended(i32),
    /// There is no such entry.
    Missing,
}

impl Report {
    fn parse(line: &str, token: &str) -> Option<Self> {
        let mut words = line.strip_prefix(token)?.split_whitespace();
        match (words.next()?, words.next()) {
            ("pid", Some(n)) => n.parse().ok().map(Self::Started),
            ("exit", Some(n)) => n.parse().ok().map(Self::Ended),
            ("none", None) => Some(Self::Missing),
            _ => None,
        }
    }
}
