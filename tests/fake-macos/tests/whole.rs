//! The whole driver (plan, journal, execute, revert, recovery) on the emulated Mac, with something wrong at each call
//! of a life, and killed at each call. After recovery by a new driver the Mac is as it was.
//!
//! `faults.rs` has every kind of fault at every call, on the platform alone; here the kinds take turns.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a suite fails where it stands and says what it did")]

#[path = "faults/cases.rs"]
mod cases;
mod common;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use cases::{Call, every_fault, run_all};
use common::{Rig, SERVICE, Service, differences, runnable};
use fake_macos::Fault;
use native_config::{DriverConfig, EnvironmentId, Image, Source, Target, parse_label};
use native_driver::images::{Fetched, ImageSource};
use native_driver::store::{FsStore, Held, Hold, Store, Text, WorkspaceLock};
use native_driver::{AllocateRequest, Driver, JournalError, NativeDriver, PrepareOptions, Watch};
use native_images::{CacheError, EnsureError, Layer};
use native_platform::{Connection, Invocation, Output, RunError, Runner, SystemRunner};
use native_platform_macos::Privilege;

const LABEL: &str = "driver: native\nimages: [{url: 'http://x/base-1.tar.xz'}]\noptions: {entry: ./init.sh, groups: \
    [staff, everyone]}\nresources: {cpu: 1, ram: 1, disks: {ws: {size: 1}}}\n";

/// The life of a driver process: dies at a call, before or after it, and does nothing more then.
#[derive(Debug)]
struct Process {
    left: AtomicUsize,
    after: bool,
    dead: AtomicBool,
}

impl Process {
    fn new(left: usize, after: bool) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(left), after, dead: AtomicBool::new(false) })
    }

    fn immortal() -> Arc<Self> {
        Self::new(usize::MAX, false)
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }
}

struct MortalRunner(Arc<Process>);

fn dead(invocation: &Invocation) -> RunError {
    let source = io::Error::other("the driver is dead");
    RunError::Start { id: invocation.id, program: invocation.program.clone(), source }
}

impl Runner for MortalRunner {
    fn run(&self, invocation: &Invocation) -> Result<Output, RunError> {
        let last = !self.0.is_dead() && self.0.left.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && !self.0.after {
            self.0.dead.store(true, Ordering::SeqCst);
        }
        if self.0.is_dead() {
            return Err(dead(invocation));
        }
        let output = SystemRunner::real().run(invocation);
        if last {
            self.0.dead.store(true, Ordering::SeqCst);
            return Err(dead(invocation));
        }
        output
    }

    fn connect(&self, invocation: &Invocation) -> Result<Connection, RunError> {
        SystemRunner::real().connect(invocation)
    }
}

#[derive(Debug)]
struct MortalStore {
    inner: FsStore,
    process: Arc<Process>,
}

impl MortalStore {
    fn alive(&self) -> Result<&FsStore, JournalError> {
        match self.process.is_dead() {
            false => Ok(&self.inner),
            true => Err(JournalError::Io { action: "be alive in", path: "/".into(), source: io::Error::other("dead") }),
        }
    }
}

impl Store for MortalStore {
    fn dir(&self, id: &EnvironmentId) -> PathBuf {
        self.inner.dir(id)
    }
    fn try_workspace(&self) -> Result<Hold<WorkspaceLock>, JournalError> {
        self.alive()?.try_workspace()
    }
    fn claim(&self, lock: &WorkspaceLock, id: &EnvironmentId) -> Result<Option<Held>, JournalError> {
        self.alive()?.claim(lock, id)
    }
    fn try_hold(&self, id: &EnvironmentId) -> Result<Hold<Held>, JournalError> {
        self.alive()?.try_hold(id)
    }
    fn ids(&self) -> Result<Vec<EnvironmentId>, JournalError> {
        self.alive()?.ids()
    }
    fn read(&self, id: &EnvironmentId) -> Result<Option<Text>, JournalError> {
        self.alive()?.read(id)
    }
    fn contents(&self, id: &EnvironmentId) -> Result<Vec<String>, JournalError> {
        self.alive()?.contents(id)
    }
    fn write(&self, held: &Held, text: &[u8]) -> Result<(), JournalError> {
        self.alive()?.write(held, text)
    }
    fn note(&self, held: &Held, text: &[u8]) -> Result<(), JournalError> {
        self.alive()?.note(held, text)
    }
    fn remove(&self, held: Held) -> Result<(), JournalError> {
        self.alive()?.remove(held)
    }
    fn sweep(&self, lock: &WorkspaceLock) -> Result<(), JournalError> {
        self.alive()?.sweep(lock)
    }
    fn free_bytes(&self) -> Result<u64, JournalError> {
        Ok(1 << 40)
    }
}

/// One layer that is here already.
#[derive(Debug)]
struct Layers(PathBuf);

#[async_trait]
impl ImageSource for Layers {
    async fn fetch(&self, image: &Image, _: &Watch) -> Result<Fetched, EnsureError> {
        let (name, digest) = (image.name.to_string(), "sha256:base".to_owned());
        Ok(Fetched { layers: vec![Layer { name, digest, dir: self.0.clone(), bytes: 1, entries: 1 }], hold: None })
    }
    fn pin(&self, _: &EnvironmentId, _: &[Layer]) -> Result<(), CacheError> {
        Ok(())
    }
    fn unpin(&self, _: &EnvironmentId) -> Result<(), CacheError> {
        Ok(())
    }
}

