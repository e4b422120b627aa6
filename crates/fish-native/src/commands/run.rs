//! `run`: the whole life of an environment in one command.

use std::time::Duration;

use native_driver::{Allocated, Deallocated, Driver, LogReader, ObserveError, PrepareOptions};
use native_platform::Exit as Ended;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::cli::RunArgs;
use crate::context::Context;
use crate::escape::Escape;
use crate::failure::Failure;
use crate::printer::Printer;
use crate::watch::{unstoppable, watch};

/// How long the output of an environment that has ended may take to be passed on.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Allocates, passes the workload's output through, waits, deallocates.
pub(crate) async fn run(context: &Context, args: &RunArgs) -> Result<u8, Failure> {
    let (name, config) = context.config()?;
    let request = context.request(&name, &args.allocate)?;
    if args.dry_run {
        let driver = context.driver_of(name, &config, PrepareOptions::READ).await?;
        let plan = driver.plan(&request).await?;
        for warning in &plan.warnings {
            context.printer.warning(warning);
        }
        context.printer.line(plan.to_string().trim_end());
        context.printer.document(&json!({ "steps": plan.steps, "warnings": plan.warnings }));
        return Ok(0);
    }
    let driver = context.driver_of(name, &config, PrepareOptions::CHANGE).await?;
    let allocated = driver.allocate(request, watch(&context.printer, &context.stop)).await?;
    let whole = whole_run(context, driver.as_ref(), &allocated, args.keep).await?;
    context.printer.document(&whole.document(&allocated));
    Ok(whole.code())
}

/// A workload that has ended, and its environment that is gone, unless it was to be kept.
#[derive(Debug)]
pub(crate) struct Whole {
    /// How the workload ended.
    pub ended: Ended,
    /// How the environment went away.
    pub gone: Option<Deallocated>,
}

impl Whole {
    /// The exit code that the workload's own makes.
    pub(crate) fn code(&self) -> u8 {
        // Codes are bytes, and 128 + a signal fits as well.
        u8::try_from(self.ended.code).unwrap_or(u8::MAX)
    }

    /// The document of `run`.
    pub(crate) fn document(&self, allocated: &Allocated) -> Value {
        let mut document = json!(allocated);
        document["exit_code"] = json!(self.ended.code);
        document["exit"] = json!(self.ended);
        if let Some(gone) = &self.gone {
            document["timings_ms"]["stop"] = json!(gone.timings_ms.stop);
            document["timings_ms"]["revert"] = json!(gone.timings_ms.revert);
            document["timings_ms"]["audit"] = json!(gone.timings_ms.audit);
            document["audit"] = json!(gone.audit);
        }
        document
    }
}

/// Passes the output of an environment through until its workload ends or a signal comes, then removes it.
pub(crate) async fn whole_run(
    context: &Context,
    driver: &dyn Driver,
    allocated: &Allocated,
    keep: bool,
) -> Result<Whole, Failure> {
    let (id, printer) = (&allocated.identifier, &context.printer);
    let pump = match driver.logs(id, true).await {
        Ok(reader) => Some(tokio::spawn(pump(reader, printer.clone()))),
        Err(error) => {
            printer.warning(format_args!("the workload's output can't be read: {error}"));
            None
        }
    };
    let ended = driver.wait(id, context.stop.token()).await;
    let mut output = pump.map(|pump| Output { pump, printer: printer.clone() });
    if ended.is_ok() {
        // All that it printed comes before anything that is said about its end.
        Output::to_its_end(output.take()).await;
    }
    if keep {
        printer.note(format_args!("kept {id}; `fish-native deallocate {id}` removes it"));
        return match ended {
            Ok(ended) => Ok(Whole { ended, gone: None }),
            Err(ObserveError::Cancelled) => Err(context.stop.failure("run").with("identifier", json!(id))),
            Err(error) => Err(error.into()),
        };
    }
    if let Ok(ended) = &ended {
        say_how_it_ended(printer, ended);
    }
    let gone = driver.deallocate(id, unstoppable(printer)).await;
    // A workload that was told to stop may have had something to say about it.
    Output::to_its_end(output).await;
    match (ended, gone) {
        (Ok(ended), Ok(gone)) => {
            printer.note(format_args!("  {id} is gone; audit: clean"));
            Ok(Whole { ended, gone: Some(gone) })
        }
        // What was left behind matters more than why the run had ended.
        (ended, Err(error)) => {
            let code = ended.map(|e| e.code).ok();
            Err(Failure::from(error).with("identifier", json!(id)).with("exit_code", json!(code)))
        }
        (Err(ObserveError::Cancelled), Ok(gone)) => {
            printer.note(format_args!("  {id} is gone; audit: clean"));
            let failure = context.stop.failure("run");
            Err(failure.with("identifier", json!(id)).with("audit", json!(gone.audit)))
        }
        (Err(error), Ok(gone)) => {
            Err(Failure::from(error).with("identifier", json!(id)).with("audit", json!(gone.audit)))
        }
    }
}

fn say_how_it_ended(printer: &Printer, ended: &Ended) {
    if ended.out_of_memory {
        printer.warning("the workload ran out of memory: it needs more `ram` in the label");
    }
    if ended.lifetime_over {
        printer.warning("the workload's lifetime was over, so it was stopped");
    }
    match ended.signal {
        Some(signal) => printer.note(format_args!("  the workload was ended by signal {signal}")),
        None => printer.note(format_args!("  the workload ended with exit code {}", ended.code)),
    }
}

/// A workload's output on its way to ours.
struct Output {
    pump: JoinHandle<Result<(), ObserveError>>,
    printer: Printer,
}

impl Output {
    /// Waits until everything has been passed on. Its end is the workload's, or the environment's.
    async fn to_its_end(output: Option<Self>) {
        let Some(Self { pump, printer }) = output else { return };
        match timeout(LAST_WORDS, pump).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => printer.warning(format_args!("the workload's output ends early: {error}")),
            Ok(Err(bug)) => printer.warning(format_args!("the workload's output ends early: {bug}")),
            // It is still up: then its removal has failed, which is what is to be told.
            Err(_) => {}
        }
    }
}

/// Passes on what a workload prints, to the log's end.
pub(crate) async fn pump(mut reader: LogReader, printer: Printer) -> Result<(), ObserveError> {
    let mut escape = Escape::default();
    while let Some(bytes) = reader.next().await? {
        printer.log(&mut escape, &bytes);
    }
    Ok(())
}
