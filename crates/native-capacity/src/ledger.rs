//! The ledger of what runs: exact sums over any history of additions and subtractions.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::string::String;
use core::fmt;

/// What one running definition holds, and whom it tolerates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
pub struct Tenant {
    /// Threads.
    pub cpu: u32,
    /// Memory in GB.
    pub ram_gb: u32,
    /// All disks together in GB.
    pub disk_gb: u64,
    /// Tolerates others on the node.
    pub multitenancy: bool,
    /// Tolerates shared threads.
    pub cpu_overbook: bool,
    /// Tolerates shared memory.
    pub ram_overbook: bool,
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cpu {}, ram {} GB, disks {} GB", self.cpu, self.ram_gb, self.disk_gb)
    }
}

/// Why the ledger refuses an entry. It is unchanged then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The holder is in the ledger already.
    #[error("{holder} is in the ledger already, with {held}")]
    AlreadyHeld {
        /// The name.
        holder: String,
        /// What it holds.
        held: Tenant,
    },
    /// The holder is not in the ledger.
    #[error("{holder} is not in the ledger")]
    NotHeld {
        /// The name.
        holder: String,
    },
    /// The holder is in the ledger with other amounts or flags.
    #[error("{holder} holds {held}, not {given}")]
    Mismatch {
        /// The name.
        holder: String,
        /// What it holds.
        held: Tenant,
        /// What was to be subtracted.
        given: Tenant,
    },
    /// The sum would no longer fit a 64-bit number.
    #[error("the sum of all {what} would be more than 2^64-1")]
    Overflow {
        /// `cpu`, `ram` or `disks`.
        what: &'static str,
    },
}

/// Everything that runs, by the name of its holder.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "BTreeMap<String, Tenant>", into = "BTreeMap<String, Tenant>"))]
pub struct Usage {
    tenants: BTreeMap<String, Tenant>,
    /// Kept beside the entries so that an answer does not depend on how many there are.
    pub(crate) sums: Sums,
}

/// Sums and counts over all entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sums {
    pub(crate) cpu: u64,
    pub(crate) ram_gb: u64,
    pub(crate) disk_gb: u64,
    /// Entries that tolerate no others.
    pub(crate) alone: u64,
    /// Entries that tolerate no shared threads.
    pub(crate) own_cpu: u64,
    /// Entries that tolerate no shared memory.
    pub(crate) own_ram: u64,
}

impl Sums {
    fn add(&self, tenant: &Tenant) -> Result<Self, LedgerError> {
        let overflow = |what| LedgerError::Overflow { what };
        Ok(Self {
            cpu: self.cpu.checked_add(u64::from(tenant.cpu)).ok_or_else(|| overflow("cpu"))?,
            ram_gb: self.ram_gb.checked_add(u64::from(tenant.ram_gb)).ok_or_else(|| overflow("ram"))?,
            disk_gb: self.disk_gb.checked_add(tenant.disk_gb).ok_or_else(|| overflow("disks"))?,
            // Never more than there are entries in memory.
            alone: self.alone.saturating_add(u64::from(!tenant.multitenancy)),
            own_cpu: self.own_cpu.saturating_add(u64::from(!tenant.cpu_overbook)),
            own_ram: self.own_ram.saturating_add(u64::from(!tenant.ram_overbook)),
        })
    }

    /// The entry is part of the sums, so nothing can go below zero.
    fn subtract(&self, tenant: &Tenant) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(u64::from(tenant.cpu)),
            ram_gb: self.ram_gb.saturating_sub(u64::from(tenant.ram_gb)),
            disk_gb: self.disk_gb.saturating_sub(tenant.disk_gb),
            alone: self.alone.saturating_sub(u64::from(!tenant.multitenancy)),
            own_cpu: self.own_cpu.saturating_sub(u64::from(!tenant.cpu_overbook)),
            own_ram: self.own_ram.saturating_sub(u64::from(!tenant.ram_overbook)),
        }
    }
}

impl Usage {
    /// An empty node.
    pub fn new() -> Self {
        Self::default()
    }

    /// Books what `holder` now holds.
    ///
    /// # Errors
    ///
    /// When the holder is booked already, and when a sum would overflow.
    pub fn add(&mut self, holder: &str, tenant: Tenant) -> Result<(), LedgerError> {
        if let Some(held) = self.tenants.get(holder) {
            return Err(LedgerError::AlreadyHeld { holder: holder.to_owned(), held: *held });
        }
        self.sums = self.sums.add(&tenant)?;
        self.tenants.insert(holder.to_owned(), tenant);
        Ok(())
    }

    /// Gives back what `holder` held, which must be exactly `tenant`.
    ///
    /// # Errors
    ///
    /// When the holder is not booked, or with something else.
    pub fn subtract(&mut self, holder: &str, tenant: &Tenant) -> Result<(), LedgerError> {
        match self.tenants.get(holder) {
            None => Err(LedgerError::NotHeld { holder: holder.to_owned() }),
            Some(held) if held != tenant => {
                Err(LedgerError::Mismatch { holder: holder.to_owned(), held: *held, given: *tenant })
            }
            Some(_) => {
                self.sums = self.sums.subtract(tenant);
                self.tenants.remove(holder);
                Ok(())
            }
        }
    }

    /// Whether nothing runs.
    pub fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }

    /// How many run.
    pub fn len(&self) -> usize {
        self.tenants.len()
    }

    /// What a holder holds.
    pub fn get(&self, holder: &str) -> Option<&Tenant> {
        self.tenants.get(holder)
    }

    /// All holders in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tenant)> {
        self.tenants.iter().map(|(holder, tenant)| (holder.as_str(), tenant))
    }

    /// Threads in use.
    pub fn cpu(&self) -> u64 {
        self.sums.cpu
    }

    /// Memory in use, in GB.
    pub fn ram_gb(&self) -> u64 {
        self.sums.ram_gb
    }

    /// Disk space that is promised, in GB.
    pub fn disk_gb(&self) -> u64 {
        self.sums.disk_gb
    }
}

impl TryFrom<BTreeMap<String, Tenant>> for Usage {
    type Error = LedgerError;

    fn try_from(tenants: BTreeMap<String, Tenant>) -> Result<Self, LedgerError> {
        let sums = tenants.values().try_fold(Sums::default(), |sums, tenant| sums.add(tenant))?;
        Ok(Self { tenants, sums })
    }
}

impl From<Usage> for BTreeMap<String, Tenant> {
    fn from(usage: Usage) -> Self {
        usage.tenants
    }
}
