//! Pure accounting: how many more of a request fit on a node, and why not more.
//!
//! A node has [`Totals`], what runs there is its [`Usage`], and somebody asks for one more [`Request`]. [`available`]
//! says how many of them fit beside what runs and what limits that number, and explains it, when asked, as a colleague
//! would.
//!
//! The crate knows nothing of hosts, labels or this driver: a driver of virtual machines can use it unchanged. It does
//! no I/O, reads no clock and never panics, wraps or divides by zero, whatever the numbers are.
//!
//! # Rules
//!
//! - Threads and memory: `total + alter`, less what is in use. The overbook is added when the request and everything
//!   that runs tolerate it, threads and memory each by their own flag.
//! - [`Tenancy::Strict`]: a request without `multitenancy` fits only an empty node, once, and nothing joins it.
//!   [`Tenancy::Lenient`]: the flag keeps nobody out.
//! - Disks: free space less what is promised. Slots: their number less what runs.
//! - A node filter that does not match is zero, whatever is free.
//!
//! # Example
//!
//! 16 threads, two tenants of 14, and an overbook of 12: two fit, the third does not.
//!
//! ```
//! use native_capacity::{LimitedBy, Request, Tenant, Totals, Usage, available};
//!
//! # fn main() -> Result<(), native_capacity::LedgerError> {
//! let node = Totals { cpu: 16, ram_gb: 64, cpu_overbook: 12, ..Totals::default() };
//! let tenant = Tenant { cpu: 14, ram_gb: 8, multitenancy: true, cpu_overbook: true, ..Tenant::default() };
//! let request = Request::from(tenant);
//!
//! let mut usage = Usage::new();
//! assert_eq!(available(&node, &usage, &request).count, 2);
//! usage.add("fish-aaaaaa", tenant)?;
//! assert_eq!(available(&node, &usage, &request).count, 1);
//! usage.add("fish-bbbbbb", tenant)?;
//!
//! let full = available(&node, &usage, &request);
//! assert_eq!((full.count, full.limited_by), (0, Some(LimitedBy::Cpu)));
//! assert_eq!(
//!     full.explain.all()[0].to_string(),
//!     "cpu: one more needs 14 threads, and 0 of 28 are free (16 of the host, 12 overbooked): 14 short. \
//!      Held by fish-aaaaaa (14) and fish-bbbbbb (14). \
//!      It fits when fish-aaaaaa ends, or with a `cpu_overbook` of 26."
//! );
//! # Ok(()) }
//! ```
//!
//! # Modules
//!
//! `ledger` holds what runs, `answer` counts, `explain` puts the count into words.
#![no_std]

extern crate alloc;

mod answer;
mod explain;
mod ledger;

pub use answer::{Capacity, LimitedBy, Request, Tenancy, Totals, available};
pub use explain::{Explain, Explanation, Holder};
pub use ledger::{LedgerError, Tenant, Usage};
