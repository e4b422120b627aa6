//! A driver on a host in memory, with a workspace on disk and images that need no network.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use native_config::{Definition, Disk, DiskKind, DriverConfig, EnvironmentId, Image, Metadata, Resources, Template};
use native_driver::images::{Fetched, ImageSource};
use native_driver::journal::Journal;
use native_driver::store::{FsStore, Held, Hold, JOURNAL, NOTE, Store, Text, WorkspaceLock};
use native_driver::{
    AllocateRequest, Driver, JournalError, NativeDriver, PrepareError, PrepareOptions, Prepared, Watch,
};
use native_images::{CacheError, EnsureError, Layer};
use native_platform_fake::{FakeHost, FakePlatform, HostState};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// What goes wrong at a journal write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteFault {
    /// The write fails and the old text stays.
    Fail,
    /// The write fails and the new text is there.
    FailAfter,
    /// The process dies before the write.
    CrashBefore,
    /// The process dies after the write.
    CrashAfter,
}

/// Journal writes, numbered over the life of a rig.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    count: AtomicUsize,
    faults: Mutex<BTreeMap<usize, WriteFault>>,
}

impl Writes {
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    pub(crate) fn fault(&self, write: usize, fault: WriteFault) {
        self.faults.lock().unwrap().insert(write, fault);
    }
}

/// The real store, until its process is dead.
#[derive(Debug)]
struct MortalStore {
    inner: FsStore,
    host: FakeHost,
    process: FakePlatform,
    writes: Arc<Writes>,
}

fn dead() -> JournalError {
    JournalError::Io { action: "be alive in", path: PathBuf::from("/"), source: io::Error::other("dead") }
}

impl MortalStore {
    /// A write of the journal, unless it is this one's turn to go wrong.
    fn faulty(&self, write: impl FnOnce() -> Result<(), JournalError>) -> Result<(), JournalError> {
        self.alive()?;
        let number = self.writes.count.fetch_add(1, Ordering::SeqCst);
        let fault = self.writes.faults.lock().unwrap().remove(&number);
        match fault {
            Some(WriteFault::Fail) => return Err(dead()),
            Some(WriteFault::CrashBefore) => {
                self.host.kill();
                return Err(dead());
            }
            _ => write()?,
        }
        match fault {
            Some(WriteFault::FailAfter) => Err(dead()),
            Some(WriteFault::CrashAfter) => {
                self.host.kill();
                Err(dead())
            }
            _ => Ok(()),
        }
    }

    fn alive(&self) -> Result<(), JournalError> {
        if self.process.is_dead() { Err(dead()) } else { Ok(()) }
    }
}

impl Store for MortalStore {
    fn dir(&self, id: &EnvironmentId) -> PathBuf {
        self.inner.dir(id)
    }
    fn try_workspace(&self) -> Result<Hold<WorkspaceLock>, JournalError> {
        self.alive()?;
        self.inner.try_workspace()
    }
    fn claim(&self, lock: &WorkspaceLock, id: &EnvironmentId) -> Result<Option<Held>, JournalError> {
        self.alive()?;
        self.inner.claim(lock, id)
    }
    fn try_hold(&self, id: &EnvironmentId) -> Result<Hold<Held>, JournalError> {
        self.alive()?;
        self.inner.try_hold(id)
    }
    fn ids(&self) -> Result<Vec<EnvironmentId>, JournalError> {
        self.alive()?;
        self.inner.ids()
    }
    fn read(&self, id: &EnvironmentId) -> Result<Option<Text>, JournalError> {
        self.alive()?;
        self.inner.read(id)
    }
    fn contents(&self, id: &EnvironmentId) -> Result<Vec<String>, JournalError> {
        self.alive()?;
        self.inner.contents(id)
    }
    fn write(&self, held: &Held, text: &[u8]) -> Result<(), JournalError> {
        self.faulty(|| self.inner.write(held, text))
    }

    fn note(&self, held: &Held, text: &[u8]) -> Result<(), JournalError> {
        self.faulty(|| self.inner.note(held, text))
    }

