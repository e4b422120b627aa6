//! [`Watch`]: how a caller follows an operation and stops it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use native_config::EnvironmentId;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

/// The parts an operation is made of, as people see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Reverting what an earlier process left half made.
    Recover,
    /// Looking at tools and rights.
    Check,
    /// Creating the account.
    Account,
    /// Making home, temp and disks.
    Volumes,
    /// Fetching and unpacking images.
    Images,
    /// Putting the layers over the volumes.
    Layers,
    /// Starting the workload.
    Start,
    /// Stopping the workload.
    Stop,
    /// Taking everything away again.
    Revert,
    /// Searching for leftovers.
    Audit,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Recover => "recover",
            Self::Check => "check",
            Self::Account => "account",
            Self::Volumes => "volumes",
            Self::Images => "images",
            Self::Layers => "layers",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Revert => "revert",
            Self::Audit => "audit",
        })
    }
}

/// What is happening to an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageProgress {
    /// Another environment or process fetches it; this one waits.
    Waiting,
    /// Bytes arrive.
    Downloading {
        /// So far.
        bytes: u64,
        /// In all, if the server says.
        total: Option<u64>,
    },
    /// The download failed and is tried again.
    Retrying {
        /// Why.
        why: String,
    },
    /// It is in the cache and checked.
    Ready {
        /// Whether nothing had to be fetched.
        from_cache: bool,
    },
}

/// Something that happened during an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// The environment has its name; from here on Ctrl-C has something to clean up.
    Claimed(EnvironmentId),
    /// A phase began. Images and volumes may be under way at the same time.
    Started(Phase),
    /// A phase ended well.
    Finished {
        /// Which.
        phase: Phase,
        /// How long it took, in ms.
        ms: u64,
    },
    /// An image moves on.
    Image {
        /// `name-version`, or the url's file name.
        image: String,
        /// How.
        progress: ImageProgress,
    },
    /// Something that a person should know and that stops nothing.
    Warning(String),
}

/// Where the events of an operation go, and what stops it. Cheap to clone.
#[derive(Clone)]
pub struct Watch {
    sink: Arc<dyn Fn(Progress) + Send + Sync>,
    cancel: CancellationToken,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("cancelled", &self.cancel.is_cancelled()).finish_non_exhaustive()
    }
}

impl Watch {
    /// Events go to `sink`, which must not block; cancelling the token stops the operation and cleans up.
    pub fn new(cancel: CancellationToken, sink: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        Self { sink: Arc::new(sink), cancel }
    }

    /// Nobody listens and nothing stops it.
    pub fn quiet() -> Self {
        Self::new(CancellationToken::new(), |_| {})
    }

    /// The token that stops the operation.
    pub fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Tells the listener.
    pub fn emit(&self, event: Progress) {
        (self.sink)(event);
    }

    /// The same listener with a token of its own, which the given one cancels too.
    pub(crate) fn child(&self) -> Self {
        Self { sink: Arc::clone(&self.sink), cancel: self.cancel.child_token() }
    }

    /// Begins a phase, which is a [`tracing`] span too, from now until the phase has ended, well or not. It is not entered:
    /// a phase may wait on several threads.
    pub(crate) fn phase(&self, phase: Phase) -> Running<'_> {
        self.emit(Progress::Started(phase));
        let span = tracing::info_span!("phase", name = %phase);
        Running { watch: self, phase, since: Instant::now(), _span: span }
    }
}

/// A phase that has begun.
pub(crate) struct Running<'a> {
    watch: &'a Watch,
    phase: Phase,
    since: Instant,
    _span: tracing::Span,
}

impl Running<'_> {
    /// It ended well; returns how long it took, in ms.
    pub(crate) fn done(self) -> u64 {
        let ms = millis(self.since.elapsed());
        self.done_in(ms);
        ms
    }

    /// It ended well after so many ms, beside another one.
    pub(crate) fn done_in(self, ms: u64) {
        self.watch.emit(Progress::Finished { phase: self.phase, ms });
    }
}

/// Whole milliseconds, without wrapping.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    use super::*;

    /// Writes down which spans begin and end.
    #[derive(Default)]
    struct Spans(Arc<Mutex<Vec<String>>>);

    impl Subscriber for Spans {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, span: &Attributes<'_>) -> Id {
            self.0.lock().unwrap().push(format!("{} {}", span.metadata().name(), span.values()));
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, _: &Event<'_>) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
        fn try_close(&self, _: Id) -> bool {
            self.0.lock().unwrap().push("end".to_owned());
            true
        }
    }

    #[test]
    fn a_phase_is_a_span_until_it_ends() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        tracing::subscriber::with_default(Spans(Arc::clone(&seen)), || {
            let watch = Watch::quiet();
            let running = watch.phase(Phase::Volumes);
            seen.lock().unwrap().push("at work".to_owned());
            running.done();
        });
        assert_eq!(*seen.lock().unwrap(), ["phase {name: volumes}", "at work", "end"]);
    }
}
