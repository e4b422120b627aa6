//! [`Host`]: which platform this program is for, and where that platform has what belongs to us.
//!
//! The one place that chooses between platforms. Which of them a program can be a driver for is settled when it is
//! compiled; what is known of the other one (its commands, for their sudo rules) is known everywhere.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
#[path = "no_linux.rs"]
mod linux;
#[cfg(any(feature = "driver", target_os = "macos"))]
mod macos;
#[cfg(not(any(feature = "driver", target_os = "macos")))]
#[path = "no_macos.rs"]
mod macos;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use native_config::{DiskName, EnvironmentId, GroupName, Target};
use native_platform::command::{Site, Table};
use native_platform::runner::find_tool;
use native_platform::{HostFacts, Platform, StepError};
use serde::{Deserialize, Serialize};

use crate::client::unreachable_helper;
use crate::rules::Rules;

/// The argument by which a program of ours starts itself as its own root helper, where it is root already.
pub(crate) const HELPER_ARGUMENT: &str = "__helper";
/// The argument by which a program of ours starts itself as the process that stays beside a workload (macOS).
pub(crate) const KEEPER_ARGUMENT: &str = "__keeper";

/// A host: this one, or an emulated Mac.
#[derive(Debug, Clone)]
pub struct Host {
    target: Target,
    emulated: Option<Emulated>,
}

/// A Mac that is emulated below a directory, for tests.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "driver"), expect(dead_code, reason = "only a driver starts itself again"))]
struct Emulated {
    root: PathBuf,
    /// The command that starts this program again.
    again: Vec<String>,
    second: Duration,
    limit: Option<Duration>,
}

/// What the driver's configuration says about a host. It reaches a helper that is this program's own child; one
/// that is started by sudo has root's file instead (`/etc/fish-native/helper.yml`).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The range of uids.
    pub uids: (u32, u32),
    /// The groups that labels may ask for, where the configuration names any.
    pub groups: Vec<GroupName>,
    /// Paths of tools by name.
    pub tools: BTreeMap<String, PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { uids: (70_000, 79_999), groups: Vec::new(), tools: BTreeMap::new() }
    }
}

#[cfg(feature = "driver")]
impl From<&native_config::DriverConfig> for Settings {
    fn from(config: &native_config::DriverConfig) -> Self {
        Self {
            uids: (config.uid_min, config.uid_max),
            groups: config.allowed_groups.clone(),
            tools: config.tools.iter().map(|(tool, path)| (tool.program().to_owned(), path.clone())).collect(),
        }
    }
}

impl From<&Rules> for Settings {
    fn from(rules: &Rules) -> Self {
        // Never a tool that a caller chose.
        Self { uids: (rules.uid_min, rules.uid_max), groups: rules.groups.clone(), tools: BTreeMap::new() }
    }
}

impl Host {
    /// The host that this program was compiled for.
    pub const fn current() -> Self {
        Self { target: Target::current(), emulated: None }
    }

    /// A host of this kind as it is, to be spoken of from elsewhere: for rules that are rendered on another machine.
    pub const fn real(target: Target) -> Self {
        Self { target, emulated: None }
    }

    /// A Mac that is emulated below a directory (its tools in `bin`, its files in `fs`). `again` is the command that
    /// starts this program again with the same host; `second` is how long a second of waiting is there, and `limit`
    /// the most that a command may take. For tests: no released program calls this.
    pub fn emulated_mac(root: &Path, again: Vec<String>, second: Duration, limit: Option<Duration>) -> Self {
        let emulated = Emulated { root: root.to_owned(), again, second, limit };
        Self { target: Target::Macos, emulated: Some(emulated) }
    }

    /// Its operating system.
    pub const fn target(&self) -> Target {
        self.target
    }

