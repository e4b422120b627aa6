//! Cgroups of an environment, on pure v2, hybrid and v1 hosts.
//!
//! Killing and "is anything left" always use the unified (v2) tree: it has `cgroup.kill` and `populated`. Limits
//! use whichever tree has the controller. An environment has two groups below `fish-native/<id>`: `keeper` (the
//! keeper and the first process of the namespaces, neither of them the workload's to exhaust) and `work`.
//!
//! Sources: the kernel's admin-guide/cgroup-v2.rst (no processes in inner groups; `cgroup.kill` since 5.14) and
//! admin-guide/cgroup-v1.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use native_config::{EnvironmentId, LimitsMode};
use native_platform::Limits;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::proc;

/// The controllers that limit a workload. `cpuacct` only accounts, and only v1 has it apart.
const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "cpuacct"];
/// Our directory in each tree.
const OURS: &str = "fish-native";

/// The trees of this host.
#[derive(Debug, Clone)]
pub(crate) struct Trees {
    unified: PathBuf,
    /// Controller and mount point of each v1 tree that we use.
    v1: Vec<(&'static str, PathBuf)>,
}

/// The groups of one environment.
#[derive(Debug, Clone)]
pub(crate) struct Groups {
    trees: Trees,
    id: EnvironmentId,
}

/// What the workload used so far.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    pub(crate) memory_bytes: u64,
    pub(crate) pids: u32,
    pub(crate) out_of_memory: bool,
}

/// Adds the path to an I/O error: the kernel's own words ("Invalid argument") say nothing alone.
fn at<T>(path: &Path, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

fn put(path: &Path, value: &str) -> io::Result<()> {
    at(path, OpenOptions::new().write(true).open(path).and_then(|mut f| f.write_all(value.as_bytes())))
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The value of `key` in a file of `key value` lines.
fn keyed(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

impl Trees {
    /// Finds the trees.
    ///
    /// # Errors
    /// When there is no unified tree.
    pub(crate) fn find() -> io::Result<Self> {
        let mounts = proc::mounts()?;
        let unified = mounts
            .iter()
            .find(|m| m.kind == "cgroup2")
            .map(|m| m.point.clone())
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup2 file system is mounted"))?;
        let own = fs::read_to_string(unified.join("cgroup.controllers")).unwrap_or_default();
        let mut v1 = Vec::new();
        for controller in CONTROLLERS {
            if own.split_whitespace().any(|c| c == controller) {
                continue;
            }
            let tree =
                mounts.iter().find(|m| m.kind == "cgroup" && m.super_options.split(',').any(|o| o == controller));
            if let Some(mount) = tree {
                v1.push((controller, mount.point.clone()));
            }
        }
        Ok(Self { unified, v1 })
    }

    /// Controllers that neither tree has, of those that limit.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        let own = fs::read_to_string(self.unified.join("cgroup.controllers")).unwrap_or_default();
        let has = |c: &str| own.split_whitespace().any(|o| o == c) || self.v1.iter().any(|(v, _)| *v == c);
        CONTROLLERS.into_iter().take(3).filter(|c| !has(c)).collect()
    }

    /// Where the unified tree is mounted.
    pub(crate) fn unified(&self) -> &Path {
        &self.unified
    }

    /// Every environment that has a group in any tree.
    pub(crate) fn environments(&self) -> Vec<(String, PathBuf)> {
        let roots = std::iter::once(&self.unified).chain(self.v1.iter().map(|(_, p)| p));
        let mut found = Vec::new();
        for root in roots {
            let Ok(entries) = fs::read_dir(root.join(OURS)) else { continue };
            for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
                found.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
            }
        }
        found
    }

    /// The workloads that have many processes, and these.
    pub(crate) fn crowds(&self) -> Vec<(EnvironmentId, Vec<i32>)> {
        /// Fewer are read sooner than it is found out whose they are.
        const MANY: usize = 32;
        let mut found = Vec::new();
        for entry in fs::read_dir(self.unified.join(OURS)).into_iter().flatten().flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let pids = self.of(&id).work_pids();
            if pids.len() >= MANY {
                found.push((id, pids));
            }
        }
        found
    }

    /// The groups of one environment.
    pub(crate) fn of(&self, id: &EnvironmentId) -> Groups {
        Groups { trees: self.clone(), id: id.clone() }
    }
}

