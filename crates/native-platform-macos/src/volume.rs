//! Homes and disks.
//!
//! A home is made by `createhomedir` below `/Users`, or is a volume of its own there if it has a size. A disk is
//! always the volume of a sparse image, also one of the type `dir`: a plain directory below `/Volumes` can only
//! be made and given away by root, whereas an image's file system belongs to the account from its creation on,
//! takes from the host what is written to it, and is gone at once when the image is.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;

use native_platform::{Backing, ErrorKind, Presence, Receipt, Scope, StepError, StepKind, VolumeName, VolumeStep};

use crate::account::as_stuck;
use crate::config::Privilege;
use crate::job;
use crate::mac::Mac;
use crate::parse::{self, Attached};
use crate::plist;
use crate::store::{Record, VolumeRecord};
use crate::table as t;
use crate::tools::{CommandError, chain};

const STEP: StepKind = StepKind::Volume;
/// The size of the file system of a disk whose size is not enforced. The image grows as it is filled.
const UNLIMITED_MB: u64 = 1 << 20;

fn is_there(path: &Path) -> bool {
    // Not knowing is not absence.
    !matches!(fs::symlink_metadata(path), Err(e) if e.kind() == io::ErrorKind::NotFound)
}

/// A disk's name as it appears in paths.
fn short(volume: &VolumeName) -> &str {
    match volume {
        VolumeName::Home => "home",
        VolumeName::Temp => "temp",
        VolumeName::Disk(name) => name.as_str(),
    }
}

impl Mac {
    /// Where the workload sees a volume, and the image that holds it.
    fn volume_record(&self, scope: &Scope, step: &VolumeStep) -> VolumeRecord {
        let config = &self.tools.config;
        let user = scope.id.as_str();
        let name = short(&step.volume);
        // `fish-abcdef_home` can't be a disk's mount point and the home's at once: the home is below /Users.
        let (path, image) = match (&step.volume, &step.backing) {
            (VolumeName::Home, Backing::Dir) => (config.home(user), None),
            (VolumeName::Home, Backing::Sized { .. }) => (config.home(user), Some("home.sparseimage".to_owned())),
            (VolumeName::Temp, Backing::Dir) => (config.home(user).join(".tmp"), None),
            (VolumeName::Temp, Backing::Sized { .. }) => {
                (config.volume(user, ".temp"), Some("temp.sparseimage".to_owned()))
            }
            (VolumeName::Disk(_), _) => (config.volume(user, name), Some(format!("disk-{name}.sparseimage"))),
        };
        let image = image.map(|file| match (step.reuse, scope.dir.parent()) {
            (true, Some(workspace)) => {
                let label = step.label.as_deref().unwrap_or_default();
                let by_root = self.tools.config.privilege == Privilege::Root;
                let shelf = if by_root { &self.tools.config.site.places.state } else { workspace };
                shelf.join("reuse").join(format!("{name}-{}.sparseimage", volume_label(label)))
            }
            _ => self.images(scope).join(file),
        });
        VolumeRecord { volume: step.volume.clone(), path, image, keep: step.reuse, layers: false }
    }

    /// Where the images of an environment are. Root never writes one into a directory of the driver's user, who could
    /// put a link there, nor mounts one from there, who could put set-uid programs into it.
    pub(crate) fn images(&self, scope: &Scope) -> PathBuf {
        match self.tools.config.privilege {
            Privilege::Root => self.tools.config.site.places.state.join("images").join(scope.id.as_str()),
            Privilege::SudoCommands => scope.dir.clone(),
        }
    }

    fn record(&self, scope: &Scope) -> Result<Option<Record>, StepError> {
        self.store.record(&scope.id).map_err(|e| e.at(STEP))
    }

    pub(crate) fn probe_volume(&self, scope: &Scope, step: &VolumeStep) -> Result<Presence, StepError> {
        let wanted = self.volume_record(scope, step);
        let known = self.record(scope)?.is_some_and(|r| r.volume(&step.volume).is_some());
        let there = match &wanted.image {
            // In the closed home, where the record is all that can be seen from outside.
            None if wanted.volume == VolumeName::Temp => known,
            None => is_there(&wanted.path),
            Some(image) => {
                is_there(&wanted.path) || self.attached_image(image)?.is_some() || (is_there(image) && !wanted.keep)
            }
        };
        Ok(match (there, known) {
            (false, _) => Presence::Absent,
            (true, true) => Presence::Ours,
            (true, false) => Presence::Foreign(wanted.path.display().to_string()),
        })
    }

