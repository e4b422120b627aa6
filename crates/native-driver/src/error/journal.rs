//! [`JournalError`].

use std::io;
use std::path::PathBuf;

use super::{ExitCode, Explain};

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
