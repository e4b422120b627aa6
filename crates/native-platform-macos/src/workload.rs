//! The workload: started by the keeper through `su`, observed by `ps`, stopped by uid.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use native_config::LimitsMode;
use native_platform::{
    Connection, Enter, EnterIo, ErrorKind, Observation, Presence, Receipt, Scope, StepError, StepKind, Stream,
    VolumeName, WorkloadStep,
};

use crate::account::as_stuck;
use crate::job;
use crate::keeper::{Command, EnterSpec, Frame, STATUS, Status, WorkloadSpec, read_frame};
use crate::mac::{Answer, Mac, SHORT};
use crate::parse::{self, Process};
use crate::store::Record;
use crate::table as t;
use crate::tools::{CommandError, chain};

const STEP: StepKind = StepKind::Workload;
/// Rounds of killing before a process that survives is given up.
const ROUNDS: u32 = 40;

impl Mac {
    fn uid_of(&self, scope: &Scope) -> Result<Option<(u32, Record)>, StepError> {
        let record = self.store.record(&scope.id).map_err(|e| e.at(STEP))?;
        Ok(record.and_then(|r| Some((r.uid?, r))))
    }

    /// The live processes of a uid.
    pub(crate) fn processes(&self, uid: u32) -> Result<Vec<Process>, StepError> {
        let all = self.all_processes()?;
        Ok(all.into_iter().filter(|p| p.is_of(uid)).collect())
    }

    /// Every process.
    pub(crate) fn all_processes(&self) -> Result<Vec<Process>, StepError> {
        let said = self.tools.run(&t::PROCESSES, &[]).map_err(self.tools.failed(STEP))?;
        let rows = parse::processes(&said.out);
        // launchd runs on every Mac: nothing at all is no answer, and must not be taken for "none left".
        if !rows.iter().any(|p| p.pid == 1) {
            return Err(StepError::failed(STEP, "ps did not list every process"));
        }
        Ok(rows)
    }

    pub(crate) fn probe_workload(&self, scope: &Scope) -> Result<Presence, StepError> {
        let Some((uid, record)) = self.uid_of(scope)? else { return Ok(Presence::Absent) };
        let there = record.workload.is_some() && (self.keeper_pid(scope).is_some() || !self.processes(uid)?.is_empty());
        Ok(if there { Presence::Ours } else { Presence::Absent })
    }

    pub(crate) fn execute_workload(&self, scope: &Scope, step: &WorkloadStep) -> Result<Receipt, StepError> {
        let Some((uid, record)) = self.uid_of(scope)? else {
            return Err(StepError::failed(STEP, "the account comes first"));
        };
        if record.workload.is_some() && self.keeper_pid(scope).is_some() {
            return match read_status(&scope.dir) {
                Some(status) => Ok(Receipt::Workload { pid: status.pid }),
                None => Err(StepError::failed(STEP, "the workload is being started already")),
            };
        }
        let grace = step.stop_grace_ms;
        self.store.change(scope, |r| r.workload = Some(grace)).map_err(|e| e.at(STEP))?;
        let spec = self.workload_spec(scope, step, uid, &record)?;
        let started = self.ask_keeper("workload", STEP, &spec, SHORT).and_then(|answer| match answer {
            Answer::Done { pid } => Ok(Receipt::Workload { pid }),
            Answer::Missing => {
                let entry = self.entry(scope, &step.entry);
                Err(StepError::new(STEP, ErrorKind::Invalid, format!("{} is no program", entry.display()))
                    .hint("the entry is one path, relative to the home or absolute; it must exist and be executable"))
            }
            Answer::Failed { message } if message.contains("sudo: a password is required") => {
                let line = spec.command.0.join(" ");
                Err(self.tools.step_error(STEP, ErrorKind::Failed, &CommandError::NoRule { id: t::JOB.id, line }))
            }
            Answer::Failed { message } => Err(StepError::failed(STEP, message)),
        });
        self.or_undo(started, || self.revert_workload(scope))
    }

    fn entry(&self, scope: &Scope, entry: &str) -> PathBuf {
        self.tools.config.home(scope.id.as_str()).join(entry)
    }

