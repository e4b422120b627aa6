//! [`CleanupError`], [`DeallocateError`], [`ObserveError`] and [`AuditError`]: what goes wrong with an environment that is
//! there.

use std::io;
use std::path::PathBuf;

use native_config::EnvironmentId;
use native_platform::{Leak, StepError, StepKind};
use serde::{Deserialize, Serialize};

use super::{ExitCode, Explain, JournalError, step_name};

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
