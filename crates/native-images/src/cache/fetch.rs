//! Has one image here: cache, lock, download, proof, publication.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, info_span};

use super::Inner;
use super::lock::ImageLock;
use super::part::Part;
use super::staging::Staging;
use super::store::{FORMAT, Failed, Key, LayerRecord, Record, at};
use super::types::{Hold, ImageHandle};
use crate::archive::ArchiveError;
use crate::archive::budget::Budget;
use crate::archive::image::{Staged, StagedLayer, Wanted};
use crate::digest;
use crate::error::EnsureError;
use crate::events::{Event, Events, Phase};
use crate::image::{Checksum, ImageRef, bare};
use crate::pipeline::{self, Feed, Piece};
use crate::transport::{Download, FetchError, Job, Validators};

/// How often progress is told.
const TELL: Duration = Duration::from_millis(100);
/// After an archive was found damaged, at most so much more is downloaded to tell damage in transit from damage at the
/// source.
const DRAIN: u64 = 256 << 20;

/// One call of `ensure`.
pub(super) struct Request<'a> {
    pub(super) cache: &'a Arc<Inner>,
    pub(super) image: &'a ImageRef,
    pub(super) id: String,
    pub(super) events: &'a Events,
    pub(super) started: Instant,
}

/// What the thread gives back that unpacks: its staging and lock live until it ended.
type Unpacked = (Result<Staged, ArchiveError>, Staging, ImageLock);

/// A download that came to nothing.
struct Stopped {
    error: EnsureError,
    lock: Option<ImageLock>,
    /// Whether a fresh start may do better.
    again: bool,
}

impl Stopped {
    fn new(error: EnsureError, lock: Option<ImageLock>) -> Self {
        let again = matches!(error, EnsureError::Fetch { source: FetchError::Changed, .. });
        Self { error, lock, again }
    }
}