    pub(crate) fn execute_volume(&self, scope: &Scope, step: &VolumeStep) -> Result<Receipt, StepError> {
        let wanted = self.volume_record(scope, step);
        let path = wanted.path.clone();
        match self.probe_volume(scope, step)? {
            Presence::Foreign(what) => {
                return Err(StepError::new(STEP, ErrorKind::Foreign, format!("{what} is there and is not ours")));
            }
            Presence::Ours if self.volume_complete(scope, &wanted)? => return Ok(Receipt::Volume { path }),
            Presence::Ours => self.revert_volume(scope, &step.volume)?,
            Presence::Absent => {}
        }
        let Some(Record { uid: Some(uid), gid, group, .. }) = self.record(scope)? else {
            return Err(StepError::failed(STEP, "the account comes first"));
        };
        if wanted.volume == VolumeName::Home
            && wanted.image.is_some()
            && self.tools.config.privilege == Privilege::SudoCommands
        {
            // Below /Users only root may mount.
            return Err(StepError::new(STEP, ErrorKind::Invalid, "a home with a size needs root or the helper")
                .hint("remove home_size from the driver's config, or set `privilege: helper`"));
        }
        let intent = wanted.clone();
        self.store
            .change(scope, |r| {
                r.volumes.retain(|v| v.volume != intent.volume);
                r.volumes.push(intent);
            })
            .map_err(|e| e.at(STEP))?;
        let owner = Owner { user: scope.id.as_str(), uid, gid, group: &group };
        let made = match &wanted.image {
            None if wanted.volume == VolumeName::Home => self.make_home(&owner, &wanted.path),
            None => {
                let token = job::token();
                let path = wanted.path.display().to_string();
                self.tools.shell(STEP, &t::DIRECTORY_MAKE, &[&path]).and_then(|make| {
                    let close = self.tools.shell(STEP, &t::DIRECTORY_CLOSE, &[&path])?;
                    self.short_job(owner.user, STEP, job::make_directory(&make, &close, &token), &token)
                })
            }
            Some(image) => self.make_image_volume(&owner, step, &wanted, image),
        };
        self.or_undo(made, || self.revert_volume(scope, &step.volume))?;
        Ok(Receipt::Volume { path })
    }

    fn volume_complete(&self, scope: &Scope, wanted: &VolumeRecord) -> Result<bool, StepError> {
        let Some(uid) = self.record(scope)?.and_then(|r| r.uid) else { return Ok(false) };
        let owned = fs::symlink_metadata(&wanted.path).is_ok_and(|m| m.is_dir() && m.uid() == uid);
        match (&wanted.image, &wanted.volume) {
            // A directory in the closed home can't be looked at from outside; making it again does no harm.
            (None, VolumeName::Temp) => Ok(false),
            (None, _) => Ok(owned),
            (Some(image), _) => {
                let attached = self.attached_image(image)?;
                Ok(owned && attached.is_some_and(|a| a.mounted.as_deref() == Some(wanted.path.as_path())))
            }
        }
    }

    fn make_home(&self, owner: &Owner<'_>, home: &Path) -> Result<(), StepError> {
        // createhomedir ends with 0 also when it made nothing (nix-darwin#984), so it is looked at and tried
        // again, and what it said is not asked.
        let mut left = t::HOME_CREATE.retry.times;
        loop {
            let said = self.tools.run(&t::HOME_CREATE, &[owner.user]);
            let meta = fs::symlink_metadata(home);
            if meta.as_ref().is_ok_and(|m| m.is_dir() && m.uid() == owner.uid) {
                break;
            }
            if left == 0 || said.is_err() {
                let why = said.err().map_or_else(|| "it says it did".to_owned(), |e| chain(&e));
                return Err(StepError::failed(STEP, format!("createhomedir did not make {}: {why}", home.display())));
            }
            left -= 1;
            thread::sleep(self.tools.config.pause(t::HOME_CREATE.retry.pause_ms));
        }
        let token = job::token();
        let close = self.tools.shell(STEP, &t::DIRECTORY_CLOSE, &[&home.display().to_string()])?;
        self.short_job(owner.user, STEP, job::close_home(&close, &token), &token)?;
        match fs::symlink_metadata(home) {
            Ok(meta) if meta.mode() & 0o077 == 0 => Ok(()),
            _ => Err(StepError::failed(STEP, format!("{} is open to others", home.display()))),
        }
    }

