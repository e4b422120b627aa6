//! `bench deallocate`: how long environments take to remove, by what their workloads do.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use native_config::AccountKind;

use super::allocate::IDLE;
use super::measure::turn;
use super::node::{Image, Node, image};
use super::scratch::Scratch;
use super::server;
use super::steps::Steps;
use super::table::{Times, head, machine, ms, row};
use crate::report::say;
use crate::run::tool;

/// How often everything is done.
const ROUNDS: usize = 4;
/// Does not end when it is asked to.
const DEAF: &str = "#!/bin/sh\ntrap '' INT\nsleep 600\n";
/// Half a thousand processes that do not end when they are asked to.
const CROWD: &str =
    "#!/bin/sh\ntrap '' INT TERM HUP\ni=0\nwhile [ $i -lt 500 ]; do sleep 600 & i=$((i+1)); done\necho ready\nwait\n";
/// As many processes as there may be, and all of them fork.
/// A shell that can't fork ends, and so would the bomb.
const BOMB: &str = r"#!/usr/bin/python3
import os, signal, time
for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(n, signal.SIG_IGN)
if os.fork() == 0:
    while True:
        try: os.fork()
        except OSError: pass
time.sleep(1)
print('ready', flush=True)
signal.pause()
";
const FILES: &str =
    "#!/bin/sh\nmkdir files && cd files && seq 1000000 | xargs touch && cd .. && echo ready && exec sleep 600\n";
const DIRTY: &str = "#!/bin/sh\ndd if=/dev/zero of=dirty bs=1M count=1024 2>/dev/null\necho ready\nexec sleep 600\n";

pub(super) fn run() -> anyhow::Result<()> {
    let scratch = Scratch::new(1024)?;
    let server = server::start(&scratch.dir("served")?)?;
    let make = |name: &str, script: &str| image(&scratch, &server, name, (100, 1000), script, 4);
    let idle = image(&scratch, &server, "idle", (20_000, 20_000), IDLE, 4)?;
    let deaf = image(&scratch, &server, "deaf", (20_000, 20_000), DEAF, 4)?;
    let workloads = [
        ("500 processes that ignore signals", make("crowd", CROWD)?),
        ("fork bomb at 500 processes", make("bomb", BOMB)?),
        ("1,000,000 files", make("files", FILES)?),
        ("1 GB not written back", make("dirty", DIRTY)?),
    ];
    let change = |config: &mut native_config::DriverConfig| {
        config.pids_max = 503;
        // Room for a million inodes.
        config.home_size = Some(20 << 30);
    };
    let real = Node::new(&scratch, AccountKind::Real, change)?;
    let ephemeral = Node::new(&scratch, AccountKind::Ephemeral, change)?;

    let _turn = turn()?;
    let (mut go, mut go_deaf, mut real_idle) = (Times::default(), Times::default(), Times::default());
    let mut idles: Vec<Times> = workloads.iter().map(|_| Times::default()).collect();
    let mut others = idles.clone();
    for round in 0..ROUNDS {
        {
            scratch.settle()?;
            go.add(Steps::allocate(&scratch, &idle.layer, 0)?.0.deallocate()?);
            go_deaf.add(Steps::allocate(&scratch, &deaf.layer, 1)?.0.deallocate()?);
            scratch.settle()?;
            for _ in 0..5 {
                real_idle.add(removed(&real, &idle, None)?);
            }
        }
        for (n, (name, workload)) in workloads.iter().enumerate() {
            // A million files take their time to make.
            if name.starts_with("1,000,000") && round >= 2 {
                continue;
            }
            for _ in 0..3 {
                idles[n].add(removed(&ephemeral, &idle, None)?);
            }
            others[n].add(removed(&ephemeral, workload, Some("ready"))?);
        }
    }
    let (mut crowd, mut bomb) = (Times::default(), Times::default());
    for _ in 0..ROUNDS {
        crowd.add(killed(&scratch, CROWD)?);
        bomb.add(killed(&scratch, BOMB)?);
    }

    machine();
    let mut all = Times::default();
    idles.iter().for_each(|times| all.extend(times));
    head(&["removing an idle workload, 400 MB image", "time", "ratio"]);
    row(&["Go driver's steps", &ms(go.median()), ""]);
    row(&["Go driver's steps, SIGINT ignored", &ms(go_deaf.median()), ""]);
    let ratios = |time: f64| format!("{:.0} and {:.0}", go.median() / time, go_deaf.median() / time);
    row(&["account: real", &ms(real_idle.median()), &ratios(real_idle.median())]);
    row(&["account: ephemeral", &ms(all.median()), &ratios(all.median())]);
    say("");
    head(&["removing, account: ephemeral", "time", "idle in the same rounds", "ratio"]);
    for ((name, _), (idle, other)) in workloads.iter().zip(idles.iter().zip(&others)) {
        row(&[name, &ms(other.median()), &ms(idle.median()), &format!("{:.1}", other.median() / idle.median())]);
    }
    say(&format!(
        "\n`cgroup.kill` alone, until nothing lives: 500 processes {}, fork bomb {}.",
        ms(crowd.median()),
        ms(bomb.median())
    ));
    say(&format!("Phases in ms, real: {}.\nephemeral: {}.", real.phases(), ephemeral.phases()));
    Ok(())
}

