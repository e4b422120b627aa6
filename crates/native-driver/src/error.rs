//! What goes wrong, per operation, and [`Explain`]: exit code, step and hint of each.
//!
//! `Display` of an error never repeats its source; whoever prints walks the chain.

use std::fmt;
use std::io;
use std::path::PathBuf;

use native_config::EnvironmentId;
use native_platform::{Check, ErrorKind, Leak, StepError, StepKind};
use serde::{Deserialize, Serialize};

use crate::report::Capacity;

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

/// A journal or the workspace around it that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Reading or writing failed.
    #[error("{action} {}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The text is not a journal: torn, empty or edited.
    #[error("{} is not a whole journal", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// It was written by a newer version of this program.
    #[error("{} has version {found}; this program reads up to {known}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The newest version that is understood.
        known: u64,
    },
    /// The directory has no journal, and something else is in it.
    #[error("{} has no journal", path.display())]
    Missing {
        /// The environment's directory.
        path: PathBuf,
    },
}

impl Explain for JournalError {
    fn code(&self) -> ExitCode {
        match self {
            Self::Io { .. } | Self::Newer { .. } => ExitCode::NotReady,
            Self::Damaged { .. } | Self::Missing { .. } => ExitCode::LeftBehind,
        }
    }
    fn step(&self) -> Option<&'static str> {
        Some("journal")
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Io { path, .. } => Some(format!("check the rights and free space of {}", path.display())),
            Self::Newer { .. } => Some("use the newer version of fish-native on this workspace".to_owned()),
            Self::Damaged { path, .. } => {
                let id = path.parent().and_then(|p| p.file_name()).unwrap_or_default().to_string_lossy();
                Some(format!("`fish-native deallocate {id}` removes what the host's own record says of it"))
            }
            Self::Missing { path } => {
                let id = path.file_name().unwrap_or_default().to_string_lossy();
                Some(format!("`fish-native deallocate {id}` removes what the host's own record says of it"))
            }
        }
    }
}

/// One thing that a definition asks for and can't have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefinitionProblem {
    /// The field's path in the definition.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl fmt::Display for DefinitionProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// A definition that this driver refuses, with every reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the definition is refused: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct ValidateError(pub Vec<DefinitionProblem>);

