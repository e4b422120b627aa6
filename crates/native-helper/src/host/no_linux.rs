//! Linux, in a program that was compiled for something else: its commands are not known here, nor run.

use std::path::PathBuf;

use native_config::{DiskName, EnvironmentId};
use native_platform::command::Table;
use native_platform::{ErrorKind, Platform, StepError, StepKind};

pub(super) const TABLE: &Table = &Table {
    os: "Linux",
    commands: &[],
    retired: &[],
    tool_path: |tool| PathBuf::from("/usr/sbin").join(tool),
    helper_only: Some("what needs root there are system calls, which no rule for a tool grants"),
};

pub(super) fn home(id: &EnvironmentId) -> PathBuf {
    PathBuf::from("/home").join(id.as_str())
}

pub(super) fn disk(id: &EnvironmentId, disk: &DiskName) -> PathBuf {
    PathBuf::from("/run/fish-native").join(id.as_str()).join(disk.as_str())
}

pub(super) fn platform(_caller: u32) -> Result<Box<dyn Platform>, StepError> {
    Err(StepError::new(StepKind::Platform, ErrorKind::NotReady, "this program was not compiled for Linux"))
}

#[expect(clippy::unnecessary_wraps, reason = "fails where there is something to let go of")]
pub(super) fn unload() -> std::io::Result<()> {
    Ok(())
}