/// Makes an environment, waits until its workload is where it should be, and removes it.
fn removed(node: &Node, image: &Image, ready: Option<&str>) -> anyhow::Result<Duration> {
    let (made, _) = node.allocate(&image.definition)?;
    let waited = ready.map_or(Ok(()), |word| node.wait_for(&made.identifier, word));
    let took = node.deallocate(&made.identifier)?;
    waited.map(|()| took)
}

/// A script in a bare cgroup: how long the kernel itself takes to end it.
fn killed(scratch: &Scratch, script: &str) -> anyhow::Result<Duration> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let tree = |kind: &str, option: &str| {
        let fields = mounts.lines().map(|l| l.split(' ').collect::<Vec<_>>());
        let mut found = fields.filter(|f| f[2] == kind && (option.is_empty() || f[3].split(',').any(|o| o == option)));
        found.next().map(|f| PathBuf::from(f[1]).join("fish-bench"))
    };
    let unified = tree("cgroup2", "").ok_or_else(|| anyhow::anyhow!("no cgroup2 file system is mounted"))?;
    let pids = tree("cgroup", "pids").unwrap_or_else(|| unified.clone());
    for dir in [&unified, &pids] {
        fs::create_dir_all(dir)?;
    }
    fs::write(pids.join("pids.max"), "503")?;
    let path = scratch.dir("served")?.join("killed.sh");
    fs::write(&path, script)?;
    let log = scratch.dir("served")?.join("killed.log");
    let line = format!(
        "echo 0 > {}/cgroup.procs; echo 0 > {}/cgroup.procs; chmod +x {2}; exec {2} > {3}",
        unified.display(),
        pids.display(),
        path.display(),
        log.display()
    );
    fs::write(&log, "")?;
    let mut child = tool("sh", &["-c", &line]).leave()?;
    while !fs::read_to_string(&log)?.contains("ready") {
        std::thread::sleep(Duration::from_millis(5));
    }
    let since = Instant::now();
    fs::write(unified.join("cgroup.kill"), "1")?;
    while !fs::read_to_string(unified.join("cgroup.events"))?.contains("populated 0") {
        std::thread::sleep(Duration::from_micros(200));
    }
    let took = since.elapsed();
    child.wait()?;
    for dir in [&unified, &pids] {
        // Zombies keep a group busy until init has reaped them.
        while fs::remove_dir(dir).is_err_and(|e| e.kind() != std::io::ErrorKind::NotFound) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(took)
}
