//! A node: one driver in this process, on a bench of the black-box suite.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use e2e::{Bench, Tree};
use native_config::{DriverConfig, EnvironmentId, Source, Target, parse_config, parse_label};
use native_driver::{AllocateRequest, DeallocateError, Driver, NativeDriver, PrepareOptions, Watch};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What an environment's entry does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Ends at once with 0.
    Ends,
    /// Ends at once with 3.
    Fails,
    /// Stays until it is stopped.
    Stays,
    /// Stays beyond its lifetime of a second.
    Lives,
    /// The image has no such program.
    Missing,
    /// The image is not what its sum says.
    Wrong,
}

/// A driver that lives as long as this process, and the bench that it works on at the moment.
pub(crate) struct Node {
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) bench: Bench,
    sources: [String; 3],
}

impl Node {
    /// A driver, not prepared yet.
    pub(crate) fn driver() -> anyhow::Result<Arc<dyn Driver>> {
        let (host, config) = (native_helper::Host::current(), DriverConfig::default());
        let platform = native_helper::open(&host, &config).map_err(|e| anyhow::anyhow!("{e}"))?;
        Ok(Arc::new(NativeDriver::new("native".parse()?, platform)))
    }

    /// Takes the driver to a bench of its own. Waits for its turn on the host.
    pub(crate) async fn new(driver: Arc<dyn Driver>) -> anyhow::Result<Self> {
        let bench = Bench::new().context("this host can't be soaked")?;
        // However small the host is: its cores and memory are shared by all of them.
        bench.configure("cpu_alter: 1000\nram_alter: 1000\n");
        let tree = |script: &str| Tree::new().program("init.sh", script);
        let images = [
            bench.image("ends", &tree("#!/bin/sh\necho done\n")),
            bench.image("fails", &tree("#!/bin/sh\necho failing >&2\nexit 3\n")),
            bench.image("stays", &tree("#!/bin/sh\necho staying\nexec sleep 600\n")),
        ];
        let sources = images.map(|image| bench.source(&image, None));
        let node = Self { driver, bench, sources };
        node.prepare().await?;
        Ok(node)
    }

    /// What a node does at its start: takes the config, deals with what dead processes left.
    pub(crate) async fn prepare(&self) -> anyhow::Result<()> {
        let text = fs::read_to_string(self.bench.config()).context("read the configuration")?;
        let (config, _) = parse_config(&Source::new("config.yml", &text), Target::current()).into_result()?;
        let config = config.instances.into_values().next().context("the configuration has no instance")?;
        self.driver.prepare(&config, PrepareOptions::CHANGE, Watch::quiet()).await?;
        Ok(())
    }

    /// A label's text, with more lines for its resources.
    pub(crate) fn label(&self, work: Work) -> String {
        let [ends, fails, stays] = &self.sources;
        let source = match work {
            Work::Ends | Work::Missing => ends.clone(),
            Work::Fails => fails.clone(),
            Work::Stays | Work::Lives => stays.clone(),
            Work::Wrong => {
                let (start, _) = ends.split_once("sha256:").unwrap_or((ends, ""));
                format!("{start}sha256:{}'}}", "0".repeat(64))
            }
        };
        let mut label = e2e::label(&[source], "{}");
        if work == Work::Missing {
            label = label.replace("  - driver: native\n", "  - driver: native\n    options: {entry: not-there.sh}\n");
        }
        if work == Work::Lives {
            label = label.replace("resources: {", "resources: {lifetime: 1s, ");
        }
        label
    }

    /// Removes whatever there is, after something went wrong: the next run is to find the host as it was.
    pub(crate) async fn abandon(&self) {
        for environment in self.driver.list().await.unwrap_or_default() {
            drop(self.deallocate(&environment.identifier).await);
        }
    }

    /// The request for it.
    pub(crate) fn request(&self, work: Work) -> anyhow::Result<AllocateRequest> {
        request(&self.label(work))
    }

    /// Takes an environment away; once more if something was left, as the message says. Returns whether it was.
    pub(crate) async fn deallocate(&self, id: &EnvironmentId) -> anyhow::Result<bool> {
        let Err(first) = self.driver.deallocate(id, Watch::quiet()).await else { return Ok(false) };
        if matches!(first, DeallocateError::NoSuch(_)) {
            return Ok(false);
        }
        match self.driver.deallocate(id, Watch::quiet()).await {
            Ok(_) | Err(DeallocateError::NoSuch(_)) => Ok(true),
            Err(second) => bail!("{id} can't be removed: {first}; then: {second}"),
        }
    }

    /// Asserts that nothing is left of anything.
    pub(crate) async fn ensure_clean(&self) -> anyhow::Result<()> {
        let list = self.driver.list().await?;
        anyhow::ensure!(list.is_empty(), "{} environments are left: {list:?}", list.len());
        let left = self.bench.left(true);
        anyhow::ensure!(left.is_empty(), "left on the host: {left:#?}");
        let audit = self.driver.audit().await?;
        anyhow::ensure!(audit.clean, "the audit found: {:?}", audit.leaked);
        Ok(())
    }
}

/// A label's text as a request.
pub(crate) fn request(label: &str) -> anyhow::Result<AllocateRequest> {
    let (label, _) = parse_label(&Source::new("label.yml", label), Target::current()).into_result()?;
    let definition = label.definitions.into_iter().find(|d| d.is_native()).context("a label without a definition")?;
    Ok(AllocateRequest::new(definition))
}

/// Processes of this program, by what they are called and whom they belong to.
fn processes(wanted: impl Fn(&Path) -> bool) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter(|e| wanted(&e.path())).filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

fn read(path: &Path, name: &str) -> String {
    String::from_utf8_lossy(&fs::read(path.join(name)).unwrap_or_default()).into_owned()
}

/// Kills the helpers that work for this process at the moment. Returns how many.
pub(crate) fn kill_helpers() -> usize {
    let parent = format!("PPid:\t{}\n", std::process::id());
    let helpers = processes(|p| read(p, "status").contains(&parent) && read(p, "cmdline").contains("__helper"));
    helpers.iter().filter(|pid| kill(Pid::from_raw(**pid), Signal::SIGKILL).is_ok()).count()
}

/// Kills the keeper of an environment. Returns whether there was one.
pub(crate) fn kill_keeper(id: &EnvironmentId) -> bool {
    let group = format!("/fish-native/{id}/keeper");
    let keepers = processes(|p| read(p, "comm").trim() == "fish-keeper" && read(p, "cgroup").contains(&group));
    keepers.iter().any(|pid| kill(Pid::from_raw(*pid), Signal::SIGKILL).is_ok())
}
