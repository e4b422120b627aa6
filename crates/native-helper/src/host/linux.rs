//! Linux, in a program that was compiled for it.

use std::path::PathBuf;
use std::sync::Arc;

use native_config::{DiskName, EnvironmentId};
use native_platform::command::Table;
use native_platform::{Platform, StepError, SystemRunner};
use native_platform_linux::{LinuxPlatform, Paths};

pub(super) const TABLE: &Table = &native_platform_linux::commands::TABLE;

pub(super) fn home(id: &EnvironmentId) -> PathBuf {
    Paths::default().home(id)
}

pub(super) fn disk(id: &EnvironmentId, disk: &DiskName) -> PathBuf {
    Paths::default().disk(id, disk)
}

#[expect(clippy::unnecessary_wraps, reason = "fails where it was not compiled in")]
pub(super) fn platform(caller: u32) -> Result<Box<dyn Platform>, StepError> {
    Ok(Box::new(LinuxPlatform::new(Paths::default(), Arc::new(SystemRunner::real()), caller)))
}

pub(super) fn unload() -> std::io::Result<()> {
    native_platform_linux::unload()
}
