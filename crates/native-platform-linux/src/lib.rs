//! Executes the driver's steps on Linux: accounts, namespaces, cgroups, loop disks, layers, workloads.
//!
//! An environment is built so that nothing of it can be left: its disks are files without names, mounted only in
//! a mount namespace of its own; its processes live in a process-id namespace and a cgroup that end with one
//! write. What stays on the host and must be taken away step by step is an account, a mount point in `/home`, a
//! cgroup, and directories of disks of `type: dir`.
//!
//! What this crate does *not* do: it never talks to the network, never parses an archive, and decides nothing
//! about labels. It must run as root, in a process with one thread (see [`session`]).
//!
//! ```no_run
//! use std::sync::Arc;
//! use native_platform::{Platform, SystemRunner};
//! use native_platform_linux::{LinuxPlatform, Paths};
//!
//! let platform = LinuxPlatform::new(Paths::default(), Arc::new(SystemRunner::real()), 0);
//! for check in platform.checks()? {
//!     println!("{}: {}", check.id, check.detail);
//! }
//! # Ok::<(), native_platform::StepError>(())
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | [`session`] | [`LinuxPlatform`] and its sessions: which step does what |
//! | [`commands`] | the tools that are run, as a table |
//! | [`store`] `document` | root's records and the uid ledger, and how they are written |
//! | `account` `volume` `template` `layers` | one module per kind of step, and fresh file systems |
//! | `keeper` `init` `seal` | the processes of an environment, outside and inside |
//! | `cgroup` `kill` `discard` `remove` | limits, and ending everything |
//! | `enter` `observe` | `exec` and `status` |
//! | [`leftovers`] `places` `audit` `checks` | what can be left as a table, the search for it, and `doctor` |
//! | `pins` | disks that another environment keeps from going |
//! | `unload` | what the root side lets go of at its start |
//! | `sys` `proc` | system calls, `/proc` and `/sys` |
#![cfg(target_os = "linux")]

mod account;
mod audit;
mod bystanders;
mod cgroup;
mod checks;
pub mod commands;
mod copy;
mod discard;
mod document;
mod enter;
mod init;
mod keeper;
mod kept;
mod kill;
mod layers;
mod layout;
pub mod leftovers;
mod observe;
mod pins;
mod places;
mod proc;
mod remove;
mod seal;
pub mod session;
pub mod store;
mod sys;
mod template;
mod unload;
mod volume;

pub use layout::Paths;
pub use session::LinuxPlatform;
pub use unload::unload;
