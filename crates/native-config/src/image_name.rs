//! Name and version of an image out of its url, as the Go driver takes them.

use crate::{ImageName, ImageVersion, NameError};
use url::Url;

/// Why a url gives no name or version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageNameError {
    /// The path ends before a file name.
    #[error("the url has no file name to take the image's {wanted} from")]
    NoFile {
        /// `name` or `version`.
        wanted: &'static str,
    },
    /// What the url gives is not allowed as a name.
    #[error("the url's file name {file:?} gives no usable {wanted}: {source}")]
    Unusable {
        /// `name` or `version`.
        wanted: &'static str,
        /// The file name in the url.
        file: String,
        /// What is wrong with it.
        #[source]
        source: NameError,
    },
}

/// The last part of the url's path. A query string, a fragment and trailing slashes are no part of it.
fn file_name(url: &Url) -> Option<&str> {
    url.path_segments()?.rfind(|segment| !segment.is_empty())
}

/// Cuts the extension off; `.tar.xz` and every other `.tar.*` count as one.
fn cut_extension(file: &str) -> &str {
    let Some((stem, _)) = file.rsplit_once('.') else {
        return file;
    };
    match stem.rsplit_once('.') {
        Some((before, "tar")) => before,
        None if stem == "tar" => "",
        _ => stem,
    }
}

/// The part of the file name up to the last `-`; without one, up to the extension.
///
/// # Errors
///
/// When there is no file name, or what it gives is not an [`ImageName`].
pub fn image_name(url: &Url) -> Result<ImageName, ImageNameError> {
    let wanted = "name";
    let file = file_name(url).ok_or(ImageNameError::NoFile { wanted })?;
    let name = file.rsplit_once('-').map_or_else(|| cut_extension(file), |(name, _)| name);
    name.parse().map_err(|source| ImageNameError::Unusable { wanted, file: crate::names::shorten(file), source })
}

/// The part of the file name after the last `-`, or all of it without one, up to the extension.
///
/// # Errors
///
/// When there is no file name, or what it gives is not an [`ImageVersion`].
pub fn image_version(url: &Url) -> Result<ImageVersion, ImageNameError> {
    let wanted = "version";
    let file = file_name(url).ok_or(ImageNameError::NoFile { wanted })?;
    let tail = file.rsplit_once('-').map_or(file, |(_, tail)| tail);
    cut_extension(tail).parse().map_err(|source| ImageNameError::Unusable {
        wanted,
        file: crate::names::shorten(file),
        source,
    })
}