impl Groups {
    pub(crate) fn trees(&self) -> &Trees {
        &self.trees
    }

    fn base(&self) -> PathBuf {
        self.trees.unified.join(OURS).join(self.id.as_ref())
    }

    /// The unified group of the keeper and the namespaces' first process.
    pub(crate) fn keeper(&self) -> PathBuf {
        self.base().join("keeper")
    }

    /// The unified group of the workload.
    pub(crate) fn work(&self) -> PathBuf {
        self.base().join("work")
    }

    fn v1_dirs(&self) -> impl Iterator<Item = (&'static str, PathBuf)> + '_ {
        self.trees.v1.iter().map(|(c, p)| (*c, p.join(OURS).join(self.id.as_ref())))
    }

    /// Whether any group of the environment is there.
    pub(crate) fn exist(&self) -> bool {
        self.base().is_dir() || self.v1_dirs().any(|(_, dir)| dir.is_dir())
    }

    /// Makes the groups and sets the limits.
    ///
    /// # Errors
    /// When a group can't be made, or a limit that must hold can't be set.
    pub(crate) fn create(&self, limits: &Limits) -> io::Result<()> {
        let ours = self.trees.unified.join(OURS);
        let own = fs::read_to_string(self.trees.unified.join("cgroup.controllers")).unwrap_or_default();
        let wanted: Vec<_> =
            CONTROLLERS.iter().filter(|c| own.split_whitespace().any(|o| o == **c)).map(|c| format!("+{c}")).collect();
        make_below_ours(&self.base())?;
        for dir in [&self.keeper(), &self.work()] {
            make(dir)?;
        }
        if !wanted.is_empty() {
            for dir in [&self.trees.unified, &ours, &self.base()] {
                put(&dir.join("cgroup.subtree_control"), &wanted.join(" "))?;
            }
        }
        for (controller, dir) in self.v1_dirs() {
            make_below_ours(&dir)?;
            self.limit_v1(controller, &dir, limits)?;
        }
        self.limit_v2(&own, limits)
    }

    fn limit_v2(&self, own: &str, limits: &Limits) -> io::Result<()> {
        let has = |c: &str| own.split_whitespace().any(|o| o == c);
        let work = self.work();
        if has("cpu") {
            put(&work.join("cpu.weight"), &(u64::from(limits.cpu) * 100).clamp(1, 10_000).to_string())?;
            if limits.mode == LimitsMode::Hard && !limits.cpu_shared {
                put(&work.join("cpu.max"), &format!("{} 100000", u64::from(limits.cpu) * 100_000))?;
            }
        }
        if has("memory") {
            match limits.mode {
                LimitsMode::Hard => {
                    put(&work.join("memory.max"), &limits.memory_bytes.to_string())?;
                    put(&work.join("memory.oom.group"), "1")?;
                    // Not there without swap.
                    if work.join("memory.swap.max").exists() {
                        put(&work.join("memory.swap.max"), "0")?;
                    }
                }
                LimitsMode::Soft => put(&work.join("memory.high"), &limits.memory_bytes.to_string())?,
                LimitsMode::Off => {}
            }
        }
        if has("pids") && limits.mode != LimitsMode::Off {
            put(&work.join("pids.max"), &limits.pids.to_string())?;
        }
        Ok(())
    }

    fn limit_v1(&self, controller: &str, dir: &Path, limits: &Limits) -> io::Result<()> {
        match (controller, limits.mode) {
            ("cpu", mode) => {
                put(&dir.join("cpu.shares"), &(u64::from(limits.cpu) * 1024).clamp(2, 262_144).to_string())?;
                if mode == LimitsMode::Hard && !limits.cpu_shared {
                    put(&dir.join("cpu.cfs_period_us"), "100000")?;
                    put(&dir.join("cpu.cfs_quota_us"), &(u64::from(limits.cpu) * 100_000).to_string())?;
                }
                Ok(())
            }
            ("memory", LimitsMode::Hard) => {
                put(&dir.join("memory.limit_in_bytes"), &limits.memory_bytes.to_string())?;
                // Only there when the kernel accounts swap.
                let with_swap = dir.join("memory.memsw.limit_in_bytes");
                if with_swap.exists() {
                    put(&with_swap, &limits.memory_bytes.to_string())?;
                }
                Ok(())
            }
            ("memory", LimitsMode::Soft) => {
                put(&dir.join("memory.soft_limit_in_bytes"), &limits.memory_bytes.to_string())
            }
            ("pids", LimitsMode::Hard | LimitsMode::Soft) => put(&dir.join("pids.max"), &limits.pids.to_string()),
            _ => Ok(()),
        }
    }

    /// Opened `tasks` files of the workload's groups in the v1 trees: a process with one thread that writes `0` to each
    /// of them has joined. Opened beforehand, because the workload's file systems are read-only by then.
    ///
    /// Not `cgroup.procs`: for a whole process the kernel stops all forks of the host and waits for an RCU grace period,
    /// several milliseconds on a busy machine (`cgroup_procs_write_start`); a thread that moves itself needs neither.
    ///
    /// # Errors
    /// When one can't be opened.
    pub(crate) fn work_doors(&self) -> io::Result<Vec<File>> {
        let open = |(_, dir): (_, PathBuf)| {
            let path = dir.join("tasks");
            at(&path, OpenOptions::new().write(true).open(&path))
        };
        self.v1_dirs().map(open).collect()
    }

    /// The workload's unified group: processes are started into it, which spares the same wait.
    ///
    /// # Errors
    /// When it can't be opened.
    pub(crate) fn open_work(&self) -> io::Result<File> {
        at(&self.work(), File::open(self.work()))
    }

    /// The keeper's unified group, to start it into.
    ///
    /// # Errors
    /// When it can't be opened.
    pub(crate) fn open_keeper(&self) -> io::Result<File> {
        at(&self.keeper(), File::open(self.keeper()))
    }

    /// The processes of the workload.
    pub(crate) fn work_pids(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.work().join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|l| l.parse().ok()).collect()
    }

