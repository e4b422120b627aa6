//! A node in a page: takes label files, asks for capacity, allocates, waits for the lifetime or the end, deallocates.
//!
//! ```text
//! cargo run -p native-driver --example node -- label.yml [label.yml...]
//! ```
//!
//! Ctrl-C ends it, and nothing is left behind.

#![expect(clippy::print_stdout, reason = "an example talks to whoever started it")]

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;

use native_config::{DriverConfig, Label, Source, Target, parse_label};
use native_driver::{AllocateRequest, Driver, NativeDriver, NodeUsage, ObserveError, PrepareOptions, Progress, Watch};
use native_helper::Host;
use tokio_util::sync::CancellationToken;

/// The life of one environment.
async fn serve(
    driver: Arc<dyn Driver>,
    label: Label,
    stop: CancellationToken,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let Some(definition) = label.definitions.into_iter().find(|d| d.is_native()) else {
        return Err("the label has no definition for this driver".into());
    };
    driver.validate_definition(&definition)?;
    let capacity = driver.available_capacity(&NodeUsage::Journals, &definition).await?;
    if capacity.count == 0 {
        return Err(capacity.explain.join("; ").into());
    }
    let request = AllocateRequest { label_metadata: label.metadata, ..AllocateRequest::new(definition) };
    let watch = Watch::new(stop.clone(), |event| match event {
        Progress::Finished { phase, ms } => println!("  {phase}: {ms} ms"),
        Progress::Warning(text) => println!("  warning: {text}"),
        _ => {}
    });
    let made = driver.allocate(request, watch).await?;
    println!("{} is up as uid {}, home {}", made.identifier, made.uid, made.home.display());

    // The keeper ends the workload when its lifetime is over, so that the end is all there is to wait for.
    let ended = driver.wait(&made.identifier, stop).await;
    let gone = driver.deallocate(&made.identifier, Watch::quiet()).await?;
    match ended {
        Ok(exit) if exit.lifetime_over => println!("{}: its lifetime was over", made.identifier),
        Ok(exit) => println!("{}: ended with {}", made.identifier, exit.code),
        Err(ObserveError::Cancelled) => println!("{}: interrupted", made.identifier),
        Err(error) => return Err(error.into()),
    }
    println!("{}: gone, {} left behind", gone.identifier, gone.audit.leaked.len());
    Ok(())
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    // This very program may have been started as its own helper.
    let (host, args) = (Host::current(), std::env::args_os().skip(1).collect::<Vec<_>>());
    if let Some(code) = native_helper::hidden_entry(&host, &args) {
        return Ok(code);
    }
    let config = DriverConfig::default();
    // With the rights that the configuration asks for.
    let platform = native_helper::open(&host, &config)?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let driver: Arc<dyn Driver> = Arc::new(NativeDriver::new("native".parse()?, platform));
        driver.prepare(&config, PrepareOptions::NODE, Watch::quiet()).await?;
        let stop = CancellationToken::new();
        let mut tasks = tokio::task::JoinSet::new();
        for path in std::env::args().skip(1) {
            let text = std::fs::read_to_string(&path)?;
            let (label, _) = parse_label(&Source::new(&path, &text), Target::current()).into_result()?;
            tasks.spawn(serve(Arc::clone(&driver), label, stop.clone()));
        }
        let mut code = ExitCode::SUCCESS;
        loop {
            tokio::select! {
                _ = tokio::signal::ctrl_c(), if !stop.is_cancelled() => stop.cancel(),
                joined = tasks.join_next() => match joined {
                    None => return Ok(code),
                    Some(joined) => if let Err(error) = joined? {
                        println!("failed: {error}");
                        code = ExitCode::FAILURE;
                    }
                }
            }
        }
    })
}
