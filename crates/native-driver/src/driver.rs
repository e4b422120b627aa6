//! [`Driver`]: what a Fish node calls, and what an operator's tool calls.

use std::fmt;
use std::io::Read;
use std::path::PathBuf;

use async_trait::async_trait;
use native_config::{Definition, DriverConfig, EnvironmentId, InstanceName, Lifetime, Metadata};
use native_platform::{Enter, Exit, Step, Stream};
use tokio_util::sync::CancellationToken;

use crate::error::{
    AllocateError, AuditError, CapacityError, DeallocateError, ObserveError, PlanError, PrepareError, ValidateError,
};
use crate::logs::LogReader;
use crate::progress::Watch;
use crate::report::{
    Allocated, Audit, AuditFixed, Capacity, Deallocated, EnvironmentStatus, NodeUsage, Prepared, Status, Verified,
    WhatIf,
};

/// How much [`Driver::prepare`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrepareOptions {
    /// Deal with what earlier processes left: adopt what runs, revert what is half made.
    pub recover: bool,
    /// Look at rights, tools and kernel features; a missing one is an error.
    pub check: bool,
    /// Make a whole environment and remove it again; implies `check`.
    pub round_trip: bool,
}

impl PrepareOptions {
    /// What a node does at its start.
    pub const NODE: Self = Self { recover: true, check: true, round_trip: true };
    /// What a command does that is going to change the host.
    pub const CHANGE: Self = Self { recover: true, check: true, round_trip: false };
    /// What a command does that only reads.
    pub const READ: Self = Self { recover: false, check: false, round_trip: false };
}

/// What to allocate.
#[derive(Debug, Clone)]
pub struct AllocateRequest {
    /// One definition of a label.
    pub definition: Definition,
    /// The application's metadata, merged first.
    pub metadata: Metadata,
    /// The label's metadata, merged over it.
    pub label_metadata: Metadata,
    /// A lifetime in place of the definition's.
    pub lifetime: Option<Lifetime>,
}

impl AllocateRequest {
    /// A definition without metadata, with its own lifetime.
    pub fn new(definition: Definition) -> Self {
        Self { definition, metadata: Metadata::default(), label_metadata: Metadata::default(), lifetime: None }
    }
}

/// What an allocation would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The identifier that the paths were made with; a real one is chosen when it is allocated.
    pub identifier: EnvironmentId,
    /// The steps in order, without the variables' values. Layers have no directories yet.
    pub steps: Vec<Step>,
    /// Warnings of the definition on this host.
    pub warnings: Vec<String>,
}

impl fmt::Display for Plan {
    /// One line per step.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, step) in self.steps.iter().enumerate() {
            writeln!(f, "{}. {}", n + 1, step.describe())?;
        }
        Ok(())
    }
}

/// Receives what an entered command writes.
pub type OutputSink = Box<dyn FnMut(Stream, &[u8]) + Send>;

/// A driver as a Fish node holds it: `Arc<dyn Driver>`.
///
/// Every operation runs to its end even when the future that waits for it is dropped; dropping it cancels the
/// operation, which then cleans up.
#[async_trait]
pub trait Driver: Send + Sync + fmt::Debug {
    /// The instance: `native`, or `native/big`.
    fn name(&self) -> &InstanceName;

    /// Whether environments are on another machine than this process. Never, for this driver.
    fn is_remote(&self) -> bool;

    /// Takes the config and gets ready. Must be called before everything else; may be called again with another
    /// config.
    ///
    /// # Errors
    /// [`PrepareError`]: config, directories, or a host that is not ready.
    async fn prepare(
        &self,
        config: &DriverConfig,
        options: PrepareOptions,
        watch: Watch,
    ) -> Result<Prepared, PrepareError>;

    /// Whether this driver could make the definition at all, on any node. Returns warnings.
    ///
    /// # Errors
    /// [`ValidateError`] with every problem.
    fn validate_definition(&self, definition: &Definition) -> Result<Vec<String>, ValidateError>;

    /// How many more of the definition fit beside `node_usage`.
    ///
    /// # Errors
    /// [`CapacityError`] when that can't be told.
    async fn available_capacity(
        &self,
        node_usage: &NodeUsage,
        definition: &Definition,
    ) -> Result<Capacity, CapacityError>;

