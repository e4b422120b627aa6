//! A driver in one long-lived process, as a Fish node has it, with warm images.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use native_config::{AccountKind, Definition, DriverConfig, EnvironmentId, Source, Target, parse_label};
use native_driver::{AllocateRequest, Allocated, Driver, NativeDriver, Phase, PrepareOptions, Progress, Watch};
use native_helper::HelperPlatform;
use native_images::{PackOptions, pack};
use tokio::runtime::Runtime;

use super::measure::ended_child;
use super::scratch::{Scratch, text};
use super::table::Times;
use crate::run::tool;

/// Uids that no other instance on the machine gives away: a bench has a ledger of its own.
const UIDS: (u32, u32) = (400_000, 409_999);

/// A prepared driver.
pub(crate) struct Node {
    pub(crate) runtime: Runtime,
    pub(crate) driver: Arc<dyn Driver>,
    /// What each phase took.
    phases: Arc<Mutex<BTreeMap<Phase, Times>>>,
}

impl Node {
    /// A driver with a workspace of its own and the images of all.
    pub(crate) fn new(
        scratch: &Scratch,
        account: AccountKind,
        change: impl FnOnce(&mut DriverConfig),
    ) -> anyhow::Result<Self> {
        let name = format!("workspace-{account:?}").to_lowercase();
        let mut config = DriverConfig {
            images_path: Some(scratch.dir("images")?),
            workspace_path: Some(scratch.dir(&name)?),
            account,
            stop_grace: Duration::ZERO,
            // What is measured is not whether there is room.
            cpu_alter: 1000,
            ram_alter: 10_000,
            uid_min: UIDS.0,
            uid_max: UIDS.1,
            ..DriverConfig::default()
        };
        change(&mut config);
        let platform = HelperPlatform::at(super::optimised("fish-native-helper")?.into());
        let driver: Arc<dyn Driver> = Arc::new(NativeDriver::new("native".parse()?, Arc::new(platform)));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(driver.prepare(&config, PrepareOptions::CHANGE, Watch::quiet()))?;
        Ok(Self { runtime, driver, phases: Arc::default() })
    }

    /// Makes an environment, and tells how long that took.
    pub(crate) fn allocate(&self, definition: &Definition) -> anyhow::Result<(Allocated, Duration)> {
        let since = Instant::now();
        let made =
            self.runtime.block_on(self.driver.allocate(AllocateRequest::new(definition.clone()), self.watch()))?;
        Ok((made, since.elapsed()))
    }

    /// Removes an environment, and tells how long that took.
    pub(crate) fn deallocate(&self, id: &EnvironmentId) -> anyhow::Result<Duration> {
        let since = Instant::now();
        self.runtime.block_on(self.driver.deallocate(id, self.watch()))?;
        Ok(since.elapsed())
    }