    fn workload_spec(
        &self,
        scope: &Scope,
        step: &WorkloadStep,
        uid: u32,
        record: &Record,
    ) -> Result<WorkloadSpec, StepError> {
        let user = scope.id.as_str();
        let uid_text = uid.to_string();
        let command = |row, values: &[&str]| {
            let argv = self.tools.argv(row, values);
            argv.map(Command).map_err(|e| StepError::new(STEP, ErrorKind::Invalid, e.to_string()))
        };
        let temp = record.volume(&VolumeName::Temp).map(|v| v.path.clone());
        let token = job::token();
        let limited = step.limits.mode != LimitsMode::Off && step.limits.memory_bytes > 0;
        Ok(WorkloadSpec {
            keeper: self.tools.config.keeper.clone(),
            command: command(&t::JOB, &[user])?,
            job: job::entry(step, &self.entry(scope, &step.entry), temp.as_deref(), &token),
            token,
            dir: scope.dir.clone(),
            lock: self.store.keeper_lock(&scope.id),
            uid,
            log_bytes: step.log_bytes,
            lifetime_ms: step.lifetime_ms,
            grace_ms: step.stop_grace_ms,
            memory_bytes: limited.then_some(step.limits.memory_bytes),
            processes: command(&t::PROCESSES, &[])?,
            interrupt: command(&t::INTERRUPT, &[user])?,
            kill: vec![command(&t::KILL, &[&uid_text])?, command(&t::KILL_BY_NAME, &[user])?],
            tick_ms: u64::try_from(self.tools.config.pause(500).as_millis()).unwrap_or(500).max(1),
        })
    }

    pub(crate) fn revert_workload(&self, scope: &Scope) -> Result<(), StepError> {
        let record = self.store.record(&scope.id).map_err(|e| as_stuck(e.at(STEP)))?;
        let Some((record, grace)) = record.and_then(|r| r.workload.map(|grace| (r, grace))) else { return Ok(()) };
        if let Some(uid) = record.uid {
            self.stop(scope, uid, grace)?;
        }
        // Without a uid the account is gone, which it never is before its last process.
        self.end_keeper(scope)?;
        self.store.change(scope, |r| r.workload = None).map_err(|e| as_stuck(e.at(STEP)))?;
        Ok(())
    }

    /// Asks, waits, kills.
    fn stop(&self, scope: &Scope, uid: u32, grace: u64) -> Result<(), StepError> {
        // Asked first, and with its grace time, before launchd ends the domain: that would be the end of
        // everything in it at once.
        if !self.processes(uid).map_err(as_stuck)?.is_empty() {
            // Not heard is no reason to stop here: what follows is not a question.
            drop(self.tools.run(&t::INTERRUPT, &[scope.id.as_str()]));
            let until = Instant::now() + Duration::from_millis(grace);
            while Instant::now() < until && !self.processes(uid).map_err(as_stuck)?.is_empty() {
                thread::sleep(Duration::from_millis(10));
            }
        }
        self.kill_all(scope, uid)
    }

    /// Kills to the last process of a uid, and looks.
    pub(crate) fn kill_all(&self, scope: &Scope, uid: u32) -> Result<(), StepError> {
        let uid_text = uid.to_string();
        let user = scope.id.as_str();
        self.end_domain(&uid_text);
        let mut why = String::new();
        for round in 0..ROUNDS {
            if self.processes(uid).map_err(as_stuck)?.is_empty() {
                return Ok(());
            }
            // Hosts with the published rules have none for pkill.
            let killed = match self.tools.run(&t::KILL, &[&uid_text]) {
                Err(error) if error.no_rule() => self.tools.run(&t::KILL_BY_NAME, &[user]),
                other => other,
            };
            why = killed.err().map(|e| chain(&e)).unwrap_or_default();
            thread::sleep(self.tools.config.pause(10 * round.min(50)));
        }
        let left: Vec<_> = self.processes(uid).map_err(as_stuck)?.iter().map(|p| p.pid.to_string()).collect();
        if left.is_empty() {
            return Ok(());
        }
        Err(StepError::stuck(STEP, format!("processes of {user} are still there: {} {why}", left.join(" ")))
            .hint(format!("sudo pkill -KILL -U {uid}, then deallocate again")))
    }

    /// Ends launchd's domain of a uid, if there is one. What can't be ended is found by the audit.
    fn end_domain(&self, uid: &str) {
        if self.tools.run(&t::DOMAIN_PRINT, &[uid]).is_ok_and(|said| !said.absent()) {
            drop(self.tools.run(&t::DOMAIN_END, &[uid]));
        }
    }

    /// The keeper ends when its `su` does. One that does not is ours to kill.
    fn end_keeper(&self, scope: &Scope) -> Result<(), StepError> {
        let until = Instant::now() + self.tools.config.second * 5;
        while let Some(pid) = self.keeper_pid(scope) {
            if Instant::now() >= until {
                let Some(pid) = pid else { break };
                // The lock is held, so the number is that of a live keeper and not of a later process. It leads
                // its own group, in which a `su` that hangs may be too.
                let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
            }
            if Instant::now() >= until + self.tools.config.second * 5 {
                return Err(StepError::stuck(STEP, format!("the keeper of {} does not end", scope.id)).hint(format!(
                    "kill the process whose number is in {}",
                    self.store.keeper_lock(&scope.id).display()
                )));
            }
            thread::sleep(Duration::from_millis(5));
        }
        match fs::remove_file(self.store.keeper_lock(&scope.id)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(StepError::stuck(STEP, e.to_string())),
            _ => Ok(()),
        }
    }

