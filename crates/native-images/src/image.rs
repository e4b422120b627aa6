//! What a caller asks for: where an image is, what it is called and what its bytes must hash to.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use url::Url;

/// One image of a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRef {
    /// Where the archive is served. `http` and `https` only. Credentials in it are used for its own origin and are
    /// never printed or stored.
    pub url: Url,
    /// What the archive's bytes must hash to. With a sum, nothing is ever served that was not checked against it.
    pub sum: Option<Checksum>,
    /// The image's name, as the label or its url gives it.
    pub name: String,
    /// The image's version, as the label or its url gives it.
    pub version: String,
    /// How the archive is laid out.
    pub layout: Layout,
}

impl ImageRef {
    /// `name-version`, or the name alone when the version is empty: what an operator-placed directory is called.
    #[must_use]
    pub fn id(&self) -> String {
        if self.version.is_empty() { self.name.clone() } else { format!("{}-{}", self.name, self.version) }
    }

    /// The url without user and password, fit for a log.
    #[must_use]
    pub fn display_url(&self) -> Url {
        bare(&self.url)
    }
}

/// The url without user, password and fragment.
pub(crate) fn bare(url: &Url) -> Url {
    let mut url = url.clone();
    // Both fail only for urls that can not hold credentials.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_fragment(None);
    url
}

/// How an image archive is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Told by the archive: one whose first file is `<something>/<name>.tar` is [`Layout::Bait`], any other is
    /// [`Layout::Plain`].
    #[default]
    Auto,
    /// As Aquarium Bait packs: `<name>-<version>/<name>.tar` is the layer, with `<name>.yml` and `<name>.sha256` beside.
    Bait,
    /// The archive is itself the layer.
    Plain,
}

/// A digest algorithm that labels and servers use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algo {
    /// Weak: collisions are cheap. Accepted with a warning.
    Md5,
    /// Weak: collisions are affordable. Accepted with a warning.
    Sha1,
    /// The usual one.
    Sha256,
    /// Accepted as well.
    Sha512,
}

impl Algo {
    /// The digest's length in bytes.
    #[must_use]
    pub const fn digest_length(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    /// Whether an attacker can make two archives with one digest.
    #[must_use]
    pub const fn is_weak(self) -> bool {
        matches!(self, Self::Md5 | Self::Sha1)
    }

    /// The name that labels use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

impl fmt::Display for Algo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A digest with its algorithm, compared as bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Checksum {
    /// The algorithm.
    pub algo: Algo,
    /// The digest, [`Algo::digest_length`] bytes.
    pub digest: Vec<u8>,
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algo, hex::encode(&self.digest))
    }
}

/// Why a text is no checksum.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseChecksumError {
    /// There is no colon.
    #[error("a checksum is written ALGORITHM:HEX, as in sha256:9f86d0...")]
    Form,
    /// The algorithm is not known.
    #[error("unknown checksum algorithm {0:?}; known are md5, sha1, sha256 and sha512")]
    Algo(String),
    /// The digits are not hexadecimal or not as many as the algorithm has.
    #[error("a {algo} digest has {} hexadecimal digits, this has {got} characters or others among them", algo.digest_length() * 2)]
    Digest {
        /// The algorithm.
        algo: Algo,
        /// How many characters there are.
        got: usize,
    },
}

impl FromStr for Checksum {
    type Err = ParseChecksumError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (algo, digits) = text.trim().split_once(':').ok_or(ParseChecksumError::Form)?;
        let algo = match algo.trim().to_ascii_lowercase().as_str() {
            "md5" => Algo::Md5,
            "sha1" => Algo::Sha1,
            "sha256" => Algo::Sha256,
            "sha512" => Algo::Sha512,
            _ => return Err(ParseChecksumError::Algo(algo.chars().take(32).collect())),
        };
        Self::from_hex(algo, digits)
    }
}

impl Checksum {
    /// Reads the digits of a known algorithm, in either case.
    ///
    /// # Errors
    /// When they are not exactly as many hexadecimal digits as the algorithm has.
    pub fn from_hex(algo: Algo, digits: &str) -> Result<Self, ParseChecksumError> {
        let digits = digits.trim();
        let bad = ParseChecksumError::Digest { algo, got: digits.chars().count() };
        match hex::decode(digits) {
            Ok(digest) if digest.len() == algo.digest_length() => Ok(Self { algo, digest }),
            _ => Err(bad),
        }
    }
}

impl Serialize for Checksum {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Checksum {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_read_in_any_case_and_compared_as_bytes() {
        let lower: Checksum = format!("sha256:{}", "ab".repeat(32)).parse().unwrap();
        let upper: Checksum = format!(" SHA256:{} ", "AB".repeat(32)).parse().unwrap();
        assert_eq!(lower, upper);
        assert_eq!(lower.to_string(), format!("sha256:{}", "ab".repeat(32)));
    }

    #[test]
    fn wrong_checksums_say_what_is_wrong() {
        let cases = [
            ("", "ALGORITHM:HEX"),
            ("abcd", "ALGORITHM:HEX"),
            ("crc32:00", "unknown checksum algorithm \"crc32\""),
            ("sha256:", "64 hexadecimal digits"),
            ("sha256:abc", "64 hexadecimal digits"),
            ("md5:zz000000000000000000000000000000", "32 hexadecimal digits"),
            ("sha1:é", "40 hexadecimal digits"),
        ];
        for (text, wanted) in cases {
            let error = text.parse::<Checksum>().unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
