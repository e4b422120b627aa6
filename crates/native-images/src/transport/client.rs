//! One request: where credentials go, which redirects are followed, which addresses are never asked.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use reqwest::header::{ACCEPT, ACCEPT_ENCODING, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Certificate, Proxy, Response, redirect};
use secrecy::ExposeSecret as _;
use tokio::time::timeout;
use url::{Host, Url};

use super::error::{FetchError, RedirectRefusal, Sent, Stage};
use super::resolve::{Guard, Lookup, OnlyLocal, is_link_local, is_local};
use crate::error::OpenError;
use crate::image::bare;
use crate::policy::{Credentials, Origin, Policy};

/// Sends requests as the policy says.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) policy: Policy,
    /// One for each [`Reach`] with and without TLS, made when it is first needed: loading the system's certificates
    /// takes longer than to look into the cache.
    made: [Arc<OnceLock<reqwest::Client>>; 6],
    lookup: Lookup,
}

/// Which addresses the name of an origin may have.
#[derive(Debug, Clone, Copy)]
enum Reach {
    /// All: for origins that the operator listed.
    Anywhere = 0,
    /// This very host, but nothing link-local: for `localhost`.
    Here = 1,
    /// Neither this very host nor anything link-local: for every other name, whoever wrote it down.
    Outside = 2,
}

/// An answer, and what was done about credentials on the last hop.
pub(crate) struct Answer {
    pub(crate) response: Response,
    pub(crate) sent: Sent,
}

impl Client {
    pub(crate) fn new(policy: Policy) -> Result<Self, OpenError> {
        let client = Self { policy, made: Default::default(), lookup: Lookup::system() };
        if client.policy.proxy.is_some() || !client.policy.extra_ca.is_empty() {
            // What the operator wrote is checked at once.
            client.build(Reach::Outside, true)?;
        }
        Ok(client)
    }

    /// One that asks `lookup` for the addresses of names.
    #[cfg(test)]
    pub(super) fn with_lookup(policy: Policy, lookup: Lookup) -> Self {
        Self { policy, made: Default::default(), lookup }
    }