    /// Makes an environment and starts its workload. On an error, and on cancellation, everything is gone again.
    ///
    /// # Errors
    /// [`AllocateError`], with the clean-up's own error if that failed as well.
    async fn allocate(&self, request: AllocateRequest, watch: Watch) -> Result<Allocated, AllocateError>;

    /// Whether anything of the environment is there.
    ///
    /// # Errors
    /// [`ObserveError`] when that can't be told. An unknown environment is [`Status::None`], not an error.
    async fn status(&self, id: &EnvironmentId) -> Result<Status, ObserveError>;

    /// Runs a task of the driver by name. This driver has none: always `None`.
    async fn task(&self, name: &str, options: &serde_json::Value) -> Option<serde_json::Value>;

    /// Stops the workload, reverts everything, reads back that it is gone and audits. May be called again, and
    /// by several at once.
    ///
    /// # Errors
    /// [`DeallocateError`]; the environment keeps its record unless it is clean.
    async fn deallocate(&self, id: &EnvironmentId, watch: Watch) -> Result<Deallocated, DeallocateError>;

    /// What [`Self::allocate`] would do, without doing it.
    ///
    /// # Errors
    /// [`PlanError`].
    async fn plan(&self, request: &AllocateRequest) -> Result<Plan, PlanError>;

    /// [`Self::available_capacity`] with the host's own numbers replaced.
    ///
    /// # Errors
    /// [`CapacityError`].
    async fn capacity(&self, what_if: &WhatIf, definition: &Definition) -> Result<Capacity, CapacityError>;

    /// All environments of the workspace.
    ///
    /// # Errors
    /// [`ObserveError`] when the workspace can't be read. What is wrong with one environment is in its
    /// `problems`.
    async fn list(&self) -> Result<Vec<EnvironmentStatus>, ObserveError>;

    /// All that is known of one environment.
    ///
    /// # Errors
    /// [`ObserveError::NoSuch`], or when the workspace can't be read.
    async fn inspect(&self, id: &EnvironmentId) -> Result<EnvironmentStatus, ObserveError>;

    /// Where the workload's output is kept.
    ///
    /// # Errors
    /// [`ObserveError::NoSuch`].
    fn log_path(&self, id: &EnvironmentId) -> Result<PathBuf, ObserveError>;

    /// Reads what the workload printed. With `follow`, waits for more until the workload has ended.
    ///
    /// # Errors
    /// [`ObserveError`].
    async fn logs(&self, id: &EnvironmentId, follow: bool) -> Result<LogReader, ObserveError>;

    /// Waits until the workload has ended. `Err(Cancelled)` if the token is cancelled first.
    ///
    /// # Errors
    /// [`ObserveError`]; an environment that is not up any more and left no exit is [`ObserveError::NoSuch`].
    async fn wait(&self, id: &EnvironmentId, cancel: CancellationToken) -> Result<Exit, ObserveError>;

    /// Runs a command in the environment as its user (no command: its shell). Returns its exit code.
    ///
    /// # Errors
    /// [`ObserveError`].
    async fn enter(
        &self,
        id: &EnvironmentId,
        command: Enter,
        input: Box<dyn Read + Send>,
        output: OutputSink,
    ) -> Result<i32, ObserveError>;

    /// Searches the host, read-only, for what is ours and belongs to no environment that is alive.
    ///
    /// # Errors
    /// [`AuditError`] when the search fails.
    async fn audit(&self) -> Result<Audit, AuditError>;

    /// Removes what an audit finds, as far as a record says that it is ours, and audits again.
    ///
    /// # Errors
    /// [`AuditError`] when the search fails.
    async fn audit_fix(&self, watch: Watch) -> Result<AuditFixed, AuditError>;

    /// Every check, and a full round trip: a user, a small disk, `id` run as the user, all of it removed again
    /// and audited. What is missing is a check that is not ok, not an error.
    ///
    /// # Errors
    /// [`PrepareError`] when the checks can't be made at all.
    async fn verify(&self, watch: Watch) -> Result<Verified, PrepareError>;
}
