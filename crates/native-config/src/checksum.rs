//! Checksums of images: `algo:hex`, held and compared as bytes.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A digest algorithm that a label may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SumAlgo {
    /// MD5: broken; loads with a warning.
    Md5,
    /// SHA-1: broken; loads with a warning.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl SumAlgo {
    /// Length of the digest in bytes.
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    /// Whether collisions can be made, so that the sum proves no more than a lucky download.
    pub const fn is_weak(self) -> bool {
        matches!(self, Self::Md5 | Self::Sha1)
    }

    /// The name that stands before the colon.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

impl fmt::Display for SumAlgo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for SumAlgo {
    type Err = ChecksumError;

    fn from_str(text: &str) -> Result<Self, ChecksumError> {
        match text {
            "md5" => Ok(Self::Md5),
            "sha1" => Ok(Self::Sha1),
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            other => Err(ChecksumError::Algorithm { found: crate::names::shorten(other) }),
        }
    }
}

/// Why a text is not a checksum.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChecksumError {
    /// No colon.
    #[error("a checksum is written `<algo>:<hex>`, as in `sha256:9f86d0...`")]
    Form,
    /// Not one of the four.
    #[error("unknown checksum algorithm {found:?}, expected md5, sha1, sha256 or sha512")]
    Algorithm {
        /// What stands before the colon.
        found: String,
    },
    /// Digits are missing or too many.
    #[error("a {algo} checksum has {expected} hexadecimal digits, found {found}")]
    Length {
        /// The algorithm.
        algo: SumAlgo,
        /// Digits expected.
        expected: usize,
        /// Characters found.
        found: usize,
    },
    /// A character that is not a hexadecimal digit.
    #[error("{found:?} at digit {at} of the checksum is not a hexadecimal digit")]
    Digit {
        /// The character.
        found: char,
        /// Its place, from 1.
        at: usize,
    },
}

/// A checksum as a label gives it. Upper and lower case digits are the same checksum.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Checksum {
    /// The algorithm.
    pub algo: SumAlgo,
    /// The digest, as long as the algorithm says.
    pub digest: Vec<u8>,
}

impl FromStr for Checksum {
    type Err = ChecksumError;

    fn from_str(text: &str) -> Result<Self, ChecksumError> {
        let (algo, digits) = text.split_once(':').ok_or(ChecksumError::Form)?;
        let algo: SumAlgo = algo.parse()?;
        if let Some((index, found)) = digits.chars().enumerate().find(|(_, c)| !c.is_ascii_hexdigit()) {
            return Err(ChecksumError::Digit { found, at: index + 1 });
        }
        let length = ChecksumError::Length { algo, expected: algo.digest_len() * 2, found: digits.len() };
        let digest = hex::decode(digits).map_err(|_| length.clone())?;
        if digest.len() != algo.digest_len() {
            return Err(length);
        }
        Ok(Self { algo, digest })
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algo, hex::encode(&self.digest))
    }
}

impl TryFrom<String> for Checksum {
    type Error = ChecksumError;
    fn try_from(text: String) -> Result<Self, ChecksumError> {
        text.parse()
    }
}

impl From<Checksum> for String {
    fn from(sum: Checksum) -> Self {
        sum.to_string()
    }
}
