//! [`FakePlatform`] and its sessions: the contract, on a host in memory.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use native_config::{DiskName, EnvironmentId};
use native_platform::{
    Backing, Check, Enter, EnterIo, ErrorKind, Executed, Exit, HostFacts, Leak, Observation, Platform, Presence,
    Receipt, Scope, Session, Step, StepError, StepKind, Stream, VolumeName, one_by_one,
};

use crate::host::{Account, Fault, Inner, Shared, Volume, Workload, dead};

/// The platform of one process on a [`crate::FakeHost`].
#[derive(Debug, Clone)]
pub struct FakePlatform {
    pub(crate) shared: Arc<Shared>,
    pub(crate) generation: u64,
}

#[derive(Debug)]
struct FakeSession {
    platform: FakePlatform,
    scope: Scope,
    executed: Vec<Step>,
    finished: bool,
}

/// A step's key in the platform's record.
fn key(step: &Step) -> String {
    match step {
        Step::Account(_) => "account".to_owned(),
        Step::Volume(v) => v.volume.to_string(),
        Step::Layers(l) => format!("layers of {}", l.volume),
        Step::Workload(_) => "workload".to_owned(),
    }
}

impl FakePlatform {
    /// A numbered call: faults, then the work, then what the caller is told.
    fn call<T>(
        &self,
        method: &'static str,
        step: StepKind,
        id: Option<&EnvironmentId>,
        what: String,
        work: impl FnOnce(&mut Inner, Option<Fault>) -> Result<T, StepError>,
    ) -> Result<T, StepError> {
        let mut inner = self.shared.lock();
        let fault = inner.begin(self.generation, method, step, id, what)?;
        if let Some(Fault::Hang(time)) = fault {
            drop(inner);
            thread::sleep(time);
            inner = self.shared.lock();
            if inner.is_dead(self.generation) {
                return Err(dead(step));
            }
        }
        let result = work(&mut inner, fault)?;
        let answer = inner.end(fault, step, result);
        self.shared.changed.notify_all();
        answer
    }
}

impl Platform for FakePlatform {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn home(&self, id: &EnvironmentId) -> PathBuf {
        format!("/home/{id}").into()
    }

    fn disk(&self, id: &EnvironmentId, disk: &DiskName) -> PathBuf {
        format!("/home/{id}/disks/{disk}").into()
    }

    fn sizes_homes(&self) -> bool {
        true
    }

    fn facts(&self) -> Result<HostFacts, StepError> {
        let unknown = || StepError::failed(StepKind::Platform, "the host does not say what it has");
        self.call("facts", StepKind::Platform, None, String::new(), |inner, _| inner.facts.clone().ok_or_else(unknown))
    }

    fn checks(&self) -> Result<Vec<Check>, StepError> {
        self.call("checks", StepKind::Platform, None, String::new(), |inner, _| Ok(inner.checks.clone()))
    }

    fn open(&self, scope: &Scope) -> Result<Box<dyn Session>, StepError> {
        self.call("open", StepKind::Platform, Some(&scope.id), String::new(), |_, _| Ok(()))?;
        let session =
            FakeSession { platform: self.clone(), scope: scope.clone(), executed: Vec::new(), finished: false };
        Ok(Box::new(session))
    }

    fn known(&self) -> Result<Vec<Scope>, StepError> {
        self.call("known", StepKind::Platform, None, String::new(), |inner, fault| {
            let known = inner.state.records.keys().filter_map(|id| inner.scopes.get(id)).cloned().collect();
            Ok(if fault == Some(Fault::Lie) { Vec::new() } else { known })
        })
    }

    fn audit(&self, alive: &[EnvironmentId]) -> Result<Vec<Leak>, StepError> {
        self.call("audit_host", StepKind::Audit, None, String::new(), |inner, fault| {
            let mut found = leaks(inner, &|id| !alive.iter().any(|a| a.as_str() == id));
            if fault == Some(Fault::Lie) {
                found.clear();
            }
            Ok(found)
        })
    }

