//! [`Platform`] and [`Session`]: what the driver asks of a host, and what it is told.

use std::io::Read;
use std::path::PathBuf;
use std::slice;
use std::time::{Duration, Instant};

use native_config::{DiskName, EnvironmentId, Isolation};
use serde::{Deserialize, Serialize};

use crate::error::StepError;
use crate::step::Step;

/// Which environment an operation is about, and where its own directory lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// The environment, which is also its account's name.
    pub id: EnvironmentId,
    /// `workspace_path/<id>`, made by the driver: log and status are written there, disks lie there.
    pub dir: PathBuf,
    /// How far the workload is kept from the host.
    pub isolation: Isolation,
    /// The range that uids are taken from, both ends included.
    pub uids: (u32, u32),
}

/// What a probe finds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// Nothing of this step is there.
    Absent,
    /// It is there, and this environment made it.
    Ours,
    /// Something is there that this environment did not make.
    Foreign(String),
}

/// What executing a step made. The journal keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Receipt {
    /// The account.
    Account {
        /// Its uid.
        uid: u32,
        /// Its primary group.
        gid: u32,
    },
    /// The volume.
    Volume {
        /// Where the workload sees it.
        path: PathBuf,
    },
    /// The layers.
    Layers {
        /// How they were put there: `overlay`, `reflink`, `clone` or `copy`.
        method: String,
        /// Why not in the quickest way that this platform has.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// The workload.
    Workload {
        /// The entry's process id, as the host sees it.
        pid: u32,
    },
}

/// How a workload's entry ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its exit code, or 128 + the signal that ended it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the kernel killed for want of memory.
    pub out_of_memory: bool,
    /// Whether its lifetime had ended, so that the keeper stopped it.
    pub lifetime_over: bool,
}

/// What an environment is doing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// Whether the environment (its namespaces, its keeper) is up.
    pub up: bool,
    /// Whether the entry runs.
    pub running: bool,
    /// How the entry ended, once it has.
    pub exit: Option<Exit>,
    /// Processes inside.
    pub pids: u32,
    /// CPU time used, in seconds.
    pub cpu_seconds: f64,
    /// Memory in use, in bytes.
    pub memory_bytes: u64,
    /// Bytes written to the home, temp and sized disks.
    pub disk_bytes: u64,
}

/// Something that was left behind. `kind` is a row of the leftover table (`docs/security.md`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Leak {
    /// The environment it belonged to, where that can be told.
    pub identifier: Option<EnvironmentId>,
    /// What sort of thing it is: `process`, `mount`, `loop`, `file`, ...
    pub kind: String,
    /// Where it is, or its name.
    pub path: String,
}

/// One thing that `doctor` looks at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// A stable name, in kebab-case.
    pub id: String,
    /// Whether it is as it must be.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// The one command or edit that makes it right; empty if it is right.
    pub fix: String,
}

/// What the host has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// CPU threads.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

/// A command to run inside an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enter {
    /// The command and its arguments. Empty: the shell.
    pub command: Vec<String>,
    /// A terminal of this many columns and rows, if the caller is at one.
    pub terminal: Option<(u16, u16)>,
    /// Variables to add, such as `TERM`.
    pub variables: Vec<(String, String)>,
}

/// One of the two streams a command writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// Where an entered command reads and writes.
pub struct EnterIo<'a> {
    /// What the command reads. Read on a thread of its own.
    pub input: Box<dyn Read + Send>,
    /// Called with what the command writes.
    pub output: &'a mut dyn FnMut(Stream, &[u8]),
}

impl std::fmt::Debug for EnterIo<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnterIo").finish_non_exhaustive()
    }
}

/// A host. No method has a default body: see the crate's invariants.
pub trait Platform: Send + Sync {
    /// `linux`, `macos`, `fake`.
    fn name(&self) -> &'static str;

    /// Where the home of an environment is, as its workload sees it.
    fn home(&self, id: &EnvironmentId) -> PathBuf;

    /// Where a disk of an environment is, as its workload sees it.
    fn disk(&self, id: &EnvironmentId, disk: &DiskName) -> PathBuf;

    /// Whether the home and the temporary directory of an environment have a file system of their own also where
    /// nobody chose a size for them.
    fn sizes_homes(&self) -> bool;

    /// CPU and memory of the host.
    ///
    /// # Errors
    /// When the host does not say.
    fn facts(&self) -> Result<HostFacts, StepError>;

    /// Rights, tools and kernel features that steps need, each with how to grant what is missing.
    ///
    /// # Errors
    /// When the platform can't be reached at all; what is merely missing is a [`Check`] that is not ok.
    fn checks(&self) -> Result<Vec<Check>, StepError>;

    /// Begins an operation on one environment. Dropping a session before [`Session::finish`] makes the
    /// platform revert what the session executed.
    ///
    /// # Errors
    /// When the platform can't be reached, or refuses the scope; the latter may also be said by [`Session::ready`].
    fn open(&self, scope: &Scope) -> Result<Box<dyn Session>, StepError>;

    /// Environments that the platform has a record of, whichever workspace they belong to. Recovery compares
    /// them with the journals.
    ///
    /// # Errors
    /// When the records can't be read.
    fn known(&self) -> Result<Vec<Scope>, StepError>;

