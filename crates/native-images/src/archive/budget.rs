//! What an archive may cost, counted over all its levels and threads.

use std::sync::atomic::{AtomicU64, Ordering};

use super::error::ArchiveError;
use crate::policy::Limits;

/// Counters against the limits of one archive.
#[derive(Debug)]
pub(crate) struct Budget {
    pub(crate) limits: Limits,
    /// Decoders that may run at once.
    pub(crate) threads: u32,
    input: AtomicU64,
    expanded: AtomicU64,
    entries: AtomicU64,
}

impl Budget {
    /// With `threads` 0, as many decoders as there are cores.
    pub(crate) fn new(limits: Limits, threads: usize) -> Self {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            threads => threads,
        };
        Self {
            limits,
            threads: u32::try_from(threads.min(256)).unwrap_or(1),
            input: AtomicU64::new(0),
            expanded: AtomicU64::new(0),
            entries: AtomicU64::new(0),
        }
    }

    /// Compressed bytes came in.
    pub(crate) fn consumed(&self, bytes: u64) {
        self.input.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes came out of a decoder, or a hole of a sparse file was asked for.
    pub(crate) fn expand(&self, bytes: u64) -> Result<(), ArchiveError> {
        let before = self.expanded.fetch_add(bytes, Ordering::Relaxed);
        let total = before.saturating_add(bytes);
        if bytes > self.limits.expanded || total > self.limits.expanded {
            return Err(ArchiveError::Limit { what: "unpacked bytes", limit: self.limits.expanded });
        }
        let allowed = self.input.load(Ordering::Relaxed).saturating_mul(self.limits.ratio);
        if total > self.limits.ratio_floor && total > allowed {
            return Err(ArchiveError::Limit { what: "unpacked bytes for each packed one", limit: self.limits.ratio });
        }
        Ok(())
    }

    /// One more entry.
    pub(crate) fn entry(&self) -> Result<(), ArchiveError> {
        if self.entries.fetch_add(1, Ordering::Relaxed) >= self.limits.entries {
            return Err(ArchiveError::Limit { what: "entries", limit: self.limits.entries });
        }
        Ok(())
    }

    /// Unpacked bytes so far.
    pub(crate) fn expanded(&self) -> u64 {
        self.expanded.load(Ordering::Relaxed)
    }
}
