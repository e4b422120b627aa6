//! A host in memory, with scripted faults: what the driver's tests run on. A dev-dependency, never anything else.
//!
//! [`FakeHost`] holds accounts, groups, volumes, layers, workloads and the platform's own records, as a real host
//! would. [`FakeHost::platform`] is a [`native_platform::Platform`] on it. Every call of a platform or a session
//! that can change or read the host has a number; a [`Fault`] makes the call with a certain number go wrong.
//!
//! What it does *not* do: it runs nothing, has no namespaces and no clock, and does not judge labels. A workload
//! "runs" until [`FakeHost::end`] or a revert ends it.
//!
//! ```
//! use native_platform::{AccountStep, Platform, Scope, Step};
//! use native_platform_fake::{Fault, FakeHost};
//!
//! let host = FakeHost::new();
//! let scope = Scope {
//!     id: "fish-abcdef".parse()?,
//!     dir: "/srv/fish-abcdef".into(),
//!     isolation: native_config::Isolation::default(),
//!     uids: (70000, 79999),
//! };
//! let account = Step::Account(AccountStep::default());
//! let before = host.state();
//!
//! let mut session = host.platform().open(&scope)?;
//! session.execute(&account)?;
//! drop(session); // not finished: the platform reverts
//! assert_eq!(host.state(), before);
//!
//! host.fault(host.calls() + 1, Fault::FailBefore); // the next but one
//! let mut session = host.platform().open(&scope)?;
//! assert!(session.execute(&account).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | [`host`] | [`FakeHost`], [`Fault`], [`HostState`] |
//! | [`session`] | the platform and its sessions |
//!
//! Invariants: an effect and the platform's record of it appear together, the record first, so that a crash
//! between them is a record without an effect, as on a real host; a dead host (a crash fault was hit) changes no
//! more until [`FakeHost::restart`].

pub mod host;
pub mod session;

pub use host::{Account, Call, FakeHost, Fault, HostState, Volume, Workload};
pub use session::FakePlatform;
