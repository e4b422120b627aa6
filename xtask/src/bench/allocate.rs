//! `bench allocate`: how long a warm environment takes to make, by its image's size, and what it takes on disk.

use std::time::Instant;

use anyhow::Context;
use native_config::AccountKind;

use super::measure::turn;
use super::node::{Image, Node, image};
use super::scratch::{Scratch, text};
use super::server;
use super::steps::Steps;
use super::table::{Times, head, machine, ms, row};
use crate::report::say;
use crate::run::tool;

/// How often everything is done.
const ROUNDS: usize = 3;
/// How often the quick ones are done in each round.
const REPEATS: usize = 7;
/// Files and bytes of each.
const SIZES: [(&str, (usize, usize)); 3] =
    [("10 MB", (1_000, 10_000)), ("400 MB", (20_000, 20_000)), ("2 GB", (20_000, 100_000))];
/// An entry that does nothing.
pub(super) const IDLE: &str = "#!/bin/sh\nexec sleep 600\n";
/// How many environments the space of one is measured with.
const MANY: usize = 8;

/// What was measured of one image.
#[derive(Default)]
struct Measured {
    go: Times,
    real: Times,
    ephemeral: Times,
}

pub(super) fn run() -> anyhow::Result<()> {
    let scratch = Scratch::new(1024)?;
    let server = server::start(&scratch.dir("served")?)?;
    let mut images = Vec::new();
    for (n, (name, size)) in SIZES.into_iter().enumerate() {
        images.push((name, image(&scratch, &server, &format!("bench{n}"), size, IDLE, 1)?));
    }
    let real = Node::new(&scratch, AccountKind::Real, |_| {})?;
    let ephemeral = Node::new(&scratch, AccountKind::Ephemeral, |_| {})?;
    let _turn = turn()?;
    for (_, image) in &images {
        for node in [&real, &ephemeral] {
            node.deallocate(&node.allocate(&image.definition)?.0.identifier)?;
        }
    }
    let mut measured: Vec<Measured> = images.iter().map(|_| Measured::default()).collect();
    for _ in 0..ROUNDS {
        for ((_, image), times) in images.iter().zip(&mut measured) {
            scratch.settle()?;
            let (made, took) = Steps::allocate(&scratch, &image.layer, 0)?;
            times.go.add(took);
            made.deallocate()?;
            scratch.settle()?;
            for _ in 0..REPEATS {
                times.real.add(once(&real, image)?);
                times.ephemeral.add(once(&ephemeral, image)?);
            }
        }
    }
    machine();
    head(&[
        "image, warm",
        "Go driver's steps",
        "account: real",
        "account: ephemeral",
        "ratio, real",
        "ratio, ephemeral",
    ]);
    for ((name, _), times) in images.iter().zip(&measured) {
        let (go, real, ephemeral) = (times.go.median(), times.real.median(), times.ephemeral.median());
        let ratio = |time: f64| format!("{:.0}", go / time);
        row(&[name, &ms(go), &ms(real), &ms(ephemeral), &ratio(real), &ratio(ephemeral)]);
    }
    if let [small, .., large] = &measured[..] {
        say(&format!(
            "\nGrowth from 10 MB to 2 GB: Go driver's steps {:.2}, real {:.2}, ephemeral {:.2} times.",
            large.go.median() / small.go.median(),
            large.real.median() / small.real.median(),
            large.ephemeral.median() / small.ephemeral.median(),
        ));
    }
    say(&format!("Phases in ms, real: {}.\nephemeral: {}.", real.phases(), ephemeral.phases()));
    let (_, middle) = images.get(1).context("no image")?;
    say(&format!(
        "A further environment takes {} KiB on disk, with its empty disk of 10 GB.",
        space(&scratch, &ephemeral, middle)?
    ));
    command(&scratch, middle)
}

fn once(node: &Node, image: &Image) -> anyhow::Result<std::time::Duration> {
    let (made, took) = node.allocate(&image.definition)?;
    node.deallocate(&made.identifier)?;
    Ok(took)
}

/// KiB that one more environment takes.
fn space(scratch: &Scratch, node: &Node, image: &Image) -> anyhow::Result<u64> {
    let first = node.allocate(&image.definition)?.0;
    let before = scratch.used()?;
    let mut made = vec![first];
    for _ in 0..MANY {
        made.push(node.allocate(&image.definition)?.0);
    }
    let after = scratch.used()?;
    for one in made {
        node.deallocate(&one.identifier)?;
    }
    Ok(after.saturating_sub(before) / u64::try_from(MANY)? / 1024)
}

/// The same by the command line, each a process of its own.
fn command(scratch: &Scratch, image: &Image) -> anyhow::Result<()> {
    let fish = super::optimised("fish-native")?;
    let (images, workspace) = (scratch.dir("images")?, scratch.dir("workspace-command")?);
    let config = scratch.dir("served")?.join("command.yml");
    for account in ["real", "ephemeral"] {
        let yaml = format!(
            "images_path: {}\nworkspace_path: {}\nstop_grace: 0s\naccount: {account}\nuid_min: 400000\nuid_max: 409999\n",
            images.display(),
            workspace.display()
        );
        std::fs::write(&config, yaml)?;
        let (mut allocate, mut deallocate) = (Times::default(), Times::default());
        for _ in 0..3 * ROUNDS {
            let since = Instant::now();
            let told =
                tool(&fish, &["--config", text(&config)?, "allocate", "--json", text(&image.label)?]).output()?;
            allocate.add(since.elapsed());
            let told: serde_json::Value = serde_json::from_str(&told)?;
            let id = told["identifier"].as_str().context("no identifier")?;
            let since = Instant::now();
            tool(&fish, &["--config", text(&config)?, "deallocate", id]).output()?;
            deallocate.add(since.elapsed());
        }
        say(&format!(
            "By the command line, account: {account}: allocate {}, deallocate {}.",
            ms(allocate.median()),
            ms(deallocate.median())
        ));
    }
    Ok(())
}
