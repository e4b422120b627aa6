//! Typed progress: what a command line draws as bars and a node can log.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// What happens to one image at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Another task or process fetches the same image.
    Waiting,
    /// A request is sent.
    Connect,
    /// Bytes come in, are hashed, decoded and unpacked as they come.
    Download,
    /// The last bytes are unpacked, or an operator-placed archive is.
    Unpack,
    /// Digest, length and end of the archive are checked.
    Verify,
    /// Written through to the disk and renamed into place.
    Publish,
}

/// One step of progress.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// A phase begins.
    Phase {
        /// The image, `name-version`.
        image: String,
        /// Which phase.
        phase: Phase,
    },
    /// Bytes came in. Sent about ten times a second.
    Progress {
        /// The image, `name-version`.
        image: String,
        /// Bytes of the archive so far.
        bytes: u64,
        /// Bytes of the archive in all, where the server said so.
        total: Option<u64>,
        /// Bytes per second, lately.
        rate: u64,
        /// Bytes written to the layer so far.
        unpacked: u64,
    },
    /// A connection was lost and the download goes on from where it was.
    Resumed {
        /// The image, `name-version`.
        image: String,
        /// From which byte.
        at: u64,
        /// Why.
        reason: String,
    },
    /// A request failed and is tried again.
    Retry {
        /// The image, `name-version`.
        image: String,
        /// Which attempt comes next, from 2.
        attempt: usize,
        /// After how many milliseconds.
        wait_ms: u64,
        /// Why.
        reason: String,
    },
    /// The image is here already.
    Cached {
        /// The image, `name-version`.
        image: String,
        /// Its digest.
        digest: String,
    },
    /// Something that an operator should know.
    Warning {
        /// The image, `name-version`.
        image: String,
        /// What.
        message: String,
    },
    /// The image is ready.
    Done {
        /// The image, `name-version`.
        image: String,
        /// Its digest.
        digest: String,
        /// Bytes of the archive.
        bytes: u64,
        /// Whether it came from the cache.
        from_cache: bool,
    },
}

/// Where progress goes. Cheap to clone; called from several threads, so it should return fast.
#[derive(Clone)]
pub struct Events(Arc<dyn Fn(Event) + Send + Sync>);

impl Events {
    /// Hands every event to `sink`.
    pub fn new(sink: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }

    /// Nobody listens.
    #[must_use]
    pub fn none() -> Self {
        Self::new(|_| {})
    }

    pub(crate) fn send(&self, event: Event) {
        (self.0)(event);
    }

    pub(crate) fn phase(&self, image: &str, phase: Phase) {
        self.send(Event::Phase { image: image.to_owned(), phase });
    }

    pub(crate) fn warn(&self, image: &str, message: impl Into<String>) {
        let message = message.into();
        tracing::warn!(image, "{message}");
        self.send(Event::Warning { image: image.to_owned(), message });
    }
}

impl Default for Events {
    fn default() -> Self {
        Self::none()
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}