    /// Waits until the workload has printed `word`.
    pub(crate) fn wait_for(&self, id: &EnvironmentId, word: &str) -> anyhow::Result<()> {
        let path = self.driver.log_path(id)?;
        let deadline = Instant::now() + Duration::from_secs(120);
        while !fs::read_to_string(&path).unwrap_or_default().contains(word) {
            anyhow::ensure!(Instant::now() < deadline, "{id} does not say {word:?}: {}", path.display());
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn watch(&self) -> Watch {
        let (phases, started) = (Arc::clone(&self.phases), Mutex::new(BTreeMap::new()));
        Watch::new(tokio_util::sync::CancellationToken::new(), move |event| {
            let mut started = started.lock().unwrap_or_else(PoisonError::into_inner);
            match event {
                Progress::Started(phase) => drop(started.insert(phase, Instant::now())),
                Progress::Finished { phase, .. } => {
                    if let Some(since) = started.remove(&phase) {
                        let mut phases = phases.lock().unwrap_or_else(PoisonError::into_inner);
                        phases.entry(phase).or_default().add(since.elapsed());
                    }
                }
                _ => {}
            }
        })
    }

    /// The median of each phase, on one line.
    pub(crate) fn phases(&self) -> String {
        let phases = self.phases.lock().unwrap_or_else(PoisonError::into_inner);
        let told: Vec<_> = phases.iter().map(|(phase, times)| format!("{phase} {:.1}", times.median())).collect();
        told.join(", ")
    }
}

/// Reaps keepers that have ended, as the first process of a usual system does at once. That of some virtual machines takes
/// seconds, and each look at all processes then reads hundreds that are none any more.
pub(crate) fn reap_keepers() -> anyhow::Result<()> {
    use rustix::process::{Pid, WaitOptions, getpid, set_child_subreaper, waitpid};
    set_child_subreaper(Some(getpid()))?;
    thread::Builder::new().spawn(|| {
        loop {
            // Others are waited for by whoever started them.
            let is_keeper = |pid: &Pid| {
                let name = fs::read_to_string(format!("/proc/{pid}/comm"));
                name.is_ok_and(|name| name.trim() == "fish-keeper")
            };
            match ended_child().filter(is_keeper) {
                Some(keeper) => drop(waitpid(Some(keeper), WaitOptions::empty())),
                None => thread::sleep(Duration::from_millis(5)),
            }
        }
    })?;
    Ok(())
}

/// An image that is served, and then in the cache.
pub(crate) struct Image {
    /// A label with it, one disk of 10 GB and nothing else.
    pub(crate) label: PathBuf,
    /// Its definition.
    pub(crate) definition: Definition,
    /// Its only layer, as the Go driver unpacks it.
    pub(crate) layer: PathBuf,
}

/// Packs an image of so many files of so many bytes with `script` as its entry.
pub(crate) fn image(
    scratch: &Scratch,
    server: &str,
    name: &str,
    (files, bytes): (usize, usize),
    script: &str,
    ram_gb: u32,
) -> anyhow::Result<Image> {
    let (tree, served) = (scratch.dir(&format!("{name}-tree"))?, scratch.dir("served")?);
    let (mut content, mut noise) = (vec![b'x'; bytes], 0x2545_f491_4f6c_dd1d_u64);
    for n in 0..files {
        if n % 200 == 0 {
            fs::create_dir(tree.join(format!("{}", n / 200)))?;
        }
        // Some of it is noise, the same on every run: an image that gets a thousand times smaller is refused.
        for piece in content[..bytes / 32].chunks_mut(8) {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            piece.copy_from_slice(&noise.to_le_bytes()[..piece.len()]);
        }
        fs::write(tree.join(format!("{}/{n}", n / 200)), &content)?;
    }
    fs::write(tree.join("init.sh"), script)?;
    fs::set_permissions(tree.join("init.sh"), fs::Permissions::from_mode(0o755))?;
    let packed = pack(&tree, name, &served, &PackOptions { level: 0, threads: 2, ..PackOptions::default() })?;
    let layer = served.join(format!("{name}.layer"));
    tool("tar", &["-cf", text(&layer)?, "-C", text(&tree)?, "."]).output()?;
    fs::remove_dir_all(&tree)?;
    let file = packed.path.file_name().and_then(|n| n.to_str()).context("an image without a name")?;
    let yaml = format!(
        "name: bench\nversion: 1\ndefinitions:\n  - driver: native\n    images: [{{url: '{server}{file}', \
         sum: '{}'}}]\n    resources: {{cpu: 1, ram: {ram_gb}, multitenancy: true, disks: {{ws: {{size: 10}}}}}}\n",
        packed.sum
    );
    let label = served.join(format!("{name}.yml"));
    fs::write(&label, &yaml)?;
    let (parsed, _) = parse_label(&Source::new("bench", &yaml), Target::current()).into_result()?;
    let definition = parsed.definitions.into_iter().next().context("a label without a definition")?;
    Ok(Image { label, definition, layer })
}
