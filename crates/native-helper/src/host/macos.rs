//! macOS: in a program for it, and in one that was built with the feature `macos`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use native_config::{DiskName, EnvironmentId, GroupName};
use native_platform::command::{Site, Table};
use native_platform::{Platform, StepError, SystemRunner};
use native_platform_macos::{MacConfig, MacPlatform, Privilege};

use super::{Host, KEEPER_ARGUMENT, Settings};
use crate::client::unreachable_helper;

pub(super) const TABLE: &Table = &native_platform_macos::TABLE;

/// The process beside a workload.
pub(crate) fn keeper(mode: &str) -> ExitCode {
    native_platform_macos::keeper::main(mode)
}

fn paths(root: Option<&Path>) -> MacConfig {
    let config = MacConfig::new(Privilege::Root, Vec::new());
    match root {
        Some(root) => config.below(root),
        None => config,
    }
}

pub(super) fn home(root: Option<&Path>, id: &EnvironmentId) -> PathBuf {
    paths(root).home(id.as_str())
}

pub(super) fn disk(root: Option<&Path>, id: &EnvironmentId, disk: &DiskName) -> PathBuf {
    paths(root).volume(id.as_str(), disk.as_str())
}

pub(super) fn tool(root: Option<&Path>, name: &str) -> Option<PathBuf> {
    paths(root).tools.get(name).cloned()
}

/// What sudo rules admit, and the number of a group that every Mac has.
pub(super) fn site(root: Option<&Path>) -> Site {
    paths(root).site
}

pub(super) fn well_known_gid(group: &GroupName) -> Option<u32> {
    native_platform_macos::well_known_gid(group.as_str())
}

fn config(host: &Host, privilege: Privilege, settings: &Settings) -> Result<MacConfig, StepError> {
    let mut keeper = host.again().map_err(|e| unreachable_helper(format!("find this program: {e}")))?;
    keeper.push(KEEPER_ARGUMENT.to_owned());
    let emulated = host.emulated.as_ref();
    let mut config = MacConfig { privilege, keeper, ..paths(emulated.map(|mac| mac.root.as_path())) };
    config.program = env::current_exe().unwrap_or_default();
    config.site.uids = settings.uids;
    config.tools.extend(settings.tools.clone());
    if let Some(mac) = emulated {
        (config.second, config.limit) = (mac.second, mac.limit);
    }
    Ok(config)
}

/// The platform for a process that is root.
pub(super) fn as_root(host: &Host, settings: &Settings, caller: u32) -> Result<Box<dyn Platform>, StepError> {
    let config = MacConfig { caller, ..config(host, Privilege::Root, settings)? };
    Ok(Box::new(MacPlatform::new(config, Arc::new(SystemRunner::real()))))
}

#[cfg(feature = "driver")]
/// The platform whose privileged commands each go through sudo.
pub(super) fn by_sudo(host: &Host, settings: &Settings) -> Result<Arc<dyn Platform>, StepError> {
    let config = config(host, Privilege::SudoCommands, settings)?;
    Ok(Arc::new(MacPlatform::new(config, Arc::new(SystemRunner::real()))))
}

/// The number of a group of this Mac.
pub(super) fn group_number(host: &Host, settings: &Settings, group: &GroupName) -> Option<u32> {
    let config = config(host, Privilege::SudoCommands, settings).ok()?;
    MacPlatform::new(config, Arc::new(SystemRunner::real())).group_number(group).ok()
}
