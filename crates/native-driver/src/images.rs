//! [`ImageSource`]: where layers come from. The real one is the cache of `native-images`.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::{fs, io};

use async_trait::async_trait;
use native_config::{DriverConfig, EnvironmentId, Image};
use native_images::{
    CacheError, Checksum, Credentials, EnsureError, Event, Events, Hold, ImageRef, Images, Layer, Layout, Limits,
    Policy, TrialLayer,
};
use tokio::task::JoinSet;

use crate::error::{AllocateCause, PrepareError};
use crate::operation::describe;
use crate::plan::image_id;
use crate::progress::{ImageProgress, Progress, Watch};

/// An image that is here.
#[derive(Debug)]
pub struct Fetched {
    /// Its layers, the first at the bottom.
    pub layers: Vec<Layer>,
    /// Keeps them from being pruned while it lives.
    pub hold: Option<Hold>,
}

/// Where layers come from. Tests put something in its place that needs no network.
#[async_trait]
pub trait ImageSource: Send + Sync + std::fmt::Debug {
    /// Has the image here. A dropped future leaves nothing half made.
    ///
    /// # Errors
    /// When it can't be had as the label asks.
    async fn fetch(&self, image: &Image, watch: &Watch) -> Result<Fetched, EnsureError>;

    /// A layer to see by how layers are put into environments from here. `None`: there is nothing to be seen.
    ///
    /// # Errors
    /// When it can't be made.
    fn trial_layer(&self) -> Result<Option<TrialLayer>, CacheError> {
        Ok(None)
    }

    /// Notes that an environment needs these layers, also while no process of ours runs.
    ///
    /// # Errors
    /// When the note can't be written.
    fn pin(&self, id: &EnvironmentId, layers: &[Layer]) -> Result<(), CacheError>;

    /// Takes the note away, if there is one.
    ///
    /// # Errors
    /// When the note can't be removed.
    fn unpin(&self, id: &EnvironmentId) -> Result<(), CacheError>;
}

/// The cache on this host.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
    config: DriverConfig,
    opened: OnceLock<Images>,
}

impl Cache {
    /// A cache that is opened, and made if it is not there, when it is needed: reading a status needs none.
    pub(crate) fn new(dir: PathBuf, config: &DriverConfig) -> Self {
        Self { dir, config: config.clone(), opened: OnceLock::new() }
    }

    /// Opens it now.
    pub(crate) fn open(&self) -> Result<&Images, PrepareError> {
        if let Some(images) = self.opened.get() {
            return Ok(images);
        }
        let images = Images::open(&self.dir, policy(&self.config)?).map_err(PrepareError::Images)?;
        Ok(self.opened.get_or_init(|| images))
    }

    fn use_now(&self) -> Result<&Images, io::Error> {
        self.open().map_err(|e| io::Error::other(describe(&e)))
    }
}

/// How this host fetches images, by its configuration.
///
/// # Errors
/// [`PrepareError::Config`] when an origin or a file of certificates can't be used.
pub fn policy(config: &DriverConfig) -> Result<Policy, PrepareError> {
    let wrong = |key| move |message: String| PrepareError::Config { key, message };
    let user = config.download_user.clone();
    let origins = config.download_origins.iter().map(|o| {
        o.to_string().parse().map_err(|e: native_images::ParseOriginError| wrong("download_origins")(e.to_string()))
    });
    let extra_ca = config.download_ca.iter().map(|path: &PathBuf| {
        fs::read(path).map_err(|e| wrong("download_ca")(format!("can't read {}: {e}", path.display())))
    });
    let mut limits = Limits::default();
    limits.decoder_memory = config.images_memory.unwrap_or(limits.decoder_memory);
    Ok(Policy {
        limits,
        credentials: user
            .map(|user| Credentials { user, password: config.download_password.clone().unwrap_or_default() }),
        origins: origins.collect::<Result<_, _>>()?,
        proxy: config.download_proxy.as_ref().map(|p| p.expose().clone()),
        extra_ca: extra_ca.collect::<Result<_, _>>()?,
        max_size: config.images_max_size,
        ..Policy::default()
    })
}

/// An image of a label as the cache knows it.
pub fn wanted(image: &Image) -> ImageRef {
    ImageRef {
        url: image.url.clone(),
        sum: image.sum.as_ref().map(convert_sum),
        name: image.name.to_string(),
        version: image.version.to_string(),
        layout: Layout::Auto,
    }
}