    fn sweep(&self) -> Result<(), StepError> {
        // Everything in this host's memory has a record.
        Ok(())
    }
}

/// Everything of ours that belongs to an environment that `wanted` picks.
fn leaks(inner: &Inner, wanted: &dyn Fn(&str) -> bool) -> Vec<Leak> {
    let leak = |id: &str, kind: &str, path: String| Leak { identifier: id.parse().ok(), kind: kind.to_owned(), path };
    let state = &inner.state;
    let mut found = Vec::new();
    found.extend(
        state.accounts.iter().filter(|(id, a)| a.ours && wanted(id)).map(|(id, _)| leak(id, "account", id.clone())),
    );
    found.extend(
        state
            .volumes
            .iter()
            .filter(|((id, _), v)| v.ours && wanted(id))
            .map(|((id, name), _)| leak(id, "volume", name.to_string())),
    );
    found.extend(
        state
            .workloads
            .iter()
            .filter(|(id, w)| w.ours && wanted(id))
            .map(|(id, w)| leak(id, "process", w.pid.to_string())),
    );
    found.extend(state.records.iter().filter(|(id, _)| wanted(id)).map(|(id, _)| leak(id, "record", id.clone())));
    found
}

impl FakeSession {
    fn id(&self) -> String {
        self.scope.id.to_string()
    }

    fn presence(&self, inner: &Inner, step: &Step) -> Presence {
        let id = self.id();
        let of = |ours: Option<bool>, what: &str| match ours {
            None => Presence::Absent,
            Some(true) => Presence::Ours,
            Some(false) => Presence::Foreign(format!("{what} is there and was not made by fish-native")),
        };
        let state = &inner.state;
        match step {
            Step::Account(_) => of(state.accounts.get(&id).map(|a| a.ours), &format!("account {id}")),
            Step::Volume(v) => of(state.volumes.get(&(id, v.volume.clone())).map(|v| v.ours), &v.volume.to_string()),
            Step::Layers(l) => match state.volumes.get(&(id, l.volume.clone())) {
                Some(volume) if !volume.layers.is_empty() => Presence::Ours,
                _ => Presence::Absent,
            },
            Step::Workload(_) => of(state.workloads.get(&id).map(|w| w.ours), "a workload"),
        }
    }

    fn record(&self, inner: &mut Inner, step: &Step) {
        let dir = self.scope.dir.display().to_string();
        inner.scopes.insert(self.id(), self.scope.clone());
        inner.state.records.entry(self.id()).or_insert((dir, BTreeSet::new())).1.insert(key(step));
    }

    fn unrecord(&self, inner: &mut Inner, step: &Step) {
        let id = self.id();
        if let Some((_, steps)) = inner.state.records.get_mut(&id) {
            steps.remove(&key(step));
            if steps.is_empty() {
                inner.state.records.remove(&id);
            }
        }
    }

    /// Refuses what a real host would refuse.
    fn check(&self, inner: &Inner, step: &Step) -> Result<(), StepError> {
        let id = self.id();
        let kind = step.kind();
        if let Presence::Foreign(what) = self.presence(inner, step) {
            return Err(StepError::new(kind, ErrorKind::Foreign, what));
        }
        let needs = |there: bool, what: &str| {
            if there { Ok(()) } else { Err(StepError::failed(kind, format!("there is no {what}"))) }
        };
        let has_volume = |name: &VolumeName| inner.state.volumes.contains_key(&(id.clone(), name.clone()));
        match step {
            Step::Account(a) => {
                for group in &a.groups {
                    if !inner.state.groups.contains(group.as_str()) {
                        let message = format!("there is no group {group}");
                        return Err(StepError::new(kind, ErrorKind::Invalid, message));
                    }
                }
                Ok(())
            }
            Step::Volume(_) => needs(inner.state.accounts.contains_key(&id), "account"),
            Step::Layers(l) => {
                needs(has_volume(&l.volume), &l.volume.to_string())?;
                for layer in &l.layers {
                    needs(!layer.dir.as_os_str().is_empty(), &format!("directory of layer {}", layer.image))?;
                }
                Ok(())
            }
            Step::Workload(w) => {
                needs(has_volume(&VolumeName::Home), "home")?;
                if w.entry.ends_with("missing") {
                    let message = format!("there is no entry {}", w.entry);
                    return Err(StepError::new(kind, ErrorKind::Invalid, message));
                }
                Ok(())
            }
        }
    }

