//! Where credentials may go and what they may go through: origins and the download proxy.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use url::Url;

/// Why a text is not an origin or a proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// Not a url.
    #[error("not a url: {0}")]
    Url(#[from] url::ParseError),
    /// A scheme that nothing is downloaded with.
    #[error("the scheme is `{found}`, expected {expected}")]
    Scheme {
        /// The scheme found.
        found: String,
        /// The schemes there are.
        expected: &'static str,
    },
    /// More than scheme, host and port.
    #[error("an origin is only scheme, host and port, as in `https://images.example.com:8443`")]
    NotOnlyOrigin,
    /// No host.
    #[error("the host is missing")]
    NoHost,
}

/// Scheme, host and port; the scheme's own port is filled in, so that two spellings of an origin are equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    /// The origin of a url that has a host and a known port.
    pub fn of(url: &Url) -> Option<Self> {
        Some(Self {
            scheme: url.scheme().to_owned(),
            host: url.host_str()?.to_owned(),
            port: url.port_or_known_default()?,
        })
    }

    /// Whether the url is of this origin.
    pub fn matches(&self, url: &Url) -> bool {
        Self::of(url).is_some_and(|origin| origin == *self)
    }
}

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let url = Url::parse(text)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(OriginError::Scheme { found: url.scheme().to_owned(), expected: "http or https" });
        }
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        if !bare || !url.username().is_empty() || url.password().is_some() {
            return Err(OriginError::NotOnlyOrigin);
        }
        Self::of(&url).ok_or(OriginError::NoHost)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        match (self.scheme.as_str(), self.port) {
            ("http", 80) | ("https", 443) => Ok(()),
            (_, port) => write!(f, ":{port}"),
        }
    }
}

impl TryFrom<String> for Origin {
    type Error = OriginError;
    fn try_from(text: String) -> Result<Self, OriginError> {
        text.parse()
    }
}

impl From<Origin> for String {
    fn from(origin: Origin) -> Self {
        origin.to_string()
    }
}

/// The proxy for downloads. It may hold credentials: `Debug` and `Display` leave them out.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl(Url);

impl ProxyUrl {
    /// The whole url, credentials and all.
    pub fn expose(&self) -> &Url {
        &self.0
    }
}

impl FromStr for ProxyUrl {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let url = Url::parse(text)?;
        if !matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h") {
            let expected = "http, https, socks5 or socks5h";
            return Err(OriginError::Scheme { found: url.scheme().to_owned(), expected });
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(OriginError::NoHost);
        }
        Ok(Self(url))
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.clone();
        // Both fail only for urls that can't hold credentials in the first place.
        let _ = shown.set_username("");
        let _ = shown.set_password(None);
        shown.fmt(f)
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProxyUrl({self})")
    }
}
