//! [`MacConfig`]: how this host is used.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::row::{CommandRow, Places};
use crate::slot::Site;

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
    /// Where the host keeps things.
    pub places: Places,
    /// The uids and groups that environments may have.
    pub site: Site,
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
            places: Places::default(),
            site: Site::default(),
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
        self.places.system = root.join("fs");
        self.places.state = root.join("fs/private/var/fish-native");
        for entry in std::fs::read_dir(root.join("bin")).into_iter().flatten().flatten() {
            self.tools.insert(entry.file_name().to_string_lossy().into_owned(), entry.path());
        }
        self
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
    pub fn limit(&self, row: &CommandRow) -> Duration {
        let limit = Duration::from_secs(u64::from(row.limit_s));
        self.limit.map_or(limit, |most| most.min(limit))
    }
}

/// Where macOS has a tool. Fixed, because the sudo rules name them so and `PATH` is nobody's promise.
pub fn default_path(tool: &str) -> PathBuf {
    let dir = match tool {
        "rm" | "ps" | "cp" | "launchctl" | "sh" => "/bin",
        "mount" => "/sbin",
        "createhomedir" | "chown" | "diskutil" | "sysctl" => "/usr/sbin",
        _ => "/usr/bin",
    };
    PathBuf::from(dir).join(tool)
}
