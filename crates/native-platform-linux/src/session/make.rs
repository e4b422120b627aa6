//! Making the account and the volumes of an environment: mostly waiting, for the disk below, for the user database, and for
//! the kernel to tie and mount disks. What can be done at once is.

use std::fs::File;
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Instant;

use native_config::{AccountKind, Isolation};
use native_platform::{
    AccountStep, Backing, ErrorKind, Executed, Presence, Receipt, Step, StepError, StepKind, VolumeStep,
};

use super::LinuxSession;
use crate::store::Record;
use crate::{account, layout, leftovers, volume};

/// The steps, if they can be made at once: an account, volumes, or both. One that is filled forks, which must not happen
/// beside threads.
pub(super) fn at_once(steps: &[Step]) -> Option<(Option<&AccountStep>, Vec<&VolumeStep>)> {
    fn of_threads(step: &Step) -> Option<&VolumeStep> {
        match step {
            Step::Volume(volume) if volume.clone_from.is_none() => Some(volume),
            _ => None,
        }
    }
    let (account, rest) = match steps {
        [Step::Account(account), rest @ ..] => (Some(account), rest),
        rest => (None, rest),
    };
    rest.iter().map(of_threads).collect::<Option<_>>().map(|volumes| (account, volumes))
}

/// A volume's image, if it has one, or why not.
type Image = Result<Option<File>, StepError>;

type Thread<'scope, T> = Result<ScopedJoinHandle<'scope, Result<T, StepError>>, StepError>;

fn begin<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    step: StepKind,
    work: impl FnOnce() -> Result<T, StepError> + Send + 'scope,
) -> Thread<'scope, T> {
    let started = thread::Builder::new().spawn_scoped(scope, work);
    started.map_err(|e| StepError::failed(step, format!("start a thread: {e}")))
}

fn end<T>(step: StepKind, thread: Thread<'_, T>) -> Result<T, StepError> {
    thread?.join().unwrap_or_else(|_| Err(StepError::failed(step, "a thread panicked")))
}

fn receipt(record: &Record) -> Receipt {
    Receipt::Account { uid: record.uid, gid: record.gid }
}

