//! The count in words: what is short, by how much, who holds it, and what would make one more fit.

use crate::answer::{self, LimitedBy, Pool, Request, Totals};
use crate::ledger::{Tenant, Usage};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// The explanation of a [`crate::Capacity`], which is put into words only when it is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Explain<'a> {
    pub(crate) totals: &'a Totals,
    pub(crate) usage: &'a Usage,
    pub(crate) request: &'a Request,
}

impl Explain<'_> {
    /// Every limit there is, the tightest first.
    pub fn all(&self) -> Vec<Explanation> {
        explain(self.totals, self.usage, self.request)
    }

    /// The limits that keep even one more from fitting.
    pub fn why_not_one(&self) -> Vec<Explanation> {
        let mut all = self.all();
        all.retain(|explanation| explanation.fits == 0);
        all
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Explain<'_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.all())
    }
}

/// Who holds how much of what is short.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Holder {
    /// The name in the ledger.
    pub name: String,
    /// How much of it, in the unit of the limit.
    pub amount: u64,
}

/// One limit. Displays as a few sentences.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Explanation {
    /// Which limit.
    pub limit: LimitedBy,
    /// How many more it lets in.
    pub fits: u32,
    /// How much is missing for one more than that, in the unit of the limit.
    pub missing: u64,
    /// What is short, and by how much.
    pub message: String,
    /// Who holds it, the greatest first.
    pub holders: Vec<Holder>,
    /// What would make one more fit.
    pub remedy: String,
}

/// Longer lists of holders are cut in the text.
const SHOWN: usize = 5;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}.", self.limit, self.message)?;
        if !self.holders.is_empty() {
            let mut parts: Vec<String> =
                self.holders.iter().take(SHOWN).map(|h| format!("{} ({})", h.name, h.amount)).collect();
            if self.holders.len() > SHOWN {
                parts.push(format!("{} others", self.holders.len() - SHOWN));
            }
            write!(f, " Held by {}.", listed(&parts, "and"))?;
        }
        if self.remedy.is_empty() { Ok(()) } else { write!(f, " {}.", self.remedy) }
    }
}

fn listed(parts: &[String], last: &str) -> String {
    match parts {
        [] => String::new(),
        [only] => only.clone(),
        [init @ .., end] => format!("{} {last} {end}", init.join(", ")),
    }
}

fn explain(totals: &Totals, usage: &Usage, request: &Request) -> Vec<Explanation> {
    let mut list = Vec::new();
    for (limit, fits) in answer::limits(totals, usage, request) {
        let Some(fits) = fits else { continue };
        list.push(match limit {
            LimitedBy::NodeFilter => node_filter(request),
            LimitedBy::Tenancy => tenancy(usage, fits),
            LimitedBy::Slots => slots(totals, usage, fits),
            LimitedBy::Cpu => {
                let pool = answer::cpu_pool(totals, usage, request);
                let blocked = (usage.sums.own_cpu, request.cpu_overbook, totals.cpu_overbook);
                let words = Words { limit, unit: "threads", key: "cpu_overbook", amount: |t| u64::from(t.cpu) };
                pooled(&words, &pool, fits, usage, Some((blocked, |t| t.cpu_overbook)))
            }
            LimitedBy::Ram => {
                let pool = answer::ram_pool(totals, usage, request);
                let blocked = (usage.sums.own_ram, request.ram_overbook, totals.ram_overbook);
                let words = Words { limit, unit: "GB", key: "ram_overbook", amount: |t| u64::from(t.ram_gb) };
                pooled(&words, &pool, fits, usage, Some((blocked, |t| t.ram_overbook)))
            }
            LimitedBy::Disk => {
                let Some(pool) = answer::disk_pool(totals, usage, request) else { continue };
                let words = Words { limit, unit: "GB", key: "", amount: |t| t.disk_gb };
                pooled(&words, &pool, fits, usage, None)
            }
        });
    }
    // Stable, so equal counts stay in the order of LimitedBy and the first is what limits.
    list.sort_by_key(|explanation| explanation.fits);
    list
}

fn node_filter(request: &Request) -> Explanation {
    let pattern = request.unmatched_filter.as_deref().unwrap_or_default();
    Explanation {
        limit: LimitedBy::NodeFilter,
        fits: 0,
        missing: 1,
        message: format!("the label asks for `{pattern}`, and no identifier of this node matches that"),
        holders: Vec::new(),
        remedy: "Run it on another node, or change `node_filter` in the label or `node_identifiers` in the config"
            .to_owned(),
    }
}

fn tenancy(usage: &Usage, fits: u32) -> Explanation {
    let alone: Vec<String> =
        usage.iter().filter(|(_, tenant)| !tenant.multitenancy).map(|(name, _)| name.to_owned()).collect();
    let all: Vec<String> = usage.iter().map(|(name, _)| name.to_owned()).collect();
    let cut = |mut names: Vec<String>| {
        let more = names.len().saturating_sub(SHOWN);
        names.truncate(SHOWN);
        if more > 0 {
            names.push(format!("{more} others"));
        }
        listed(&names, "and")
    };
    let (message, remedy) = if usage.is_empty() {
        (
            "the request tolerates no others, so it runs once and alone".to_owned(),
            "Set `multitenancy: true` in the label to run more of it at a time".to_owned(),
        )
    } else if !alone.is_empty() {
        let verb = if alone.len() == 1 { "tolerates" } else { "tolerate" };
        let ends = if alone.len() == 1 { "ends" } else { "end" };
        let names = cut(alone);
        (format!("{names} {verb} no others on the node"), format!("It fits when {names} {ends}"))
    } else {
        let ends = if all.len() == 1 { "ends" } else { "end" };
        let runs = if all.len() == 1 { "runs" } else { "run" };
        let names = cut(all);
        (
            format!("the request tolerates no others, and {names} {runs} here"),
            format!("It fits when {names} {ends}, or with `multitenancy: true` in the label"),
        )
    };
    Explanation { limit: LimitedBy::Tenancy, fits, missing: 1, message, holders: Vec::new(), remedy }
}

