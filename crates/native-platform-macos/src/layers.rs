//! Layers: unpacked as the account, never as root.
//!
//! As root, `tar` would restore what an archive says: owners, set-uid bits, flags (measured with bsdtar 3.6: an unknown `--uname`
//! falls back to the archive's owner without a word). As the account it can do no more than the account can.
//! Where the account may read the cached tree and both lie on one volume, its files are cloned; else the keeper
//! writes an archive of the tree into the job's input, because the cache may be closed to the account.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use native_platform::{ErrorKind, LayersStep, Presence, Receipt, Scope, StepError, StepKind, VolumeName};

use crate::account::as_stuck;
use crate::job;
use crate::mac::Mac;
use crate::table as t;

const STEP: StepKind = StepKind::Layers;
/// How many names of a layer are looked for after it was unpacked: an argument list has an end.
const LOOKED_AT: usize = 200;

impl Mac {
    fn layers_place(&self, scope: &Scope, volume: &VolumeName) -> Result<Option<(PathBuf, bool)>, StepError> {
        let record = self.store.record(&scope.id).map_err(|e| e.at(STEP))?;
        Ok(record.and_then(|r| r.volume(volume).map(|v| (v.path.clone(), v.layers))))
    }

    pub(crate) fn probe_layers(&self, scope: &Scope, step: &LayersStep) -> Result<Presence, StepError> {
        let there = self.layers_place(scope, &step.volume)?.is_some_and(|(_, layers)| layers);
        Ok(if there { Presence::Ours } else { Presence::Absent })
    }

    pub(crate) fn execute_layers(&self, scope: &Scope, step: &LayersStep) -> Result<Receipt, StepError> {
        let Some((path, _)) = self.layers_place(scope, &step.volume)? else {
            return Err(StepError::failed(STEP, format!("{} comes first", step.volume)));
        };
        let intent = |layers| {
            move |r: &mut crate::store::Record| {
                r.volumes.iter_mut().filter(|v| v.volume == step.volume).for_each(|v| v.layers = layers);
            }
        };
        self.store.change(scope, intent(true)).map_err(|e| e.at(STEP))?;
        let mut method = "clone";
        for layer in &step.layers {
            if !layer.dir.is_dir() {
                return Err(StepError::new(
                    STEP,
                    ErrorKind::Invalid,
                    format!("layer {} of {}: {} is no directory", layer.digest, layer.image, layer.dir.display()),
                ));
            }
            let done = self.fill(scope.id.as_str(), STEP, &layer.dir, &path).map_err(|e| StepError {
                message: format!("layer {} of {}: {}", layer.digest, layer.image, e.message),
                ..e
            })?;
            if done == "copy" {
                method = done;
            }
        }
        Ok(Receipt::Layers { method: method.to_owned(), why: None })
    }

    /// Puts a tree into a directory, as the account; says how.
    pub(crate) fn fill(&self, user: &str, step: StepKind, tree: &Path, into: &Path) -> Result<&'static str, StepError> {
        let names: Vec<String> = fs::read_dir(tree)
            .map_err(|e| StepError::failed(step, format!("{}: {e}", tree.display())))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .take(LOOKED_AT)
            .collect();
        let text = |path: &Path| path.display().to_string();
        let token = job::token();
        if clonable(tree, into) {
            let line = job::clone(
                &self.tools.shell(step, &t::TREE_CLONE, &[&text(&tree.join(".")), &text(into)])?,
                &self.tools.shell(step, &t::DIRECTORY_CLOSE, &[&text(into)])?,
                into,
                &names,
                &token,
            );
            if self.long_job(user, step, line, &token, None).is_ok() {
                return Ok("clone");
            }
        }
        let token = job::token();
        let line = job::unpack(&self.tools.shell(step, &t::UNPACK, &[&text(into)])?, into, &names, &token);
        self.long_job(user, step, line, &token, Some(tree.to_owned()))?;
        Ok("copy")
    }

    /// What layers put over a volume goes with the volume; there is nothing to take away before that.
    pub(crate) fn revert_layers(&self, scope: &Scope, step: &LayersStep) -> Result<(), StepError> {
        if self.layers_place(scope, &step.volume).map_err(as_stuck)?.is_some_and(|(_, layers)| layers) {
            let clear = |r: &mut crate::store::Record| {
                r.volumes.iter_mut().filter(|v| v.volume == step.volume).for_each(|v| v.layers = false);
            };
            self.store.change(scope, clear).map_err(|e| as_stuck(e.at(STEP)))?;
        }
        Ok(())
    }
}

/// Whether the account can read all of the tree, and clone it: `clonefile` does not cross volumes.
fn clonable(tree: &Path, into: &Path) -> bool {
    let device = |p: &Path| fs::metadata(p).map(|m| m.dev()).ok();
    let open = |p: &Path| fs::metadata(p).is_ok_and(|m| m.mode() & 0o001 != 0);
    device(tree).is_some() && device(tree) == device(into) && tree.ancestors().all(open) && readable(tree, 0)
}

/// Whether everybody may read all of the tree. Deeper than this, or with anything special in it, it is not
/// worth the search.
fn readable(path: &Path, depth: u32) -> bool {
    let Ok(meta) = fs::symlink_metadata(path) else { return false };
    if meta.is_symlink() {
        return true;
    }
    if meta.is_dir() {
        let Ok(mut entries) = fs::read_dir(path) else { return false };
        return meta.mode() & 0o005 == 0o005
            && depth < 64
            && entries.all(|entry| entry.is_ok_and(|e| readable(&e.path(), depth + 1)));
    }
    meta.is_file() && meta.mode() & 0o004 != 0
}
