//! How many more of a definition fit, out of the journals, the host's facts and the workspace's free space.

use native_capacity::{Explanation, Request, Totals, Usage, available};
use native_config::Definition;

use crate::error::CapacityError;
use crate::journal::Journal;
use crate::node::Node;
use crate::plan::{self, GB};
use crate::report::{Capacity, Grant, LimitedBy, NodeUsage, Tenant, WhatIf};

/// The answer, explained.
pub(crate) fn capacity(node: &Node, what_if: &WhatIf, definition: &Definition) -> Result<Capacity, CapacityError> {
    ask(node, what_if, definition, |answer| answer.explain.all())
}

/// Why not even one fits; nothing when one does.
pub(crate) fn why_not_one(node: &Node, definition: &Definition) -> Result<Option<Capacity>, CapacityError> {
    let answer = ask(node, &WhatIf::default(), definition, |answer| answer.explain.why_not_one())?;
    Ok((answer.count == 0).then_some(answer))
}

fn ask(
    node: &Node,
    what_if: &WhatIf,
    definition: &Definition,
    explain: impl Fn(&native_capacity::Capacity<'_>) -> Vec<Explanation>,
) -> Result<Capacity, CapacityError> {
    let usage = match &what_if.usage {
        NodeUsage::Journals => of_journals(node)?,
        NodeUsage::Given(tenants) => of_tenants(tenants),
    };
    let totals = totals(node, what_if)?;
    let grant = plan::grant(definition, &node.config, &Node::clone_bytes(definition));
    let unmatched = definition.resources.unmatched_pattern(&node.identifiers).map(|p| p.as_str().to_owned());
    let request = Request { unmatched_filter: unmatched, ..Request::from(tenant(&grant)) };
    let answer = available(&totals, &usage, &request);
    Ok(Capacity {
        count: answer.count.into(),
        limited_by: answer.limited_by.map(convert_limit),
        explain: explain(&answer).iter().map(ToString::to_string).collect(),
    })
}

fn convert_limit(limit: native_capacity::LimitedBy) -> LimitedBy {
    match limit {
        native_capacity::LimitedBy::NodeFilter => LimitedBy::NodeFilter,
        native_capacity::LimitedBy::Tenancy => LimitedBy::Tenancy,
        native_capacity::LimitedBy::Slots => LimitedBy::Slots,
        native_capacity::LimitedBy::Cpu => LimitedBy::Cpu,
        native_capacity::LimitedBy::Ram => LimitedBy::Ram,
        native_capacity::LimitedBy::Disk => LimitedBy::Disk,
    }
}

fn totals(node: &Node, what_if: &WhatIf) -> Result<Totals, CapacityError> {
    let config = &node.config;
    let (cpu, ram_gb) = match (what_if.total_cpu, what_if.total_ram_gb) {
        (Some(cpu), Some(ram)) => (cpu, ram),
        (cpu, ram) => {
            let facts = node.platform.facts()?;
            let whole = u32::try_from(facts.memory_bytes / GB).unwrap_or(u32::MAX);
            (cpu.unwrap_or(facts.cpus), ram.unwrap_or(whole))
        }
    };
    // Blocks that running environments have written are counted twice, once as used and once as promised: the
    // answer errs towards too little room, and never promises what is not there.
    let disk_gb = match what_if.total_disk_gb {
        Some(gb) => gb,
        None => node.store.free_bytes()? / GB,
    };
    Ok(Totals {
        cpu,
        ram_gb,
        disk_gb: Some(disk_gb),
        cpu_alter: config.cpu_alter,
        ram_alter: config.ram_alter,
        cpu_overbook: config.cpu_overbook,
        ram_overbook: config.ram_overbook,
        slots: config.slots,
        tenancy: match config.tenancy {
            native_config::Tenancy::Strict => native_capacity::Tenancy::Strict,
            native_config::Tenancy::Lenient => native_capacity::Tenancy::Lenient,
        },
    })
}

fn tenant(grant: &Grant) -> native_capacity::Tenant {
    native_capacity::Tenant {
        cpu: grant.cpu,
        ram_gb: grant.ram_gb,
        disk_gb: grant.disk_gb,
        multitenancy: grant.multitenancy,
        cpu_overbook: grant.cpu_overbook,
        ram_overbook: grant.ram_overbook,
    }
}

/// Every environment that has a journal holds what it was granted, whatever its phase: one that leaked may still
/// use all of it. A journal that can't be read is an error, because what it holds is not known, and guessing would
/// be overbooking.
fn of_journals(node: &Node) -> Result<Usage, CapacityError> {
    let mut usage = Usage::default();
    for id in node.store.ids()? {
        // Without a journal it was claimed a moment ago (its claim has the lock that we have, or waits for it) or
        // is half removed: nothing is promised to it.
        if let Some(Journal { grant, .. }) = node.journal(&id)? {
            // Ids are unique, and the sums of u32 amounts don't reach 2^64.
            drop(usage.add(id.as_str(), tenant(&grant)));
        }
    }
    Ok(usage)
}

fn of_tenants(tenants: &[Tenant]) -> Usage {
    let mut usage = Usage::default();
    for (n, given) in tenants.iter().enumerate() {
        let held = native_capacity::Tenant {
            cpu: given.cpu,
            ram_gb: given.ram_gb,
            disk_gb: given.disk_gb,
            multitenancy: given.multitenancy,
            cpu_overbook: given.cpu_overbook,
            ram_overbook: given.ram_overbook,
        };
        // A list may name nobody, or somebody twice.
        if given.identifier.is_empty() || usage.add(&given.identifier, held).is_err() {
            drop(usage.add(&format!("{} #{}", given.identifier, n + 1), held));
        }
    }
    usage
}
