//! [`AllocateError`]: why an environment was not made, and whether anything of it is left.

use native_config::EnvironmentId;
use native_platform::StepError;

use super::{CapacityError, CleanupError, ExitCode, Explain, JournalError, PlanError};
use crate::report::Capacity;

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
        (lines, _) => lines.join(" "),
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
