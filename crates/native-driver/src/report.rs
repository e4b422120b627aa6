//! What operations answer. Serialised as they are, these are the JSON documents of the command line's contract.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use native_config::{DiskName, EnvironmentId};
use native_platform::{Check, Exit, Leak};
use serde::{Deserialize, Serialize};

/// How long the parts of an allocation took, in ms. Images and volumes overlap: `total` is less than the sum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocateTimings {
    /// Creating the account.
    pub account: u64,
    /// Making the volumes.
    pub volumes: u64,
    /// Fetching and unpacking the images.
    pub images: u64,
    /// Putting the layers in place.
    pub layers: u64,
    /// Starting the workload.
    pub start: u64,
    /// All of it.
    pub total: u64,
}

/// An environment that is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Allocated {
    /// Its identifier.
    pub identifier: EnvironmentId,
    /// Its account's name.
    pub user: String,
    /// Its uid.
    pub uid: u32,
    /// Its home, as the workload sees it.
    pub home: PathBuf,
    /// Its disks, as the workload sees them.
    pub disks: BTreeMap<DiskName, PathBuf>,
    /// How long it took.
    pub timings_ms: AllocateTimings,
}

/// How long the parts of a deallocation took, in ms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DeallocateTimings {
    /// Stopping the workload.
    pub stop: u64,
    /// Reverting the rest.
    pub revert: u64,
    /// The audit.
    pub audit: u64,
}

/// What a search for leftovers found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// Whether nothing was found.
    pub clean: bool,
    /// What was found.
    pub leaked: Vec<Leak>,
}

impl From<Vec<Leak>> for Audit {
    fn from(leaked: Vec<Leak>) -> Self {
        Self { clean: leaked.is_empty(), leaked }
    }
}

/// An environment that is gone, read back and audited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Deallocated {
    /// Which.
    pub identifier: EnvironmentId,
    /// How its workload had ended, if it had before it was stopped.
    pub exit_code: Option<i32>,
    /// How long it took.
    pub timings_ms: DeallocateTimings,
    /// The audit, which is clean (or else this would be an error).
    pub audit: Audit,
}

/// What a Fish node knows of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// Nothing of it is left.
    None,
    /// Something of it is there.
    Allocated,
}

/// How far an environment is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnvironmentPhase {
    /// It is being made, or the process that made it died.
    Allocating,
    /// It is up, or its workload has ended.
    Allocated,
    /// It is being removed, or the process that did died.
    Deallocating,
    /// Something of it could not be removed.
    Leaked,
    /// Its journal can't be read.
    Unreadable,
}

/// What an environment uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct UsageNow {
    /// CPU time, in seconds.
    pub cpu_seconds: f64,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Bytes on its volumes.
    pub disk_bytes: u64,
}

/// What an environment may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// CPU threads.
    pub cpu: u32,
    /// Memory in GB.
    pub ram_gb: u32,
    /// Promised disk space in GB, rounded up.
    pub disk_gb: u64,
    /// Whether it tolerates neighbours.
    pub multitenancy: bool,
    /// Whether it tolerates CPU overbooking.
    pub cpu_overbook: bool,
    /// Whether it tolerates memory overbooking.
    pub ram_overbook: bool,
}

/// All that is known of an environment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EnvironmentStatus {
    /// Its identifier.
    pub identifier: EnvironmentId,
    /// As Fish knows it.
    pub status: Status,
    /// How far it is.
    pub phase: EnvironmentPhase,
    /// Whether its entry runs.
    pub running: bool,
    /// How its entry ended.
    pub exit_code: Option<i32>,
    /// The whole of how its entry ended: signal, out of memory, lifetime over.
    pub exit: Option<Exit>,
    /// Its processes.
    pub pids: u32,
    /// What it uses.
    pub usage: UsageNow,
    /// What it may use.
    pub limits: Grant,
    /// The driver's instance that made it.
    pub instance: String,
    /// When it was made, in RFC 3339.
    pub created: String,
    /// Its account's name.
    pub user: String,
    /// Its uid, once it has one.
    pub uid: Option<u32>,
    /// Its home, as the workload sees it.
    pub home: PathBuf,
    /// Its disks, as the workload sees them.
    pub disks: BTreeMap<DiskName, PathBuf>,
    /// How the layers of its images were put into its home and its disks: `overlay`, `clone`, `reflink` or `copy`.
    pub layers: BTreeMap<String, String>,
    /// What is wrong with it: steps that are stuck, what was left, a journal that can't be read, a host that
    /// does not answer.
    pub problems: Vec<String>,
}

