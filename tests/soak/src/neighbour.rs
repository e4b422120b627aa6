//! How much a tenant that takes all it can get slows another one down.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use native_driver::Watch;
use tokio_util::sync::CancellationToken;

use crate::node::{self, Node, Work};
use crate::say;

/// One life of a well-behaved environment: made, ended, removed.
async fn life(node: &Node) -> anyhow::Result<(Duration, Duration)> {
    let start = Instant::now();
    let made = node.driver.allocate(node.request(Work::Ends)?, Watch::quiet()).await?.identifier;
    let ended = node.driver.wait(&made, CancellationToken::new()).await?;
    ensure!(ended.code == 0, "the neighbour ended with {}", ended.code);
    let finished = start.elapsed();
    let start = Instant::now();
    ensure!(node.driver.deallocate(&made, Watch::quiet()).await?.audit.clean, "the neighbour left something");
    Ok((finished, start.elapsed()))
}

/// The medians of so many lives.
async fn lives(node: &Node, count: usize) -> anyhow::Result<(Duration, Duration)> {
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let (finished, removed) = life(node).await?;
        first.push(finished);
        last.push(removed);
    }
    let median = |mut all: Vec<Duration>| {
        all.sort();
        all.get(all.len() / 2).copied().context("no lives")
    };
    Ok((median(first)?, median(last)?))
}

/// Measures so many lives alone and beside the bad neighbour.
pub(crate) async fn run(count: usize) -> anyhow::Result<()> {
    let node = Node::new(Node::driver()?).await?;
    let done = compare(&node, count).await;
    if done.is_err() {
        node.abandon().await;
    }
    done
}

async fn compare(node: &Node, count: usize) -> anyhow::Result<()> {
    let alone = lives(node, count).await?;
    let image = node.bench.image("greedy", &e2e::greedy());
    let label = e2e::label(&[node.bench.source(&image, None)], "{}");
    let greedy = node.driver.allocate(node::request(&label)?, Watch::quiet()).await?.identifier;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let beside = lives(node, count).await?;
    let start = Instant::now();
    ensure!(node.driver.deallocate(&greedy, Watch::quiet()).await?.audit.clean, "the greedy one left something");
    let removed = start.elapsed();
    for (what, alone, beside) in [("made and ended", alone.0, beside.0), ("removed", alone.1, beside.1)] {
        say(&format!(
            "{what}: {:.0} ms alone, {:.0} ms beside a greedy one: {:.2} times",
            alone.as_secs_f64() * 1000.0,
            beside.as_secs_f64() * 1000.0,
            beside.as_secs_f64() / alone.as_secs_f64()
        ));
    }
    say(&format!("the greedy one: removed in {:.0} ms", removed.as_secs_f64() * 1000.0));
    node.ensure_clean().await
}
