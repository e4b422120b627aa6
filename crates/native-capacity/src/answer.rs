//! The count: how many more fit, and what limits the number.

use crate::explain::Explain;
use crate::ledger::{Tenant, Usage};
use alloc::string::String;
use core::fmt;

/// How the flag `multitenancy` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Tenancy {
    /// Who tolerates nobody runs alone, and nothing joins.
    #[default]
    Strict,
    /// The flag keeps nobody out.
    Lenient,
}

/// What a node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
pub struct Totals {
    /// Threads of the host.
    pub cpu: u32,
    /// Memory of the host in GB.
    pub ram_gb: u32,
    /// Free space for disks in GB before what is promised; not limited without one. Space that running definitions
    /// have already filled belongs to it: it is free for them, and their promise is subtracted.
    pub disk_gb: Option<u64>,
    /// Added to the threads; negative keeps some for the host.
    pub cpu_alter: i32,
    /// Added to the memory, in GB.
    pub ram_alter: i32,
    /// Threads that tolerant tenants may share.
    pub cpu_overbook: u32,
    /// Memory that tolerant tenants may share, in GB.
    pub ram_overbook: u32,
    /// How many may run at once; not limited without one.
    pub slots: Option<u32>,
    /// How multitenancy counts.
    pub tenancy: Tenancy,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
pub struct Request {
    /// Threads. Zero is not limited by threads.
    pub cpu: u32,
    /// Memory in GB. Zero is not limited by memory.
    pub ram_gb: u32,
    /// All disks together in GB. Zero is not limited by space.
    pub disk_gb: u64,
    /// Tolerates others on the node.
    pub multitenancy: bool,
    /// Tolerates shared threads.
    pub cpu_overbook: bool,
    /// Tolerates shared memory.
    pub ram_overbook: bool,
    /// The first pattern of the node filter that no identifier of the node matches; nothing when all match.
    pub unmatched_filter: Option<String>,
}

impl From<Tenant> for Request {
    fn from(tenant: Tenant) -> Self {
        Self {
            cpu: tenant.cpu,
            ram_gb: tenant.ram_gb,
            disk_gb: tenant.disk_gb,
            multitenancy: tenant.multitenancy,
            cpu_overbook: tenant.cpu_overbook,
            ram_overbook: tenant.ram_overbook,
            unmatched_filter: None,
        }
    }
}

impl From<&Request> for Tenant {
    /// What the request holds once it runs.
    fn from(request: &Request) -> Self {
        Self {
            cpu: request.cpu,
            ram_gb: request.ram_gb,
            disk_gb: request.disk_gb,
            multitenancy: request.multitenancy,
            cpu_overbook: request.cpu_overbook,
            ram_overbook: request.ram_overbook,
        }
    }
}

/// What keeps the count from being greater. Of several, the first in this order is named: what is listed earlier can't
/// be mended by anything later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum LimitedBy {
    /// The node is not one that the request wants.
    NodeFilter,
    /// Somebody wants to be alone.
    Tenancy,
    /// All slots are taken.
    Slots,
    /// Threads.
    Cpu,
    /// Memory.
    Ram,
    /// Space for disks.
    Disk,
}

impl LimitedBy {
    /// The name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NodeFilter => "node_filter",
            Self::Tenancy => "tenancy",
            Self::Slots => "slots",
            Self::Cpu => "cpu",
            Self::Ram => "ram",
            Self::Disk => "disk",
        }
    }
}

impl fmt::Display for LimitedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The answer.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Capacity<'a> {
    /// How many more fit. `u32::MAX` when nothing limits the number.
    pub count: u32,
    /// What keeps the count from being greater.
    pub limited_by: Option<LimitedBy>,
    /// Every limit in words, made when it is asked for.
    pub explain: Explain<'a>,
}

/// A pool that a request draws on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pool {
    /// `total + alter`, never below zero.
    pub(crate) own: u64,
    /// The overbook, if it counts.
    pub(crate) overbook: u64,
    /// In use.
    pub(crate) used: u64,
    /// Needed for one.
    pub(crate) need: u64,
}

impl Pool {
    pub(crate) fn size(&self) -> u64 {
        self.own.saturating_add(self.overbook)
    }

    pub(crate) fn free(&self) -> u64 {
        self.size().saturating_sub(self.used)
    }

    /// How many more the pool has room for; not limited if none of it is needed.
    fn fits(&self) -> Option<u32> {
        self.free().checked_div(self.need).map(|fits| u32::try_from(fits).unwrap_or(u32::MAX))
    }
}

fn altered(total: u32, alter: i32) -> u64 {
    u64::try_from(i64::from(total) + i64::from(alter)).unwrap_or(0)
}

pub(crate) fn cpu_pool(totals: &Totals, usage: &Usage, request: &Request) -> Pool {
    let tolerated = request.cpu_overbook && usage.sums.own_cpu == 0;
    Pool {
        own: altered(totals.cpu, totals.cpu_alter),
        overbook: if tolerated { u64::from(totals.cpu_overbook) } else { 0 },
        used: usage.sums.cpu,
        need: u64::from(request.cpu),
    }
}

pub(crate) fn ram_pool(totals: &Totals, usage: &Usage, request: &Request) -> Pool {
    let tolerated = request.ram_overbook && usage.sums.own_ram == 0;
    Pool {
        own: altered(totals.ram_gb, totals.ram_alter),
        overbook: if tolerated { u64::from(totals.ram_overbook) } else { 0 },
        used: usage.sums.ram_gb,
        need: u64::from(request.ram_gb),
    }
}

pub(crate) fn disk_pool(totals: &Totals, usage: &Usage, request: &Request) -> Option<Pool> {
    let own = totals.disk_gb?;
    Some(Pool { own, overbook: 0, used: usage.sums.disk_gb, need: request.disk_gb })
}

/// How many each limit lets in, in the order of [`LimitedBy`]; nothing for what does not limit.
pub(crate) fn limits(totals: &Totals, usage: &Usage, request: &Request) -> [(LimitedBy, Option<u32>); 6] {
    let running = u32::try_from(usage.len()).unwrap_or(u32::MAX);
    let tenancy = match totals.tenancy {
        Tenancy::Lenient => None,
        Tenancy::Strict if usage.sums.alone > 0 => Some(0),
        Tenancy::Strict if request.multitenancy => None,
        Tenancy::Strict => Some(u32::from(usage.is_empty())),
    };
    [
        (LimitedBy::NodeFilter, request.unmatched_filter.as_ref().map(|_| 0)),
        (LimitedBy::Tenancy, tenancy),
        (LimitedBy::Slots, totals.slots.map(|slots| slots.saturating_sub(running))),
        (LimitedBy::Cpu, cpu_pool(totals, usage, request).fits()),
        (LimitedBy::Ram, ram_pool(totals, usage, request).fits()),
        (LimitedBy::Disk, disk_pool(totals, usage, request).and_then(|pool| pool.fits())),
    ]
}

/// How many more of the request fit, and what limits the number.
///
/// Allocates nothing and takes the same time however much runs; only who asks for the explanation pays for it.
pub fn available<'a>(totals: &'a Totals, usage: &'a Usage, request: &'a Request) -> Capacity<'a> {
    let (mut count, mut limited_by) = (u32::MAX, None);
    for (limit, fits) in limits(totals, usage, request) {
        if let Some(fits) = fits
            && (fits < count || limited_by.is_none())
        {
            (count, limited_by) = (fits, Some(limit));
        }
    }
    Capacity { count, limited_by, explain: Explain { totals, usage, request } }
}
