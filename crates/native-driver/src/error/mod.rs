//! What goes wrong, per operation, and [`Explain`]: exit code, step and hint of each.
//!
//! `Display` of an error never repeats its source; whoever prints walks the chain.

mod allocate;
mod deallocate;
mod definition;
mod journal;
mod prepare;

pub use allocate::{AllocateCause, AllocateError};
pub use deallocate::{AuditError, CleanupError, DeallocateError, ObserveError, StuckStep};
pub use definition::{DefinitionProblem, PlanError, ValidateError};
pub use journal::JournalError;
pub use prepare::{CapacityError, PrepareError};

use native_platform::{ErrorKind, StepError, StepKind};

/// How a process that did one operation ends: the table of the command line's contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ExitCode {
    /// Done, and nothing left behind.
    Ok = 0,
    /// A bug of ours.
    Bug = 1,
    /// Usage, config or label is wrong.
    Usage = 2,
    /// A tool, a right or a kernel feature is missing.
    NotReady = 10,
    /// Capacity or node filter.
    DoesNotFit = 11,
    /// Download, checksum or archive.
    ImageRefused = 12,
    /// A privileged step failed.
    StepFailed = 13,
    /// Something was left behind; every item is named.
    LeftBehind = 14,
    /// No such environment.
    NoSuchEnvironment = 15,
    /// Interrupted, after cleaning up. (143, terminated, is for the program that knows the signal.)
    Interrupted = 130,
}

impl ExitCode {
    /// The number.
    pub fn value(self) -> u8 {
        self as u8
    }
}

impl From<ErrorKind> for ExitCode {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::NotReady => Self::NotReady,
            ErrorKind::Invalid => Self::Usage,
            ErrorKind::Foreign | ErrorKind::Failed => Self::StepFailed,
            ErrorKind::Stuck => Self::LeftBehind,
            ErrorKind::Absent => Self::NoSuchEnvironment,
        }
    }
}

/// What every error of this crate can say for an operator and a program.
pub trait Explain: std::error::Error {
    /// How a process that did only this ends.
    fn code(&self) -> ExitCode;
    /// The step that failed, where one did: `account`, `volume`, `images`, `layers`, `workload`, `journal`, ...
    fn step(&self) -> Option<&'static str>;
    /// The one command or edit that fixes it, if there is one.
    fn hint(&self) -> Option<String>;
}

/// A step's name in an error report.
pub(crate) fn step_name(kind: StepKind) -> &'static str {
    match kind {
        StepKind::Account => "account",
        StepKind::Volume => "volume",
        StepKind::Layers => "layers",
        StepKind::Workload => "workload",
        StepKind::Observe => "observe",
        StepKind::Audit => "audit",
        StepKind::Platform => "platform",
    }
}

impl Explain for StepError {
    fn code(&self) -> ExitCode {
        self.kind.into()
    }
    fn step(&self) -> Option<&'static str> {
        Some(step_name(self.step))
    }
    fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}
