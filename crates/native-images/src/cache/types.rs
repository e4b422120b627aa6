//! What the cache hands out.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One unpacked layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// The name that it has in its image.
    pub name: String,
    /// `sha256:` and the digest of its tar archive, uncompressed.
    pub digest: String,
    /// The unpacked tree: absolute, read-only by agreement, owned by the user that fetched it.
    pub dir: PathBuf,
    /// Bytes of its files.
    pub bytes: u64,
    /// Files, directories and links in it.
    pub entries: u64,
}

/// Keeps layers from being pruned while it lives. The kernel ends it with the process.
#[derive(Debug)]
pub struct Hold {
    locks: Vec<File>,
}

impl Hold {
    pub(crate) fn new(locks: Vec<File>) -> Self {
        Self { locks }
    }

    /// How many layers it keeps.
    #[must_use]
    pub fn len(&self) -> usize {
        self.locks.len()
    }

    /// Whether it keeps none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.locks.is_empty()
    }
}

/// An image that is here. Holds its layers against pruning while it lives.
#[derive(Debug)]
pub struct ImageHandle {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) digest: String,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) from_cache: bool,
    pub(crate) elapsed: Duration,
    pub(crate) layers: Vec<Layer>,
    pub(crate) hold: Hold,
}

impl ImageHandle {
    /// The image's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The image's version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// `sha256:` and the digest of the archive as it was downloaded; of the inner tar for a placed image.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Where to look at it: a directory with one entry for each layer, or the placed directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the archive.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether nothing had to be downloaded or unpacked by this call.
    #[must_use]
    pub fn from_cache(&self) -> bool {
        self.from_cache
    }

    /// How long it took to have it here.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Its layers, the first at the bottom.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Only what keeps the layers from being pruned.
    #[must_use]
    pub fn into_hold(self) -> Hold {
        self.hold
    }
}

/// Where a cached image came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A url.
    Downloaded,
    /// The operator's hand.
    Placed,
}

/// One image of the list.
#[derive(Debug, Clone, Serialize)]
pub struct CachedImage {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `sha256:` of the archive; empty for a placed image that nobody used yet.
    pub digest: String,
    /// From where, without credentials. `None` for a placed image.
    pub url: Option<String>,
    /// Where it came from.
    pub source: Source,
    /// Where to look at it.
    pub path: PathBuf,
    /// Bytes of the archive as downloaded or placed.
    pub bytes: u64,
    /// Bytes of its layers' files.
    pub unpacked: u64,
    /// Its layers.
    pub layers: Vec<Layer>,
    /// When it was last used, seconds since 1970.
    pub last_used: u64,
    /// Whether a process holds it or an environment pins it.
    pub in_use: bool,
}

/// What is wrong with a cached tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "problem", rename_all = "kebab-case")]
pub enum Problem {
    /// The layer or its list of files is not there.
    LayerMissing {
        /// The layer's digest.
        digest: String,
    },
    /// A file, directory or link is not there.
    Missing {
        /// Its path in the layer.
        path: String,
    },
    /// There is something that was not unpacked.
    Added {
        /// Its path in the layer.
        path: String,
    },
    /// Content, mode, target or type is another.
    Changed {
        /// Its path in the layer.
        path: String,
        /// What differs.
        what: String,
    },
}

/// How one image fared.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyReport {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its digest.
    pub digest: String,
    /// Files looked at.
    pub files: u64,
    /// What is wrong; empty when it is as it was unpacked. At most 100 are listed.
    pub problems: Vec<Problem>,
}

impl VerifyReport {
    /// Whether it is as it was unpacked.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.problems.is_empty()
    }
}

/// What to prune.
#[derive(Debug, Clone, Default)]
pub struct PruneOptions {
    /// Keep at most so many bytes of layers. `None`: remove all that nobody uses.
    pub max_size: Option<u64>,
    /// Layer digests to keep besides those that are held or pinned.
    pub keep: Vec<String>,
    /// Only say what would be removed.
    pub dry_run: bool,
}

/// What was pruned.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PruneReport {
    /// The images that are gone, as `name-version`.
    pub removed: Vec<String>,
    /// Bytes freed.
    pub freed: u64,
    /// Bytes that remain.
    pub remaining: u64,
    /// Images that were kept because something uses them.
    pub in_use: Vec<String>,
}
