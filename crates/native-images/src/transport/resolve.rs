//! The addresses of names, without those that no image may come from.
//!
//! A connection is made to the addresses that are returned here and to no others, so a name can not change its address
//! between the check and the connection; and every connection, also one that resumes a download, is checked anew.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

type Found = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// Who knows the addresses of names.
#[derive(Clone)]
pub(super) struct Lookup(Arc<dyn Fn(String) -> Found + Send + Sync>);

impl Lookup {
    pub(super) fn new(answer: impl Fn(String) -> Found + Send + Sync + 'static) -> Self {
        Self(Arc::new(answer))
    }

    /// The system's resolver.
    pub(super) fn system() -> Self {
        Self::new(|name| Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) }))
    }
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lookup")
    }
}

/// Keeps addresses back.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    /// Whether this very host may be asked.
    pub(super) loopback: bool,
    /// Whether addresses of the link may be asked, where clouds serve the credentials of their machines.
    pub(super) link_local: bool,
    pub(super) lookup: Lookup,
}

/// What a name without an allowed address gives.
#[derive(Debug, thiserror::Error)]
#[error("{0} has no address outside this host and its link")]
pub(super) struct OnlyLocal(String);

impl OnlyLocal {
    /// The name, if this is why a request failed.
    pub(super) fn of(error: &(dyn std::error::Error + 'static)) -> Option<String> {
        let mut error = Some(error);
        while let Some(this) = error {
            if let Some(Self(name)) = this.downcast_ref() {
                return Some(name.clone());
            }
            error = this.source();
        }
        None
    }
}

pub(super) fn is_link_local(address: &IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// This very host or its link.
pub(super) fn is_local(address: &IpAddr) -> bool {
    let canonical = address.to_canonical();
    canonical.is_loopback() || canonical.is_unspecified() || is_link_local(&canonical)
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let name = name.as_str().to_owned();
            let allowed = |address: &IpAddr| match (is_link_local(address), is_local(address)) {
                (true, _) => guard.link_local,
                (_, true) => guard.loopback,
                _ => true,
            };
            let found = (guard.lookup.0)(name.clone()).await?;
            let found: Vec<SocketAddr> = found.into_iter().filter(|address| allowed(&address.ip())).collect();
            if found.is_empty() {
                return Err(OnlyLocal(name).into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}
