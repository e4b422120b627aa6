//! [`StepError`]: why a step could not be probed, executed or reverted.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kinds of steps, and what else an operation of the driver is made of: the `step` of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// [`crate::Step::Account`].
    Account,
    /// [`crate::Step::Volume`].
    Volume,
    /// [`crate::Step::Layers`].
    Layers,
    /// [`crate::Step::Workload`].
    Workload,
    /// Reading what runs, or entering it.
    Observe,
    /// Searching for leftovers.
    Audit,
    /// Reaching the platform at all: the helper, its rights, its tools.
    Platform,
}

impl fmt::Display for StepKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Account => "account",
            Self::Volume => "volume",
            Self::Layers => "layers",
            Self::Workload => "workload",
            Self::Observe => "observe",
            Self::Audit => "audit",
            Self::Platform => "platform",
        })
    }
}

/// What sort of failure it is, which decides the exit code and whether to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// A tool, a right or a kernel feature is missing.
    NotReady,
    /// What the label or config asks for can't be done (an entry that does not exist, an unknown group).
    Invalid,
    /// Something with this name is there and is not ours: refused, never adopted.
    Foreign,
    /// The step failed and the platform undid what the step had done so far.
    Failed,
    /// A revert could not be confirmed: something may be left.
    Stuck,
    /// There is nothing there to observe or enter.
    Absent,
}

/// A step that could not be probed, executed or reverted. It crosses the privilege boundary as JSON, so its
/// causes are text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{step}: {message}")]
pub struct StepError {
    /// The kind of step.
    pub step: StepKind,
    /// The sort of failure.
    pub kind: ErrorKind,
    /// What was being done and what went wrong, causes included.
    pub message: String,
    /// The one command or edit that fixes it, if there is one.
    pub hint: Option<String>,
}

impl StepError {
    /// An error of this kind without a hint.
    pub fn new(step: StepKind, kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { step, kind, message: message.into(), hint: None }
    }

    /// An error of something that the step used, with its causes: they don't cross the privilege boundary by themselves.
    pub fn caused(step: StepKind, kind: ErrorKind, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        Self::new(step, kind, message)
    }

    /// A failure of the step.
    pub fn failed(step: StepKind, message: impl Into<String>) -> Self {
        Self::new(step, ErrorKind::Failed, message)
    }

    /// A revert that could not be confirmed.
    pub fn stuck(step: StepKind, message: impl Into<String>) -> Self {
        Self::new(step, ErrorKind::Stuck, message)
    }

    /// The same error with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
