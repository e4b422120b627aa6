//! [`Journal`]: what is written down of an environment before and after each effect.
//!
//! One small document per environment, replaced as a whole. A step's record says `intent` on disk before its
//! effect begins, so a process that dies at any point leaves a journal that names everything which may be there.
//! A record that says `planned` has had no effect.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use native_config::{DiskName, EnvironmentId, InstanceName, Isolation};
use native_platform::{Leak, Receipt, Scope, Step};
use serde::{Deserialize, Serialize};

use crate::error::{JournalError, StuckStep};
use crate::report::Grant;

/// The version that this program writes, and the newest that it reads.
pub const VERSION: u64 = 1;

/// How far the environment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JournalPhase {
    /// It is being made.
    Allocating,
    /// It was made; only from here on is it adopted by a later process.
    Allocated,
    /// It is being removed.
    Deallocating,
    /// It could not be removed wholly.
    Leaked,
}

/// What is known of a step's effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing was done yet.
    Planned,
    /// It is about to be made: it may be there wholly, half or not at all.
    Intent,
    /// It is there.
    Done(Receipt),
    /// It is being taken away: it may be there wholly, half or not at all.
    Reverting,
    /// It was read back that it is not there.
    Gone,
    /// It could not be confirmed to be gone.
    Stuck {
        /// What is still there.
        what: String,
        /// What an operator does about it.
        hint: Option<String>,
    },
}

impl State {
    /// Whether there can be an effect to take away.
    pub fn may_exist(&self) -> bool {
        !matches!(self, Self::Planned | Self::Gone)
    }
}

/// One step of the plan and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The step, without the values of variables.
    pub step: Step,
    /// What became of it.
    pub state: State,
}

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    /// The format's version.
    pub version: u64,
    /// The environment.
    pub id: EnvironmentId,
    /// The driver's instance that made it.
    pub instance: InstanceName,
    /// When it was made, in RFC 3339. For people: nothing is decided by the wall clock.
    pub created: String,
    /// How far it is.
    pub phase: JournalPhase,
    /// What it may use, for the accounting of capacity.
    pub grant: Grant,
    /// How far it is kept from the host.
    pub isolation: Isolation,
    /// The range that its uid was taken from.
    pub uids: (u32, u32),
    /// Its uid, once it has one. Stays when the account is gone.
    pub uid: Option<u32>,
    /// Its home, as its workload sees it.
    pub home: PathBuf,
    /// Its disks, as its workload sees them.
    pub disks: BTreeMap<DiskName, PathBuf>,
    /// Directories of the image cache that it uses and that must not be pruned.
    pub layer_dirs: Vec<PathBuf>,
    /// The plan and what became of it.
    pub steps: Vec<Record>,
    /// What the last audit found.
    pub leaked: Vec<Leak>,
}

impl Journal {
    /// The scope that the platform is opened with. The directory is the one the journal lies in.
    pub fn scope(&self, dir: PathBuf) -> Scope {
        Scope { id: self.id.clone(), dir, isolation: self.isolation, uids: self.uids }
    }

    /// The steps that are stuck.
    pub fn stuck(&self) -> Vec<StuckStep> {
        let stuck = |r: &Record| match &r.state {
            State::Stuck { what, hint } => {
                Some(StuckStep { step: r.step.kind(), what: what.clone(), hint: hint.clone() })
            }
            _ => None,
        };
        self.steps.iter().filter_map(stuck).collect()
    }

    /// How layers were put into which volume, and why not in a quicker way.
    pub fn layer_methods(&self) -> impl Iterator<Item = (String, String, Option<String>)> + '_ {
        self.steps.iter().filter_map(|record| match (&record.step, &record.state) {
            (Step::Layers(step), State::Done(Receipt::Layers { method, why })) => {
                Some((step.volume.to_string(), method.clone(), why.clone()))
            }
            _ => None,
        })
    }

    /// As it is written.
    ///
    /// # Errors
    /// Never, for a document that this program made: every key is text.
    pub fn to_text(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Reads a document that lies at `path`, which is in the directory of `id`.
    ///
    /// # Errors
    /// [`JournalError::Newer`] and [`JournalError::Damaged`]: nothing is guessed.
    pub fn parse(text: &[u8], path: &Path, id: &EnvironmentId) -> Result<Self, JournalError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u64,
        }
        let damaged = |source| JournalError::Damaged { path: path.to_owned(), source };
        let Versioned { version } = serde_json::from_slice(text).map_err(damaged)?;
        if version > VERSION {
            return Err(JournalError::Newer { path: path.to_owned(), found: version, known: VERSION });
        }
        if version != VERSION {
            return Err(damaged(serde::de::Error::custom(format!("there is no version {version}"))));
        }
        let journal: Self = serde_json::from_slice(text).map_err(damaged)?;
        if journal.id != *id {
            return Err(damaged(serde::de::Error::custom(format!("it is the journal of {}", journal.id))));
        }
        Ok(journal)
    }
}
