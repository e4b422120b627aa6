//! The driver's steps on macOS: accounts by `dscl`, disks by `hdiutil`, workloads by `su`, each as a typed
//! command of one table.
//!
//! The table ([`TABLE`]) is the single source of what is run. From it come the arguments, the sudo rules, the page on
//! commands, the checks of `doctor`, and what each exit code means. Nothing is believed because of an exit
//! code: each effect is read back.
//!
//! What this crate does *not* do: it has no namespaces to hide a workload in, no hard limit on memory or CPU
//! (macOS has none for a user; see `docs/src/macos.md`), and it has not been run on a Mac: it is tested against
//! an emulation of its tools. It compiles everywhere; nothing in it is compiled for macOS alone.
//!
//! ```
//! use native_platform_macos::{default_site, table};
//!
//! let site = default_site();
//! let argv = table::USER_DELETE.bind(&site, &["fish-abcdef"])?;
//! assert_eq!(argv, [".", "delete", "/Users/fish-abcdef"]);
//! assert!(table::USER_DELETE.bind(&site, &["fish-abcdef /Users/root"]).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | [`table`] | [`TABLE`], by area |
//! | [`tools`] | running rows, and what their endings mean |
//! | [`platform`] | [`MacPlatform`] |
//! | [`keeper`] | the process that stays beside a workload |
//! | [`plist`] | the property lists that hdiutil writes |
//!
//! Invariants: a step's intent is in our record before its effect; no job and no archive is handled as root;
//! no secret is in an argument or a file; a uid is never used twice before the range is through; what can't be
//! read is an error and never an absence.

mod account;
mod config;
mod doctor;
mod job;
pub mod keeper;
mod layers;
mod leftovers;
mod mac;
mod parse;
pub mod platform;
pub mod plist;
mod session;
mod store;
pub mod table;
pub mod tools;
mod volume;
mod workload;

pub use config::{MacConfig, Privilege, default_site, well_known_gid};
pub use platform::MacPlatform;
pub use table::{COMMANDS, TABLE};
