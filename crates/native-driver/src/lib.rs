//! Plan, journal, execute, supervise, revert: the Native driver of Aquarium Fish.
//!
//! [`Driver`] is what a Fish node calls, and what the command line calls; [`NativeDriver`] is the one that makes
//! throw-away user environments on this very host. It turns a definition into a plan (a list of
//! [`native_platform::Step`]s), writes each step's intent down before its effect, and takes everything away again:
//! when asked, when something fails, and when the next process finds what a dead one left.
//!
//! What it does *not* do: it knows no operating system (that is the [`native_platform::Platform`] it is given), runs
//! no command, parses no label, downloads nothing itself (`native-images` does) and prints nothing.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use native_driver::{AllocateRequest, Driver, NativeDriver, NodeUsage, PrepareOptions, Watch};
//!
//! # async fn example(
//! #     platform: Arc<dyn native_platform::Platform>,
//! #     definition: native_config::Definition,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! let driver = NativeDriver::new("native".parse()?, platform);
//! driver.prepare(&native_config::DriverConfig::default(), PrepareOptions::NODE, Watch::quiet()).await?;
//! if driver.available_capacity(&NodeUsage::Journals, &definition).await?.count > 0 {
//!     let made = driver.allocate(AllocateRequest::new(definition), Watch::quiet()).await?;
//!     driver.wait(&made.identifier, Default::default()).await?;
//!     assert!(driver.deallocate(&made.identifier, Watch::quiet()).await?.audit.clean);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | [`driver`] | [`Driver`] and what it is asked |
//! | [`report`] | what it answers: the JSON documents of the command line |
//! | [`error`] | what goes wrong, and [`Explain`]: exit code, step, hint |
//! | [`progress`] | [`Watch`]: events out, cancellation in |
//! | [`journal`] | [`journal::Journal`], the document |
//! | [`store`] | [`store::Store`]: locks and journals on disk |
//! | [`images`] | [`images::ImageSource`]: where layers come from |
//! | [`logs`] | [`LogReader`] |
//!
//! Invariants, each with a test in `tests/`: no effect without an intent on disk before it; nothing is gone before a
//! read-back and an empty audit said so; a process that dies at any call leaves what the next one takes away, or a
//! journal that says what is stuck; a failed clean-up never hides the first error; concurrent processes never
//! promise the same room twice.

pub mod driver;
pub mod error;
pub mod images;
pub mod journal;
pub mod logs;
pub mod progress;
pub mod report;
pub mod store;

mod allocate;
mod capacity;
mod deallocate;
mod doctor;
mod identifiers;
mod native;
mod node;
mod observe;
mod operation;
mod plan;
mod recover;

pub use driver::{AllocateRequest, Driver, OutputSink, Plan, PrepareOptions};
pub use error::{
    AllocateCause, AllocateError, AuditError, CapacityError, CleanupError, DeallocateError, DefinitionProblem,
    ExitCode, Explain, JournalError, ObserveError, PlanError, PrepareError, StuckStep, ValidateError,
};
pub use logs::LogReader;
pub use native::NativeDriver;
pub use progress::{ImageProgress, Phase, Progress, Watch};
pub use report::{
    AllocateTimings, Allocated, Audit, AuditFixed, Capacity, DeallocateTimings, Deallocated, EnvironmentPhase,
    EnvironmentStatus, Grant, Kept, LimitedBy, NodeUsage, Prepared, Recovered, Status, Tenant, UsageNow, Verified,
    WhatIf,
};
