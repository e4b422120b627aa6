//! `bench capacity` and `bench check`: answers per second on one core, without a host.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use native_capacity::{Request, Tenant, Totals, Usage, available};
use native_config::{Definition, DriverConfig, Source, Target, parse_label};
use native_driver::{Driver, NativeDriver, NodeUsage, PrepareOptions, Watch};
use native_helper::HelperPlatform;
use tokio::runtime::Runtime;

use crate::report::say;

/// How long each figure is measured.
const TIME: Duration = Duration::from_secs(2);

/// Answers per second on one core, for nodes with this many tenants.
pub(super) fn run() -> anyhow::Result<()> {
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
    let (driver, definition, runtime) = (driver()?, definition()?, Runtime::new()?);
    let dir = tempfile::Builder::new().prefix("fish-bench-").tempdir()?;
    let config = DriverConfig {
        images_path: Some(dir.path().to_owned()),
        workspace_path: Some(dir.path().to_owned()),
        ..DriverConfig::default()
    };
    runtime.block_on(driver.prepare(&config, PrepareOptions::READ, Watch::quiet()))?;
    let answers = rate(|| {
        drop(black_box(runtime.block_on(driver.available_capacity(&NodeUsage::Journals, &definition))));
    });
    say(&format!("through the driver, with the host's facts and an empty workspace: {answers:>10.0} answers/s"));
    Ok(())
}

/// A label of the usual size.
const LABEL: &str = "name: bench\nversion: 1\nmetadata: {JENKINS_URL: 'https://ci.example.org/', WORK: '{{ Disks.ws }}'}\n\
    definitions:\n  - driver: native\n    images: [{url: 'https://files.example.org/ci-20260101.000000_0badcafe.tar.xz', \
    sum: 'sha256:0000000000000000000000000000000000000000000000000000000000000000'}]\n    \
    resources: {cpu: 4, ram: 8, multitenancy: true, disks: {ws: {size: 10}}}\n";

/// Labels read and checked per second on one core.
pub(super) fn check() -> anyhow::Result<()> {
    let driver = driver()?;
    driver.validate_definition(&definition()?)?;
    let read = rate(|| {
        black_box(parse_label(black_box(&Source::new("label.yml", LABEL)), Target::current()));
    });
    let checked = rate(|| {
        let label = parse_label(&Source::new("label.yml", LABEL), Target::current()).into_result();
        if let Ok((label, _)) = label {
            drop(black_box(driver.validate_definition(&label.definitions[0])));
        }
    });
    say(&format!("{read:>8.0} labels of {} bytes read/s, {checked:>8.0} read and validated/s", LABEL.len()));
    Ok(())
}

fn driver() -> anyhow::Result<NativeDriver> {
    // Asked for the host's size alone.
    let platform = HelperPlatform::at(super::optimised("fish-native-helper")?.into());
    Ok(NativeDriver::new("native".parse()?, Arc::new(platform)))
}

fn definition() -> anyhow::Result<Definition> {
    let (label, _) = parse_label(&Source::new("label.yml", LABEL), Target::current()).into_result()?;
    label.definitions.into_iter().next().context("a label without a definition")
}

/// How often a second something can be done.
fn rate(work: impl Fn()) -> f64 {
    let start = Instant::now();
    let mut done = 0_u32;
    // The clock is read a hundred times in all: it would be most of the figure otherwise.
    let mut batch = 1;
    while start.elapsed() < TIME {
        let since = Instant::now();
        for _ in 0..batch {
            work();
        }
        done += batch;
        if since.elapsed() < TIME / 100 {
            batch *= 2;
        }
    }
    f64::from(done) / start.elapsed().as_secs_f64()
}
