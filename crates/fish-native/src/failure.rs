//! [`Failure`]: why a command did not do its work, as people and as programs are told.

use std::error::Error;

use native_driver::{
    AllocateError, AuditError, CapacityError, CleanupError, DeallocateError, ExitCode, Explain, ObserveError,
    PlanError, PrepareError,
};
use native_platform::Leak;
use serde_json::{Value, json};

use crate::exit::Exit;
use crate::printer::Printer;

/// Why a command did not do its work.
#[derive(Debug)]
pub(crate) struct Failure {
    /// How the program ends.
    pub exit: Exit,
    /// The step that failed: `account`, `images`, `config`, ...
    pub step: &'static str,
    /// What went wrong.
    pub message: String,
    /// Its causes, the nearest first.
    pub causes: Vec<String>,
    /// The one command or edit that fixes it.
    pub hint: Option<String>,
    /// What few failures have.
    pub detail: Box<Detail>,
}

/// What few failures have.
#[derive(Debug, Default)]
pub(crate) struct Detail {
    /// The same for people, where more than a line is worth it: excerpts of the file, marked.
    pub rendered: Option<String>,
    /// What was left behind, one line each.
    pub left: Vec<String>,
    /// What an audit found, for programs.
    pub leaked: Vec<Leak>,
    /// More keys of the JSON document.
    pub more: Vec<(&'static str, Value)>,
}

impl Failure {
    /// A failure without causes.
    pub(crate) fn new(exit: Exit, step: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { exit, step, message, causes: Vec::new(), hint: None, detail: Box::default() }
    }

    /// A wrong use of the command line.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", message)
    }

    /// The same failure with advice.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same failure with an error and its causes as the cause.
    #[must_use]
    pub(crate) fn because_of(mut self, error: &dyn Error) -> Self {
        self.causes = vec![error.to_string()];
        self.causes.extend(chain(error));
        self
    }

    /// The same failure with a key of the JSON document.
    #[must_use]
    pub(crate) fn with(mut self, key: &'static str, value: Value) -> Self {
        self.detail.more.push((key, value));
        self
    }

    /// The same failure, and then cleaning up failed as well.
    #[must_use]
    pub(crate) fn and_left(mut self, cleanup: &CleanupError) -> Self {
        self.exit = Exit::LeftBehind;
        self.detail.left = cleanup.items();
        self.detail.leaked.clone_from(&cleanup.leaked);
        self
    }