    /// Whether a process is one of the workload's. With thousands of them, asking the process is much cheaper than
    /// reading the list again.
    pub(crate) fn work_has(&self, pid: i32) -> bool {
        let group = format!("/{OURS}/{}/work", self.id);
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        text.lines().any(|line| line.strip_prefix("0::").is_some_and(|path| path.ends_with(&group)))
    }

    /// Whether the workload has a living process.
    pub(crate) fn working(&self) -> bool {
        keyed(&self.work().join("cgroup.events"), "populated") == Some(1)
    }

    /// Whether anything of the environment lives.
    pub(crate) fn alive(&self) -> bool {
        keyed(&self.base().join("cgroup.events"), "populated") == Some(1)
    }

    /// Kills everything of the environment, keeper included, and waits until nothing is left.
    ///
    /// # Errors
    /// When something still lives at the deadline.
    pub(crate) fn kill(&self, deadline: Instant) -> io::Result<()> {
        loop {
            if !self.base().is_dir() || !self.alive() {
                return Ok(());
            }
            let file = self.base().join("cgroup.kill");
            if file.exists() {
                put(&file, "1")?;
            } else {
                self.kill_each();
            }
            // The events file is notified at most a hundred times a second (kernel, CGROUP_FILE_NOTIFY_MIN_INTV),
            // so reading it is quicker than waiting for it.
            for _ in 0..20 {
                if !self.alive() {
                    return Ok(());
                }
                thread::sleep(Duration::from_micros(300));
            }
            if Instant::now() >= deadline {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("{} still has processes after SIGKILL", self.base().display()),
                ));
            }
        }
    }

    /// Before Linux 5.14 there is no `cgroup.kill`: stop them all, then kill one by one, until none is new.
    fn kill_each(&self) {
        drop(put(&self.base().join("cgroup.freeze"), "1"));
        for dir in [self.work(), self.keeper()] {
            let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            for pid in text.lines().filter_map(|l| l.parse().ok()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        drop(put(&self.base().join("cgroup.freeze"), "0"));
    }

    /// Removes the groups, deepest first.
    ///
    /// # Errors
    /// When one is still there at the deadline.
    pub(crate) fn remove(&self, deadline: Instant) -> io::Result<()> {
        for dir in std::iter::once(self.base()).chain(self.v1_dirs().map(|(_, dir)| dir)) {
            remove_tree(&dir, deadline)?;
        }
        // Ours alone if it is empty; else somebody else is using it.
        for root in std::iter::once(&self.trees.unified).chain(self.trees.v1.iter().map(|(_, p)| p)) {
            let dir = root.join(OURS);
            match fs::remove_dir(&dir) {
                Err(e)
                    if e.kind() != io::ErrorKind::NotFound
                        && ![Some(libc::EBUSY), Some(libc::ENOTEMPTY)].contains(&e.raw_os_error()) =>
                {
                    return at(&dir, Err(e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What the workload used so far.
    pub(crate) fn usage(&self) -> Usage {
        let work = self.work();
        let v1 = |name: &str| self.v1_dirs().find(|(c, _)| *c == name).map(|(_, dir)| dir);
        let (cpuacct, memory, pids) = (v1("cpuacct"), v1("memory"), v1("pids"));
        let nanoseconds = match cpuacct {
            Some(dir) => number(&dir.join("cpuacct.usage")),
            None => keyed(&work.join("cpu.stat"), "usage_usec").map(|us| us.saturating_mul(1000)),
        };
        let (memory_bytes, kills) = match memory {
            Some(dir) => {
                (number(&dir.join("memory.usage_in_bytes")), keyed(&dir.join("memory.oom_control"), "oom_kill"))
            }
            None => (number(&work.join("memory.current")), keyed(&work.join("memory.events"), "oom_kill")),
        };
        let count = number(&pids.unwrap_or(work).join("pids.current"));
        let count = count.unwrap_or_else(|| u64::try_from(self.work_pids().len()).unwrap_or(u64::MAX));
        Usage {
            cpu_seconds: Duration::from_nanos(nanoseconds.unwrap_or(0)).as_secs_f64(),
            memory_bytes: memory_bytes.unwrap_or(0),
            pids: u32::try_from(count).unwrap_or(u32::MAX),
            out_of_memory: kills.unwrap_or(0) > 0,
        }
    }
}

fn make(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => at(dir, other),
    }
}

/// Makes a group in our directory, and that one, which whoever removes the last group of it may take away in between.
fn make_below_ours(dir: &Path) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        make(dir.parent().unwrap_or(dir))?;
        match make(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && Instant::now() < deadline => {}
            done => return done,
        }
    }
}

fn remove_tree(dir: &Path, deadline: Instant) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return at(dir, Err(e)),
    };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        remove_tree(&entry.path(), deadline)?;
    }
    loop {
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            // Zombies of the group that nobody has reaped yet keep it busy for a moment.
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                thread::sleep(Duration::from_micros(500));
            }
            Err(e) => return at(dir, Err(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With plain directories, which come and go like groups without controllers.
    #[test]
    fn the_last_to_leave_and_the_next_to_come_do_not_meet() {
        let root = tempfile::tempdir().unwrap();
        let trees = Trees { unified: root.path().to_owned(), v1: vec![("pids", root.path().join("v1"))] };
        fs::create_dir(root.path().join("v1")).unwrap();
        thread::scope(|scope| {
            for n in ["a", "b", "c"] {
                let groups = trees.of(&format!("fish-{}", n.repeat(6)).parse().unwrap());
                scope.spawn(move || {
                    for _ in 0..500 {
                        groups.create(&limits()).unwrap();
                        groups.remove(Instant::now() + Duration::from_secs(5)).unwrap();
                    }
                });
            }
        });
        assert!(!root.path().join(OURS).exists() && trees.environments().is_empty());
    }

    fn limits() -> Limits {
        Limits { mode: LimitsMode::Off, cpu: 1, cpu_shared: true, memory_bytes: 1 << 30, pids: 100, open_files: 100 }
    }
}