impl Request<'_> {
    pub(super) fn cache_error(failed: Failed) -> EnsureError {
        EnsureError::Cache { what: failed.what, path: failed.path, source: failed.source }
    }

    /// The whole way.
    pub(super) async fn run(&self) -> Result<ImageHandle, EnsureError> {
        let key = Key::of(self.image);
        if let Some(handle) = self.cached(&key)? {
            return Ok(handle);
        }
        let before = self.cache.store.record(&key).map_err(Self::cache_error)?.map(|record| record.stamp);
        if let Some(handle) = self.unchanged(&key).await? {
            return Ok(handle);
        }
        let lock = self.lock(&key).await?;
        if let Some(handle) = self.cached(&key)? {
            return Ok(handle);
        }
        if self.image.sum.is_none()
            && let Some(record) = self.cache.store.record(&key).map_err(Self::cache_error)?
            && before.as_ref() != Some(&record.stamp)
            && let Some(handle) = self.handle(&key, &record, true)?
        {
            // Somebody else fetched it while this call waited: as fresh as it could be.
            return Ok(handle);
        }
        self.fetch(key, lock).await
    }

    /// A handle for a record whose layers are here.
    pub(super) fn handle(&self, key: &Key, record: &Record, tell: bool) -> Result<Option<ImageHandle>, EnsureError> {
        let store = &self.cache.store;
        let digests = record.layers.iter().map(|layer| layer.digest.as_str());
        let Some(hold) = store.hold_all(digests).map_err(Self::cache_error)? else { return Ok(None) };
        let handle = self.made(key, record, hold, true);
        if tell {
            store.touch(key);
            self.tell_cached(&handle);
        }
        Ok(Some(handle))
    }

    fn made(&self, key: &Key, record: &Record, hold: Hold, from_cache: bool) -> ImageHandle {
        ImageHandle {
            name: self.image.name.clone(),
            version: self.image.version.clone(),
            digest: record.digest(),
            path: record.placed.as_ref().map_or_else(|| self.cache.store.blob(key), |placed| placed.path.clone()),
            bytes: record.bytes,
            from_cache,
            elapsed: self.started.elapsed(),
            layers: self.cache.store.layers_of(record),
            hold,
        }
    }

    pub(super) fn tell_cached(&self, handle: &ImageHandle) {
        self.events.send(Event::Cached { image: self.id.clone(), digest: handle.digest.clone() });
        self.tell_done(handle);
    }

    pub(super) fn tell_done(&self, handle: &ImageHandle) {
        self.events.send(Event::Done {
            image: self.id.clone(),
            digest: handle.digest.clone(),
            bytes: handle.bytes,
            from_cache: handle.from_cache,
        });
    }

    pub(super) fn job(&self) -> Job<'_> {
        Job {
            client: &self.cache.client,
            url: &self.image.url,
            image: &self.id,
            events: self.events,
            sum: self.image.sum.as_ref(),
        }
    }

    pub(super) fn fetch_error(&self, source: FetchError) -> EnsureError {
        EnsureError::Fetch { image: self.id.clone(), url: Box::new(bare(&self.image.url)), source }
    }

    fn archive_error(&self, source: ArchiveError) -> EnsureError {
        EnsureError::Archive { image: self.id.clone(), source }
    }

    async fn fetch(&self, key: Key, lock: ImageLock) -> Result<ImageHandle, EnsureError> {
        if let Some(handle) = self.twin(&key)? {
            return Ok(handle);
        }
        if let Some(sum) = &self.image.sum
            && sum.algo.is_weak()
        {
            self.events.warn(&self.id, format!("{} proves little; give the image a sha256 sum", sum.algo));
        }
        let mut lock = lock;
        for last in [false, true] {
            match self.attempt(&key, lock).await {
                Err(Stopped { error, lock: Some(back), again: true }) if !last => {
                    self.events.warn(&self.id, format!("starting over: {error}"));
                    lock = back;
                }
                Err(stopped) => return Err(stopped.error),
                Ok(handle) => {
                    self.tell_done(&handle);
                    return Ok(handle);
                }
            }
        }
        Err(self.fetch_error(FetchError::Changed))
    }

    /// Sends the first request: for what is missing of what a dead process left, or for all.
    async fn begin(&self, key: &Key) -> Result<(Download<'_>, Option<Part>, Option<File>), FetchError> {
        self.events.phase(&self.id, Phase::Connect);
        let staging = self.cache.store.staging();
        let url = bare(&self.image.url).to_string();
        if self.image.sum.is_some()
            && let Some((part, old, note)) = Part::adopt(&staging, key, &url)
        {
            let length = old.metadata().map_or(0, |meta| meta.len());
            let mut download = Download::new(self.job());
            match download.start_after(length, note.validators).await {
                Ok(()) => {
                    let reason = "a process that fetched it was interrupted".to_owned();
                    self.events.send(Event::Resumed { image: self.id.clone(), at: length, reason });
                    return Ok((download, Some(part), Some(old)));
                }
                Err(error) => tracing::info!(image = %self.id, %error, "what an interrupted process left is of no use"),
            }
        }
        let mut download = Download::new(self.job());
        download.start(None).await?;
        // Without a sum nothing would prove that a part and the rest belong together.
        let part = self.image.sum.as_ref().and_then(|_| {
            Part::create(&staging, key, &url, &download.validators)
                .inspect_err(|error| tracing::warn!(image = %self.id, %error, "the download is not kept for a restart"))
                .ok()
        });
        Ok((download, part, None))
    }

    /// One download from its beginning to its publication.
    async fn attempt(&self, key: &Key, lock: ImageLock) -> Result<ImageHandle, Stopped> {
        let connecting = self.begin(key).instrument(info_span!("connect", image = %self.id));
        let (mut download, part, old) = match connecting.await {
            Ok(begun) => begun,
            Err(source) => return Err(Stopped::new(self.fetch_error(source), Some(lock))),
        };
        let resumed = old.is_some();
        let store = &self.cache.store;
        let staging = match Staging::new(&store.staging()) {
            Ok(staging) => staging,
            Err(source) => {
                return Err(Stopped::new(Self::cache_error(at("create", &store.staging())(source)), Some(lock)));
            }
        };
        self.events.phase(&self.id, Phase::Download);
        let (feed, incoming) = pipeline::feed(part);
        let budget = Arc::new(Budget::new(self.cache.client.policy.limits.clone(), self.cache.client.policy.threads));
        let refused = CancellationToken::new();
        let unpacking: JoinHandle<Unpacked> = {
            let (budget, refused) = (Arc::clone(&budget), refused.clone());
            let wanted = Wanted { name: self.image.name.clone(), layout: self.image.layout };
            let span = info_span!("unpack", image = %self.id);
            tokio::task::spawn_blocking(move || {
                let _entered = span.enter();
                let failed = || refused.cancel();
                let result = pipeline::run(Box::new(incoming), &wanted, staging.path(), &budget, failed);
                refused.cancel();
                (result, staging, lock)
            })
        };
        let receiving = self.receive(&mut download, old, feed, &refused, &budget);
        let received = receiving.instrument(info_span!("download", image = %self.id)).await;
        self.events.phase(&self.id, if received.is_ok() { Phase::Unpack } else { Phase::Verify });
        let (unpacked, staging, lock) = match unpacking.await {
            Ok(unpacked) => unpacked,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return Err(Stopped::new(EnsureError::Interrupted { image: self.id.clone() }, None)),
        };
        if let Err(source) = received {
            drop(staging);
            return Err(Stopped::new(self.fetch_error(source), Some(lock)));
        }
        let staged = match unpacked {
            Ok(staged) => staged,
            Err(error) => {
                drop(staging);
                let error = self.diagnose(error, download).await;
                return Err(Stopped { error, lock: Some(lock), again: resumed });
            }
        };
        self.events.phase(&self.id, Phase::Verify);
        let bytes = download.offset();
        let validators = download.validators.clone();
        let header_sums = std::mem::take(&mut download.header_sums);
        let digests = download.finish();
        let checked = info_span!("verify", image = %self.id).in_scope(|| self.check(&digests, &header_sums));
        if let Err(error) = checked {
            return Err(Stopped { error, lock: Some(lock), again: resumed });
        }

        self.events.phase(&self.id, Phase::Publish);
        let record = Record {
            format: FORMAT,
            stamp: stamp(),
            name: self.image.name.clone(),
            version: self.image.version.clone(),
            url: Some(bare(&self.image.url).to_string()),
            layout: self.image.layout,
            digests,
            bytes,
            validators: Validators { length: Some(bytes), ..validators },
            placed: None,
            layers: layer_records(&staged.layers),
        };
        self.publish(key, record, staged, staging, lock, false).await.map_err(|error| Stopped::new(error, None))
    }

    /// Makes it durable and gives it its name. Goes on to the end even if nobody waits any more.
    pub(super) async fn publish(
        &self,
        key: &Key,
        record: Record,
        staged: Staged,
        staging: Staging,
        lock: ImageLock,
        from_cache: bool,
    ) -> Result<ImageHandle, EnsureError> {
        let (cache, key_there) = (Arc::clone(self.cache), key.clone());
        let span = info_span!("publish", image = %self.id);
        let published = tokio::task::spawn_blocking(move || {
            let _lock = lock;
            let _entered = span.enter();
            let store = &cache.store;
            let entries = staged.layers.iter().map(|layer| layer.entries).sum();
            staging.sync(entries).map_err(at("write", staging.path()))?;
            let mut locks = Vec::new();
            for layer in &staged.layers {
                locks.push(store.publish_layer(layer)?);
            }
            store.write_record(&key_there, &record)?;
            drop(staging);
            Ok::<_, Failed>((record, Hold::new(locks)))
        });
        let (record, hold) = match published.await {
            Ok(result) => result.map_err(Self::cache_error)?,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return Err(EnsureError::Interrupted { image: self.id.clone() }),
        };
        Ok(self.made(key, &record, hold, from_cache))
    }

    /// Moves bytes from the network to the thread that unpacks.
    async fn receive(
        &self,
        download: &mut Download<'_>,
        old: Option<File>,
        feed: Feed,
        refused: &CancellationToken,
        budget: &Budget,
    ) -> Result<(), FetchError> {
        let mut told = Instant::now();
        if let Some(old) = old
            && !self.replay(download, old, &feed, refused).await
        {
            return Ok(());
        }
        let mut told_bytes = download.offset();
        loop {
            let next = tokio::select! {
                biased;
                () = refused.cancelled() => return Ok(()),
                next = download.next() => next?,
            };
            let Some(bytes) = next else { break };
            let taken = tokio::select! {
                biased;
                () = refused.cancelled() => false,
                taken = feed.send(Piece::New(bytes)) => taken,
            };
            if !taken {
                return Ok(());
            }
            if told.elapsed() >= TELL {
                let rate = (download.offset() - told_bytes) as f64 / told.elapsed().as_secs_f64();
                self.progress(download, rate as u64, budget);
                (told, told_bytes) = (Instant::now(), download.offset());
            }
        }
        self.progress(download, 0, budget);
        feed.finish();
        Ok(())
    }

    /// The bytes that a dead process left, first. `false`: nobody wants them any more.
    async fn replay(&self, download: &mut Download<'_>, old: File, feed: &Feed, refused: &CancellationToken) -> bool {
        use tokio::io::AsyncReadExt as _;

        let mut left = download.offset();
        let mut old = tokio::fs::File::from_std(old);
        while left > 0 {
            let mut chunk = vec![0u8; usize::try_from(left).unwrap_or(usize::MAX).min(256 * 1024)];
            if old.read_exact(&mut chunk).await.is_err() {
                // It is shorter than it was: the sum will say that these are not the bytes asked for.
                return false;
            }
            left -= chunk.len() as u64;
            download.replay(&chunk);
            let taken = tokio::select! {
                biased;
                () = refused.cancelled() => false,
                taken = feed.send(Piece::Old(chunk.into())) => taken,
            };
            if !taken {
                return false;
            }
        }
        true
    }

    fn progress(&self, download: &Download<'_>, rate: u64, budget: &Budget) {
        self.events.send(Event::Progress {
            image: self.id.clone(),
            bytes: download.offset(),
            total: download.validators.length,
            rate,
            unpacked: budget.expanded(),
        });
    }

    /// Which error to tell: a damaged archive that is not the one asked for is the wrong one, not a damaged one.
    async fn diagnose(&self, error: ArchiveError, mut download: Download<'_>) -> EnsureError {
        let damaged = matches!(
            error,
            ArchiveError::Compressed { .. }
                | ArchiveError::Truncated { .. }
                | ArchiveError::Header { .. }
                | ArchiveError::NotAnArchive { .. }
        );
        let rest = download.validators.length.map(|length| length.saturating_sub(download.offset()));
        let comparable = self.image.sum.is_some() || !download.header_sums.is_empty();
        if !damaged || !comparable || rest.is_none_or(|rest| rest > DRAIN) {
            return self.archive_error(error);
        }
        loop {
            match download.next().await {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return self.archive_error(error),
            }
        }
        let header_sums = std::mem::take(&mut download.header_sums);
        self.check(&download.finish(), &header_sums).err().unwrap_or_else(|| self.archive_error(error))
    }

    fn check(&self, digests: &[Checksum], header_sums: &[Checksum]) -> Result<(), EnsureError> {
        let label = self.image.sum.iter().map(|sum| ("the label", sum));
        let header = header_sums.iter().map(|sum| ("the server's header", sum));
        for (asker, wanted) in label.chain(header) {
            match digest::find(digests, wanted.algo) {
                Some(got) if got == wanted => {}
                Some(got) => {
                    return Err(EnsureError::Sum {
                        image: self.id.clone(),
                        asker,
                        algo: wanted.algo,
                        wanted: wanted.clone(),
                        got: got.clone(),
                    });
                }
                // Every algorithm that somebody compares was computed; if not, nothing was proven.
                None => {
                    let source = io::Error::other(format!("no {} was computed", wanted.algo));
                    return Err(Self::cache_error(at("verify", &self.cache.store.root)(source)));
                }
            }
        }
        Ok(())
    }
}

pub(super) fn layer_records(layers: &[StagedLayer]) -> Vec<LayerRecord> {
    let record = |layer: &StagedLayer| LayerRecord {
        name: layer.name.clone(),
        digest: layer.digest.clone(),
        bytes: layer.bytes,
        entries: layer.entries,
    };
    layers.iter().map(record).collect()
}

/// Differs from call to call and from process to process.
#[expect(clippy::disallowed_methods, reason = "a name, for which any number does")]
pub(super) fn stamp() -> String {
    format!("{}-{}", jiff::Timestamp::now(), std::process::id())
}
