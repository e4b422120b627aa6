//! The types of a label: definitions, images, resources, disks. Plain data; [`crate::parse_label`] makes it.

use crate::{
    Checksum, DiskName, GroupName, ImageName, ImageVersion, Lifetime, Metadata, NodePattern, Template, TemplateContext,
    TemplateError,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use url::Url;

/// A label: what environments can be made, in the order of preference.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Label {
    /// The label's name, if it has one.
    pub name: Option<String>,
    /// The label's version, from 1.
    pub version: Option<u64>,
    /// Goes to the workload's process environment, over the application's metadata.
    pub metadata: Metadata,
    /// At least one. Definitions of other drivers keep their place, so that an index means the same for everybody.
    pub definitions: Vec<Definition>,
}

/// One way to make an environment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Definition {
    /// `native`, `native/NAME`, or the name of another driver (then only this field is filled).
    pub driver: String,
    /// Unpacked in this order.
    pub images: Vec<Image>,
    /// The workload: one path, relative to the home directory. Default `./init.sh`.
    pub entry: Template,
    /// The account's groups, the first is primary. Empty: the group that the driver runs under.
    pub groups: Vec<GroupName>,
    /// What the environment needs.
    pub resources: Resources,
}

impl Definition {
    /// Whether the definition is for this driver (`native`, or an instance `native/NAME`).
    pub fn is_native(&self) -> bool {
        self.driver == "native" || self.driver.starts_with("native/")
    }

    /// The path of the workload for real disk paths.
    ///
    /// # Errors
    ///
    /// When the template can't be rendered, or gives no usable path.
    pub fn render_entry(&self, context: &TemplateContext) -> Result<PathBuf, EntryError> {
        let text = self.entry.render(context)?;
        check_entry(&text)?;
        Ok(PathBuf::from(text))
    }
}

/// Why an entry gives no path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The template failed.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The template gave nothing.
    #[error("the entry is empty after its template was filled in")]
    Empty,
    /// A NUL, a newline or another control character.
    #[error("the entry has a control character (U+{code:04X}), a path can't have one here")]
    Control {
        /// The character's code point.
        code: u32,
    },
    /// Longer than a path may be.
    #[error("the entry has {length} bytes, a path has at most 4095")]
    TooLong {
        /// Bytes found.
        length: usize,
    },
}

pub(crate) fn check_entry(text: &str) -> Result<(), EntryError> {
    if text.is_empty() {
        return Err(EntryError::Empty);
    }
    if let Some(c) = text.chars().find(|c| c.is_control()) {
        return Err(EntryError::Control { code: u32::from(c) });
    }
    if text.len() > 4095 {
        return Err(EntryError::TooLong { length: text.len() });
    }
    Ok(())
}

/// An archive that is unpacked into the environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Image {
    /// Where it is fetched from: `http` or `https`.
    pub url: Url,
    /// What it must hash to.
    pub sum: Option<Checksum>,
    /// As given, or out of the url.
    pub name: ImageName,
    /// As given, or out of the url.
    pub version: ImageVersion,
    /// The disk that it is unpacked to; the home directory without one. Always a disk of the same definition.
    pub tag: Option<DiskName>,
}

/// What an environment needs, and whom it tolerates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resources {
    /// Every pattern must match some identifier of the node.
    pub node_filter: Vec<NodePattern>,
    /// Threads, at least 1.
    pub cpu: u32,
    /// Memory in GB, at least 1.
    pub ram_gb: u32,
    /// Disks by name.
    pub disks: BTreeMap<DiskName, Disk>,
    /// Tolerates other environments on the node.
    pub multitenancy: bool,
    /// Tolerates shared threads.
    pub cpu_overbook: bool,
    /// Tolerates shared memory.
    pub ram_overbook: bool,
    /// How long the environment may live.
    pub lifetime: Lifetime,
}

impl Default for Resources {
    fn default() -> Self {
        Self {
            node_filter: Vec::new(),
            cpu: 1,
            ram_gb: 1,
            disks: BTreeMap::new(),
            multitenancy: false,
            cpu_overbook: false,
            ram_overbook: false,
            lifetime: Lifetime::Default,
        }
    }
}

impl Resources {
    /// All disks together in GB, as capacity counts them.
    pub fn disk_gb(&self) -> u64 {
        self.disks.values().map(|disk| u64::from(disk.size_gb)).fold(0, u64::saturating_add)
    }

    /// The first pattern of the node filter that no identifier of the node matches.
    pub fn unmatched_pattern<S: AsRef<str>>(&self, identifiers: &[S]) -> Option<&NodePattern> {
        self.node_filter.iter().find(|pattern| !pattern.matches_any(identifiers))
    }
}

/// A disk of an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// In GB. At least 1, except that a clone may leave it to what it is cloned from (0).
    pub size_gb: u32,
    /// What the disk is made of.
    pub kind: DiskKind,
    /// The label of its file system; the disk's name without one.
    pub label: Option<String>,
    /// Kept for the next environment that asks for the same name and label.
    pub reuse: bool,
    /// Starts as a copy of this path.
    pub clone: Option<String>,
}

/// What a disk is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskKind {
    /// The platform's own choice of a file system, with an enforced size.
    #[default]
    Default,
    /// A plain directory: the size is not enforced.
    Dir,
    /// A file system by name, which the platform can make or refuses.
    Fs(String),
}
