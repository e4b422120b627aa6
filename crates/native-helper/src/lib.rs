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
//! use native_config::DriverConfig;
//! use native_helper::{Host, hidden_entry};
//!
//! // First thing in `main`: this very program may have been started as its own helper.
//! let (host, args) = (Host::current(), std::env::args_os().skip(1).collect::<Vec<_>>());
//! if hidden_entry(&host, &args).is_none() {
//!     let platform = native_helper::open(&host, &DriverConfig::default())?;
//!     println!("{} CPUs", platform.facts()?.cpus);
//! }
//! # Ok::<(), native_platform::StepError>(())
//! ```

mod client;
mod host;
mod protocol;
mod rules;
mod serve;

pub use client::HelperPlatform;
#[cfg(feature = "driver")]
pub use client::open;
pub use host::{Host, Settings, table};
pub use serve::{hidden_entry, stand_alone};
