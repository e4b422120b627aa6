//! [`Nowhere`]: the platform of a question that needs no host.
//!
//! `capacity` with what-if options must answer on any machine, for anybody. What it needs of a host (CPU threads and
//! memory, where the command line does not replace them) everybody may read; nothing else is ever asked.

use std::path::PathBuf;
use std::{fs, thread};

use native_config::{DiskName, EnvironmentId};
use native_platform::{Check, ErrorKind, HostFacts, Leak, Platform, Scope, Session, StepError, StepKind};

/// A platform that knows this machine's size and can do nothing.
#[derive(Debug)]
pub(crate) struct Nowhere;

fn refused() -> StepError {
    StepError::new(StepKind::Platform, ErrorKind::NotReady, "there is no host to do this on")
}

impl Platform for Nowhere {
    fn name(&self) -> &'static str {
        "nowhere"
    }

    fn home(&self, _: &EnvironmentId) -> PathBuf {
        PathBuf::new()
    }

    fn disk(&self, _: &EnvironmentId, _: &DiskName) -> PathBuf {
        PathBuf::new()
    }

    fn sizes_homes(&self) -> bool {
        true
    }

    fn facts(&self) -> Result<HostFacts, StepError> {
        let cpus = thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
        let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = info.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib: u64 = total
            .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
            .ok_or_else(|| refused().hint("say how much memory there is: --total-ram GB"))?;
        Ok(HostFacts { cpus, memory_bytes: kib.saturating_mul(1024) })
    }

    fn checks(&self) -> Result<Vec<Check>, StepError> {
        Err(refused())
    }

    fn open(&self, _: &Scope) -> Result<Box<dyn Session>, StepError> {
        Err(refused())
    }

    fn known(&self) -> Result<Vec<Scope>, StepError> {
        Err(refused())
    }

    fn audit(&self, _: &[EnvironmentId]) -> Result<Vec<Leak>, StepError> {
        Err(refused())
    }

    fn sweep(&self) -> Result<(), StepError> {
        Err(refused())
    }
}