    /// An error of an operation of the driver.
    pub(crate) fn of(error: &(impl Explain + 'static)) -> Self {
        let mut lines = chain(error);
        lines.insert(0, error.to_string());
        lines.dedup();
        let message = lines.remove(0);
        Self {
            causes: lines,
            hint: error.hint(),
            ..Self::new(error.code().into(), error.step().unwrap_or("driver"), message)
        }
    }

    /// The document for programs.
    pub(crate) fn document(&self) -> Value {
        let mut message = self.message.clone();
        for cause in &self.causes {
            message.push_str(": ");
            message.push_str(cause);
        }
        let mut document = json!({
            "error": { "code": self.exit.code(), "step": self.step, "message": message, "hint": self.hint },
        });
        if !self.detail.left.is_empty() || !self.detail.leaked.is_empty() {
            document["error"]["left"] = json!(self.detail.left);
            document["leaked"] = json!(self.detail.leaked);
        }
        for (key, value) in &self.detail.more {
            document[*key] = value.clone();
        }
        document
    }

    /// Tells people on standard error and programs on standard output.
    pub(crate) fn report(&self, printer: &Printer) {
        if let Some(rendered) = &self.detail.rendered {
            printer.rendered(rendered);
        } else {
            let mut text = self.message.clone();
            for cause in &self.causes {
                text.push_str("\n  caused by: ");
                text.push_str(cause);
            }
            printer.error(text);
        }
        for line in &self.detail.left {
            printer.error(format_args!("left behind: {line}"));
        }
        // What is drawn shows each hint where it belongs.
        if let Some(hint) = self.hint.as_ref().filter(|_| self.detail.rendered.is_none()) {
            printer.hint(hint);
        }
        printer.document(&self.document());
    }
}

/// The causes of an error, the nearest first, each said once.
fn chain(error: &dyn Error) -> Vec<String> {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    causes.dedup();
    causes
}

impl From<AllocateError> for Failure {
    fn from(error: AllocateError) -> Self {
        let mut lines = chain(&error);
        let message = if lines.is_empty() { error.to_string() } else { lines.remove(0) };
        let failure = Self {
            causes: lines,
            hint: error.hint(),
            ..Self::new(error.code().into(), error.step().unwrap_or("allocate"), message)
        };
        match &error.cleanup {
            Some(cleanup) => failure.and_left(cleanup),
            None => failure,
        }
    }
}

impl From<DeallocateError> for Failure {
    fn from(error: DeallocateError) -> Self {
        match &error {
            DeallocateError::Left(cleanup) => {
                let message = format!("something of {} was left behind", cleanup.identifier);
                let step = error.step().unwrap_or("deallocate");
                let failure = Self { hint: error.hint(), ..Self::new(Exit::LeftBehind, step, message) };
                failure.and_left(cleanup)
            }
            _ => Self::of(&error),
        }
    }
}

impl From<PrepareError> for Failure {
    fn from(error: PrepareError) -> Self {
        let PrepareError::NotReady(checks) = &error else { return Self::of(&error) };
        let missing: Vec<_> = checks.iter().filter(|c| !c.ok).collect();
        let causes = missing.iter().map(|c| format!("{}: {}", c.id, c.detail)).collect();
        let fixes: Vec<_> = missing.iter().filter(|c| !c.fix.is_empty()).map(|c| c.fix.as_str()).collect();
        Self {
            causes,
            hint: Some(fixes.join("\n      ")).filter(|f| !f.is_empty()).or_else(|| error.hint()),
            ..Self::new(Exit::NotReady, "platform", "the host is not ready")
        }
    }
}

impl From<ObserveError> for Failure {
    fn from(error: ObserveError) -> Self {
        Self::of(&error)
    }
}

impl From<AuditError> for Failure {
    fn from(error: AuditError) -> Self {
        Self::of(&error)
    }
}

impl From<CapacityError> for Failure {
    fn from(error: CapacityError) -> Self {
        Self::of(&error)
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        Self::of(&error)
    }
}

impl From<ExitCode> for Exit {
    fn from(code: ExitCode) -> Self {
        match code {
            ExitCode::Ok => Self::Done,
            ExitCode::Bug => Self::Bug,
            ExitCode::Usage => Self::Usage,
            ExitCode::NotReady => Self::NotReady,
            ExitCode::DoesNotFit => Self::DoesNotFit,
            ExitCode::ImageRefused => Self::ImageRefused,
            ExitCode::StepFailed => Self::StepFailed,
            ExitCode::LeftBehind => Self::LeftBehind,
            ExitCode::NoSuchEnvironment => Self::Absent,
            ExitCode::Interrupted => Self::Interrupted,
        }
    }
}

#[cfg(test)]
mod tests {
    use native_driver::{AllocateCause, StuckStep};
    use native_platform::{StepError, StepKind};

    use super::*;

    fn cleanup() -> CleanupError {
        CleanupError {
            identifier: "fish-abcdef".parse().unwrap(),
            stuck: vec![StuckStep { step: StepKind::Volume, what: "/dev/loop7 is busy".to_owned(), hint: None }],
            leaked: vec![Leak { identifier: None, kind: "loop".to_owned(), path: "/dev/loop7".to_owned() }],
            other: Vec::new(),
        }
    }

    #[test]
    fn a_failed_cleanup_never_hides_the_first_error() {
        let step = StepError::failed(StepKind::Layers, "mount the overlay: no such device");
        let error = AllocateError { cleanup: Some(cleanup()), ..AllocateCause::Step(step).into() };
        let failure = Failure::from(error);
        assert_eq!(failure.exit, Exit::LeftBehind);
        let document = failure.document();
        assert_eq!(document["error"]["code"], 14);
        assert_eq!(document["error"]["step"], "layers");
        let message = document["error"]["message"].as_str().unwrap();
        assert!(message.contains("mount the overlay"), "{message}");
        assert_eq!(document["error"]["left"][0], "volume: /dev/loop7 is busy");
        assert_eq!(document["leaked"][0]["path"], "/dev/loop7");
        assert!(document["error"]["hint"].as_str().unwrap().contains("fish-abcdef"));
    }

    #[test]
    fn an_interruption_is_one_and_not_an_error_of_the_driver() {
        let error = AllocateError::from(AllocateCause::Cancelled);
        let failure = Failure::from(error);
        assert_eq!((failure.exit, failure.message.as_str()), (Exit::Interrupted, "interrupted"));
        assert_eq!(failure.document()["error"]["code"], 130);
    }

    #[test]
    fn what_was_left_by_a_deallocation_is_named_once() {
        let failure = Failure::from(DeallocateError::Left(cleanup()));
        assert_eq!(failure.exit, Exit::LeftBehind);
        assert_eq!(failure.detail.left.len(), 2);
        assert!(failure.causes.is_empty(), "{:?}", failure.causes);
    }

    #[test]
    fn the_document_has_its_four_keys_always() {
        let document = Failure::usage("no").document();
        let error = document["error"].as_object().unwrap();
        let keys: Vec<_> = error.keys().map(String::as_str).collect();
        assert_eq!(keys, ["code", "hint", "message", "step"]);
    }
}
