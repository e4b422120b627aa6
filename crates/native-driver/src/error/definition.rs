//! [`ValidateError`] and [`PlanError`]: what is wrong with a definition.

use std::fmt;

use native_platform::StepError;

use super::{ExitCode, Explain, JournalError};

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
