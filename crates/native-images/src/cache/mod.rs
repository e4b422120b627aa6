//! The cache: content-addressed layers, one record for each image, and locks that the kernel frees.

mod fetch;
mod lock;
mod lookup;
mod manage;
mod names;
mod part;
mod placed;
mod staging;
mod store;
mod trial;
mod types;
mod verify;

pub(crate) use names::is_safe_name;
pub(crate) use part::Part;
pub use trial::TrialLayer;
pub use types::{CachedImage, Hold, ImageHandle, Layer, Problem, PruneOptions, PruneReport, Source, VerifyReport};

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use self::fetch::Request;
use self::store::{FORMAT, Store};
use crate::error::{CacheError, EnsureError, OpenError};
use crate::events::Events;
use crate::image::ImageRef;
use crate::policy::Policy;
use crate::transport::Client;

/// A directory of images. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Images {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    client: Client,
}

impl Images {
    /// Opens or makes (0750) the directory and removes what dead processes left half made.
    ///
    /// # Errors
    /// When the directory can not be used, or a newer version of this program wrote it.
    pub fn open(dir: &Path, policy: Policy) -> Result<Self, OpenError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Directory { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o750).create(dir).map_err(failed(dir))?;
        let root = dir.canonicalize().map_err(failed(dir))?;
        let mode = fs::metadata(&root).map_err(failed(&root))?.permissions().mode();
        if mode & 0o1002 == 0o0002 {
            return Err(OpenError::Writable { path: root });
        }
        let store = Store { root };
        check_format(&store)?;
        for dir in [store.blobs(), store.layers(), store.staging(), store.pins()] {
            DirBuilder::new().recursive(true).mode(0o750).create(&dir).map_err(failed(&dir))?;
        }
        staging::sweep(&store.staging()).map_err(failed(&store.staging()))?;
        Ok(Self { inner: Arc::new(Inner { store, client: Client::new(policy)? }) })
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.inner.store.root
    }

    /// Has the image here: from the cache, from what the operator placed, or from its url.
    ///
    /// What the operator placed as `<name>-<version>/<name>-*/<name>.tar` is used as it is, without asking any server and
    /// also for a label with a sum (which no longer can be checked; a warning event says so).
    ///
    /// An image with a sum is served from the cache without asking the server. One without is asked for, with the
    /// validators that the server gave the last time; when the server can not be reached, the cached one serves and a
    /// warning event says so.
    ///
    /// Each phase is a [`tracing`] span with the image's name: `connect`, `download`, `unpack`, `verify`, `publish`.
    ///
    /// Dropping the future stops the work and removes what it made. That happens on a blocking thread of the runtime,
    /// which the runtime waits for when it is dropped.
    ///
    /// # Errors
    /// When it can not be had as asked. Nothing of it is left then.
    pub async fn ensure(&self, image: &ImageRef, events: &Events) -> Result<ImageHandle, EnsureError> {
        check_name("name", &image.name, false)?;
        check_name("version", &image.version, true)?;
        let id = image.id();
        let request = Request { cache: &self.inner, image, id, events, started: Instant::now() };
        if let Some(handle) = request.placed().await? {
            return Ok(handle);
        }
        let handle = request.run().await?;
        if let (false, Some(max_size)) = (handle.from_cache(), self.inner.client.policy.max_size) {
            let cache = Arc::clone(&self.inner);
            let _ = tokio::task::spawn_blocking(move || manage::keep_within(&cache.store, max_size)).await;
        }
        Ok(handle)
    }

    /// What is cached, placed directories included.
    ///
    /// # Errors
    /// When the cache can not be read.
    pub async fn list(&self) -> Result<Vec<CachedImage>, CacheError> {
        self.blocking(manage::list).await
    }

    /// Compares the trees on the disk with what was unpacked. `None`: all images; else those of this name,
    /// `name-version` or digest.
    ///
    /// # Errors
    /// When the cache can not be read or no such image is in it.
    pub async fn verify(&self, name: Option<&str>) -> Result<Vec<VerifyReport>, CacheError> {
        let name = name.map(str::to_owned);
        self.blocking(move |store| verify::verify(store, name.as_deref())).await
    }

    /// Removes images, least recently used first, never what is held or pinned.
    ///
    /// # Errors
    /// When the cache can not be read or written.
    pub async fn prune(&self, options: &PruneOptions) -> Result<PruneReport, CacheError> {
        let options = options.clone();
        self.blocking(move |store| manage::prune(store, &options)).await
    }

    /// Holds layers by digest against pruning, as a driver does that comes back to running environments. `None` when
    /// one of them is not here.
    ///
    /// # Errors
    /// When the cache can not be read.
    pub fn hold(&self, digests: &[String]) -> Result<Option<Hold>, CacheError> {
        Ok(self.inner.store.hold_all(digests.iter().map(String::as_str))?)
    }

    /// Notes on the disk that `user` (an environment's identifier) needs these layers until [`Images::unpin`], also
    /// while no process of ours runs.
    ///
    /// # Errors
    /// When the note can not be written.
    pub fn pin(&self, user: &str, layers: &[Layer]) -> Result<(), CacheError> {
        manage::pin(&self.inner.store, user, layers)
    }

    /// Takes the note of [`Images::pin`] away. It is no error if there is none.
    ///
    /// # Errors
    /// When the note can not be removed.
    pub fn unpin(&self, user: &str) -> Result<(), CacheError> {
        manage::unpin(&self.inner.store, user)
    }

    /// Who pins something.
    ///
    /// # Errors
    /// When the cache can not be read.
    pub fn pins(&self) -> Result<Vec<String>, CacheError> {
        manage::pins(&self.inner.store)
    }

    /// A small layer of no image, to see how layers are put into environments from here.
    ///
    /// # Errors
    /// When it can not be made.
    pub fn trial_layer(&self) -> Result<TrialLayer, CacheError> {
        Ok(TrialLayer::new(&self.inner.store)?)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, CacheError> + Send + 'static,
    ) -> Result<T, CacheError> {
        let inner = Arc::clone(&self.inner);
        match tokio::task::spawn_blocking(move || work(&inner.store)).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(error) => {
                let source = io::Error::other(error);
                Err(CacheError::File { what: "read", path: self.inner.store.root.clone(), source })
            }
        }
    }
}

impl From<store::Failed> for CacheError {
    fn from(failed: store::Failed) -> Self {
        Self::File { what: failed.what, path: failed.path, source: failed.source }
    }
}

fn check_format(store: &Store) -> Result<(), OpenError> {
    let path = store.root.join("format");
    let failed = |source| OpenError::Directory { path: path.clone(), source };
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse::<u32>() {
            Ok(found) if found <= FORMAT => Ok(()),
            Ok(found) => Err(OpenError::Newer { path: store.root.clone(), found, known: FORMAT }),
            Err(_) => Err(failed(io::Error::new(io::ErrorKind::InvalidData, "not a format number"))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            store::write_atomically(&path, format!("{FORMAT}\n").as_bytes()).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

fn check_name(field: &'static str, value: &str, may_be_empty: bool) -> Result<(), EnsureError> {
    if is_safe_name(value) || (may_be_empty && value.is_empty()) {
        return Ok(());
    }
    Err(EnsureError::Name { field, value: value.chars().take(80).collect() })
}
