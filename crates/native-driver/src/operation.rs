//! [`Operation`]: executes and reverts the steps of one environment, with its journal. Blocking.
//!
//! The rules, in the order that makes a crash at any point recoverable:
//!
//! 1. `intent` of every step of the plan is on disk before the platform is asked for the first effect, in one write; if
//!    it can't be written, nothing is done. After a crash more steps are reverted than were made, which each of them
//!    must bear anyway (ADR 5).
//! 2. The session is finished (the platform keeps what it made) before the journal says `allocated`: a crash in
//!    between reverts a whole environment, never adopts one that the platform is about to revert.
//! 3. That everything may be half reverted is seen by other processes before the first revert, in one note. Reverting goes
//!    on after an error, in reverse order, and a journal that can't be written does not stop it: it then says more than
//!    is there, which the next revert finds out.
//! 4. The directory goes last, and only when every step was read back as gone and the audit is empty.

use std::sync::Arc;

use native_platform::{
    ErrorKind, Executed, Leak, Platform, Presence, Receipt, Scope, Session, Step, StepError, no_answer,
};
use tokio_util::sync::CancellationToken;

use crate::error::{AllocateCause, CleanupError, JournalError, StuckStep};
use crate::images::ImageSource;
use crate::journal::{Journal, JournalPhase, Record, State};
use crate::progress::{Phase, Watch};
use crate::report::DeallocateTimings;
use crate::store::{Held, Store};

/// One operation that changes one environment, whose lock it holds.
pub(crate) struct Operation {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) platform: Arc<dyn Platform>,
    pub(crate) images: Arc<dyn ImageSource>,
    pub(crate) held: Held,
    pub(crate) scope: Scope,
    /// `None` for an environment that lost its journal: then the platform's own record is what is reverted.
    pub(crate) journal: Option<Journal>,
    session: Option<Box<dyn Session>>,
}