    fn remove(&self, held: Held) -> Result<(), JournalError> {
        self.alive()?;
        self.inner.remove(held)
    }
    fn sweep(&self, lock: &WorkspaceLock) -> Result<(), JournalError> {
        self.alive()?;
        self.inner.sweep(lock)
    }
    fn free_bytes(&self) -> Result<u64, JournalError> {
        // A test must not depend on how full this machine is.
        Ok(1 << 40)
    }
}

/// Images by name: `fails` is refused, `hangs` never comes, any other has two layers.
#[derive(Debug, Default)]
pub(crate) struct FakeImages {
    pins: Mutex<BTreeMap<EnvironmentId, BTreeSet<String>>>,
    pub(crate) fetched: AtomicUsize,
}

impl FakeImages {
    pub(crate) fn pins(&self) -> BTreeMap<EnvironmentId, BTreeSet<String>> {
        self.pins.lock().unwrap().clone()
    }
}

#[derive(Debug)]
struct MortalImages {
    inner: Arc<FakeImages>,
    process: FakePlatform,
}

#[async_trait]
impl ImageSource for MortalImages {
    async fn fetch(&self, image: &Image, _watch: &Watch) -> Result<Fetched, EnsureError> {
        match image.name.as_str() {
            "fails" => return Err(EnsureError::Interrupted { image: image.name.to_string() }),
            "hangs" => std::future::pending::<()>().await,
            _ => {}
        }
        self.inner.fetched.fetch_add(1, Ordering::SeqCst);
        let layer = |n: u32| Layer {
            name: format!("{}{n}", image.name),
            digest: format!("sha256:{}{n}", image.name),
            dir: format!("/cache/{}{n}", image.name).into(),
            bytes: 1,
            entries: 1,
        };
        Ok(Fetched { layers: vec![layer(0), layer(1)], hold: None })
    }
    fn pin(&self, id: &EnvironmentId, layers: &[Layer]) -> Result<(), CacheError> {
        if self.process.is_dead() {
            return Err(CacheError::Unknown { name: "dead".to_owned() });
        }
        let digests = layers.iter().map(|l| l.digest.clone()).collect();
        self.inner.pins.lock().unwrap().insert(id.clone(), digests);
        Ok(())
    }
    fn unpin(&self, id: &EnvironmentId) -> Result<(), CacheError> {
        if self.process.is_dead() {
            return Err(CacheError::Unknown { name: "dead".to_owned() });
        }
        self.inner.pins.lock().unwrap().remove(id);
        Ok(())
    }
}

/// A host, a workspace and an image cache; driver processes come and go.
pub(crate) struct Rig {
    pub(crate) host: FakeHost,
    pub(crate) workspace: TempDir,
    pub(crate) writes: Arc<Writes>,
    pub(crate) images: Arc<FakeImages>,
    pub(crate) config: DriverConfig,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) start: HostState,
}