impl Explain for ValidateError {
    fn code(&self) -> ExitCode {
        ExitCode::Usage
    }
    fn step(&self) -> Option<&'static str> {
        None
    }
    fn hint(&self) -> Option<String> {
        self.0.iter().find_map(|p| p.hint.clone())
    }
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The driver was not prepared.
    #[error("the driver is not prepared")]
    NotPrepared,
    /// The definition is refused.
    #[error(transparent)]
    Definition(#[from] ValidateError),
    /// The entry is not a good template.
    #[error("render the entry")]
    Entry(#[source] native_config::EntryError),
    /// The metadata does not make an environment.
    #[error("make the environment from the metadata")]
    Metadata(#[source] native_config::MetadataError),
    /// The workspace can't be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The host does not answer.
    #[error(transparent)]
    Platform(#[from] StepError),
}

impl Explain for PlanError {
    fn code(&self) -> ExitCode {
        match self {
            Self::NotPrepared => ExitCode::Bug,
            Self::Definition(_) | Self::Entry(_) | Self::Metadata(_) => ExitCode::Usage,
            Self::Journal(e) => e.code(),
            Self::Platform(e) => e.code(),
        }
    }
    fn step(&self) -> Option<&'static str> {
        match self {
            Self::Journal(e) => Explain::step(e),
            Self::Platform(e) => Explain::step(e),
            _ => None,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Definition(e) => e.hint(),
            Self::Journal(e) => e.hint(),
            Self::Platform(e) => Explain::hint(e),
            Self::NotPrepared | Self::Entry(_) | Self::Metadata(_) => None,
        }
    }
}

/// Why the driver can't work on this host.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The config asks for something the host can't give.
    #[error("{key}: {message}")]
    Config {
        /// The config's key.
        key: &'static str,
        /// What is wrong.
        message: String,
    },
    /// A directory of ours can't be made or used.
    #[error("use {} as the {what}", path.display())]
    Directory {
        /// Which directory.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The image cache can't be opened.
    #[error("open the image cache")]
    Images(#[source] native_images::OpenError),
    /// Tools, rights or kernel features are missing.
    #[error("the host is not ready: {}", .0.iter().map(|c| format!("{}: {}", c.id, c.detail)).collect::<Vec<_>>().join("; "))]
    NotReady(Vec<Check>),
    /// The workspace's journals can't be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The platform can't be reached.
    #[error(transparent)]
    Platform(#[from] StepError),
    /// It was cancelled.
    #[error("interrupted")]
    Cancelled,
}

impl Explain for PrepareError {
    fn code(&self) -> ExitCode {
        match self {
            Self::Config { .. } => ExitCode::Usage,
            Self::Directory { .. } | Self::Images(_) | Self::NotReady(_) => ExitCode::NotReady,
            Self::Journal(e) => e.code(),
            Self::Platform(e) => e.code(),
            Self::Cancelled => ExitCode::Interrupted,
        }
    }
    fn step(&self) -> Option<&'static str> {
        match self {
            Self::Journal(e) => Explain::step(e),
            Self::Platform(e) => Explain::step(e),
            Self::Images(_) => Some("images"),
            Self::NotReady(_) | Self::Directory { .. } => Some("platform"),
            Self::Config { .. } | Self::Cancelled => None,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::NotReady(checks) => checks.iter().find(|c| !c.fix.is_empty()).map(|c| c.fix.clone()),
            Self::Directory { what, .. } => Some(format!("set the config's `{what}` to a directory you may write")),
            Self::Journal(e) => e.hint(),
            Self::Platform(e) => Explain::hint(e),
            Self::Config { key, .. } => Some(format!("edit `{key}` in the config")),
            Self::Images(e) => e.hint(),
            Self::Cancelled => None,
        }
    }
}

/// Why the question of capacity has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CapacityError {
    /// The driver was not prepared.
    #[error("the driver is not prepared")]
    NotPrepared,
    /// A journal can't be read, so what its environment uses is not known.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The host does not say what it has.
    #[error(transparent)]
    Platform(#[from] StepError),
}

impl Explain for CapacityError {
    fn code(&self) -> ExitCode {
        match self {
            Self::NotPrepared => ExitCode::Bug,
            Self::Journal(e) => e.code(),
            Self::Platform(e) => e.code(),
        }
    }
    fn step(&self) -> Option<&'static str> {
        match self {
            Self::NotPrepared => None,
            Self::Journal(e) => Explain::step(e),
            Self::Platform(e) => Explain::step(e),
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::NotPrepared => None,
            Self::Journal(e) => e.hint(),
            Self::Platform(e) => Explain::hint(e),
        }
    }
}

/// A step whose effect could not be confirmed to be gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StuckStep {
    /// The kind of step.
    pub step: StepKind,
    /// What is still there, or could not be read back.
    pub what: String,
    /// What an operator does about it.
    pub hint: Option<String>,
}

/// A cleanup that did not end with a confirmed nothing. The environment keeps its record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("something of {identifier} was left behind: {}", self.items().join("; "))]
pub struct CleanupError {
    /// The environment.
    pub identifier: EnvironmentId,
    /// Steps that could not be reverted.
    pub stuck: Vec<StuckStep>,
    /// What the audit found.
    pub leaked: Vec<Leak>,
    /// What else prevented a confirmation: a session that could not be opened, a journal that can't be written,
    /// a directory that can't be removed.
    pub other: Vec<String>,
}

impl CleanupError {
    /// Every item, one line each.
    pub fn items(&self) -> Vec<String> {
        let stuck = self.stuck.iter().map(|s| format!("{}: {}", s.step, s.what));
        let leaked = self.leaked.iter().map(|l| format!("{} {}", l.kind, l.path));
        stuck.chain(leaked).chain(self.other.iter().cloned()).collect()
    }
}

impl Explain for CleanupError {
    fn code(&self) -> ExitCode {
        ExitCode::LeftBehind
    }
    fn step(&self) -> Option<&'static str> {
        self.stuck.first().map(|s| step_name(s.step)).or(Some("audit"))
    }
    fn hint(&self) -> Option<String> {
        let given = self.stuck.iter().find_map(|s| s.hint.clone());
        given.or_else(|| Some(format!("`fish-native deallocate {}` tries again", self.identifier)))
    }
}

