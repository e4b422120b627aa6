//! Why a download failed.

use std::time::Duration;

use crate::image::Checksum;

/// Why a download failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Neither http nor https, or no host.
    #[error("only http and https urls can be fetched")]
    Scheme,
    /// The address is one that no image comes from.
    #[error("{host} is a link-local address")]
    LinkLocal {
        /// The host.
        host: String,
    },
    /// The name leads to this host or its link alone, and is not `localhost`.
    #[error("{host} has no address but of this host or its link")]
    Inside {
        /// The name.
        host: String,
    },
    /// No connection, or it broke and could not be had again.
    #[error("the connection to the server failed")]
    Connection {
        /// What the client says.
        #[source]
        source: reqwest::Error,
    },
    /// The server's name can not be resolved, its certificate is not trusted, ...
    #[error("the server did not answer within {} s while {stage}", after.as_secs())]
    Timeout {
        /// During what.
        stage: Stage,
        /// How long it took.
        after: Duration,
    },
    /// Fewer bytes than the limit allows.
    #[error("the server sends less than {min_rate} bytes per second")]
    Stalled {
        /// The limit.
        min_rate: u64,
    },
    /// Fewer bytes than announced, again and again.
    #[error("the server closed the connection after {got} of {expected} bytes, and again on every retry")]
    Cut {
        /// Bytes that came.
        got: u64,
        /// Bytes that were announced, as text (`?` when they were not).
        expected: String,
    },
    /// 401 or 407.
    #[error("the server asks for other credentials (status {status})")]
    Unauthorized {
        /// The status.
        status: u16,
        /// Whether credentials were sent.
        sent: Sent,
    },
    /// 403.
    #[error("the server refuses access (status 403)")]
    Forbidden,
    /// 404 or 410.
    #[error("the server has no such file (status {status})")]
    NotFound {
        /// The status.
        status: u16,
    },
    /// Any other status that is not a success.
    #[error("the server answered with status {status}")]
    Status {
        /// The status.
        status: u16,
    },
    /// A redirect that is not followed.
    #[error("the server redirects {0}")]
    Redirect(RedirectRefusal),
    /// 206 without having been asked, a range other than the one asked for.
    #[error("the server answered with a part of the file that was not asked for")]
    WrongPart,
    /// The file on the server is another one than it was at the start.
    #[error("the file changed on the server during the download")]
    Changed,
    /// The server's own checksum is not the label's.
    #[error("the server says the file has {header}, but the label says {wanted}")]
    HeaderSum {
        /// The header's.
        header: Checksum,
        /// The label's.
        wanted: Checksum,
    },
    /// A page instead of a file.
    #[error("the server answered with a web page ({content_type}) instead of a file")]
    WebPage {
        /// The content type.
        content_type: String,
    },
    /// An empty answer.
    #[error("the server answered with an empty file")]
    Empty,
    /// More than the limit.
    #[error("the file is larger than the limit of {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
}

/// What was being waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The connection.
    Connecting,
    /// The answer's header.
    Waiting,
    /// Its body.
    Receiving,
    /// The whole download.
    Everything,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connecting => "connecting",
            Self::Waiting => "waiting for its answer",
            Self::Receiving => "receiving the file",
            Self::Everything => "downloading",
        })
    }
}

/// Whether credentials were sent with a request that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// They were, and were not accepted.
    Yes,
    /// There are none.
    None,
    /// They were kept back, because this origin is not allowed to have them.
    KeptBack(String),
    /// The proxy asks for them.
    Proxy,
}

/// Why a redirect is not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RedirectRefusal {
    /// More than the limit.
    #[error("more than {0} times")]
    TooMany(usize),
    /// To an address already seen.
    #[error("in a circle")]
    Circle,
    /// From https to http.
    #[error("from https to http")]
    Downgrade,
    /// To something that is neither.
    #[error("to {0:?}, which is neither http nor https")]
    Scheme(String),
    /// Without saying where.
    #[error("without saying where to")]
    Nowhere,
    /// To an address of this very host or its link, from elsewhere.
    #[error("to {0}, an address inside this host or its link")]
    Inside(String),
}

impl FetchError {
    /// What one edit would fix it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unauthorized { sent: Sent::Yes, .. } => "check download_user and download_password".to_owned(),
            Self::Unauthorized { sent: Sent::None, .. } => {
                "set download_user and download_password in the config".to_owned()
            }
            Self::Unauthorized { sent: Sent::KeptBack(origin), .. } => {
                format!("credentials were not sent to {origin}; add it to download_origins if they may go there")
            }
            Self::Unauthorized { sent: Sent::Proxy, .. } => {
                "check the proxy's user and password in the config".to_owned()
            }
            Self::NotFound { .. } => "check the url; the image may have been removed from the server".to_owned(),
            Self::LinkLocal { .. } | Self::Inside { .. } | Self::Redirect(RedirectRefusal::Inside(_)) => {
                "add the origin to download_origins if images really come from there".to_owned()
            }
            Self::Redirect(RedirectRefusal::Downgrade) => "use the http url itself if that is meant".to_owned(),
            Self::WebPage { .. } => "use the url of the file itself; this may be a login or an error page".to_owned(),
            Self::HeaderSum { header, .. } => {
                format!("if the image was replaced on purpose, write {header} into the label")
            }
            _ => return None,
        })
    }

    /// A stable name of the cause, for machines.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Scheme => "download-scheme",
            Self::LinkLocal { .. } => "download-link-local",
            Self::Inside { .. } => "download-inside",
            Self::Connection { .. } => "download-connection",
            Self::Timeout { .. } => "download-timeout",
            Self::Stalled { .. } => "download-stalled",
            Self::Cut { .. } => "download-cut",
            Self::Unauthorized { .. } => "download-unauthorized",
            Self::Forbidden => "download-forbidden",
            Self::NotFound { .. } => "download-not-found",
            Self::Status { .. } => "download-status",
            Self::Redirect(_) => "download-redirect",
            Self::WrongPart => "download-wrong-part",
            Self::Changed => "download-changed",
            Self::HeaderSum { .. } => "download-header-sum",
            Self::WebPage { .. } => "download-web-page",
            Self::Empty => "download-empty",
            Self::TooLarge { .. } => "download-too-large",
        }
    }
}
