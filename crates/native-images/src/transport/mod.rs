//! Bytes from an http server: redirects, credentials, retries, resuming.

mod client;
mod download;
mod error;
mod headers;
mod resolve;
#[cfg(test)]
mod tests;

pub(crate) use client::Client;
pub(crate) use download::{Download, Job, Started};
pub use error::{FetchError, RedirectRefusal, Sent, Stage};
pub(crate) use headers::Validators;