    fn make(&self, inner: &mut Inner, step: &Step) {
        let id = self.id();
        match step {
            Step::Account(a) => {
                let uid = inner.next_uid;
                let groups = a.groups.iter().map(ToString::to_string).collect();
                // An account that is already ours keeps its uid: executing again is not creating again.
                if let std::collections::btree_map::Entry::Vacant(place) = inner.state.accounts.entry(id) {
                    place.insert(Account { uid, groups, ours: true });
                    inner.next_uid += 1;
                }
            }
            Step::Volume(v) => {
                let bytes = match v.backing {
                    Backing::Sized { bytes, .. } => Some(bytes),
                    Backing::Dir => None,
                };
                let volume = Volume { bytes, layers: Vec::new(), ours: true };
                inner.state.volumes.entry((id, v.volume.clone())).or_insert(volume);
            }
            Step::Layers(l) => {
                if let Some(volume) = inner.state.volumes.get_mut(&(id, l.volume.clone())) {
                    volume.layers = l.layers.iter().map(|l| l.digest.clone()).collect();
                }
            }
            Step::Workload(w) => {
                let pid = inner.next_pid;
                inner.next_pid += 1;
                let mut exit = None;
                if w.entry.ends_with("/id") {
                    exit = Some(Exit { code: 0, signal: None, out_of_memory: false, lifetime_over: false });
                    let uid = inner.state.accounts.get(&id).map_or(0, |a| a.uid);
                    // The one program that this host can run. There is no log if there is no directory for it.
                    drop(fs::write(self.scope.dir.join("log"), format!("uid={uid}({id}) gid={uid}({id})\n")));
                }
                let workload =
                    Workload { pid, entry: w.entry.clone(), variables: w.variables.0.clone(), exit, ours: true };
                inner.state.workloads.entry(id).or_insert(workload);
            }
        }
    }

    fn receipt(&self, inner: &Inner, step: &Step) -> Receipt {
        let id = self.id();
        match step {
            Step::Account(_) => {
                let uid = inner.state.accounts.get(&id).map_or(inner.next_uid, |a| a.uid);
                Receipt::Account { uid, gid: uid }
            }
            Step::Volume(v) => Receipt::Volume {
                path: match &v.volume {
                    VolumeName::Home => self.platform.home(&self.scope.id),
                    VolumeName::Temp => "/tmp".into(),
                    VolumeName::Disk(disk) => self.platform.disk(&self.scope.id, disk),
                },
            },
            Step::Layers(_) => Receipt::Layers { method: "fake".to_owned(), why: None },
            Step::Workload(_) => Receipt::Workload { pid: inner.state.workloads.get(&id).map_or(0, |w| w.pid) },
        }
    }

