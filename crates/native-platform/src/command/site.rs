//! [`Site`]: what one host fixes for all its commands: where things are, which uids and groups environments may have.

use std::path::{Path, PathBuf};

use native_config::GroupName;

/// What the rules of one host admit, and where it keeps things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// The range of uids, both ends included.
    pub uids: (u32, u32),
    /// The groups that labels may ask for, with their numbers.
    pub groups: Vec<(GroupName, u32)>,
    /// Where it keeps things.
    pub places: Places,
}

impl Default for Site {
    /// Our usual range of uids, no groups, nothing in another place than the system has it.
    fn default() -> Self {
        Self { uids: (70_000, 79_999), groups: Vec::new(), places: Places::default() }
    }
}

/// A place of the host that its settings fix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// What stands before `/Users` and the like: nothing, but for an emulated host.
    System,
    /// The state directory.
    State,
    /// The shell of accounts.
    Shell,
}

/// Where a host keeps things.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// What stands before paths of the system. Empty on a real host.
    pub system: PathBuf,
    /// Our own directory.
    pub state: PathBuf,
    /// The shell of accounts.
    pub shell: PathBuf,
}

impl Places {
    pub(super) fn of(&self, place: Place) -> String {
        let path: &Path = match place {
            Place::System => &self.system,
            Place::State => &self.state,
            Place::Shell => &self.shell,
        };
        path.display().to_string()
    }

    /// A path of the host, given as on a real one.
    pub fn path(&self, absolute: &str) -> PathBuf {
        if self.system.as_os_str().is_empty() {
            PathBuf::from(absolute)
        } else {
            self.system.join(absolute.trim_start_matches('/'))
        }
    }
}