    fn make_image_volume(
        &self,
        owner: &Owner<'_>,
        step: &VolumeStep,
        wanted: &VolumeRecord,
        image: &Path,
    ) -> Result<(), StepError> {
        let fs_name = self.file_system(step)?;
        // An image that has content belongs to somebody already.
        let filled = (wanted.keep && is_there(image)) || step.clone_from.as_ref().is_some_and(|c| !c.is_dir());
        if filled && self.attached_image(image)?.is_some() {
            return Err(StepError::new(STEP, ErrorKind::Foreign, format!("{} is in use", image.display())));
        }
        if let Some(dir) = image.parent() {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.map_err(|e| StepError::failed(STEP, format!("{}: {e}", dir.display())))?;
        }
        let text = image.display().to_string();
        match &step.clone_from {
            _ if wanted.keep && is_there(image) => {}
            Some(from) if !from.is_dir() => {
                let from = from.display().to_string();
                self.tools.run(&t::IMAGE_CLONE, &[&from, &text]).map_err(self.tools.failed(STEP))?;
            }
            _ => self.create_image(owner, step, fs_name, &text)?,
        }
        if !is_there(image) {
            return Err(StepError::failed(STEP, format!("{text} was made, but it is not there")));
        }
        if wanted.volume == VolumeName::Home {
            // Only in a mode that is root: the system makes mount points below /Volumes alone.
            fs::create_dir(&wanted.path)
                .map_err(|e| StepError::failed(STEP, format!("{}: {e}", wanted.path.display())))?;
        }
        self.attach(&wanted.path, image)?;
        if filled {
            let values = [owner.user, owner.group, owner.user, short(&step.volume)];
            self.tools.run(&t::VOLUME_OWN, &values).map_err(|e| {
                let error = self.tools.step_error(STEP, ErrorKind::Failed, &e);
                if e.no_rule() {
                    return error.hint(
                        "re-used and cloned disks need `privilege: root` or `helper`, or the published rule for chown",
                    );
                }
                error
            })?;
        }
        match fs::symlink_metadata(&wanted.path) {
            Ok(meta) if meta.uid() == owner.uid => {}
            Ok(meta) => {
                let (path, uid) = (wanted.path.display(), meta.uid());
                return Err(StepError::failed(STEP, format!("{path} belongs to uid {uid}, not to {}", owner.uid)));
            }
            Err(e) => return Err(StepError::failed(STEP, format!("{}: {e}", wanted.path.display()))),
        }
        match &step.clone_from {
            Some(tree) if tree.is_dir() => self.fill(owner.user, STEP, tree, &wanted.path).map(drop),
            _ => Ok(()),
        }
    }

