//! Environments one after another, with something going wrong in most of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use native_driver::Watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::gauge::Gauge;
use crate::node::{self, Node, Work};
use crate::say;

/// Rounds until others may have the host, and until what has grown is looked at.
const SLICE: usize = 100;
/// Longer than any operation takes.
const LONGEST: Duration = Duration::from_secs(180);

/// What is done to a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Nothing,
    /// The helpers are killed while it is made.
    HelperAtFirst,
    /// The helpers are killed while it is removed.
    HelperAtLast,
    /// The keeper is killed.
    Keeper,
    /// Whoever waits for it goes away.
    Cancelled,
    /// Another driver on the same workspace is killed in the middle.
    Driver,
}

/// Numbers that come out the same for the same seed.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn of<T: Copy, const N: usize>(&mut self, all: [T; N]) -> T {
        all[usize::try_from(self.throw(N as u64)).unwrap_or(0)]
    }

    fn moment(&mut self, at_most_ms: u64) -> Duration {
        Duration::from_millis(self.throw(at_most_ms))
    }
}

/// How rounds ended.
#[derive(Default)]
struct Tally {
    up: usize,
    refused: usize,
    /// Something was left that the next removal took.
    stuck: usize,
    faults: BTreeMap<Fault, usize>,
}

/// So many rounds, in one process.
pub(crate) async fn run(count: usize) -> anyhow::Result<()> {
    let seed = std::env::var("FISH_SOAK_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) * 2_654_435_761);
    say(&format!("seed {seed}"));
    let mut dice = Dice(seed.max(1));
    let driver = Node::driver()?;
    let mut tally = Tally::default();
    let mut warm = None;
    let start = Instant::now();
    let mut done = 0;
    while done < count {
        let node = Node::new(Arc::clone(&driver)).await?;
        for _ in 0..SLICE.min(count - done) {
            let round = round(&node, &mut dice, &mut tally).await;
            if round.is_err() {
                node.abandon().await;
            }
            round.with_context(|| format!("round {done} of seed {seed}"))?;
            done += 1;
        }
        // A start lets go of what nobody has any more.
        node.prepare().await?;
        node.ensure_clean().await.with_context(|| format!("after {done} rounds of seed {seed}"))?;
        let now = Gauge::now()?;
        say(&format!(
            "{done} rounds, {:.0} s: {} up, {} refused, {} stuck at first; {now}",
            start.elapsed().as_secs_f64(),
            tally.up,
            tally.refused,
            tally.stuck
        ));
        // Threads and caches of the process come with the first rounds.
        now.ensure_no_growth(warm.get_or_insert(now))?;
    }
    say(&format!("faults: {:?}", tally.faults));
    Ok(())
}

async fn round(node: &Node, dice: &mut Dice, tally: &mut Tally) -> anyhow::Result<()> {
    let work = dice.of([
        Work::Ends,
        Work::Ends,
        Work::Fails,
        Work::Stays,
        Work::Stays,
        Work::Lives,
        Work::Missing,
        Work::Wrong,
    ]);
    let fault = dice.of([
        Fault::Nothing,
        Fault::HelperAtFirst,
        Fault::HelperAtFirst,
        Fault::HelperAtLast,
        Fault::Keeper,
        Fault::Cancelled,
        Fault::Driver,
    ]);
    *tally.faults.entry(fault).or_default() += 1;
    if fault == Fault::Driver {
        return dead_driver(node, dice, tally, work).await;
    }
    let cancel = CancellationToken::new();
    let (driver, request, token) = (Arc::clone(&node.driver), node.request(work)?, cancel.clone());
    let making = tokio::spawn(async move { driver.allocate(request, Watch::new(token, |_| {})).await });
    match fault {
        Fault::HelperAtFirst => {
            sleep(dice.moment(400)).await;
            node::kill_helpers();
        }
        Fault::Cancelled => {
            sleep(dice.moment(400)).await;
            cancel.cancel();
        }
        _ => {}
    }
    let made = match timeout(LONGEST, making).await.context("an allocation hangs")?? {
        Ok(made) => made.identifier,
        Err(error) => {
            tally.refused += 1;
            if let (Some(id), Some(_)) = (&error.identifier, &error.cleanup) {
                tally.stuck += 1;
                node.deallocate(id).await?;
            }
            return Ok(());
        }
    };
    tally.up += 1;
    if fault == Fault::Keeper {
        sleep(dice.moment(50)).await;
        node::kill_keeper(&made);
    }
    if matches!(work, Work::Ends | Work::Fails | Work::Lives) {
        let ended = node.driver.wait(&made, CancellationToken::new());
        drop(timeout(LONGEST, ended).await.with_context(|| format!("{made} does not end"))?);
    }
    let (driver, id) = (Arc::clone(&node.driver), made.clone());
    let removing = tokio::spawn(async move { driver.deallocate(&id, Watch::quiet()).await });
    if fault == Fault::HelperAtLast {
        sleep(dice.moment(150)).await;
        node::kill_helpers();
    }
    if timeout(LONGEST, removing).await.context("a deallocation hangs")??.is_err() {
        tally.stuck += 1;
        node.deallocate(&made).await?;
    }
    Ok(())
}

/// Another process works on the workspace and is killed; this one deals with what it left.
async fn dead_driver(node: &Node, dice: &mut Dice, tally: &mut Tally, work: Work) -> anyhow::Result<()> {
    let label = node.bench.write("label.yml", &node.label(work));
    let mut other = node.bench.start(&["run", &label]);
    sleep(dice.moment(1200)).await;
    other.kill();
    drop(other.finish());
    node.prepare().await?;
    for environment in node.driver.list().await? {
        tally.up += 1;
        if node.deallocate(&environment.identifier).await? {
            tally.stuck += 1;
        }
    }
    Ok(())
}