    fn take_away(&self, inner: &mut Inner, step: &Step) -> Result<(), StepError> {
        let id = self.id();
        let kind = step.kind();
        if inner.pinned.contains(&(id.clone(), key(step))) {
            return Err(StepError::stuck(kind, format!("{} is pinned", key(step))).hint("let it go"));
        }
        if self.presence(inner, step) != Presence::Ours {
            return Ok(());
        }
        let busy = inner.state.workloads.contains_key(&id) && !matches!(step, Step::Workload(_));
        if busy {
            return Err(StepError::stuck(kind, format!("{} is in use by the workload", key(step))));
        }
        match step {
            Step::Account(_) => drop(inner.state.accounts.remove(&id)),
            Step::Volume(v) => drop(inner.state.volumes.remove(&(id, v.volume.clone()))),
            Step::Layers(l) => {
                if let Some(volume) = inner.state.volumes.get_mut(&(id, l.volume.clone())) {
                    volume.layers.clear();
                }
            }
            Step::Workload(_) => drop(inner.state.workloads.remove(&id)),
        }
        Ok(())
    }

    fn observation(&self, inner: &Inner) -> Observation {
        let workload = inner.state.workloads.get(&self.id());
        let running = workload.is_some_and(|w| w.exit.is_none());
        Observation {
            up: workload.is_some(),
            running,
            exit: workload.and_then(|w| w.exit.clone()),
            pids: u32::from(running),
            cpu_seconds: 0.0,
            memory_bytes: if running { 1 << 20 } else { 0 },
            disk_bytes: 0,
        }
    }

    fn call<T>(
        &self,
        method: &'static str,
        step: StepKind,
        what: String,
        work: impl FnOnce(&mut Inner, Option<Fault>) -> Result<T, StepError>,
    ) -> Result<T, StepError> {
        self.platform.call(method, step, Some(&self.scope.id), what, work)
    }
}

/// One step.
impl FakeSession {
    fn probe_one(&mut self, step: &Step) -> Result<Presence, StepError> {
        self.call("probe", step.kind(), key(step), |inner, fault| {
            Ok(if fault == Some(Fault::Lie) { Presence::Absent } else { self.presence(inner, step) })
        })
    }

    fn execute_one(&mut self, step: &Step) -> Result<Receipt, StepError> {
        let receipt = self.call("execute", step.kind(), key(step), |inner, fault| {
            match fault {
                Some(Fault::Lie) => return Ok(self.receipt(inner, step)),
                Some(Fault::Stuck) => drop(inner.pinned.insert((self.id(), key(step)))),
                _ => {}
            }
            self.check(inner, step)?;
            self.record(inner, step);
            if fault != Some(Fault::CrashMid) {
                self.make(inner, step);
            }
            Ok(self.receipt(inner, step))
        })?;
        self.executed.push(step.clone());
        Ok(receipt)
    }

    fn revert_one(&mut self, step: &Step) -> Result<(), StepError> {
        self.call("revert", step.kind(), key(step), |inner, fault| {
            match fault {
                Some(Fault::Lie) => return Ok(()),
                Some(Fault::Stuck) => drop(inner.pinned.insert((self.id(), key(step)))),
                _ => {}
            }
            self.take_away(inner, step)?;
            if fault != Some(Fault::CrashMid) {
                self.unrecord(inner, step);
            }
            Ok(())
        })?;
        self.executed.retain(|s| s != step);
        Ok(())
    }
}

impl Session for FakeSession {
    fn ready(&mut self) -> Result<(), StepError> {
        Ok(())
    }

    fn probe_all(&mut self, steps: &[Step]) -> Result<Vec<Presence>, StepError> {
        steps.iter().map(|step| self.probe_one(step)).collect()
    }

    fn execute_all(&mut self, steps: &[Step]) -> Vec<Executed> {
        one_by_one(steps, |step| self.execute_one(step))
    }

    fn revert_all(&mut self, steps: &[Step]) -> Vec<Result<(), StepError>> {
        steps.iter().map(|step| self.revert_one(step)).collect()
    }