/// What limits how much more fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitedBy {
    /// CPU threads.
    Cpu,
    /// Memory.
    Ram,
    /// Disk space of the workspace.
    Disk,
    /// The config's `slots`.
    Slots,
    /// A tenant that tolerates no neighbours.
    Tenancy,
    /// The definition's node filter.
    NodeFilter,
}

impl fmt::Display for LimitedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Ram => "ram",
            Self::Disk => "disk",
            Self::Slots => "slots",
            Self::Tenancy => "tenancy",
            Self::NodeFilter => "node_filter",
        })
    }
}

/// How many more of a definition fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Capacity {
    /// How many.
    pub count: u64,
    /// What there is least of. `None` only when nothing limits it.
    pub limited_by: Option<LimitedBy>,
    /// Which resource, how much of it is missing, who holds it; one line each.
    pub explain: Vec<String>,
}

/// Something that runs on a node and takes room there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tenant {
    /// Its name, for explanations.
    pub identifier: String,
    /// CPU threads.
    pub cpu: u32,
    /// Memory in GB.
    pub ram_gb: u32,
    /// Promised disk space in GB.
    pub disk_gb: u64,
    /// Whether it tolerates neighbours.
    pub multitenancy: bool,
    /// Whether it tolerates CPU overbooking.
    pub cpu_overbook: bool,
    /// Whether it tolerates memory overbooking.
    pub ram_overbook: bool,
}

/// What runs on the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NodeUsage {
    /// What the journals of the workspace say.
    #[default]
    Journals,
    /// What the caller says, in place of the journals.
    Given(Vec<Tenant>),
}

/// A question of capacity that replaces what the host says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WhatIf {
    /// CPU threads of the host.
    pub total_cpu: Option<u32>,
    /// Memory of the host in GB.
    pub total_ram_gb: Option<u32>,
    /// Free space of the workspace in GB.
    pub total_disk_gb: Option<u64>,
    /// What runs.
    pub usage: NodeUsage,
}

/// What `doctor` found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Whether everything is as it must be.
    pub ready: bool,
    /// Each thing that was looked at.
    pub checks: Vec<Check>,
}

impl From<Vec<Check>> for Verified {
    fn from(checks: Vec<Check>) -> Self {
        Self { ready: checks.iter().all(|c| c.ok), checks }
    }
}

/// What a start found of earlier processes, and did about it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Recovered {
    /// Environments that are allocated and go on.
    pub adopted: Vec<EnvironmentId>,
    /// Environments that another process works on right now.
    pub busy: Vec<EnvironmentId>,
    /// Environments that were half made or half removed, and are gone now.
    pub reverted: Vec<EnvironmentId>,
    /// Environments that the host knew of without a journal, and that are gone now.
    pub purged: Vec<EnvironmentId>,
    /// Environments that keep their record, each with why and what to do.
    pub kept: Vec<Kept>,
}

/// An environment that recovery could not deal with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Which.
    pub identifier: EnvironmentId,
    /// Why, causes included.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// What [`crate::Driver::prepare`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Prepared {
    /// What was left by earlier processes; empty when it was not asked for.
    pub recovered: Recovered,
    /// The checks; empty when they were not asked for.
    pub checks: Vec<Check>,
}

/// What `audit --fix` did, and what is left after it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AuditFixed {
    /// What is left.
    #[serde(flatten)]
    pub audit: Audit,
    /// What was dealt with.
    pub recovered: Recovered,
}