fn config(rig: &Rig) -> DriverConfig {
    let (uid_min, uid_max) = rig.host.config.uids;
    DriverConfig {
        workspace_path: Some(rig.host.fs().join("private/var/work")),
        allowed_groups: vec!["staff".parse().unwrap(), "everyone".parse().unwrap()],
        // Without a limit on memory: the keeper's looks at it would come at no fixed place of a life.
        limits: native_config::LimitsMode::Off,
        stop_grace: Duration::from_millis(50),
        node_identifiers: Some(Vec::new()),
        uid_min,
        uid_max,
        ..DriverConfig::default()
    }
}

fn driver(rig: &Rig, layer: &Path, process: &Arc<Process>) -> NativeDriver {
    let platform = rig.platform_over(Arc::new(MortalRunner(Arc::clone(process))));
    let process = Arc::clone(process);
    NativeDriver::new("native".parse().unwrap(), Arc::new(platform))
        .with_images(Arc::new(Layers(layer.to_owned())))
        .with_store(move |root| Arc::new(MortalStore { inner: FsStore::new(root), process: Arc::clone(&process) }))
}

/// Allocates and deallocates; what goes wrong is recovery's business.
async fn life(rig: &Rig, layer: &Path, process: &Arc<Process>) -> bool {
    let driver = driver(rig, layer, process);
    if driver.prepare(&config(rig), PrepareOptions::CHANGE, Watch::quiet()).await.is_err() {
        return false;
    }
    let label = parse_label(&Source::new("label.yml", LABEL), Target::Macos).value.unwrap();
    let request = AllocateRequest::new(label.definitions[0].clone());
    match driver.allocate(request, Watch::quiet()).await {
        Ok(made) => driver.deallocate(&made.identifier, Watch::quiet()).await.is_ok(),
        Err(_) => false,
    }
}

/// What the next process does: recovers, removes what is there, audits.
async fn recover(rig: &Rig, layer: &Path) -> Vec<String> {
    let driver = driver(rig, layer, &Process::immortal());
    let mut wrong = Vec::new();
    if let Err(error) = driver.prepare(&config(rig), PrepareOptions::CHANGE, Watch::quiet()).await {
        return vec![format!("prepare: {error}")];
    }
    for environment in driver.list().await.unwrap() {
        if let Err(error) = driver.deallocate(&environment.identifier, Watch::quiet()).await {
            wrong.push(format!("deallocate: {error}"));
        }
    }
    match driver.audit_fix(Watch::quiet()).await {
        Ok(fixed) => wrong.extend(fixed.audit.leaked.iter().map(|leak| format!("{leak:?}"))),
        Err(error) => wrong.push(format!("audit: {error}")),
    }
    wrong
}

/// What is on the host, but for the workspace's own lock.
fn snapshot(rig: &Rig) -> String {
    rig.snapshot().lines().filter(|l| !l.contains("private/var/work/.")).collect::<Vec<_>>().join("\n")
}

/// One life with this wrong, then recovery. Returns what is not as it was.
fn case(mode: Privilege, fault: Option<&Fault>, process: &Arc<Process>) -> Vec<String> {
    let mut rig = Rig::new(mode);
    let layer = rig.layer("base", &[("init.sh", "#!/bin/sh\nexec sleep 600\n")], 0o700).dir;
    let start = snapshot(&rig);
    rig.host.set_faults(fault.map(std::slice::from_ref).unwrap_or_default());
    rig.limit = Duration::from_millis(400);
    let service = Service::enter(mode);
    // Made here, so that its threads have the service's rights.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(life(&rig, &layer, process));
    rig.host.set_faults(&[]);
    rig.limit = Duration::from_secs(20);
    let mut wrong = runtime.block_on(recover(&rig, &layer));
    drop(runtime);
    drop(service);
    wrong.extend(differences(&start, &snapshot(&rig)));
    wrong
}

/// The calls of a life in which nothing goes wrong.
fn calls(mode: Privilege) -> Vec<Call> {
    let rig = Rig::new(mode);
    let layer = rig.layer("base", &[("init.sh", "#!/bin/sh\nexec sleep 600\n")], 0o700).dir;
    let _service = Service::enter(mode);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert!(runtime.block_on(life(&rig, &layer, &Process::immortal())), "a life in which nothing goes wrong");
    cases::log(&rig.host)
}

fn faults(mode: Privilege, title: &str) {
    if !runnable() {
        return;
    }
    assert_eq!(SERVICE, 501);
    // Each call gets one of the faults that it can have, and its neighbours get others.
    let mut chosen = Vec::new();
    for (n, faults) in every_fault(&calls(mode)).into_iter().enumerate() {
        let index = n % faults.len().max(1);
        chosen.extend(faults.into_iter().nth(index));
    }
    run_all(
        title,
        &chosen,
        |(fault, line)| format!("{line}: {fault:?}"),
        |(fault, _)| case(mode, Some(fault), &Process::immortal()),
    );
}

fn deaths(mode: Privilege, title: &str) {
    if !runnable() {
        return;
    }
    // What goes through sudo is one call of the driver's.
    let count = calls(mode).iter().filter(|call| call.tool != "sudo").count();
    let cases: Vec<_> = (1..=count).map(|n| (n, n % 2 == 0)).collect();
    run_all(title, &cases, |c| format!("{c:?}"), |(n, after)| case(mode, None, &Process::new(*n, *after)));
}

#[test]
fn a_fault_at_each_call_as_root() {
    faults(Privilege::Root, "whole driver as root, a fault at each call");
}

#[test]
fn a_fault_at_each_call_by_sudo() {
    faults(Privilege::SudoCommands, "whole driver by sudo, a fault at each call");
}

#[test]
fn killed_at_each_call_as_root() {
    deaths(Privilege::Root, "whole driver as root, killed at each call");
}

#[test]
fn killed_at_each_call_by_sudo() {
    deaths(Privilege::SudoCommands, "whole driver by sudo, killed at each call");
}
