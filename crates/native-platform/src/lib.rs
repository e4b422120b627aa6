//! The contract between the driver and a host.
//!
//! The driver turns a label into a plan, a list of [`Step`]s, and hands each of them to a [`Session`] of a
//! [`Platform`]. A step is data: it can be printed, journaled, sent to a root helper as JSON and executed by
//! any implementation (Linux, macOS, the host in memory that the tests use).
//!
//! What this crate does *not* do: it contains no code for any operating system, decides nothing about
//! labels or capacity, and keeps no state. The one thing it runs is [`SystemRunner`], because every platform
//! needs the same careful way of running a tool.
//!
//! ```
//! use native_platform::{AccountStep, Step};
//!
//! let step = Step::Account(AccountStep::default());
//! let json = serde_json::to_string(&step)?;
//! assert_eq!(serde_json::from_str::<Step>(&json)?, step);
//! assert_eq!(step.describe(), "create the account with its own group");
//! # Ok::<(), serde_json::Error>(())
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | [`step`] | [`Step`] and what it is made of |
//! | [`platform`] | [`Platform`], [`Session`] and what they answer |
//! | [`command`] | [`CommandSpec`]: all that is known of one command, as data |
//! | `render` | sudo rules and the reference page, from a table of commands (feature `render`) |
//! | [`runner`] | [`Runner`] and the real one |
//! | [`error`] | [`StepError`] |
//!
//! Invariants: no trait here has a default body (an implementation that misses a method must not compile,
//! rather than quietly do the real thing); nothing in a `Debug` or in a journal shows a workload's variables.

pub mod command;
pub mod error;
pub mod platform;
#[cfg(feature = "render")]
pub mod render;
pub mod runner;
pub mod step;

pub use command::CommandSpec;
pub use error::{ErrorKind, StepError, StepKind};
pub use platform::{
    Check, Enter, EnterIo, Executed, Exit, HostFacts, Leak, Observation, Platform, Presence, Receipt, Scope, Session,
    Stream, no_answer, one_by_one,
};
pub use runner::{Connection, Ended, Invocation, Output, RunError, Runner, SystemRunner};
pub use step::{
    AccountStep, Backing, LayerSource, LayersStep, Limits, Step, Variables, VolumeName, VolumeStep, WorkloadStep,
};
