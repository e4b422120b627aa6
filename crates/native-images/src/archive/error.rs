//! Why an archive is refused: every answer has a name.

use std::io;
use std::path::PathBuf;

/// Why an archive is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The bytes are none of the known formats.
    #[error("this is no archive: {what}")]
    NotAnArchive {
        /// What it looks like.
        what: String,
    },
    /// The compressed data are damaged or incomplete.
    #[error("the {format} data are damaged or incomplete")]
    Compressed {
        /// The format.
        format: &'static str,
        /// What the decoder says.
        source: io::Error,
    },
    /// A decoder would need more memory than the limit.
    #[error("decoding needs more memory than the limit of {limit} bytes")]
    Memory {
        /// How much is allowed.
        limit: u64,
    },
    /// The archive ends within an entry or without its end mark.
    #[error("the tar archive is cut off {place}")]
    Truncated {
        /// Where.
        place: &'static str,
    },
    /// Something that is not zeros follows the end.
    #[error("data follow the end of the {what}")]
    Trailing {
        /// The end of what.
        what: &'static str,
    },
    /// A header is damaged or contradicts itself.
    #[error("a header of the tar archive {why} (at byte {offset})")]
    Header {
        /// How.
        why: &'static str,
        /// Where.
        offset: u64,
    },
    /// An entry is refused.
    #[error("entry {entry:?} {refusal}")]
    Entry {
        /// Its name, as far as it can be shown.
        entry: String,
        /// Why.
        refusal: Refusal,
    },
    /// A bound was reached.
    #[error("the archive has more {what} than the limit of {limit}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// An image in Bait's layout holds no layer.
    #[error("the archive holds no {wanted}")]
    NoLayer {
        /// What was looked for.
        wanted: String,
    },
    /// A file of the image is not what the image's own `.sha256` says.
    #[error("{file:?} in the archive does not match the archive's own .sha256 file")]
    InnerSum {
        /// Which file.
        file: String,
    },
    /// The image's own `.sha256` names a file that the archive does not hold, or can not be read.
    #[error("the archive's own .sha256 file {why}: {line:?}")]
    InnerSumFile {
        /// What is wrong.
        why: &'static str,
        /// The line.
        line: String,
    },
    /// The tree could not be written.
    #[error("could not write {path:?}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The bytes stopped coming, for a reason that is reported elsewhere.
    #[error("the bytes stopped coming")]
    Input {
        /// What the source says.
        source: io::Error,
    },
}

impl ArchiveError {
    /// What one edit would fix it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotAnArchive { .. } => Some(
                "the url must lead to a .tar, .tar.xz, .tar.zst, .tar.gz or .tar.bz2 itself, not to a page about it"
                    .to_owned(),
            ),
            Self::Memory { .. } => Some("give the decoders more by images_memory in the config".to_owned()),
            Self::Limit { .. } => Some("if the image is meant to be so, raise this limit".to_owned()),
            Self::Write { source, .. } => crate::error::storage_hint(source),
            Self::Compressed { .. } | Self::Truncated { .. } => {
                Some("the archive on the server is incomplete: pack and upload it again".to_owned())
            }
            Self::NoLayer { .. } => Some("set the image's name to the one it was packed with".to_owned()),
            _ => None,
        }
    }

    /// A stable name of the cause, for machines.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotAnArchive { .. } => "not-an-archive",
            Self::Compressed { .. } => "archive-damaged",
            Self::Memory { .. } => "archive-memory",
            Self::Truncated { .. } => "archive-truncated",
            Self::Trailing { .. } => "archive-trailing-data",
            Self::Header { .. } => "archive-header",
            Self::Entry { refusal, .. } => refusal.kind(),
            Self::Limit { .. } => "archive-limit",
            Self::NoLayer { .. } => "archive-no-layer",
            Self::InnerSum { .. } => "archive-inner-sum",
            Self::InnerSumFile { .. } => "archive-inner-sum-file",
            Self::Write { .. } => "archive-write",
            Self::Input { .. } => "archive-input",
        }
    }

    pub(crate) fn entry(path: &[u8], refusal: Refusal) -> Self {
        Self::Entry { entry: show(path), refusal }
    }
}

/// A name for people: lossy and not longer than a line.
pub(crate) fn show(path: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(&path[..path.len().min(160)]).into_owned();
    if path.len() > 160 {
        text.push_str("...");
    }
    text
}

/// Why one entry is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// `/etc/passwd`.
    #[error("has an absolute name")]
    Absolute,
    /// `../x`, `a/../../x`.
    #[error("has '..' in its name")]
    DotDot,
    /// No name at all.
    #[error("has an empty name")]
    EmptyName,
    /// A zero byte in a name or link target.
    #[error("has a zero byte in its name or target")]
    Nul,
    /// A name, or a component of it, is over the limit.
    #[error("has a name that is too long")]
    NameTooLong,
    /// More components than the limit.
    #[error("lies too deep")]
    TooDeep,
    /// A component of its path is a symbolic link of the archive.
    #[error("would be written through a symbolic link")]
    ThroughSymlink,
    /// A component of its path is a file of the archive.
    #[error("lies below something that is not a directory")]
    NotADirectory,
    /// A device node.
    #[error("is a device")]
    Device,
    /// A named pipe.
    #[error("is a named pipe")]
    Fifo,
    /// A type that no image needs: multi-volume parts, dump directories, unknown letters.
    #[error("has a type that is not supported")]
    UnknownType,
    /// A hard link to something that is not in the archive before it, or not a file.
    #[error("is a hard link to something that is no file of this archive")]
    LinkTarget,
    /// An entry without content that announces some.
    #[error("announces content that its type can not have")]
    ContentOfLink,
    /// A symbolic link to nowhere.
    #[error("is a symbolic link with no target or one that is too long")]
    SymlinkTarget,
    /// A sparse map that contradicts itself.
    #[error("has a sparse map that contradicts itself")]
    SparseMap,
    /// Two layers in one image of Bait's layout.
    #[error("is a second layer, where an image has one")]
    SecondLayer,
    /// The root of the archive is not a directory.
    #[error("would replace the top directory")]
    Root,
}

impl Refusal {
    /// A stable name, for machines.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Absolute => "entry-absolute",
            Self::DotDot => "entry-dotdot",
            Self::EmptyName => "entry-empty-name",
            Self::Nul => "entry-nul",
            Self::NameTooLong => "entry-name-too-long",
            Self::TooDeep => "entry-too-deep",
            Self::ThroughSymlink => "entry-through-symlink",
            Self::NotADirectory => "entry-not-a-directory",
            Self::Device => "entry-device",
            Self::Fifo => "entry-fifo",
            Self::UnknownType => "entry-type",
            Self::LinkTarget => "entry-link-target",
            Self::ContentOfLink => "entry-content-of-link",
            Self::SymlinkTarget => "entry-symlink-target",
            Self::SparseMap => "entry-sparse-map",
            Self::SecondLayer => "entry-second-layer",
            Self::Root => "entry-root",
        }
    }
}
