//! macOS, in a program that was built without it: the stand-alone helper of another system.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use native_config::{DiskName, EnvironmentId, GroupName};
use native_platform::command::{Site, Table};
use native_platform::{ErrorKind, Platform, StepError, StepKind};

use super::{Host, Settings};

pub(super) const TABLE: &Table = &Table {
    os: "macOS",
    commands: &[],
    retired: &[],
    tool_path: |tool| PathBuf::from("/usr/bin").join(tool),
    helper_only: Some("this program was built without the commands of macOS"),
};

fn absent() -> StepError {
    StepError::new(StepKind::Platform, ErrorKind::NotReady, "this program was built without macOS")
}

pub(crate) fn keeper(_: &str) -> ExitCode {
    ExitCode::FAILURE
}

pub(super) fn home(_: Option<&Path>, id: &EnvironmentId) -> PathBuf {
    PathBuf::from("/Users").join(id.as_str())
}

pub(super) fn disk(_: Option<&Path>, id: &EnvironmentId, disk: &DiskName) -> PathBuf {
    PathBuf::from("/Volumes").join(format!("{id}_{disk}"))
}

pub(super) fn tool(_: Option<&Path>, _: &str) -> Option<PathBuf> {
    None
}

pub(super) fn site(_: Option<&Path>) -> Site {
    Site::default()
}

pub(super) fn well_known_gid(_: &GroupName) -> Option<u32> {
    None
}

pub(super) fn as_root(_: &Host, _: &Settings, _: u32) -> Result<Box<dyn Platform>, StepError> {
    Err(absent())
}

pub(super) fn group_number(_: &Host, _: &Settings, _: &GroupName) -> Option<u32> {
    None
}