fn slots(totals: &Totals, usage: &Usage, fits: u32) -> Explanation {
    let slots = totals.slots.unwrap_or(0);
    let running = u64::try_from(usage.len()).unwrap_or(u64::MAX);
    let missing = running.saturating_add(u64::from(fits)).saturating_add(1).saturating_sub(u64::from(slots));
    Explanation {
        limit: LimitedBy::Slots,
        fits,
        missing,
        message: format!("{fits} of {slots} slots {} free", if fits == 1 { "is" } else { "are" }),
        holders: usage.iter().map(|(name, _)| Holder { name: name.to_owned(), amount: 1 }).collect(),
        remedy: format!("One more fits with {} `slots`", u64::from(slots).saturating_add(missing)),
    }
}

/// How a pool is spoken of.
struct Words {
    limit: LimitedBy,
    unit: &'static str,
    key: &'static str,
    amount: fn(&Tenant) -> u64,
}

type Overbook = ((u64, bool, u32), fn(&Tenant) -> bool);

fn pooled(words: &Words, pool: &Pool, fits: u32, usage: &Usage, overbook: Option<Overbook>) -> Explanation {
    let Words { limit, unit, key, amount } = *words;
    let (free, size) = (pool.free(), pool.size());
    // For one more than fit now. In u128: need and fits are 64 and 32 bits.
    let wanted = u128::from(pool.need) * (u128::from(fits) + 1);
    let missing = u64::try_from(wanted.saturating_sub(u128::from(free))).unwrap_or(u64::MAX);
    let wanted = u64::try_from(wanted).unwrap_or(u64::MAX);

    let more = if fits == 0 { "one more needs".to_owned() } else { format!("{} more need", u64::from(fits) + 1) };
    let made_of = if pool.overbook > 0 {
        format!(" ({} of the host, {} overbooked)", pool.own, pool.overbook)
    } else {
        String::new()
    };
    let mut message = format!("{more} {wanted} {unit}, and {free} of {size} are free{made_of}: {missing} short");
    if pool.used > size {
        message.push_str(&format!(" ({} in use already)", pool.used));
    }

    let mut holders: Vec<Holder> = usage
        .iter()
        .map(|(name, tenant)| Holder { name: name.to_owned(), amount: amount(tenant) })
        .filter(|holder| holder.amount > 0)
        .collect();
    holders.sort_by(|a, b| b.amount.cmp(&a.amount).then_with(|| a.name.cmp(&b.name)));

    let mut ways: Vec<String> = Vec::new();
    if let Some(way) = ending(&holders, missing, pool) {
        ways.push(way);
    }
    if let Some(((intolerant, request_tolerates, configured), tolerates)) = overbook {
        if pool.overbook == 0 && configured > 0 && (intolerant > 0 || !request_tolerates) {
            // There is an overbook, but it does not count for this request.
            let mut names: Vec<String> = Vec::new();
            if !request_tolerates {
                names.push("the request".to_owned());
            }
            names.extend(
                usage.iter().filter(|(_, tenant)| !tolerates(tenant)).map(|(name, _)| name.to_owned()).take(SHOWN),
            );
            let verb = if names.len() == 1 { "does" } else { "do" };
            message.push_str(&format!(
                "; the `{key}` of {configured} does not count, because {} {verb} not tolerate it",
                listed(&names, "and")
            ));
        } else if request_tolerates && intolerant == 0 {
            let enough = u64::from(configured).saturating_add(missing).saturating_add(pool.used.saturating_sub(size));
            ways.push(format!("with a `{key}` of {enough}"));
        }
    } else {
        ways.push(format!("with {} GB more of free space", missing.saturating_add(pool.used.saturating_sub(size))));
    }
    if ways.is_empty() && pool.need > size {
        ways.push(format!("on a node with {} {unit}", pool.need));
    }
    let remedy = if ways.is_empty() { String::new() } else { format!("It fits {}", ways.join(", or ")) };
    Explanation { limit, fits, missing, message, holders, remedy }
}

/// The fewest holders whose end gives enough back.
fn ending(holders: &[Holder], missing: u64, pool: &Pool) -> Option<String> {
    // What is in use beyond the size gives nothing back.
    let mut wanted = missing.saturating_add(pool.used.saturating_sub(pool.size()));
    // One alone that is just enough is better than the greatest.
    if let Some(one) = holders.iter().filter(|holder| holder.amount >= wanted).min_by_key(|holder| holder.amount) {
        return Some(format!("when {} ends", one.name));
    }
    let mut names = Vec::new();
    for holder in holders {
        names.push(holder.name.clone());
        wanted = wanted.saturating_sub(holder.amount);
        if wanted == 0 {
            return (names.len() <= SHOWN).then(|| format!("when {} end", listed(&names, "and")));
        }
    }
    None
}
