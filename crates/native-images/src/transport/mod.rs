//! Bytes from an http server: redirects, credentials, retries, resuming.

mod client;
mod download;
mod error;

pub(crate) use client::Client;
pub(crate) use download::{Download, Job, Started, Validators};
pub use error::{FetchError, RedirectRefusal, Sent, Stage};
