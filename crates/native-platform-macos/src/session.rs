//! [`native_platform::Session`] on macOS.

use std::time::Duration;

use native_platform::{
    Enter, EnterIo, ErrorKind, Executed, Leak, Observation, Presence, Receipt, Scope, Session, Step, StepError,
    StepKind, VolumeName, one_by_one,
};

use crate::account::as_stuck;
use crate::mac::Mac;

/// One operation on one environment.
#[derive(Debug)]
pub(crate) struct MacSession {
    mac: Mac,
    scope: Scope,
    /// The uid, also after its record is gone: the audit looks for it.
    uid: Option<u32>,
    /// What was executed, for a session that is dropped.
    done: Vec<Step>,
}

impl MacSession {
    pub(crate) fn open(mac: Mac, scope: &Scope) -> Result<Self, StepError> {
        let record = mac.store.record(&scope.id).map_err(|e| e.at(StepKind::Platform))?;
        // Root acts for several users, and none of them may reach another one's environment by its name.
        let caller = mac.tools.config.caller;
        if let Some(record) = &record
            && (record.scope.dir != scope.dir || (caller != 0 && record.caller != caller))
        {
            let message = format!("{} is another workspace's, {}", scope.id, record.scope.dir.display());
            return Err(StepError::new(StepKind::Platform, ErrorKind::Foreign, message));
        }
        Ok(Self { mac, scope: scope.clone(), uid: record.and_then(|r| r.uid), done: Vec::new() })
    }

    fn undo(&self, step: &Step) -> Result<(), StepError> {
        match step {
            Step::Account(_) => self.mac.revert_account(&self.scope),
            Step::Volume(volume) => self.mac.revert_volume(&self.scope, &volume.volume),
            Step::Layers(layers) => self.mac.revert_layers(&self.scope, layers),
            Step::Workload(_) => self.mac.revert_workload(&self.scope),
        }
    }

    fn probe_one(&self, step: &Step) -> Result<Presence, StepError> {
        match step {
            Step::Account(_) => self.mac.probe_account(&self.scope),
            Step::Volume(volume) => self.mac.probe_volume(&self.scope, volume),
            Step::Layers(layers) => self.mac.probe_layers(&self.scope, layers),
            Step::Workload(_) => self.mac.probe_workload(&self.scope),
        }
    }

    fn execute_one(&mut self, step: &Step) -> Result<Receipt, StepError> {
        let receipt = match step {
            Step::Account(account) => self.mac.execute_account(&self.scope, account),
            Step::Volume(volume) => self.mac.execute_volume(&self.scope, volume),
            Step::Layers(layers) => self.mac.execute_layers(&self.scope, layers),
            Step::Workload(workload) => self.mac.execute_workload(&self.scope, workload),
        }?;
        if let Receipt::Account { uid, .. } = &receipt {
            self.uid = Some(*uid);
        }
        // Without the workload's variables: undoing never needs them.
        self.done.push(step.for_journal());
        Ok(receipt)
    }
}

impl Session for MacSession {
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
        steps.iter().map(|step| self.undo(step)).collect()
    }

    fn purge(&mut self) -> Result<(), StepError> {
        let record = self.mac.store.record(&self.scope.id).map_err(|e| as_stuck(e.at(StepKind::Platform)))?;
        let Some(record) = record else { return Ok(()) };
        let scope = record.scope.clone();
        // The whole of it, whatever fails on the way; the first failure is what is told. The home goes last, as
        // jobs that clean up need it.
        let mut first = self.mac.revert_workload(&scope);
        let mut volumes: Vec<VolumeName> = record.volumes.iter().rev().map(|v| v.volume.clone()).collect();
        volumes.sort_by_key(|v| *v == VolumeName::Home);
        for volume in volumes {
            first = first.and(self.mac.revert_volume(&scope, &volume));
        }
        first.and(self.mac.revert_account(&scope))
    }

    fn observe(&mut self) -> Result<Observation, StepError> {
        self.mac.observe(&self.scope)
    }

    fn wait(&mut self, at_most: Duration) -> Result<Observation, StepError> {
        self.mac.wait(&self.scope, at_most)
    }

    fn enter(&mut self, command: &Enter, io: EnterIo<'_>) -> Result<i32, StepError> {
        self.mac.enter(&self.scope, command, io)
    }

    fn audit(&mut self) -> Result<Vec<Leak>, StepError> {
        self.mac.audit_one(&self.scope, self.uid)
    }

    fn finish(mut self: Box<Self>) -> Result<(), StepError> {
        self.done.clear();
        Ok(())
    }
}

impl Drop for MacSession {
    fn drop(&mut self) {
        // A program that is falling apart touches nothing more: recovery reads the records and does it well.
        if std::thread::panicking() {
            return;
        }
        for step in std::mem::take(&mut self.done).iter().rev() {
            // What can't be undone here stays in the record, and recovery tells about it.
            drop(self.undo(step));
        }
    }
}