#[async_trait]
impl ImageSource for Cache {
    async fn fetch(&self, image: &Image, watch: &Watch) -> Result<Fetched, EnsureError> {
        let listener = watch.clone();
        let events = Events::new(move |event| {
            if let Some(event) = passed_on(event) {
                listener.emit(event);
            }
        });
        let wanted = wanted(image);
        let images = self.use_now();
        let images = images.map_err(|source| EnsureError::Cache { what: "open", path: self.dir.clone(), source })?;
        let handle = images.ensure(&wanted, &events).await?;
        Ok(Fetched { layers: handle.layers().to_vec(), hold: Some(handle.into_hold()) })
    }

    fn trial_layer(&self) -> Result<Option<TrialLayer>, CacheError> {
        let wrong = |source| CacheError::File { what: "open", path: self.dir.clone(), source };
        self.use_now().map_err(wrong)?.trial_layer().map(Some)
    }

    fn pin(&self, id: &EnvironmentId, layers: &[Layer]) -> Result<(), CacheError> {
        let wrong = |source| CacheError::File { what: "open", path: self.dir.clone(), source };
        self.use_now().map_err(wrong)?.pin(id.as_str(), layers)
    }

    fn unpin(&self, id: &EnvironmentId) -> Result<(), CacheError> {
        if self.opened.get().is_none() && !self.dir.exists() {
            return Ok(());
        }
        let wrong = |source| CacheError::File { what: "open", path: self.dir.clone(), source };
        self.use_now().map_err(wrong)?.unpin(id.as_str())
    }
}

/// One layer that is here, for every image.
#[derive(Debug)]
pub(crate) struct Trial(pub(crate) TrialLayer);

#[async_trait]
impl ImageSource for Trial {
    async fn fetch(&self, _image: &Image, _watch: &Watch) -> Result<Fetched, EnsureError> {
        Ok(Fetched { layers: vec![self.0.layer().clone()], hold: None })
    }

    fn pin(&self, _id: &EnvironmentId, _layers: &[Layer]) -> Result<(), CacheError> {
        Ok(())
    }

    fn unpin(&self, _id: &EnvironmentId) -> Result<(), CacheError> {
        Ok(())
    }
}

fn convert_sum(sum: &native_config::Checksum) -> Checksum {
    let algo = match sum.algo {
        native_config::SumAlgo::Md5 => native_images::Algo::Md5,
        native_config::SumAlgo::Sha1 => native_images::Algo::Sha1,
        native_config::SumAlgo::Sha256 => native_images::Algo::Sha256,
        native_config::SumAlgo::Sha512 => native_images::Algo::Sha512,
    };
    Checksum { algo, digest: sum.digest.clone() }
}

/// What of the cache's progress our listener hears.
fn passed_on(event: Event) -> Option<Progress> {
    let (image, progress) = match event {
        Event::Phase { image, phase: native_images::Phase::Waiting } => (image, ImageProgress::Waiting),
        Event::Phase { .. } | Event::Cached { .. } => return None,
        Event::Progress { image, bytes, total, .. } => (image, ImageProgress::Downloading { bytes, total }),
        Event::Resumed { image, reason, .. } | Event::Retry { image, reason, .. } => {
            (image, ImageProgress::Retrying { why: reason })
        }
        Event::Warning { image, message } => return Some(Progress::Warning(format!("image {image}: {message}"))),
        Event::Done { image, from_cache, .. } => (image, ImageProgress::Ready { from_cache }),
    };
    Some(Progress::Image { image, progress })
}

/// Fetches all images of a definition at the same time. One list of layers per image, in the label's order.
pub(crate) async fn fetch_all(
    source: &Arc<dyn ImageSource>,
    images: &[Image],
    watch: &Watch,
) -> Result<Vec<Fetched>, AllocateCause> {
    // Dropping the set, on an error or because we are dropped ourselves, drops what is under way.
    let mut tasks = JoinSet::new();
    for (n, image) in images.iter().enumerate() {
        let (source, image, watch) = (Arc::clone(source), image.clone(), watch.clone());
        tasks.spawn(async move {
            let fetched = source.fetch(&image, &watch).await;
            (n, fetched.map_err(|source| AllocateCause::Image { image: image_id(&image), source: Box::new(source) }))
        });
    }
    let mut found: Vec<Option<Fetched>> = images.iter().map(|_| None).collect();
    while let Some(joined) = tasks.join_next().await {
        let (n, fetched) = joined.map_err(|e| AllocateCause::Bug(e.to_string()))?;
        found[n] = Some(fetched?);
    }
    Ok(found.into_iter().flatten().collect())
}