    fn build(&self, reach: Reach, tls: bool) -> Result<reqwest::Client, OpenError> {
        let failed = |what| move |source| OpenError::Policy { what, source };
        let policy = &self.policy;
        let mut builder = reqwest::Client::builder()
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(policy.limits.connect)
            .user_agent(concat!("fish-native/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .http1_only()
            .tcp_nodelay(true);
        if !tls {
            builder = builder.tls_certs_only([]);
        }
        if let Some(proxy) = &policy.proxy {
            builder = builder.proxy(Proxy::all(proxy.clone()).map_err(failed("proxy"))?);
        }
        for pem in policy.extra_ca.iter().filter(|_| tls) {
            let certificates = Certificate::from_pem_bundle(pem).map_err(failed("extra certificate"))?;
            builder = builder.tls_certs_merge(certificates);
        }
        // With a proxy only its own name is resolved here, which the operator wrote; it resolves all others.
        let (loopback, link_local) = match reach {
            _ if policy.proxy.is_some() => (true, true),
            Reach::Anywhere => (true, true),
            Reach::Here => (true, false),
            Reach::Outside => (false, false),
        };
        builder = builder.dns_resolver(Guard { loopback, link_local, lookup: self.lookup.clone() });
        builder.build().map_err(failed("TLS setup"))
    }

    fn reaching(&self, reach: Reach, origin: &Origin) -> Result<reqwest::Client, FetchError> {
        let tls = origin.is_https() || self.policy.proxy.is_some();
        let made = &self.made[reach as usize * 2 + usize::from(tls)];
        if let Some(client) = made.get() {
            return Ok(client.clone());
        }
        match self.build(reach, tls) {
            Ok(client) => Ok(made.get_or_init(|| client).clone()),
            Err(OpenError::Policy { source, .. }) => Err(FetchError::Connection { source }),
            Err(_) => Err(FetchError::Scheme),
        }
    }

    /// Sends a GET, follows redirects, returns the first answer that is none.
    pub(crate) async fn get(&self, start: &Url, headers: &HeaderMap) -> Result<Answer, FetchError> {
        let home = Origin::of(start).ok_or(FetchError::Scheme)?;
        let own = url_credentials(start);
        let mut url = bare(start);
        let mut seen = vec![url.clone()];
        loop {
            let origin = Origin::of(&url).ok_or(FetchError::Scheme)?;
            let client = self.client_for(&url, &origin)?;
            let mut request = client
                .get(url.clone())
                .header(ACCEPT, HeaderValue::from_static("*/*"))
                .header(ACCEPT_ENCODING, HeaderValue::from_static("identity"))
                .headers(headers.clone());
            let mut sent = Sent::None;
            if let Some(credentials) = own.as_ref().filter(|_| origin == home) {
                request = request.basic_auth(&credentials.user, Some(credentials.password.expose_secret()));
                sent = Sent::Yes;
            } else if let Some(credentials) = &self.policy.credentials {
                if self.may_have_credentials(&origin, &home) {
                    request = request.basic_auth(&credentials.user, Some(credentials.password.expose_secret()));
                    sent = Sent::Yes;
                } else {
                    sent = Sent::KeptBack(origin.to_string());
                }
            }
            let patience = self.policy.limits.connect + self.policy.limits.idle;
            let response = match timeout(patience, request.send()).await {
                Err(_) => return Err(FetchError::Timeout { stage: Stage::Waiting, after: patience }),
                Ok(Err(error)) if error.is_timeout() => {
                    let after = self.policy.limits.connect;
                    return Err(FetchError::Timeout { stage: Stage::Connecting, after });
                }
                Ok(Err(source)) => {
                    return Err(match OnlyLocal::of(&source) {
                        Some(host) => FetchError::Inside { host },
                        None => FetchError::Connection { source: source.without_url() },
                    });
                }
                Ok(Ok(response)) => response,
            };
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(Answer { response, sent });
            }
            url = self.redirected(&url, &home, &response, &seen)?;
            tracing::debug!(to = %Origin::of(&url).map(|origin| origin.to_string()).unwrap_or_default(), "redirected");
            seen.push(url.clone());
        }
    }

    fn redirected(&self, from: &Url, home: &Origin, response: &Response, seen: &[Url]) -> Result<Url, FetchError> {
        let refuse = |refusal| Err(FetchError::Redirect(refusal));
        let target = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let Some(target) = target.and_then(|target| from.join(target).ok()) else {
            return refuse(RedirectRefusal::Nowhere);
        };
        // A redirect can not hand out credentials either.
        let target = bare(&target);
        let Some(origin) = Origin::of(&target) else {
            return refuse(RedirectRefusal::Scheme(target.scheme().to_owned()));
        };
        if from.scheme() == "https" && !origin.is_https() {
            return refuse(RedirectRefusal::Downgrade);
        }
        if seen.contains(&target) {
            return refuse(RedirectRefusal::Circle);
        }
        if seen.len() > self.policy.limits.redirects {
            return refuse(RedirectRefusal::TooMany(self.policy.limits.redirects));
        }
        let inside = origin.is_loopback() || literal(&target).is_some_and(|address| is_local(&address));
        if inside && !home.is_loopback() && !self.policy.origins.contains(&origin) {
            return refuse(RedirectRefusal::Inside(origin.to_string()));
        }
        Ok(target)
    }

    fn client_for(&self, url: &Url, origin: &Origin) -> Result<reqwest::Client, FetchError> {
        if self.policy.origins.contains(origin) {
            return self.reaching(Reach::Anywhere, origin);
        }
        if let Some(address) = literal(url).filter(is_link_local) {
            return Err(FetchError::LinkLocal { host: address.to_string() });
        }
        self.reaching(if origin.is_loopback() { Reach::Here } else { Reach::Outside }, origin)
    }

    /// See [`Policy::origins`].
    fn may_have_credentials(&self, origin: &Origin, home: &Origin) -> bool {
        if self.policy.origins.is_empty() {
            origin == home && (origin.is_https() || origin.is_loopback())
        } else {
            self.policy.origins.contains(origin)
        }
    }
}

/// User and password of the url itself.
fn url_credentials(url: &Url) -> Option<Credentials> {
    let decode = |text: &str| {
        let query = format!("x={}", text.replace('+', "%2B"));
        url::form_urlencoded::parse(query.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
    };
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    Some(Credentials { user: decode(url.username()), password: decode(url.password().unwrap_or_default()).into() })
}

fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(IpAddr::from(address).to_canonical()),
        Host::Domain(_) => None,
    }
}
