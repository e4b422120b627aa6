//! From decoded bytes to a tree on the disk, refusing by name whatever is not what it seems.

pub(crate) mod beneath;
pub(crate) mod budget;
mod error;
pub(crate) mod image;
pub(crate) mod manifest;
mod pax;
mod reader;
mod tree;
mod writeback;

pub use error::{ArchiveError, Refusal};
pub(crate) use reader::from_io;
