//! [`Step`]: one reversible change of the host, as data.

use std::fmt;
use std::path::PathBuf;

use native_config::{AccountKind, DiskName, GroupName, LimitsMode};
use serde::{Deserialize, Serialize};

use crate::error::StepKind;

/// One reversible change of the host. The set is closed: a platform matches on it exhaustively.
///
/// Steps name the environment's things (its home, its disk `ws`), never a uid or a device: those are what the
/// platform chose and remembers. The order of a plan is account, volumes, layers, workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// The throw-away OS user.
    Account(AccountStep),
    /// The home, the temporary directory or a disk of the label.
    Volume(VolumeStep),
    /// Image layers over a volume.
    Layers(LayersStep),
    /// The label's entry, running as the user.
    Workload(WorkloadStep),
}

/// The account to create. Its name is the environment's identifier; the platform picks the uid.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountStep {
    /// The groups of the label, the first one primary. Empty: a private group of the account's own.
    pub groups: Vec<GroupName>,
    /// Whether the host's user database is written.
    pub kind: AccountKind,
}

/// What a volume is for, which also decides where the workload sees it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeName {
    /// The account's home directory.
    Home,
    /// `/tmp`, `/var/tmp` and what else is world-writable.
    Temp,
    /// A disk of the label.
    Disk(DiskName),
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Home => f.write_str("home"),
            Self::Temp => f.write_str("temp"),
            Self::Disk(name) => write!(f, "disk {name}"),
        }
    }
}

/// What holds a volume's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Backing {
    /// A file system of this size, which is a hard limit.
    Sized {
        /// The size in bytes.
        bytes: u64,
        /// The file system's name as the label's `type` gives it; the platform's own choice if absent.
        fs: Option<String>,
    },
    /// A plain directory; its size is not enforced.
    Dir,
}

/// A volume to create.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeStep {
    /// Which volume.
    pub volume: VolumeName,
    /// What holds its bytes.
    pub backing: Backing,
    /// The file system's label, for people.
    pub label: Option<String>,
    /// Keep the disk for the next environment that asks for the same name and label.
    pub reuse: bool,
    /// Start from a copy of this disk image or directory.
    pub clone_from: Option<PathBuf>,
}

/// One unpacked image layer in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerSource {
    /// `name-version` of the image, for people.
    pub image: String,
    /// `sha256:...` of the layer's archive.
    pub digest: String,
    /// The unpacked tree. Empty in a plan that was printed before the image was fetched.
    pub dir: PathBuf,
}

/// Layers to put over a volume, the first one lowest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayersStep {
    /// The volume that they appear in.
    pub volume: VolumeName,
    /// The layers, in the label's order: later ones override earlier ones.
    pub layers: Vec<LayerSource>,
}

/// The limits of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Whether limits are enforced, advisory or absent.
    pub mode: LimitsMode,
    /// CPU threads.
    pub cpu: u32,
    /// The CPUs are shared with other tenants: a weight rather than a ceiling.
    pub cpu_shared: bool,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u32,
    /// Open files of each process.
    pub open_files: u64,
}

/// The workload's variables. They hold secrets: `Debug` shows the names alone, and [`Step::for_journal`]
/// drops the values.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Variables(pub Vec<(String, String)>);

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// The workload to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadStep {
    /// The program: absolute, or relative to the home directory. One path, not a shell line.
    pub entry: String,
    /// Its variables, beside those that the platform sets (`HOME`, `USER`, `PATH`, ...).
    pub variables: Variables,
    /// Its limits.
    pub limits: Limits,
    /// How long it may run, in ms since its start. The keeper enforces it, with or without a driver.
    pub lifetime_ms: Option<u64>,
    /// Time between SIGINT and SIGKILL when it is stopped, in ms.
    pub stop_grace_ms: u64,
    /// The most bytes that its log takes on disk; the oldest go first.
    pub log_bytes: u64,
    /// Host directories that stay writable for it.
    pub writable_paths: Vec<PathBuf>,
    /// Whether set-uid programs work inside.
    pub allow_setuid: bool,
}

impl Step {
    /// Which kind of step this is, for errors and timings.
    pub fn kind(&self) -> StepKind {
        match self {
            Self::Account(_) => StepKind::Account,
            Self::Volume(_) => StepKind::Volume,
            Self::Layers(_) => StepKind::Layers,
            Self::Workload(_) => StepKind::Workload,
        }
    }

    /// What executing this step does, in one line for people.
    pub fn describe(&self) -> String {
        match self {
            Self::Account(a) => match (a.kind, a.groups.as_slice()) {
                (AccountKind::Ephemeral, []) => "create an ephemeral account with its own group".to_owned(),
                (_, []) => "create the account with its own group".to_owned(),
                (_, [only]) => format!("create the account with group {only}"),
                (_, [first, rest @ ..]) => {
                    let rest: Vec<_> = rest.iter().map(ToString::to_string).collect();
                    format!("create the account with group {first} and also {}", rest.join(", "))
                }
            },
            Self::Volume(v) => {
                let origin = v.clone_from.as_ref().map(|p| format!(" from {}", p.display())).unwrap_or_default();
                let kept = if v.reuse { ", kept for the next" } else { "" };
                match &v.backing {
                    Backing::Dir => format!("create {} as a directory{origin}{kept}", v.volume),
                    Backing::Sized { bytes, fs } => {
                        let fs = fs.as_deref().map(|f| format!(", {f}")).unwrap_or_default();
                        format!("create {} of {}{fs}{origin}{kept}", v.volume, gib(*bytes))
                    }
                }
            }
            Self::Layers(l) => {
                let names: Vec<_> = l.layers.iter().map(|s| s.image.as_str()).collect();
                format!("put {} over {}", names.join(" then "), l.volume)
            }
            Self::Workload(w) => {
                format!("start {} with {} CPU and {}", w.entry, w.limits.cpu, gib(w.limits.memory_bytes))
            }
        }
    }

    /// The step as the journal keeps it: without the values of the workload's variables, which recovery never
    /// needs and which are secrets.
    pub fn for_journal(&self) -> Self {
        let mut step = self.clone();
        if let Self::Workload(w) = &mut step {
            for (_, value) in &mut w.variables.0 {
                value.clear();
            }
        }
        step
    }
}

/// Bytes as people read a disk's size.
fn gib(bytes: u64) -> String {
    const GIB: u64 = 1 << 30;
    if bytes >= GIB && bytes.is_multiple_of(GIB) {
        format!("{} GB", bytes / GIB)
    } else {
        format!("{} MB", bytes >> 20)
    }
}