/// Why an environment was not made.
#[derive(Debug, thiserror::Error)]
pub enum AllocateCause {
    /// There is no plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// It does not fit.
    #[error("does not fit: {}", explain_capacity(.0))]
    DoesNotFit(Capacity),
    /// How much fits can't be told.
    #[error(transparent)]
    Capacity(#[from] CapacityError),
    /// The journal can't be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// An image was refused.
    #[error("fetch {image}")]
    Image {
        /// The image, as the label names it.
        image: String,
        /// Why.
        source: Box<native_images::EnsureError>,
    },
    /// The image cache can't note that the environment uses its layers.
    #[error("note the layers in use")]
    Pin(#[source] native_images::CacheError),
    /// A step failed.
    #[error(transparent)]
    Step(#[from] StepError),
    /// It was cancelled.
    #[error("interrupted")]
    Cancelled,
    /// A thread of ours panicked.
    #[error("a bug of fish-native: {0}")]
    Bug(String),
}

fn explain_capacity(capacity: &Capacity) -> String {
    match (capacity.explain.as_slice(), &capacity.limited_by) {
        ([], Some(by)) => by.to_string(),
        ([], None) => "no room".to_owned(),
        (lines, _) => lines.join("; "),
    }
}

/// An allocation that failed. What it had made is gone again, unless `cleanup` says otherwise.
#[derive(Debug, thiserror::Error)]
#[error("{}", display_allocate(.cleanup.as_ref()))]
pub struct AllocateError {
    /// The identifier, if one was claimed.
    pub identifier: Option<EnvironmentId>,
    /// The first error.
    #[source]
    pub cause: AllocateCause,
    /// The second one, if cleaning up did not succeed either.
    pub cleanup: Option<CleanupError>,
}

fn display_allocate(cleanup: Option<&CleanupError>) -> String {
    match cleanup {
        None => "allocate the environment".to_owned(),
        Some(cleanup) => format!("allocate the environment; and then {cleanup}"),
    }
}

impl From<AllocateCause> for AllocateError {
    fn from(cause: AllocateCause) -> Self {
        Self { identifier: None, cause, cleanup: None }
    }
}

impl Explain for AllocateError {
    fn code(&self) -> ExitCode {
        if self.cleanup.is_some() {
            return ExitCode::LeftBehind;
        }
        match &self.cause {
            AllocateCause::Plan(e) => e.code(),
            AllocateCause::DoesNotFit(_) => ExitCode::DoesNotFit,
            AllocateCause::Capacity(e) => e.code(),
            AllocateCause::Journal(e) => e.code(),
            AllocateCause::Image { .. } => ExitCode::ImageRefused,
            AllocateCause::Pin(_) => ExitCode::NotReady,
            AllocateCause::Step(e) => e.code(),
            AllocateCause::Cancelled => ExitCode::Interrupted,
            AllocateCause::Bug(_) => ExitCode::Bug,
        }
    }
    fn step(&self) -> Option<&'static str> {
        match &self.cause {
            AllocateCause::Plan(e) => Explain::step(e),
            AllocateCause::DoesNotFit(_) => Some("capacity"),
            AllocateCause::Capacity(e) => Explain::step(e).or(Some("capacity")),
            AllocateCause::Journal(e) => Explain::step(e),
            AllocateCause::Image { .. } | AllocateCause::Pin(_) => Some("images"),
            AllocateCause::Step(e) => Explain::step(e),
            AllocateCause::Cancelled | AllocateCause::Bug(_) => None,
        }
    }
    fn hint(&self) -> Option<String> {
        if let Some(cleanup) = &self.cleanup {
            return cleanup.hint();
        }
        match &self.cause {
            AllocateCause::Plan(e) => e.hint(),
            AllocateCause::DoesNotFit(_) => Some("`fish-native capacity LABEL --explain` says who holds it".to_owned()),
            AllocateCause::Capacity(e) => e.hint(),
            AllocateCause::Journal(e) => e.hint(),
            AllocateCause::Step(e) => Explain::hint(e),
            AllocateCause::Image { source, .. } => source.hint(),
            AllocateCause::Pin(_) | AllocateCause::Cancelled | AllocateCause::Bug(_) => None,
        }
    }
}

/// Why an environment was not removed.
#[derive(Debug, thiserror::Error)]
pub enum DeallocateError {
    /// The driver was not prepared.
    #[error("the driver is not prepared")]
    NotPrepared,
    /// There is none of this name.
    #[error("there is no environment {0}")]
    NoSuch(EnvironmentId),
    /// Its journal can't be read or written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Something was left behind.
    #[error(transparent)]
    Left(#[from] CleanupError),
    /// The platform can't be reached.
    #[error(transparent)]
    Platform(#[from] StepError),
    /// It was cancelled while it waited for another operation on the environment.
    #[error("interrupted")]
    Cancelled,
    /// A thread of ours panicked.
    #[error("a bug of fish-native: {0}")]
    Bug(String),
}

impl Explain for DeallocateError {
    fn code(&self) -> ExitCode {
        match self {
            Self::NotPrepared | Self::Bug(_) => ExitCode::Bug,
            Self::NoSuch(_) => ExitCode::NoSuchEnvironment,
            Self::Journal(e) => e.code(),
            Self::Left(e) => e.code(),
            Self::Platform(e) => e.code(),
            Self::Cancelled => ExitCode::Interrupted,
        }
    }
    fn step(&self) -> Option<&'static str> {
        match self {
            Self::Journal(e) => Explain::step(e),
            Self::Left(e) => Explain::step(e),
            Self::Platform(e) => Explain::step(e),
            _ => None,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::NoSuch(_) => Some("`fish-native list` shows what there is".to_owned()),
            Self::Journal(e) => e.hint(),
            Self::Left(e) => e.hint(),
            Self::Platform(e) => Explain::hint(e),
            Self::NotPrepared | Self::Cancelled | Self::Bug(_) => None,
        }
    }
}

/// Why an environment can't be looked at or entered.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The driver was not prepared.
    #[error("the driver is not prepared")]
    NotPrepared,
    /// There is none of this name.
    #[error("there is no environment {0}")]
    NoSuch(EnvironmentId),
    /// Its journal can't be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Its log can't be read.
    #[error("read the log {}", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The platform can't be reached, or can't do it.
    #[error(transparent)]
    Platform(#[from] StepError),
    /// It was cancelled.
    #[error("interrupted")]
    Cancelled,
    /// A thread of ours panicked.
    #[error("a bug of fish-native: {0}")]
    Bug(String),
}

impl Explain for ObserveError {
    fn code(&self) -> ExitCode {
        match self {
            Self::NotPrepared | Self::Bug(_) => ExitCode::Bug,
            Self::NoSuch(_) => ExitCode::NoSuchEnvironment,
            Self::Journal(e) => e.code(),
            Self::Log { .. } => ExitCode::NotReady,
            Self::Platform(e) => e.code(),
            Self::Cancelled => ExitCode::Interrupted,
        }
    }
    fn step(&self) -> Option<&'static str> {
        match self {
            Self::Journal(e) => Explain::step(e),
            Self::Platform(e) => Explain::step(e),
            Self::Log { .. } => Some("log"),
            _ => None,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::NoSuch(_) => Some("`fish-native list` shows what there is".to_owned()),
            Self::Journal(e) => e.hint(),
            Self::Platform(e) => Explain::hint(e),
            _ => None,
        }
    }
}

/// Why the host could not be searched. Nothing may then be said to be clean.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The driver was not prepared.
    #[error("the driver is not prepared")]
    NotPrepared,
    /// The workspace can't be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The host can't be searched.
    #[error(transparent)]
    Platform(#[from] StepError),
    /// A thread of ours panicked.
    #[error("a bug of fish-native: {0}")]
    Bug(String),
}

impl Explain for AuditError {
    fn code(&self) -> ExitCode {
        match self {
            Self::NotPrepared | Self::Bug(_) => ExitCode::Bug,
            Self::Journal(e) => e.code(),
            Self::Platform(e) => e.code(),
        }
    }
    fn step(&self) -> Option<&'static str> {
        match self {
            Self::Journal(e) => Explain::step(e),
            Self::Platform(e) => Explain::step(e),
            _ => None,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Journal(e) => e.hint(),
            Self::Platform(e) => Explain::hint(e),
            _ => None,
        }
    }
}