    /// The keeper's process id, if a keeper lives (its lock is held). `Some(None)`: it lives and has not said
    /// which it is yet.
    fn keeper_pid(&self, scope: &Scope) -> Option<Option<rustix::process::Pid>> {
        let path = self.store.keeper_lock(&scope.id);
        let file = OpenOptions::new().read(true).open(&path).ok()?;
        match file.try_lock_shared() {
            Ok(()) => None,
            Err(_) => {
                let text = fs::read_to_string(path).unwrap_or_default();
                Some(text.trim().parse().ok().and_then(rustix::process::Pid::from_raw))
            }
        }
    }

    pub(crate) fn observe(&self, scope: &Scope) -> Result<Observation, StepError> {
        let Some((uid, record)) = self.uid_of(scope)? else {
            let exit = read_status(&scope.dir).and_then(|s| s.exit);
            return Ok(Observation { exit, ..Observation::default() });
        };
        let processes = self.processes(uid)?;
        let kept = self.keeper_pid(scope).is_some();
        // Last: the keeper writes how the entry ended before it goes, so who is not there any more has said it.
        let status = read_status(&scope.dir);
        let exit = status.as_ref().and_then(|s| s.exit.clone());
        let disks = record.volumes.iter().filter_map(|v| v.image.as_ref());
        let blocks =
            |path: &PathBuf| fs::metadata(path).map_or(0, |m| std::os::unix::fs::MetadataExt::blocks(&m) * 512);
        Ok(Observation {
            up: record.workload.is_some() && (kept || !processes.is_empty()),
            running: status.is_some() && exit.is_none() && kept,
            exit,
            pids: u32::try_from(processes.len()).unwrap_or(u32::MAX),
            cpu_seconds: processes.iter().map(|p| p.cpu_seconds).sum(),
            memory_bytes: processes.iter().map(|p| p.rss_kib * 1024).sum(),
            disk_bytes: disks.map(blocks).sum(),
        })
    }

    pub(crate) fn wait(&self, scope: &Scope, at_most: Duration) -> Result<Observation, StepError> {
        let until = Instant::now().checked_add(at_most);
        loop {
            let ended = read_status(&scope.dir).is_some_and(|s| s.exit.is_some());
            if ended || self.keeper_pid(scope).is_none() || until.is_some_and(|u| Instant::now() >= u) {
                return self.observe(scope);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn enter(&self, scope: &Scope, command: &Enter, io: EnterIo<'_>) -> Result<i32, StepError> {
        let observe = |kind, message: String| StepError::new(StepKind::Observe, kind, message);
        let up = self.uid_of(scope)?.is_some_and(|(_, r)| r.volume(&VolumeName::Home).is_some());
        if !up {
            return Err(observe(ErrorKind::Absent, format!("{} is not up", scope.id)));
        }
        let token = job::token();
        let spec = EnterSpec {
            command: self.job_command(scope.id.as_str(), StepKind::Observe)?,
            job: job::enter(command, &self.tools.config.site.places.shell, &token),
            token,
        };
        let text = serde_json::to_string(&spec).map_err(|e| observe(ErrorKind::Failed, e.to_string()))?;
        let failed = |e: std::io::Error| observe(ErrorKind::Failed, format!("the keeper: {e}"));
        let connection = self.tools.runner().connect(&self.tools.keeper_invocation("enter"));
        let Connection { mut input, mut output, mut child } =
            connection.map_err(|e| observe(ErrorKind::NotReady, chain(&e)))?;
        writeln!(input, "{text}").map_err(failed)?;
        let mut from = io.input;
        // Not joined: a terminal's input has no end. It ends when the keeper's pipe does.
        thread::spawn(move || drop(std::io::copy(&mut from, &mut input)));
        let mut ended = Err(observe(ErrorKind::Failed, "the keeper went away without a word".to_owned()));
        while let Some(frame) = read_frame(&mut output).map_err(failed)? {
            match frame {
                Frame::Out(bytes) => (io.output)(Stream::Out, &bytes),
                Frame::Err(bytes) => (io.output)(Stream::Err, &bytes),
                Frame::Exit(code) => ended = Ok(code),
                Frame::Failed(message) => ended = Err(observe(ErrorKind::Invalid, message)),
            }
        }
        child.wait().map_err(failed)?;
        ended
    }
}

/// The document that the keeper writes.
fn read_status(dir: &Path) -> Option<Status> {
    serde_json::from_slice(&fs::read(dir.join(STATUS)).ok()?).ok()
}