    fn purge(&mut self) -> Result<(), StepError> {
        self.call("purge", StepKind::Platform, String::new(), |inner, fault| {
            let id = self.id();
            if fault == Some(Fault::Lie) {
                return Ok(());
            }
            if let Some((pinned, what)) = inner.pinned.iter().find(|(pinned, _)| *pinned == id) {
                return Err(StepError::stuck(StepKind::Platform, format!("{what} of {pinned} is pinned")));
            }
            if fault == Some(Fault::Stuck) {
                inner.pinned.insert((id, "the environment".to_owned()));
                return Err(StepError::stuck(StepKind::Platform, "the environment is pinned"));
            }
            if inner.state.records.contains_key(&id) {
                inner.state.workloads.retain(|of, w| *of != id || !w.ours);
                inner.state.volumes.retain(|(of, _), v| *of != id || !v.ours);
                inner.state.accounts.retain(|of, a| *of != id || !a.ours);
                if fault != Some(Fault::CrashMid) {
                    inner.state.records.remove(&id);
                }
            }
            Ok(())
        })
    }

    fn observe(&mut self) -> Result<Observation, StepError> {
        self.call("observe", StepKind::Observe, String::new(), |inner, _| Ok(self.observation(inner)))
    }

    fn wait(&mut self, at_most: Duration) -> Result<Observation, StepError> {
        self.call("wait", StepKind::Observe, String::new(), |_, _| Ok(()))?;
        let until = Instant::now() + at_most;
        let mut inner = self.platform.shared.lock();
        loop {
            if inner.is_dead(self.platform.generation) {
                return Err(dead(StepKind::Observe));
            }
            let seen = self.observation(&inner);
            let left = until.saturating_duration_since(Instant::now());
            if !seen.running || left.is_zero() {
                return Ok(seen);
            }
            inner = self.platform.shared.wait(inner, left);
        }
    }

    fn enter(&mut self, command: &Enter, mut io: EnterIo<'_>) -> Result<i32, StepError> {
        self.call("enter", StepKind::Observe, command.command.join(" "), |inner, _| {
            if inner.state.workloads.contains_key(&self.id()) {
                return Ok(());
            }
            Err(StepError::new(StepKind::Observe, ErrorKind::Absent, "the environment is not up"))
        })?;
        let words: Vec<_> = command.command.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["cat"] => {
                let mut text = Vec::new();
                let read = io.input.read_to_end(&mut text);
                read.map_err(|e| StepError::failed(StepKind::Observe, e.to_string()))?;
                (io.output)(Stream::Out, &text);
                Ok(0)
            }
            ["exit", code] => Ok(code.parse().unwrap_or(1)),
            [] | ["sh"] => Ok(0),
            [name, ..] => {
                let message = format!("{name}: command not found");
                Err(StepError::new(StepKind::Observe, ErrorKind::Invalid, message))
            }
        }
    }

    fn audit(&mut self) -> Result<Vec<Leak>, StepError> {
        let id = self.id();
        self.call("audit", StepKind::Audit, String::new(), |inner, fault| {
            Ok(if fault == Some(Fault::Lie) { Vec::new() } else { leaks(inner, &|of| of == id) })
        })
    }

    fn finish(mut self: Box<Self>) -> Result<(), StepError> {
        let platform = self.platform.clone();
        let id = self.scope.id.clone();
        platform.call("finish", StepKind::Platform, Some(&id), String::new(), |_, fault| {
            self.finished = fault != Some(Fault::Lie);
            Ok(())
        })
    }
}

impl Drop for FakeSession {
    fn drop(&mut self) {
        let shared = Arc::clone(&self.platform.shared);
        let mut inner = shared.lock();
        let alive = !inner.is_dead(self.platform.generation) || inner.helper_survives;
        if self.finished || !alive {
            return;
        }
        for step in self.executed.clone().iter().rev() {
            if self.take_away(&mut inner, step).is_ok() {
                self.unrecord(&mut inner, step);
            }
        }
        shared.changed.notify_all();
    }
}

impl FakePlatform {
    /// Whether the process that this platform was made for is dead.
    pub fn is_dead(&self) -> bool {
        self.shared.lock().is_dead(self.generation)
    }
}
