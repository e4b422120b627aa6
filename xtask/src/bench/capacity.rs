//! Answers of the capacity accounting, per second on one core.

use std::hint::black_box;
use std::time::{Duration, Instant};

use native_capacity::{Request, Tenant, Totals, Usage, available};

use crate::report::say;

/// How long each figure is measured.
const TIME: Duration = Duration::from_secs(2);

/// Measures nodes with different numbers of tenants.
pub(crate) fn run() -> anyhow::Result<()> {
    for tenants in [0, 2, 20, 200] {
        let node = Totals { cpu: 256, ram_gb: 2048, disk_gb: Some(100_000), cpu_overbook: 64, ..Totals::default() };
        let tenant =
            Tenant { cpu: 1, ram_gb: 4, disk_gb: 20, multitenancy: true, cpu_overbook: true, ram_overbook: true };
        let mut usage = Usage::new();
        for n in 0..tenants {
            // Small numbers that fit; the names are all different.
            usage.add(&format!("fish-{n:06}"), tenant)?;
        }
        let request = Request::from(tenant);
        let numbers = rate(|| {
            black_box(available(black_box(&node), black_box(&usage), black_box(&request)));
        });
        let explained = rate(|| {
            black_box(available(black_box(&node), black_box(&usage), black_box(&request)).explain.all());
        });
        say(&format!("{tenants:>4} tenants: {numbers:>12.0} answers/s, {explained:>10.0} put into words/s"));
    }
    Ok(())
}

/// How often a second something can be done.
fn rate(work: impl Fn()) -> f64 {
    let start = Instant::now();
    let mut done = 0_u32;
    while start.elapsed() < TIME {
        // The clock is read once in a thousand times: it would be most of the figure otherwise.
        for _ in 0..1000 {
            work();
        }
        done += 1000;
    }
    f64::from(done) / start.elapsed().as_secs_f64()
}
