//! Making and removing volumes, one or several at once.

use std::fs::File;
use std::thread;

use native_config::Isolation;
use native_platform::{Backing, Receipt, StepError, StepKind, VolumeStep};

use super::LinuxSession;
use crate::{layout, volume};

impl LinuxSession {
    pub(super) fn make_volume(&mut self, step: &VolumeStep) -> Result<Receipt, StepError> {
        self.announce_volumes(&[step])?;
        let (platform, record) = (&self.platform, self.record(StepKind::Volume)?);
        let image = volume::prepare(&platform.tools, &platform.paths, record, step);
        let made = image.and_then(|image| volume::create(&platform.tools, &platform.paths, record, step, image));
        self.keep_volume(step, made)
    }

    /// Volumes whose making is mostly waiting: for the disk below, and for the kernel to tie and mount them.
    pub(super) fn make_volumes(&mut self, steps: &[&VolumeStep]) -> Result<Vec<Result<Receipt, StepError>>, StepError> {
        self.own(StepKind::Volume)?;
        self.announce_volumes(steps)?;
        let (platform, record) = (&self.platform, self.record(StepKind::Volume)?);
        let prepare = |step: &&VolumeStep| volume::prepare(&platform.tools, &platform.paths, record, step);
        let images: Vec<_> = steps.iter().map(prepare).collect();
        let made: Vec<_> = thread::scope(|scope| {
            // Threads share the namespace that this process has entered. They are gone before anything is forked.
            let make = |step, image: Result<_, StepError>| {
                move || volume::create(&platform.tools, &platform.paths, record, step, image?)
            };
            let work = steps.iter().zip(images).map(|(step, image)| make(step, image));
            let running: Vec<_> = work.map(|work| thread::Builder::new().spawn_scoped(scope, work)).collect();
            let ended = running.into_iter().map(|thread| match thread.map(thread::ScopedJoinHandle::join) {
                Ok(Ok(made)) => made,
                Ok(Err(_)) => Err(StepError::failed(StepKind::Volume, "a thread panicked")),
                Err(e) => Err(StepError::failed(StepKind::Volume, format!("start a thread: {e}"))),
            });
            ended.collect()
        });
        Ok(steps.iter().zip(made).map(|(step, made)| self.keep_volume(step, made)).collect())
    }

    /// Sees to it that volumes can be made, and writes down that they will be.
    fn announce_volumes(&mut self, steps: &[&VolumeStep]) -> Result<(), StepError> {
        match (self.scope.isolation, &self.host) {
            (Isolation::Private, None) => {
                let host = File::open("/proc/self/ns/mnt")
                    .map_err(|e| StepError::failed(StepKind::Volume, format!("open the mount namespace: {e}")))?;
                volume::enter_private(&self.platform.paths, &self.scope.id)?;
                self.host = Some(host.into());
            }
            (Isolation::Private, Some(_)) => {}
            (Isolation::Basic, _) => volume::stay_on_host(&self.platform.paths, &self.scope.id)?,
        }
        let is_known = |step: &VolumeStep| self.record.iter().flat_map(|r| &r.volumes).any(|v| v.volume == step.volume);
        let new: Vec<VolumeStep> = steps.iter().copied().filter(|step| !is_known(step)).cloned().collect();
        if new.iter().any(|step| matches!(step.backing, Backing::Dir)) {
            self.keep(StepKind::Volume, |r| r.volumes.extend(new))
        } else if new.is_empty() {
            self.record(StepKind::Volume).map(drop)
        } else {
            // Files without a name, or ones that are meant to stay.
            self.note(StepKind::Volume, |r| r.volumes.extend(new))
        }
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
