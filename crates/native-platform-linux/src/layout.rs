//! Where things are, as the workload sees them and as root sees them.

use std::io;
use std::path::{Path, PathBuf};

use native_config::{DiskName, EnvironmentId};
use native_platform::VolumeName;

use crate::proc::{self, LoopDevice};

/// The directories that everything lies below.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Root's records: `/var/lib/fish-native`.
    pub state: PathBuf,
    /// Mount points of disks: `/run/fish-native`. Only the directory itself is ever on the host.
    pub run: PathBuf,
    /// Where home directories are: `/home`.
    pub homes: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            state: PathBuf::from("/var/lib/fish-native"),
            run: PathBuf::from("/run/fish-native"),
            homes: PathBuf::from("/home"),
        }
    }
}

impl Paths {
    /// An environment's home directory.
    pub fn home(&self, id: &EnvironmentId) -> PathBuf {
        self.homes.join(id.as_ref())
    }

    /// An environment's disk.
    pub fn disk(&self, id: &EnvironmentId, disk: &DiskName) -> PathBuf {
        self.run.join(id.as_ref()).join(disk.as_ref())
    }

    /// Where a volume appears.
    pub fn volume(&self, id: &EnvironmentId, volume: &VolumeName) -> PathBuf {
        match volume {
            VolumeName::Home => self.home(id),
            VolumeName::Temp => self.own(id).join(".temp"),
            VolumeName::Disk(disk) => self.disk(id, disk),
        }
    }

    /// Where root keeps the parts of a volume that the workload must not see. The leading dot keeps it apart from
    /// every disk: a disk's name starts with a letter or digit.
    pub fn backstage(&self, id: &EnvironmentId, volume: &VolumeName) -> PathBuf {
        self.own(id).join(format!(".back-{}", tag(volume)))
    }

    /// The environment's directory below `run`.
    pub fn own(&self, id: &EnvironmentId) -> PathBuf {
        self.run.join(id.as_ref())
    }
}

/// A volume's name as part of a file name or a device's name; no two volumes have the same.
pub(crate) fn tag(volume: &VolumeName) -> String {
    match volume {
        VolumeName::Home => "@home".to_owned(),
        VolumeName::Temp => "@temp".to_owned(),
        VolumeName::Disk(disk) => disk.to_string(),
    }
}

/// What a loop device of ours is called in the kernel.
pub(crate) fn device_name(id: &EnvironmentId, volume: &VolumeName) -> String {
    format!("{id}:{}", tag(volume))
}

/// The loop devices in use that can be of this environment.
///
/// # Errors
/// Those of [`proc::loops`].
pub(crate) fn devices_near(id: &EnvironmentId) -> io::Result<Vec<LoopDevice>> {
    proc::loops(&|backing| may_be_of(backing, id))
}

/// Whether a loop device over this file may be of this environment: not if the file lies in the directory of another one,
/// as the files without a name do.
fn may_be_of(backing: &str, id: &EnvironmentId) -> bool {
    let owner = || Path::new(backing).parent()?.file_name()?.to_str()?.parse::<EnvironmentId>().ok();
    !backing.ends_with(" (deleted)") || owner().is_none_or(|owner| owner == *id)
}

/// Whether a loop device is of this environment, by its name or by the file below the environment's directory.
pub(crate) fn is_device_of(device: &LoopDevice, id: &EnvironmentId, dir: Option<&Path>) -> bool {
    device_owner(&device.name).as_ref() == Some(id)
        || dir.is_some_and(|dir| Path::new(&device.backing).starts_with(dir))
}

/// The environment that a loop device belongs to, by its name.
pub(crate) fn device_owner(name: &str) -> Option<EnvironmentId> {
    name.split_once(':')?.0.parse().ok()
}