    /// The commands that are run on it.
    pub fn table(&self) -> &'static Table {
        table(self.target)
    }

    /// A path of the system, given as on a real host.
    fn path(&self, absolute: &str) -> PathBuf {
        match &self.emulated {
            Some(mac) => mac.root.join("fs").join(absolute.trim_start_matches('/')),
            None => PathBuf::from(absolute),
        }
    }

    /// Where the stand-alone helper is installed.
    pub fn helper(&self) -> PathBuf {
        self.path("/usr/libexec/fish-native-helper")
    }

    /// Where root says what others may ask the helper for.
    pub(crate) fn rules(&self) -> PathBuf {
        // `/etc` is a symbolic link on a Mac, where the emulated one has none.
        self.path(if self.emulated.is_some() { "/private/etc/fish-native/helper.yml" } else { crate::rules::RULES })
    }

    /// The `sudo` of the host.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn sudo(&self, settings: &Settings) -> Result<PathBuf, StepError> {
        let configured = settings.tools.get("sudo").cloned();
        let found = match &self.emulated {
            Some(mac) => Some(mac.root.join("bin/sudo")),
            None => configured.or_else(|| find_tool("sudo")),
        };
        found.ok_or_else(|| unreachable_helper("sudo is not installed").hint("install sudo, or run the driver as root"))
    }

    #[cfg(any(feature = "driver", target_os = "macos"))]
    /// The command that starts this very program again.
    pub(crate) fn again(&self) -> io::Result<Vec<String>> {
        if let Some(mac) = &self.emulated {
            return Ok(mac.again.clone());
        }
        // Through /proc, so that an update that replaces the file does not mix two versions.
        let running = PathBuf::from(format!("/proc/{}/exe", std::process::id()));
        let program = if running.exists() { running } else { std::env::current_exe()? };
        Ok(vec![program.display().to_string()])
    }

    /// The platform's name.
    pub(crate) const fn name(&self) -> &'static str {
        match self.target {
            Target::Linux => "linux",
            Target::Macos => "macos",
        }
    }

    /// An environment's home directory, as its workload sees it.
    pub(crate) fn home(&self, id: &EnvironmentId) -> PathBuf {
        match self.target {
            Target::Linux => linux::home(id),
            Target::Macos => macos::home(self.root(), id),
        }
    }

    /// An environment's disk, as its workload sees it.
    pub(crate) fn disk(&self, id: &EnvironmentId, disk: &DiskName) -> PathBuf {
        match self.target {
            Target::Linux => linux::disk(id, disk),
            Target::Macos => macos::disk(self.root(), id, disk),
        }
    }

    /// Whether homes have a file system of their own although nobody chose a size.
    pub(crate) const fn sizes_homes(&self) -> bool {
        matches!(self.target, Target::Linux)
    }

    /// The platform itself, for a process that is root. `caller` is the uid on whose behalf it acts.
    ///
    /// # Errors
    /// When this program can't tell how it was started, or was not compiled for the platform.
    pub(crate) fn as_root(&self, settings: &Settings, caller: u32) -> Result<Box<dyn Platform>, StepError> {
        match self.target {
            Target::Linux => linux::platform(caller),
            Target::Macos => macos::as_root(self, settings, caller),
        }
    }

    /// What the host has, where that is told to everybody.
    pub(crate) fn facts(&self) -> Option<Result<HostFacts, StepError>> {
        matches!(self.target, Target::Linux).then(|| linux::platform(0)?.facts())
    }

    #[cfg(feature = "driver")]
    /// A Mac whose privileged commands each go through sudo.
    ///
    /// # Errors
    /// When this program can't tell how it was started.
    pub(crate) fn by_sudo(&self, settings: &Settings) -> Result<std::sync::Arc<dyn Platform>, StepError> {
        macos::by_sudo(self, settings)
    }

    /// The emulated host's directory.
    fn root(&self) -> Option<&Path> {
        self.emulated.as_ref().map(|mac| mac.root.as_path())
    }

    /// What sudo rules of this host admit. `here`: this is the host, so that groups can be looked up.
    ///
    /// # Errors
    /// The group whose number is not known.
    pub fn site(&self, settings: &Settings, here: bool) -> Result<Site, GroupName> {
        let usual = macos::site(self.root());
        let mut groups = usual.groups;
        for group in settings.groups.iter().filter(|_| self.table().helper_only.is_none()) {
            let look_up = || here.then(|| macos::group_number(self, settings, group)).flatten();
            let gid = macos::well_known_gid(group).or_else(look_up).ok_or_else(|| group.clone())?;
            if groups.iter().all(|(name, _)| name != group) {
                groups.push((group.clone(), gid));
            }
        }
        Ok(Site { uids: settings.uids, groups, places: usual.places })
    }

    /// Where a tool of this host is.
    pub fn tool(&self, settings: &Settings, name: &str) -> PathBuf {
        let configured = settings.tools.get(name).cloned().or_else(|| macos::tool(self.root(), name));
        configured.unwrap_or_else(|| (self.table().tool_path)(name))
    }
}

/// The commands that are run on an operating system.
pub fn table(target: Target) -> &'static Table {
    match target {
        Target::Linux => linux::TABLE,
        Target::Macos => macos::TABLE,
    }
}

/// What a program that was started as the process beside a workload does.
pub(crate) fn keeper(mode: &str) -> std::process::ExitCode {
    macos::keeper(mode)
}

/// Lets go of what the caller of a root helper handed down to it.
pub(crate) fn unload() -> io::Result<()> {
    linux::unload()
}