pub(crate) fn runtime() -> Arc<Runtime> {
    Arc::new(Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap())
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::on(runtime())
    }

    pub(crate) fn on(runtime: Arc<Runtime>) -> Self {
        // Most of a case's time is fsync, which a host in memory has no use for.
        let workspace = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let config = DriverConfig {
            workspace_path: Some(workspace.path().to_owned()),
            node_identifiers: Some(vec!["OS:linux".to_owned()]),
            ..DriverConfig::default()
        };
        let host = FakeHost::new();
        let start = host.state();
        Self { host, workspace, writes: Arc::default(), images: Arc::default(), config, runtime, start }
    }

    /// A process that has not begun.
    pub(crate) fn process(&self) -> NativeDriver {
        let process = self.host.platform();
        let (host, writes) = (self.host.clone(), Arc::clone(&self.writes));
        let images = MortalImages { inner: Arc::clone(&self.images), process: process.clone() };
        let store_process = process.clone();
        NativeDriver::new("native".parse().unwrap(), Arc::new(process))
            .with_store(move |root| {
                Arc::new(MortalStore {
                    inner: FsStore::new(root),
                    host: host.clone(),
                    process: store_process.clone(),
                    writes: Arc::clone(&writes),
                })
            })
            .with_images(Arc::new(images))
    }

    /// A process that has begun, without recovery.
    pub(crate) fn driver(&self) -> Arc<NativeDriver> {
        let driver = self.process();
        self.runtime.block_on(driver.prepare(&self.config, PrepareOptions::READ, Watch::quiet())).unwrap();
        Arc::new(driver)
    }

    /// A process that begins as a node does, but for the round trip.
    pub(crate) fn recovered(&self) -> Result<(Arc<NativeDriver>, Prepared), PrepareError> {
        let driver = self.process();
        let options = PrepareOptions { recover: true, check: false, round_trip: false };
        let prepared = self.runtime.block_on(driver.prepare(&self.config, options, Watch::quiet()))?;
        Ok((Arc::new(driver), prepared))
    }

    /// The environments' directories, and anything else that is not the workspace's lock.
    pub(crate) fn entries(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.workspace.path()).unwrap();
        let mut names: Vec<_> = names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|n| n != ".lock");
        names.sort();
        names
    }

    pub(crate) fn ids(&self) -> Vec<EnvironmentId> {
        self.entries().iter().filter_map(|n| n.parse().ok()).collect()
    }

    pub(crate) fn journal_path(&self, id: &EnvironmentId) -> PathBuf {
        let dir = self.workspace.path().join(id.as_str());
        let note = dir.join(NOTE);
        if note.exists() { note } else { dir.join(JOURNAL) }
    }

    pub(crate) fn journal(&self, id: &EnvironmentId) -> Option<Journal> {
        let path = self.journal_path(id);
        Some(Journal::parse(&std::fs::read(&path).ok()?, &path, id).unwrap())
    }

    #[track_caller]
    pub(crate) fn assert_clean(&self, what: &dyn std::fmt::Display) {
        assert_eq!(self.host.state(), self.start, "{what}: the host");
        assert_eq!(self.entries(), Vec::<String>::new(), "{what}: the workspace");
        assert!(self.images.pins().is_empty(), "{what}: pins {:?}", self.images.pins());
    }
}

pub(crate) fn image(name: &str, tag: Option<&str>) -> Image {
    Image {
        url: format!("https://images.example/{name}-1.tar.xz").parse().unwrap(),
        sum: None,
        name: name.parse().unwrap(),
        version: "1".parse().unwrap(),
        tag: tag.map(|t| t.parse().unwrap()),
    }
}

pub(crate) fn disk(kind: DiskKind) -> Disk {
    Disk { size_gb: 1, kind, label: None, reuse: false, clone: None }
}

/// One CPU, two disks, two images, one of them for a disk. Tolerates neighbours.
pub(crate) fn definition() -> Definition {
    Definition {
        driver: "native".to_owned(),
        images: vec![image("base", None), image("tools", Some("ws"))],
        entry: Template::parse("{{ .Disks.ws }}/init.sh").unwrap(),
        groups: vec!["staff".parse().unwrap()],
        resources: Resources {
            cpu: 1,
            ram_gb: 1,
            disks: BTreeMap::from([
                ("ws".parse().unwrap(), disk(DiskKind::Default)),
                ("plain".parse().unwrap(), disk(DiskKind::Dir)),
            ]),
            multitenancy: true,
            ..Resources::default()
        },
    }
}

pub(crate) fn request() -> AllocateRequest {
    AllocateRequest {
        metadata: Metadata::from_pairs(["TOKEN=secret-of-app", "WS={{ .Disks.ws }}"]).unwrap(),
        ..AllocateRequest::new(definition())
    }
}

/// What a small request is made of, for tests of many.
pub(crate) fn small() -> AllocateRequest {
    let mut definition = definition();
    definition.images.clear();
    definition.entry = Template::parse("./init.sh").unwrap();
    AllocateRequest::new(definition)
}

/// A path of this crate's fixtures.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}
