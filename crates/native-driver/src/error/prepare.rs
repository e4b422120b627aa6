//! [`PrepareError`] and [`CapacityError`]: what is wrong with the host or its config.

use std::io;
use std::path::PathBuf;

use native_platform::{Check, StepError};

use super::{ExitCode, Explain, JournalError};

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
