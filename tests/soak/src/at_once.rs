//! Many environments that live at the same time.

use std::sync::Arc;
use std::time::Instant;

use anyhow::ensure;
use native_driver::Watch;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::gauge::Gauge;
use crate::node::{self, Node, Work};
use crate::say;

/// Operations that a node does at the same time.
const BESIDE: usize = 8;

/// Allocates so many, looks at all of them, takes them away.
pub(crate) async fn run(count: usize) -> anyhow::Result<()> {
    let node = Node::new(Node::driver()?).await?;
    let done = many(&node, count).await;
    if done.is_err() {
        node.abandon().await;
    }
    done
}

async fn many(node: &Node, count: usize) -> anyhow::Result<()> {
    // The host's memory is shared by all of them; its disk is not.
    let label = node.label(Work::Stays).replace(", disks: {ws: {size: 1}}", "");
    let before = Gauge::now()?;
    say(&format!("before: {before}"));
    let start = Instant::now();
    let turns = Arc::new(Semaphore::new(BESIDE));
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let (driver, request, turns) = (Arc::clone(&node.driver), node::request(&label)?, Arc::clone(&turns));
        tasks.spawn(async move {
            let _turn = turns.acquire_owned().await;
            driver.allocate(request, Watch::quiet()).await
        });
    }
    let mut made = Vec::new();
    while let Some(task) = tasks.join_next().await {
        made.push(task??.identifier);
    }
    let up = start.elapsed();
    let list = node.driver.list().await?;
    let running = list.iter().filter(|e| e.running).count();
    say(&format!("{} up in {:.1} s, {running} running: {}", made.len(), up.as_secs_f64(), Gauge::now()?));
    ensure!(made.len() == count && running == count, "{count} were asked for, {running} run");

    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for id in made {
        let (driver, turns) = (Arc::clone(&node.driver), Arc::clone(&turns));
        tasks.spawn(async move {
            let _turn = turns.acquire_owned().await;
            driver.deallocate(&id, Watch::quiet()).await
        });
    }
    while let Some(task) = tasks.join_next().await {
        ensure!(task??.audit.clean, "an audit was not clean");
    }
    let after = Gauge::now()?;
    say(&format!("gone in {:.1} s: {after}", start.elapsed().as_secs_f64()));
    node.ensure_clean().await?;
    after.ensure_no_growth(&before)
}
