//! [`MacConfig`]: how this host is used.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use native_platform::command::{CommandSpec, Places, Site};

use crate::table::default_path;

/// How privileged commands get their rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// This process is root: the root helper, or a service that runs as root.
    Root,
    /// Each privileged command by itself through `sudo -n`.
    SudoCommands,
}

/// How this host is used.
#[derive(Debug, Clone)]
pub struct MacConfig {
    /// How privileged commands get their rights.
    pub privilege: Privilege,
    /// Where the host keeps things, and the uids and groups that environments may have.
    pub site: Site,
    /// The uid on whose behalf this process acts, where it is root: what that user may not read is not read for it.
    pub caller: u32,
    /// Paths of tools by name (`dscl`, ...), where they differ from [`default_path`].
    pub tools: BTreeMap<String, PathBuf>,
    /// The command that starts our own keeper (see [`crate::keeper`]); the mode is added to it.
    pub keeper: Vec<String>,
    /// The program that needs Full Disk Access, for advice: the service's own binary.
    pub program: PathBuf,
    /// How long a second of waiting is. Tests make it short; pauses and grace times scale with it.
    pub second: Duration,
    /// The most that a command may take, whatever its row says. Tests make it short.
    pub limit: Option<Duration>,
}

impl MacConfig {
    /// The settings of a real Mac.
    pub fn new(privilege: Privilege, keeper: Vec<String>) -> Self {
        Self {
            privilege,
            site: default_site(),
            caller: 0,
            tools: BTreeMap::new(),
            program: keeper.first().map(PathBuf::from).unwrap_or_default(),
            keeper,
            second: Duration::from_secs(1),
            limit: None,
        }
    }

    /// The same for a Mac that is emulated below a directory: its tools in `bin`, its files in `fs`.
    #[must_use]
    pub fn below(mut self, root: &Path) -> Self {
        self.site.places.system = root.join("fs");
        self.site.places.state = root.join("fs/private/var/fish-native");
        for entry in std::fs::read_dir(root.join("bin")).into_iter().flatten().flatten() {
            self.tools.insert(entry.file_name().to_string_lossy().into_owned(), entry.path());
        }
        self
    }

    /// The home of an account.
    pub fn home(&self, user: &str) -> PathBuf {
        self.site.places.path("/Users").join(user)
    }

    /// Where a disk of an account is mounted.
    pub fn volume(&self, user: &str, disk: &str) -> PathBuf {
        self.site.places.path("/Volumes").join(format!("{user}_{disk}"))
    }

    /// The path of a tool.
    pub fn tool(&self, name: &str) -> PathBuf {
        self.tools.get(name).cloned().unwrap_or_else(|| default_path(name))
    }

    /// Part of a second, as long as this host's second is.
    pub fn pause(&self, ms: u32) -> Duration {
        self.second * ms / 1000
    }

    /// How long a command may take.
    pub fn limit(&self, row: &CommandSpec) -> Duration {
        let limit = Duration::from_secs(u64::from(row.limit_s));
        self.limit.map_or(limit, |most| most.min(limit))
    }
}

/// A Mac as it is: our usual uids, and the two groups that every Mac has and that give no rights. `staff` is the primary
/// group of every person, `everyone` of everything.
pub fn default_site() -> Site {
    let group = |name: &str| Some((name.parse().ok()?, well_known_gid(name)?));
    Site {
        groups: [group("staff"), group("everyone")].into_iter().flatten().collect(),
        places: Places {
            system: PathBuf::new(),
            // `/var` is a symbolic link and mount(8) prints the real path.
            state: PathBuf::from("/private/var/fish-native"),
            shell: PathBuf::from("/bin/sh"),
        },
        ..Site::default()
    }
}

/// The number of a group that every Mac has, for rules that are rendered elsewhere.
pub fn well_known_gid(group: &str) -> Option<u32> {
    match group {
        "everyone" => Some(12),
        "staff" => Some(20),
        "_developer" => Some(204),
        _ => None,
    }
}