impl LinuxSession {
    /// Makes an account, if there is one among the steps, and volumes.
    pub(super) fn make(&mut self, account: Option<&AccountStep>, volumes: &[&VolumeStep]) -> Vec<Executed> {
        let since = Instant::now();
        let began = match account {
            Some(step) => self.begin_account(step, volumes),
            None => self.begin_volumes(volumes).map(|images| (images, false)),
        };
        let (mut images, is_new) = match began {
            Ok(began) => began,
            Err(error) => return vec![Executed::since(since, Err(error))],
        };
        if !volumes.is_empty()
            && let Err(error) = self.enter_place()
        {
            images = volumes.iter().map(|_| Err(error.clone())).collect();
        }
        let record = match self.record(StepKind::Account) {
            Ok(record) => record,
            Err(error) => return vec![Executed::since(since, Err(error))],
        };
        // An account that exists inside its namespaces alone is there with its record.
        let announced = account.map(|_| Executed::since(since, Ok(receipt(record))));
        let (platform, store, home) = (&self.platform, &self.store, self.platform.paths.home(&self.scope.id));
        let (added, made, took) = thread::scope(|scope| {
            // Threads share the namespace that this process is in. They are gone before anything is forked.
            let add = account.filter(|step| is_new && step.kind == AccountKind::Real).map(|step| {
                begin(scope, StepKind::Account, || {
                    account::add(&platform.tools, store, record, step, &home)?;
                    Ok(Executed::since(since, Ok(receipt(record))))
                })
            });
            let make = |step, image: Image| {
                begin(scope, StepKind::Volume, move || {
                    volume::create(&platform.tools, &platform.paths, record, step, image?)
                })
            };
            let running: Vec<_> = volumes.iter().zip(images).map(|(step, image)| make(step, image)).collect();
            let made: Vec<_> = running.into_iter().map(|thread| end(StepKind::Volume, thread)).collect();
            let took = since.elapsed();
            (add.map(|thread| end(StepKind::Account, thread)), made, took)
        });
        let mut done = Vec::new();
        match added {
            None => done.extend(announced),
            Some(Ok(added)) => done.push(added),
            Some(Err(error)) => {
                return vec![Executed::since(since, Err(self.undo_account(error, volumes)))];
            }
        }
        for (step, made) in volumes.iter().zip(made) {
            let result = self.keep_volume(step, made);
            done.push(Executed { result, ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX) });
        }
        done
    }

    /// Writes an account down, and prepares what does not need it. Tells also whether the account is new.
    fn begin_account(&mut self, step: &AccountStep, volumes: &[&VolumeStep]) -> Result<(Vec<Image>, bool), StepError> {
        const STEP: StepKind = StepKind::Account;
        self.own(STEP)?;
        if let Some(record) = &self.record {
            let found = account::probe(&self.scope.id, Some(record))?;
            if found == Presence::Ours {
                return self.begin_volumes(volumes).map(|images| (images, false));
            }
            let message = format!("{} has a record, but its account is {found:?}", self.scope.id);
            return Err(StepError::new(STEP, ErrorKind::Foreign, message));
        }
        if step.kind == AccountKind::Ephemeral && self.scope.isolation == Isolation::Basic {
            let message = "an ephemeral account exists only inside namespaces, which isolation: basic does without";
            return Err(StepError::new(STEP, ErrorKind::Invalid, message).hint("set account: real"));
        }
        if let Presence::Foreign(what) = account::probe(&self.scope.id, None)? {
            return Err(StepError::new(STEP, ErrorKind::Foreign, format!("there is already {what}")));
        }
        let groups = account::group_ids(&step.groups)?;
        // What another program, or another boot of the records, left of a uid in the kernel must not become the tenant's.
        let keys = leftovers::uids_with_keys()
            .map_err(|e| StepError::failed(STEP, format!("see which uids have keys in the kernel: {e}")))?;
        let taken = |uid| keys.contains(&uid) || account::uid_taken(uid);
        let minted = self.store.mint_uid(&self.scope.id, self.scope.uids, &taken);
        let uid = minted.map_err(|e| e.of_step(STEP))?;
        let mut record = Record::new(&self.scope, self.platform.caller, uid, step.kind == AccountKind::Real);
        if let [primary, rest @ ..] = groups.as_slice() {
            record.gid = *primary;
            record.groups = rest.to_vec();
        }
        record.volumes = volumes.iter().copied().cloned().collect();
        // Before the record is on disk: where both are on one file system, its commit has the images too. Files without
        // names need no record.
        let images = self.prepare(&record, volumes);
        let announced = account::announce(&self.store, &record, &self.platform.paths.home(&self.scope.id));
        self.record = Some(record);
        match announced {
            Ok(()) => Ok((images, true)),
            Err(error) => Err(self.undo_account(error, &[])),
        }
    }

    /// Takes back an account that could not be made, with the volumes that were made beside it.
    fn undo_account(&mut self, error: StepError, volumes: &[&VolumeStep]) -> StepError {
        self.undo(StepKind::Account, error, |s| {
            volumes.iter().rev().try_for_each(|step| s.remove_volume(step))?;
            s.delete_account()?;
            // Nothing ever ran as this uid: it may go at once.
            s.record.take().map_or(Ok(()), |r| s.store.release(&r)).map_err(|e| e.of_step(StepKind::Account))
        })
    }

    /// Writes down that volumes will be made, and prepares them.
    fn begin_volumes(&mut self, volumes: &[&VolumeStep]) -> Result<Vec<Image>, StepError> {
        const STEP: StepKind = StepKind::Volume;
        self.own(STEP)?;
        let known = &self.record(STEP)?.volumes;
        let is_new = |step: &&VolumeStep| !known.iter().any(|v| v.volume == step.volume);
        let new: Vec<VolumeStep> = volumes.iter().copied().filter(is_new).cloned().collect();
        if new.iter().any(|step| matches!(step.backing, Backing::Dir)) {
            self.keep(STEP, |r| r.volumes.extend(new))?;
        } else if !new.is_empty() {
            // Files without a name, or ones that are meant to stay.
            self.note(STEP, |r| r.volumes.extend(new))?;
        }
        Ok(self.prepare(self.record(STEP)?, volumes))
    }

    fn prepare(&self, record: &Record, volumes: &[&VolumeStep]) -> Vec<Image> {
        let (tools, paths) = (&self.platform.tools, &self.platform.paths);
        volumes.iter().map(|step| volume::prepare(tools, paths, record, step)).collect()
    }

    /// Enters the place where volumes are mounted: with private isolation the mount namespace that will be the
    /// environment's, if this process is not in it yet.
    fn enter_place(&mut self) -> Result<(), StepError> {
        let (paths, id) = (&self.platform.paths, &self.scope.id);
        match (self.scope.isolation, &self.host) {
            (Isolation::Basic, _) => volume::stay_on_host(paths, id),
            (Isolation::Private, Some(_)) => Ok(()),
            (Isolation::Private, None) => {
                let host = File::open("/proc/self/ns/mnt")
                    .map_err(|e| StepError::failed(StepKind::Volume, format!("open the mount namespace: {e}")))?;
                volume::enter_private(paths, id)?;
                self.host = Some(host.into());
                Ok(())
            }
        }
    }

    /// A volume whose making forks.
    pub(super) fn make_filled(&mut self, step: &VolumeStep) -> Result<Receipt, StepError> {
        let images = self.begin_volumes(&[step])?;
        self.enter_place()?;
        let (platform, record) = (&self.platform, self.record(StepKind::Volume)?);
        let image: Image = images.into_iter().next().unwrap_or(Ok(None));
        let made = image.and_then(|image| volume::create(&platform.tools, &platform.paths, record, step, image));
        self.keep_volume(step, made)
    }

    fn keep_volume(&mut self, step: &VolumeStep, made: Result<volume::Made, StepError>) -> Result<Receipt, StepError> {
        match made {
            Ok(volume::Made { path, image }) => {
                if let (Some(handle), Some(record)) = (image, &mut self.record) {
                    // On disk with the next change: only a workload can hand the disk to somebody else.
                    record.images.push((layout::tag(&step.volume), handle));
                }
                Ok(Receipt::Volume { path })
            }
            Err(error) => Err(self.undo(StepKind::Volume, error, |s| s.remove_volume(step))),
        }
    }

    pub(super) fn remove_volume(&mut self, step: &VolumeStep) -> Result<(), StepError> {
        let Some(record) = &self.record else { return Ok(()) };
        volume::remove(&self.platform.paths, record, step)?;
        self.note_less(|r| r.volumes.retain(|v| v.volume != step.volume));
        Ok(())
    }
}