    /// Searches the whole host, read-only, for what is ours and belongs to none of `alive`.
    ///
    /// # Errors
    /// When the search itself fails.
    fn audit(&self, alive: &[EnvironmentId]) -> Result<Vec<Leak>, StepError>;

    /// Removes what [`Self::audit`] finds that is certainly ours and that no record of the platform speaks of. What has
    /// a record is removed by a session.
    ///
    /// # Errors
    /// When it can't be searched for, or something could not be removed.
    fn sweep(&self) -> Result<(), StepError>;
}

/// What became of a step that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Executed {
    /// What it made, or why not.
    pub result: Result<Receipt, StepError>,
    /// How long it took, in ms. Steps that were made at once took that long together.
    pub ms: u64,
}

impl Executed {
    /// A step that has just come to its end.
    pub fn since(since: Instant, result: Result<Receipt, StepError>) -> Self {
        Self { result, ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX) }
    }
}

/// [`Session::execute_all`] of a host that gains nothing by doing several steps at once: until one fails.
pub fn one_by_one(steps: &[Step], mut execute: impl FnMut(&Step) -> Result<Receipt, StepError>) -> Vec<Executed> {
    let mut all: Vec<Executed> = Vec::with_capacity(steps.len());
    for step in steps {
        if all.last().is_some_and(|last| last.result.is_err()) {
            break;
        }
        let since = Instant::now();
        all.push(Executed::since(since, execute(step)));
    }
    all
}

/// One operation on one environment, blocking.
pub trait Session: Send {
    /// Waits until the host has answered to [`Platform::open`], which may return before that: whoever has something else to
    /// do meanwhile does it first.
    ///
    /// # Errors
    /// When the host refuses the scope. No other method says anything else then.
    fn ready(&mut self) -> Result<(), StepError>;

    /// Whether the effects of the steps are there, one answer each.
    ///
    /// # Errors
    /// When the host can't be read.
    fn probe_all(&mut self, steps: &[Step]) -> Result<Vec<Presence>, StepError>;

    /// Makes the effects of steps, at once where the host gains by it. Idempotent for what is already ours. Of an account
    /// and volumes the account comes first; other steps of one call do not need each other.
    ///
    /// The results are those of the steps that were begun, in their order: whatever has none was not begun, or has been
    /// undone. A step that fails has undone its own half; the [`StepError`] has the kind that fits.
    fn execute_all(&mut self, steps: &[Step]) -> Vec<Executed>;

    /// Takes the effects of steps away, in the order given, and reads back that they are gone. Idempotent; `Ok` means
    /// absent, and [`crate::ErrorKind::Stuck`] that absence could not be confirmed. Goes on after an error: there is one
    /// result for each step.
    fn revert_all(&mut self, steps: &[Step]) -> Vec<Result<(), StepError>>;

    /// Reverts whatever the platform's own record says of the environment, for one that lost its journal.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Stuck`] when something could not be removed.
    fn purge(&mut self) -> Result<(), StepError>;

    /// What the environment is doing.
    ///
    /// # Errors
    /// When the host can't be read. An environment that is not there is `up: false`, not an error.
    fn observe(&mut self) -> Result<Observation, StepError>;

    /// Waits until the entry has ended or the time is over, whichever is first, and observes.
    ///
    /// # Errors
    /// As [`Self::observe`].
    fn wait(&mut self, at_most: Duration) -> Result<Observation, StepError>;

    /// Runs a command inside the environment, as its user, in its namespaces and limits; returns its exit code
    /// (128 + n for a signal).
    ///
    /// # Errors
    /// [`crate::ErrorKind::Absent`] when the environment is not up, [`crate::ErrorKind::Invalid`] when the
    /// command can't be started.
    fn enter(&mut self, command: &Enter, io: EnterIo<'_>) -> Result<i32, StepError>;

    /// Searches, read-only, for everything of this environment that is still there.
    ///
    /// # Errors
    /// When the search itself fails: then nothing may be said to be clean.
    fn audit(&mut self) -> Result<Vec<Leak>, StepError>;

    /// Ends the session and keeps what it executed.
    ///
    /// # Errors
    /// When the platform did not confirm.
    fn finish(self: Box<Self>) -> Result<(), StepError>;
}

/// For whoever has one step.
impl dyn Session + '_ {
    /// [`Session::probe_all`].
    ///
    /// # Errors
    /// When the host can't be read.
    pub fn probe(&mut self, step: &Step) -> Result<Presence, StepError> {
        let found = self.probe_all(slice::from_ref(step))?;
        found.into_iter().next().ok_or_else(|| no_answer(step))
    }

    /// [`Session::execute_all`].
    ///
    /// # Errors
    /// [`StepError`] with the kind that fits.
    pub fn execute(&mut self, step: &Step) -> Result<Receipt, StepError> {
        let done = self.execute_all(slice::from_ref(step));
        done.into_iter().next().map_or_else(|| Err(no_answer(step)), |done| done.result)
    }

    /// [`Session::revert_all`].
    ///
    /// # Errors
    /// [`crate::ErrorKind::Stuck`] when absence could not be confirmed.
    pub fn revert(&mut self, step: &Step) -> Result<(), StepError> {
        let done = self.revert_all(slice::from_ref(step));
        done.into_iter().next().unwrap_or_else(|| Err(no_answer(step)))
    }
}

/// For a step that should have a result, and has none.
pub fn no_answer(step: &Step) -> StepError {
    StepError::failed(step.kind(), "the host said nothing about it")
}
