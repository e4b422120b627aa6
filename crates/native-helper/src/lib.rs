//! The privilege boundary: the only program of fish-native that runs as root, and the platform that talks to it.
//!
//! The driver never does anything as root. It sends steps as JSON lines to a helper process, which executes them
//! with the platform crate of this host and answers. Where the driver is root already, the helper is a child
//! process without sudo: one code path (ADR 1). A helper serves one operation on one environment and ends with it;
//! when its input ends before the operation was finished, it reverts what it has done.
//!
//! What this crate does *not* do: it parses no label and no archive and never uses the network. It takes no
//! arguments.
//!
//! ```no_run
//! use native_helper::HelperPlatform;
//! use native_platform::Platform;
//!
//! // First thing in `main`: this very program may have been started as its own helper.
//! if native_helper::is_helper_call() {
//!     std::process::ExitCode::from(native_helper::run_as_helper());
//! }
//! let platform = HelperPlatform::for_current_user()?;
//! println!("{} CPUs", platform.facts()?.cpus);
//! # Ok::<(), native_platform::StepError>(())
//! ```

mod client;
mod protocol;
mod rules;
mod serve;

pub use client::HelperPlatform;
pub use serve::{HELPER_ARGUMENT, is_helper_call, run_as_helper};