    fn file_system(&self, step: &VolumeStep) -> Result<&'static str, StepError> {
        let Backing::Sized { fs: Some(name), .. } = &step.backing else { return Ok("APFS") };
        match name.to_ascii_lowercase().as_str() {
            "apfs" | "sparse" => Ok("APFS"),
            // macOS 26.4 can't mount new HFS+ images (electron-builder#9615).
            "hfs" | "hfs+" | "hfsplus" if self.version()? < (26, 4) => Ok("HFS+"),
            other => Err(StepError::new(STEP, ErrorKind::Invalid, format!("this macOS makes no {other} disks"))
                .hint("leave the disk's type out of the label, or set it to apfs or dir")),
        }
    }

    /// Major and minor version of macOS.
    pub(crate) fn version(&self) -> Result<(u32, u32), StepError> {
        let said = self.tools.run(&t::OS_VERSION, &[]).map_err(self.tools.failed(StepKind::Platform))?;
        let mut parts = said.out.trim().split('.').map(str::parse);
        match (parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
            (Some(Ok(major)), None) => Ok((major, 0)),
            _ => Err(StepError::failed(StepKind::Platform, format!("sw_vers said {:?}", said.out.trim()))),
        }
    }

    fn create_image(&self, owner: &Owner<'_>, step: &VolumeStep, fs: &str, image: &str) -> Result<(), StepError> {
        let megabytes = match &step.backing {
            Backing::Sized { bytes, .. } => bytes.div_ceil(1 << 20).max(1),
            Backing::Dir => UNLIMITED_MB,
        };
        let label = volume_label(step.label.as_deref().unwrap_or_else(|| short(&step.volume)));
        // Two creations at once can hang for ever.
        let _lock = self.store.lock("hdiutil").map_err(|e| e.at(STEP))?;
        let values = [fs, &megabytes.to_string(), &label, &owner.uid.to_string(), &owner.gid.to_string(), image];
        match self.tools.run(&t::IMAGE_CREATE, &values) {
            Ok(_) => Ok(()),
            // An earlier try that was cut off had made it: it is ours, and new.
            Err(CommandError::Failed { said, .. }) if said.contains("File exists") => Ok(()),
            Err(error) => Err(self.tools.step_error(STEP, ErrorKind::Failed, &error)),
        }
    }

    /// The attached image that a file is, if it is attached.
    pub(crate) fn attached_image(&self, image: &Path) -> Result<Option<Attached>, StepError> {
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let image = real(image);
        Ok(self.attached()?.into_iter().find(|a| real(&a.image) == image))
    }

    /// Every attached image.
    pub(crate) fn attached(&self) -> Result<Vec<Attached>, StepError> {
        let said = self.tools.run(&t::IMAGE_INFO, &[]).map_err(self.tools.failed(STEP))?;
        parse::attached(&said.out).ok_or_else(|| StepError::failed(STEP, "hdiutil info is no property list"))
    }

    fn attach(&self, path: &Path, image: &Path) -> Result<(), StepError> {
        let (at, file) = (path.display().to_string(), image.display().to_string());
        let said = self.tools.run(&t::IMAGE_ATTACH, &[&at, &file]).map_err(self.tools.failed(STEP))?;
        let mounted = plist::parse(&said.out).and_then(|d| parse::entities(&d)?.1);
        if mounted.as_deref() != Some(path) {
            let instead = mounted.map_or_else(|| "nowhere".to_owned(), |m| m.display().to_string());
            return Err(StepError::failed(STEP, format!("{file} was mounted {instead} instead of at {at}")));
        }
        let said = self.tools.run(&t::MOUNTS, &[]).map_err(self.tools.failed(STEP))?;
        match parse::mounts(&said.out).into_iter().find(|m| m.path == path) {
            Some(mount) if mount.owners => Ok(()),
            Some(_) => Err(StepError::failed(STEP, format!("{at} is mounted without owners"))),
            None => Err(StepError::failed(STEP, format!("hdiutil mounted {at}, but it is not mounted"))),
        }
    }

    pub(crate) fn revert_volume(&self, scope: &Scope, name: &VolumeName) -> Result<(), StepError> {
        let record = self.record(scope).map_err(as_stuck)?;
        let Some(volume) = record.as_ref().and_then(|r| r.volume(name)).cloned() else { return Ok(()) };
        let uid = record.and_then(|r| r.uid);
        if let Some(uid) = uid.filter(|_| *name == VolumeName::Home && is_there(&volume.path)) {
            self.remove_as_owner(scope, uid)?;
        }
        match (&volume.image, name) {
            (None, VolumeName::Home) => self.remove_home(scope, uid, &volume.path)?,
            // In the home, and gone with it.
            (None, _) => {}
            (Some(image), _) => self.remove_image_volume(&volume, image)?,
        }
        self.store.change(scope, |r| r.volumes.retain(|v| v.volume != *name)).map_err(|e| as_stuck(e.at(STEP)))?;
        Ok(())
    }

    fn remove_home(&self, scope: &Scope, uid: Option<u32>, home: &Path) -> Result<(), StepError> {
        let user = scope.id.as_str();
        if !is_there(home) {
            return Ok(());
        }
        // A process that still runs would fill it again.
        if let Some(uid) = uid {
            self.kill_all(scope, uid)?;
        }
        let first = self.tools.run(&t::HOME_REMOVE, &[user]);
        if !is_there(home) {
            return Ok(());
        }
        // Files with the uchg flag stop rm also for root; their owner may clear it.
        if let Some(uid) = uid {
            self.clean(user, uid);
            self.kill_all(scope, uid)?;
        }
        let second = self.tools.run(&t::HOME_REMOVE, &[user]);
        if !is_there(home) {
            return Ok(());
        }
        let why = second.or(first).err().map_or_else(|| "rm says it did".to_owned(), |e| chain(&e));
        Err(StepError::stuck(STEP, format!("{} could not be removed: {why}", home.display()))
            .hint(format!("sudo chflags -R nouchg {0} && sudo rm -rf {0}", home.display())))
    }

    /// Removes as the account itself what its owner may remove: flags that stop even root's `rm`, its crontab, its
    /// System V objects, its files in shared places. What comes of it is read back by the caller.
    pub(crate) fn clean(&self, user: &str, uid: u32) {
        let mut commands = Vec::new();
        let mut add = |row, values: &[&str]| commands.extend(self.tools.shell(STEP, row, values));
        add(&t::OWN_CRONTAB_REMOVE, &[]);
        add(&t::OWN_FLAGS_CLEAR, &[user]);
        add(&t::OWN_LEFTOVERS_DELETE, &[&uid.to_string()]);
        if let Ok(said) = self.tools.run(&t::IPC_LIST, &[]) {
            let number = uid.to_string();
            for (kind, id, _) in parse::ipc(&said.out).into_iter().filter(|(_, _, o)| *o == user || *o == number) {
                add(&t::OWN_IPC_REMOVE, &[kind, id]);
            }
        }
        let token = job::token();
        drop(self.short_job(user, STEP, job::clean(&commands, &token), &token));
    }

    fn remove_image_volume(&self, volume: &VolumeRecord, image: &Path) -> Result<(), StepError> {
        if let Some(attached) = self.attached_image(image).map_err(as_stuck)? {
            self.detach(&attached.device, image)?;
        }
        let said = self.tools.run(&t::MOUNTS, &[]).map_err(self.tools.stuck(STEP))?;
        if parse::mounts(&said.out).iter().any(|m| m.path == volume.path) {
            return Err(StepError::stuck(STEP, format!("{} is still mounted", volume.path.display()))
                .hint(format!("sudo diskutil unmount force '{}'", volume.path.display())));
        }
        if !volume.keep {
            remove_file(image).map_err(|e| {
                StepError::stuck(STEP, format!("{}: {e}", image.display())).hint(format!("rm '{}'", image.display()))
            })?;
            // Root's directory for this environment, once it is empty. The driver's own goes with its journal.
            if let (Privilege::Root, Some(dir)) = (self.tools.config.privilege, image.parent()) {
                drop(fs::remove_dir(dir));
            }
        }
        // The system removes the mount points it made. One of ours is an empty directory now; `remove_dir` takes
        // nothing else.
        if is_there(&volume.path) && fs::remove_dir(&volume.path).is_err() && is_there(&volume.path) {
            return Err(StepError::stuck(STEP, format!("{} is still there, not mounted", volume.path.display()))
                .hint(format!("sudo rmdir '{}'", volume.path.display())));
        }
        Ok(())
    }

    /// Detaches: nicely, then by the tool that replaces hdiutil, then by force; and looks.
    fn detach(&self, device: &str, image: &Path) -> Result<(), StepError> {
        let mut why = String::new();
        for (row, value) in [(&t::IMAGE_DETACH, device), (&t::IMAGE_EJECT, device), (&t::IMAGE_DETACH_FORCE, device)] {
            if let Err(error) = self.tools.run(row, &[value]) {
                why = chain(&error);
            }
            if self.attached_image(image).map_err(as_stuck)?.is_none() {
                return Ok(());
            }
        }
        Err(StepError::stuck(STEP, format!("{} is still attached as {device}: {why}", image.display()))
            .hint(format!("find who holds it with `sudo lsof +D`, then `hdiutil detach /dev/{device} -force`")))
    }
}

/// Whose a volume becomes.
struct Owner<'a> {
    user: &'a str,
    uid: u32,
    gid: u32,
    group: &'a str,
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// A volume's name from what a label says: what a volume's name can't hold becomes `-`.
fn volume_label(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(27).collect();
    let plain = plain.trim_matches('-');
    if plain.is_empty() { "fish".to_owned() } else { plain.to_owned() }
}
