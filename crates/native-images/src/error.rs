//! One error for each operation, and the classified causes that several of them share.

use std::io;
use std::path::PathBuf;

use url::Url;

use crate::archive::ArchiveError;
use crate::image::{Algo, Checksum};
use crate::transport::FetchError;

/// Why the cache can not be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A directory can not be made or read.
    #[error("the image cache {path:?} can not be prepared")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not ours: others may write to it.
    #[error("the image cache {path:?} is writable by every user of this host")]
    Writable {
        /// Which.
        path: PathBuf,
    },
    /// A newer version of this program wrote it.
    #[error("the image cache {path:?} has format {found}, this program knows up to {known}")]
    Newer {
        /// Which.
        path: PathBuf,
        /// The format found.
        found: u32,
        /// The newest format known.
        known: u32,
    },
    /// A certificate or proxy of the policy is wrong.
    #[error("the {what} of the image policy can not be used")]
    Policy {
        /// Which setting.
        what: &'static str,
        /// Why.
        source: reqwest::Error,
    },
}

impl OpenError {
    /// What one edit would fix it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Directory { path, .. } => Some(format!(
                "make {} a directory that this user may write to, or set another images_path",
                path.display()
            )),
            Self::Writable { path } => Some(format!("chmod o-w {}", path.display())),
            Self::Newer { .. } => Some("use the newer program, or another images_path".to_owned()),
            Self::Policy { .. } => None,
        }
    }
}

/// Why an image could not be had. Nothing of it is left in the cache.
#[derive(Debug, thiserror::Error)]
pub enum EnsureError {
    /// A name or version that would not be safe as a file name.
    #[error("the image's {field} {value:?} has a form that can not be a file name")]
    Name {
        /// `name` or `version`.
        field: &'static str,
        /// What was given, shortened.
        value: String,
    },
    /// The download failed.
    #[error("image {image} could not be downloaded from {url}")]
    Fetch {
        /// Which image.
        image: String,
        /// From where.
        url: Box<Url>,
        /// Why.
        #[source]
        source: FetchError,
    },
    /// The archive was refused.
    #[error("the archive of image {image} was refused")]
    Archive {
        /// Which image.
        image: String,
        /// Why.
        #[source]
        source: ArchiveError,
    },
    /// The bytes are not those that were asked for.
    #[error("image {image} has {algo} {}, but {asker} says {}", hex::encode(&got.digest), hex::encode(&wanted.digest))]
    Sum {
        /// Which image.
        image: String,
        /// Who expects another: `the label` or `the server's header`.
        asker: &'static str,
        /// The algorithm.
        algo: Algo,
        /// What was expected.
        wanted: Checksum,
        /// What came.
        got: Checksum,
    },
    /// The cache could not be read or written.
    #[error("the image cache failed to {what} {path:?}")]
    Cache {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A placed directory does not hold what its name promises.
    #[error("the placed image {path:?} holds no {wanted}")]
    Placed {
        /// The directory.
        path: PathBuf,
        /// What was looked for.
        wanted: String,
    },
    /// The work was given up because nobody waits for it any more.
    #[error("fetching image {image} was interrupted")]
    Interrupted {
        /// Which image.
        image: String,
    },
}

impl EnsureError {
    /// What one edit would fix it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Name { field, .. } => Some(format!(
                "give the image a {field} of letters, digits, '.', '_', '+' and '-', starting with a letter or digit"
            )),
            Self::Fetch { source, .. } => source.hint(),
            Self::Archive { source, .. } => source.hint(),
            Self::Sum { asker: "the label", got, .. } => Some(format!(
                "if the image was replaced on purpose, write {got} into the label; else the download is not to be trusted"
            )),
            Self::Sum { .. } => Some("the server's copy is damaged: upload the image again".to_owned()),
            Self::Cache { source, .. } => storage_hint(source),
            Self::Placed { path, wanted } => {
                Some(format!("put {wanted} into {}, or remove the directory to have it downloaded", path.display()))
            }
            Self::Interrupted { .. } => None,
        }
    }

    /// A stable name of the cause, for machines.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Name { .. } => "image-name",
            Self::Fetch { source, .. } => source.kind(),
            Self::Archive { source, .. } => source.kind(),
            Self::Sum { .. } => "image-sum",
            Self::Cache { .. } => "image-cache",
            Self::Placed { .. } => "image-placed",
            Self::Interrupted { .. } => "image-interrupted",
        }
    }
}

pub(crate) fn storage_hint(source: &io::Error) -> Option<String> {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("free some space, or run `fish-native images prune`".to_owned())
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Some("the images_path must be writable by the user that runs the driver".to_owned())
        }
        _ => None,
    }
}

/// Why cached images could not be listed, verified or pruned.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A file of the cache could not be used.
    #[error("the image cache failed to {what} {path:?}")]
    File {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no such image.
    #[error("no image {name:?} is cached")]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// A pin's name is no file name.
    #[error("{name:?} can not be the name of a pin")]
    PinName {
        /// The name given.
        name: String,
    },
}

impl CacheError {
    /// What one edit would fix it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File { source, .. } => storage_hint(source),
            Self::Unknown { .. } => Some("`fish-native images list` shows what is cached".to_owned()),
            Self::PinName { .. } => None,
        }
    }
}

/// Why an image could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The name is no file name.
    #[error("the image name {name:?} has a form that can not be a file name")]
    Name {
        /// The name given.
        name: String,
    },
    /// A file could not be read.
    #[error("could not read {path:?}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("could not write {path:?}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Sockets, devices and pipes do not go into an image.
    #[error("{path:?} is neither a file, a directory nor a symbolic link")]
    Kind {
        /// Which.
        path: PathBuf,
    },
}

impl PackError {
    /// What one edit would fix it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Name { .. } => {
                Some("use letters, digits, '.', '_', '+' and '-', starting with a letter or digit".to_owned())
            }
            Self::Kind { path } => Some(format!("remove {} before packing", path.display())),
            Self::Read { .. } | Self::Write { .. } => None,
        }
    }
}

/// Why layers could not be put over a directory.
#[derive(Debug, thiserror::Error)]
#[error("could not {what} {path:?}")]
pub struct PlaceError {
    /// What was tried.
    pub what: &'static str,
    /// With which file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

impl PlaceError {
    /// What one edit would fix it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        storage_hint(&self.source)
    }
}
