//! Medians, and the tables of `docs/src/performance.md`.

use std::time::Duration;

use crate::report::say;

/// Measured times of one thing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    /// One more.
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// All of another's.
    pub(crate) fn extend(&mut self, other: &Self) {
        self.0.extend(&other.0);
    }

    /// The median in ms.
    pub(crate) fn median(&self) -> f64 {
        self.at(0.5)
    }

    /// In ms: so much of the times are below it.
    pub(crate) fn at(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a short list's length")]
        let n = (sorted.len().saturating_sub(1) as f64 * part).round() as usize;
        sorted.get(n).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
    }
}

/// The first line of a table, and the line below it.
pub(crate) fn head(columns: &[&str]) {
    say(&format!("| {} |", columns.join(" | ")));
    say(&format!("|{}", " --- |".repeat(columns.len())));
}

/// A line of a table.
pub(crate) fn row(cells: &[&str]) {
    say(&format!("| {} |", cells.join(" | ")));
}

/// Milliseconds as people read them.
pub(crate) fn ms(time: f64) -> String {
    if time >= 100.0 { format!("{time:.0} ms") } else { format!("{time:.1} ms") }
}

/// What the figures were taken on.
pub(crate) fn machine() {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu =
        cpu.lines().find_map(|l| l.strip_prefix("model name")).map_or("?", |l| l.trim_start_matches(['\t', ':', ' ']));
    let memory = read("/proc/meminfo");
    let memory: u64 =
        memory.lines().find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0);
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    say(&format!(
        "{cpus} CPUs ({cpu}), {} GB, Linux {}, ext4 with a journal on a loop device\n",
        memory.div_ceil(1 << 20),
        read("/proc/sys/kernel/osrelease").trim(),
    ));
}