impl Operation {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        platform: Arc<dyn Platform>,
        images: Arc<dyn ImageSource>,
        held: Held,
        scope: Scope,
        journal: Option<Journal>,
    ) -> Self {
        Self { store, platform, images, held, scope, journal, session: None }
    }

    /// Writes the journal down.
    pub(crate) fn save(&self) -> Result<(), JournalError> {
        self.text()?.map_or(Ok(()), |text| self.store.write(&self.held, &text))
    }

    /// Writes the journal down for others to see. After a power cut nothing of the environment runs: then `intent`, which
    /// is on disk, is all that needs to be known (ADR 8).
    pub(crate) fn note(&self) -> Result<(), JournalError> {
        self.text()?.map_or(Ok(()), |text| self.store.note(&self.held, &text))
    }

    fn text(&self) -> Result<Option<Vec<u8>>, JournalError> {
        let path = self.scope.dir.join(crate::store::JOURNAL);
        let text = self.journal.as_ref().map(Journal::to_text).transpose();
        text.map_err(|source| JournalError::Damaged { path, source })
    }

    /// Begins a session without waiting for the host's answer.
    pub(crate) fn open(&mut self) -> Result<(), StepError> {
        if self.session.is_none() {
            self.session = Some(self.platform.open(&self.scope)?);
        }
        Ok(())
    }

    fn session(&mut self) -> Result<&mut dyn Session, StepError> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => self.platform.open(&self.scope)?,
        };
        session.ready()?;
        Ok(self.session.insert(session).as_mut())
    }

    fn records(&mut self) -> &mut [Record] {
        self.journal.as_mut().map(|j| j.steps.as_mut_slice()).unwrap_or_default()
    }

    /// Makes sure, before the first effect, that nothing of this name is on the host.
    pub(crate) fn refuse_foreign(&mut self, steps: &[Step]) -> Result<(), StepError> {
        let found = self.session()?.probe_all(steps)?;
        for (step, found) in steps.iter().zip(found) {
            let kept = matches!(step, Step::Volume(v) if v.reuse);
            let what = match found {
                Presence::Absent => continue,
                Presence::Ours if kept => continue,
                Presence::Ours => "the host has a record of an earlier environment of this name".to_owned(),
                Presence::Foreign(what) => what,
            };
            return Err(StepError::new(step.kind(), ErrorKind::Foreign, what)
                .hint("`fish-native audit` says what is left on this host"));
        }
        Ok(())
    }

    /// Writes down that every step is about to be made.
    pub(crate) fn intend(&mut self) -> Result<(), JournalError> {
        let planned = self.records().iter_mut().filter(|r| r.state == State::Planned);
        planned.for_each(|r| r.state = State::Intent);
        let saved = self.save();
        if saved.is_err() {
            // Nothing was asked of the platform: there is no effect to revert.
            self.stop_here();
        }
        saved
    }

    /// No further step will be made: those that were intended and not begun have no effect. This need not be on disk.
    pub(crate) fn stop_here(&mut self) {
        let left = self.records().iter_mut().filter(|r| r.state == State::Intent);
        left.for_each(|r| r.state = State::Planned);
    }

    /// Executes the steps of these phases, and tells how long each of the phases took, in ms.
    pub(crate) fn execute<const N: usize>(
        &mut self,
        phases: [Phase; N],
        steps: &[Step],
        stop: &CancellationToken,
        watch: &Watch,
    ) -> Result<[u64; N], AllocateCause> {
        let is_chosen = |(_, step): &(usize, &Step)| phases.contains(&phase_of(step));
        let (numbers, steps): (Vec<usize>, Vec<Step>) =
            steps.iter().enumerate().filter(is_chosen).map(|(n, s)| (n, s.clone())).unzip();
        if steps.is_empty() {
            return Ok([0; N]);
        }
        if stop.is_cancelled() {
            self.stop_here();
            return Err(AllocateCause::Cancelled);
        }
        let running = phases.map(|phase| steps.iter().any(|s| phase_of(s) == phase).then(|| watch.phase(phase)));
        let refused = |error| vec![Executed { result: Err(error), ms: 0 }];
        let results = self.session().map_or_else(refused, |s| s.execute_all(&steps));
        // What was not begun, because of nothing that is told, is not made either.
        let mut failed = steps.get(results.len()).filter(|_| results.iter().all(|r| r.result.is_ok())).map(no_answer);
        let mut times = [0; N];
        for ((n, step), done) in numbers.into_iter().zip(&steps).zip(results) {
            for (time, _) in times.iter_mut().zip(phases).filter(|(_, phase)| *phase == phase_of(step)) {
                *time = done.ms.max(*time);
            }
            match done.result {
                Ok(receipt) => {
                    if let (Receipt::Account { uid, .. }, Some(journal)) = (&receipt, &mut self.journal) {
                        journal.uid = Some(*uid);
                    }
                    // `done` is noted with `allocated`: after a crash, `intent` is reverted just as well.
                    self.set(n, State::Done(receipt));
                }
                Err(error) => {
                    // What is there and foreign is not ours and must not be reverted.
                    self.set(n, if error.kind == ErrorKind::Foreign { State::Planned } else { State::Reverting });
                    failed.get_or_insert(error);
                }
            }
        }
        if let Some(error) = failed {
            self.stop_here();
            return Err(error.into());
        }
        for (running, ms) in running.into_iter().zip(times) {
            if let Some(running) = running {
                running.done_in(ms);
            }
        }
        Ok(times)
    }

    /// Puts layers into the journal's plan, together with the directories that they keep in use.
    pub(crate) fn note_layers(&mut self, steps: &[Step]) {
        let Some(journal) = &mut self.journal else { return };
        for (record, step) in journal.steps.iter_mut().zip(steps) {
            if let Step::Layers(layers) = step {
                journal.layer_dirs.extend(layers.layers.iter().map(|l| l.dir.clone()));
                record.step = step.for_journal();
            }
        }
        journal.layer_dirs.sort();
        journal.layer_dirs.dedup();
    }

    fn set(&mut self, n: usize, state: State) {
        if let Some(record) = self.records().get_mut(n) {
            record.state = state;
        }
    }

    /// Keeps what was executed and says so in the journal.
    pub(crate) fn commit(&mut self) -> Result<(), AllocateCause> {
        if let Some(session) = self.session.take() {
            session.finish()?;
        }
        if let Some(journal) = &mut self.journal {
            journal.phase = JournalPhase::Allocated;
        }
        self.note()?;
        Ok(())
    }

    /// How the entry ended, if it has. Only asked for people's sake: that it can't be told stops nothing.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        self.session().ok()?.observe().ok()?.exit.map(|e| e.code)
    }

    /// Takes everything away, reads back, audits, and removes the record. See the module's rules.
    pub(crate) fn teardown(mut self, watch: &Watch) -> Result<DeallocateTimings, CleanupError> {
        let mut timings = DeallocateTimings::default();
        if self.journal.as_ref().is_some_and(|j| j.steps.iter().all(|r| r.state == State::Planned)) {
            // No effect was ever asked for: there is nothing to look for either.
            return self.remove().map(|()| timings);
        }
        let mut unsaved = None;
        self.records().iter_mut().filter(|r| r.state.may_exist()).for_each(|r| r.state = State::Reverting);
        if let Some(journal) = &mut self.journal {
            journal.phase = JournalPhase::Deallocating;
            // Rule 3: an error of the journal does not stop a revert.
            unsaved = self.note().err();
        }
        // What leaked before may be something that a step was said to have taken away.
        let mut thorough = self.journal.as_ref().is_some_and(|j| !j.leaked.is_empty());
        let mut left = Left::default();
        // A session may break in the middle (its helper was killed), and an exit code may have lied. The second
        // attempt has a new session, believes no earlier answer, and also asks for the platform's own record.
        for _ in 0..2 {
            left = self.attempt(thorough, watch, &mut timings);
            if left.is_empty() {
                break;
            }
            self.session = None;
            thorough = true;
        }
        if left.is_empty() {
            return self.remove().map(|()| timings);
        }
        if let Some(journal) = &mut self.journal {
            journal.phase = JournalPhase::Leaked;
            journal.leaked.clone_from(&left.leaked);
        }
        unsaved = self.save().err().or(unsaved);
        left.other.extend(unsaved.iter().map(|e| describe(e)));
        let stuck = self.journal.as_ref().map(Journal::stuck).unwrap_or_default();
        let stuck = stuck.into_iter().chain(left.stuck).collect();
        Err(CleanupError { identifier: self.held.id.clone(), stuck, leaked: left.leaked, other: left.other })
    }

    /// Removes the record of an environment that is gone.
    fn remove(self) -> Result<(), CleanupError> {
        let Self { store, images, held, session, .. } = self;
        drop(session);
        let identifier = held.id.clone();
        let left = |error: &dyn std::error::Error| CleanupError {
            identifier: identifier.clone(),
            stuck: Vec::new(),
            leaked: Vec::new(),
            other: vec![describe(error)],
        };
        images.unpin(&identifier).map_err(|e| left(&e))?;
        store.remove(held).map_err(|e| left(&e))
    }

    fn attempt(&mut self, thorough: bool, watch: &Watch, timings: &mut DeallocateTimings) -> Left {
        let mut left = Left::default();
        if let Err(error) = self.session() {
            left.refused(error);
            return left;
        }
        if thorough {
            for record in self.records().iter_mut().filter(|r| r.state != State::Planned) {
                record.state = State::Reverting;
            }
        }
        self.revert_all(watch, timings);
        if thorough || self.journal.is_none() {
            let running = watch.phase(Phase::Revert);
            if let Err(error) = self.session().and_then(|s| s.purge()) {
                left.refused(error);
            }
            timings.revert += running.done();
        }
        let running = watch.phase(Phase::Audit);
        let audit = self.session().and_then(|s| s.audit());
        timings.audit += running.done();
        match audit {
            Ok(leaked) => left.leaked = leaked,
            Err(error) => left.refused(error),
        }
        let pending = self.records().iter().any(|r| r.state.may_exist());
        if !pending
            && left.is_empty()
            && let Some(session) = self.session.take()
            && let Err(error) = session.finish()
        {
            left.refused(error);
        }
        left.pending = pending;
        left
    }

    fn revert_all(&mut self, watch: &Watch, timings: &mut DeallocateTimings) {
        let left = self.records().iter().enumerate().rev().filter(|(_, r)| r.state.may_exist());
        let left: Vec<(usize, Step)> = left.map(|(n, r)| (n, r.step.clone())).collect();
        let (workloads, rest): (Vec<_>, Vec<_>) = left.into_iter().partition(|(_, s)| phase_of(s) == Phase::Start);
        timings.stop += self.revert(Phase::Stop, workloads, watch);
        timings.revert += self.revert(Phase::Revert, rest, watch);
    }

    /// Reverts these steps, in this order, and tells how long that took, in ms.
    fn revert(&mut self, phase: Phase, steps: Vec<(usize, Step)>, watch: &Watch) -> u64 {
        if steps.is_empty() {
            return 0;
        }
        let (numbers, steps): (Vec<usize>, Vec<Step>) = steps.into_iter().unzip();
        let running = watch.phase(phase);
        let reverted = self.session().map(|s| s.revert_all(&steps));
        let ms = running.done();
        for (at, (n, step)) in numbers.into_iter().zip(&steps).enumerate() {
            let result = match &reverted {
                Ok(results) => results.get(at).cloned().unwrap_or_else(|| Err(no_answer(step))),
                Err(error) => Err(error.clone()),
            };
            let state = result.map_or_else(|e| State::Stuck { what: e.message, hint: e.hint }, |()| State::Gone);
            self.set(n, state);
        }
        ms
    }
}

/// The phase that a step belongs to.
fn phase_of(step: &Step) -> Phase {
    match step {
        Step::Account(_) => Phase::Account,
        Step::Volume(_) => Phase::Volumes,
        Step::Layers(_) => Phase::Layers,
        Step::Workload(_) => Phase::Start,
    }
}

/// What one attempt could not confirm to be gone.
#[derive(Default)]
struct Left {
    /// A step of the journal is not gone; its record says why.
    pending: bool,
    stuck: Vec<StuckStep>,
    leaked: Vec<Leak>,
    other: Vec<String>,
}

impl Left {
    /// The platform could not do what was asked.
    fn refused(&mut self, error: StepError) {
        self.stuck.push(StuckStep { step: error.step, what: error.message, hint: error.hint });
    }

    fn is_empty(&self) -> bool {
        !self.pending && self.stuck.is_empty() && self.leaked.is_empty() && self.other.is_empty()
    }
}

/// An error with its causes, on one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
