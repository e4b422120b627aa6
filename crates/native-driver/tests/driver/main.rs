//! The driver as a whole, on a host in memory (`native-platform-fake`) and a real workspace directory.
//!
//! One program for all files: they share the rig, and link once.

#![expect(clippy::unwrap_used, reason = "a test that can't go on panics, also in its helpers")]

mod common;
mod faults;
mod journal;
mod operations;
mod recovery;
mod together;
