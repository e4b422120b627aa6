//! What an operator decides once: credentials and where they may go, limits, proxies, cache size.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

/// How this host fetches and keeps images. `Default` is safe for the public network.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// HTTP basic auth.
    pub credentials: Option<Credentials>,
    /// Where the credentials may go.
    ///
    /// With a list, they go to exactly these origins, `http` ones too, and to no other. With none (an operator who gave
    /// only user and password), they go to the origin of the image's own url if it is `https`, or `http` on this very
    /// host (loopback). They never follow a redirect to another origin unless that one is in the list.
    pub origins: Vec<Origin>,
    /// A proxy for all requests (`http://`, `https://`). Proxy variables of the environment are ignored.
    pub proxy: Option<Url>,
    /// Certificates (PEM, one or several) trusted besides the system's.
    pub extra_ca: Vec<Vec<u8>>,
    /// Everything bounded.
    pub limits: Limits,
    /// Least recently used layers are removed while the cache is larger than this. `None`: only when asked.
    pub max_size: Option<u64>,
    /// How many blocks of a multi-block xz may be decoded at once. 0: as many as there are cores.
    pub threads: usize,
}

/// A user and a password, never printed.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password.
    pub password: SecretString,
}

/// Scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

/// Why a text is no origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no origin; write one as https://host or http://host:port")]
pub struct ParseOriginError {
    text: String,
}

impl Origin {
    /// The origin of an http or https url.
    #[must_use]
    pub fn of(url: &Url) -> Option<Self> {
        if !matches!(url.scheme(), "http" | "https") {
            return None;
        }
        Some(Self {
            scheme: url.scheme().to_owned(),
            host: url.host_str()?.trim_end_matches('.').to_ascii_lowercase(),
            port: url.port_or_known_default()?,
        })
    }

    /// Whether requests to it are encrypted.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.scheme == "https"
    }

    /// Whether it is this very host.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost"
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
    }
}

impl FromStr for Origin {
    type Err = ParseOriginError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseOriginError { text: text.to_owned() };
        let url = Url::parse(text.trim()).map_err(|_| bad())?;
        let bare = url.path().trim_matches('/').is_empty() && url.query().is_none() && url.username().is_empty();
        Self::of(&url).filter(|_| bare).ok_or_else(bad)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.scheme, self.host, self.port)
    }
}

/// Every bound there is. What goes over one is refused by name.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Until a connection stands.
    pub connect: Duration,
    /// Without a byte, and also the window over which [`Limits::min_rate`] is measured.
    pub idle: Duration,
    /// For one image, from the first request to the last byte.
    pub total: Duration,
    /// Bytes per second below which a server counts as stalled. 0: no such limit.
    pub min_rate: u64,
    /// Redirects of one request.
    pub redirects: usize,
    /// Tries in a row that brought no further byte.
    pub retries: usize,
    /// The wait before the first of these tries; it doubles, with some chance in it, up to half a minute.
    pub pause: Duration,
    /// The longest wait that a `Retry-After` may ask for.
    pub retry_after: Duration,
    /// The archive as it is downloaded, bytes.
    pub download: u64,
    /// Entries of one archive.
    pub entries: u64,
    /// Components of a path.
    pub depth: usize,
    /// Bytes of one component of a path.
    pub name_length: usize,
    /// Bytes of a whole path.
    pub path_length: usize,
    /// Bytes of an archive unpacked, holes of sparse files included.
    pub expanded: u64,
    /// Unpacked bytes for each downloaded byte, looked at only above [`Limits::ratio_floor`].
    pub ratio: u64,
    /// Below this many unpacked bytes no ratio is looked at.
    pub ratio_floor: u64,
    /// Memory for decoders, bytes: one xz decoder that needs more is refused, further ones are started only within it.
    pub decoder_memory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        const GIB: u64 = 1 << 30;
        Self {
            connect: Duration::from_secs(15),
            idle: Duration::from_secs(60),
            total: Duration::from_secs(6 * 3600),
            min_rate: 128,
            redirects: 5,
            retries: 5,
            pause: Duration::from_millis(250),
            retry_after: Duration::from_secs(120),
            download: 256 * GIB,
            entries: 4_000_000,
            depth: 256,
            name_length: 255,
            path_length: 4095,
            expanded: 512 * GIB,
            ratio: 500,
            ratio_floor: GIB,
            decoder_memory: 132 * MIB,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_compare_by_scheme_host_and_port() {
        let origin = |text: &str| text.parse::<Origin>().unwrap();
        assert_eq!(origin("https://Host.example."), origin("https://host.example:443/"));
        assert_ne!(origin("https://host.example"), origin("http://host.example"));
        assert_ne!(origin("https://host.example"), origin("https://host.example:8443"));
        assert!(origin("http://[::1]:80").is_loopback());
        assert!(origin("http://127.9.9.9").is_loopback());
        assert!(!origin("http://127.0.0.1.example").is_loopback());
        for bad in ["", "host", "ftp://host", "https://host/path", "https://user@host", "https://"] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }
}
