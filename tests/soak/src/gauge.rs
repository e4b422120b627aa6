//! [`Gauge`]: what must not grow.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};

/// How much a node's memory may grow after it has warmed up, in KB: allocators keep some of what they had.
const MEMORY: usize = 16 << 10;

/// Counts of what a leak would add to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gauge {
    loops: usize,
    mounts: usize,
    cgroups: usize,
    held_uids: usize,
    files: usize,
    threads: usize,
    memory_kb: usize,
}

impl Gauge {
    /// As it is now, in this process and on this host.
    pub(crate) fn now() -> anyhow::Result<Self> {
        let count = |dir: &str| fs::read_dir(dir).map(Iterator::count).with_context(|| format!("list {dir}"));
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?.lines().count();
        let status = fs::read_to_string("/proc/self/status").context("read the status")?;
        let memory = status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
        Ok(Self {
            loops: loops(),
            mounts,
            cgroups: cgroups(Path::new("/sys/fs/cgroup")),
            held_uids: held()?,
            files: count("/proc/self/fd")?,
            threads: count("/proc/self/task")?,
            memory_kb: memory.context("the status has no VmRSS")?,
        })
    }

    /// Compares with an earlier one, taken when nothing ran either.
    pub(crate) fn ensure_no_growth(&self, since: &Self) -> anyhow::Result<()> {
        let pairs = [
            ("loop devices", self.loops, since.loops),
            ("mounts", self.mounts, since.mounts),
            ("cgroups", self.cgroups, since.cgroups),
            ("held uids", self.held_uids, since.held_uids),
            ("open files", self.files, since.files),
        ];
        for (what, now, before) in pairs {
            ensure!(now <= before, "{what} grew from {before} to {now}");
        }
        let (now, before) = (self.memory_kb, since.memory_kb);
        ensure!(now <= before + MEMORY, "memory grew from {before} KB to {now} KB");
        Ok(())
    }
}

impl fmt::Display for Gauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} loops, {} mounts, {} cgroups, {} held uids, {} files, {} threads, {} KB",
            self.loops, self.mounts, self.cgroups, self.held_uids, self.files, self.threads, self.memory_kb
        )
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

/// Loop devices that hold a file.
fn loops() -> usize {
    let held = |name: &String| Path::new("/sys/block").join(name).join("loop/backing_file").exists();
    names(Path::new("/sys/block")).iter().filter(|name| held(name)).count()
}

/// Cgroups of environments, in any tree.
fn cgroups(dir: &Path) -> usize {
    let mut found = 0;
    for name in names(dir) {
        let path = dir.join(&name);
        if fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir()) {
            found += usize::from(name.starts_with("fish-")) + cgroups(&path);
        }
    }
    found
}

/// Uids in the ledger of root's records.
fn held() -> anyhow::Result<usize> {
    let Ok(text) = fs::read("/var/lib/fish-native/uids.now") else { return Ok(0) };
    let ledger: serde_json::Value = serde_json::from_slice(&text).context("read the uid ledger")?;
    Ok(ledger["held"].as_array().map_or(0, Vec::len))
}
