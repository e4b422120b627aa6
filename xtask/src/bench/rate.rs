//! `bench rate`: environments per second at several concurrencies, and the memory of each process.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use native_config::AccountKind;
use native_driver::{AllocateRequest, Watch};

use super::allocate::IDLE;
use super::measure::turn;
use super::node::{Image, Node, image, reap_keepers};
use super::scratch::Scratch;
use super::server;
use super::table::{head, machine, row};
use crate::report::say;

/// How long each concurrency is measured.
const TIME: Duration = Duration::from_secs(3);
/// How often, in turns.
const ROUNDS: usize = 3;

pub(super) fn run() -> anyhow::Result<()> {
    let scratch = Scratch::new(1024)?;
    let server = server::start(&scratch.dir("served")?)?;
    let image = image(&scratch, &server, "rate", (20_000, 20_000), IDLE, 1)?;
    let nodes = [
        ("real", Node::new(&scratch, AccountKind::Real, |_| {})?),
        ("ephemeral", Node::new(&scratch, AccountKind::Ephemeral, |_| {})?),
    ];
    let mut rates: BTreeMap<(usize, &str), Vec<f64>> = BTreeMap::new();
    let _turn = turn()?;
    reap_keepers()?;
    let memory = Memory::watch();
    for _ in 0..ROUNDS {
        for together in [1, 2, 8, 32] {
            for (name, node) in &nodes {
                rates.entry((together, name)).or_default().push(cycles(node, &image, together)?);
            }
        }
    }
    let peaks = memory.stop();
    machine();
    head(&["at once", "account: real", "account: ephemeral"]);
    for together in [1, 2, 8, 32] {
        let told = |name: &str| {
            let mut all = rates.get(&(together, name)).cloned().unwrap_or_default();
            all.sort_by(f64::total_cmp);
            format!("{:.0}/s", all.get(all.len() / 2).copied().unwrap_or(f64::NAN))
        };
        row(&[&together.to_string(), &told("real"), &told("ephemeral")]);
    }
    say("");
    head(&["process", "peak resident", "private"]);
    for (name, (resident, private)) in peaks {
        row(&[&name, &format!("{:.1} MB", resident / 1024.0), &format!("{:.1} MB", private / 1024.0)]);
    }
    Ok(())
}

/// Environments made and removed per second by so many loops. That one of them fails ends the bench.
fn cycles(node: &Node, image: &Image, together: usize) -> anyhow::Result<f64> {
    let done = Arc::new(AtomicUsize::new(0));
    let since = Instant::now();
    let tasks: Vec<_> = (0..together)
        .map(|_| {
            let (driver, definition, done) = (Arc::clone(&node.driver), image.definition.clone(), Arc::clone(&done));
            node.runtime.spawn(async move {
                while since.elapsed() < TIME {
                    let made = driver.allocate(AllocateRequest::new(definition.clone()), Watch::quiet()).await?;
                    driver.deallocate(&made.identifier, Watch::quiet()).await?;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for task in tasks {
        node.runtime.block_on(task)??;
    }
    #[expect(clippy::cast_precision_loss, reason = "a few thousands")]
    let done = done.load(Ordering::Relaxed) as f64;
    Ok(done / since.elapsed().as_secs_f64())
}

/// The most memory that each sort of process was seen with, in KiB: resident, and of that private.
type Peaks = BTreeMap<String, (f64, f64)>;

/// Looks at this process and its descendants until it is stopped.
struct Memory {
    over: Arc<AtomicBool>,
    peaks: Arc<Mutex<Peaks>>,
    thread: thread::JoinHandle<()>,
}

impl Memory {
    fn watch() -> Self {
        let (over, peaks) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Peaks::new())));
        let (stop, seen) = (Arc::clone(&over), Arc::clone(&peaks));
        let thread = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                look(&seen);
                thread::sleep(Duration::from_millis(50));
            }
        });
        Self { over, peaks, thread }
    }

    fn stop(self) -> Peaks {
        self.over.store(true, Ordering::Relaxed);
        drop(self.thread.join());
        self.peaks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn look(peaks: &Mutex<Peaks>) {
    let own = std::process::id().to_string();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(name) = fs::read_to_string(entry.path().join("comm")) else { continue };
        let name = match name.trim() {
            _ if *entry.file_name() == *own => "driver (this bench)",
            // The kernel keeps 15 letters of it.
            "fish-native-hel" => "helper",
            "fish-keeper" => "keeper",
            "fish-init" => "first process of the namespaces",
            _ => continue,
        };
        let Ok(rollup) = fs::read_to_string(entry.path().join("smaps_rollup")) else { continue };
        let sum = |wanted: &[&str]| -> f64 {
            let fields = rollup.lines().filter_map(|l| l.split_once(':')).filter(|(n, _)| wanted.contains(n));
            fields.filter_map(|(_, v)| v.trim().trim_end_matches(" kB").parse::<f64>().ok()).sum()
        };
        let (resident, private) = (sum(&["Rss"]), sum(&["Private_Clean", "Private_Dirty"]));
        let mut peaks = peaks.lock().unwrap_or_else(PoisonError::into_inner);
        let peak = peaks.entry(name.to_owned()).or_default();
        *peak = (peak.0.max(resident), peak.1.max(private));
    }
}
