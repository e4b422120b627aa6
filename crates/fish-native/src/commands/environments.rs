//! `allocate`, `deallocate`, `status`, `list`, `logs`.

use comfy_table::{Table, presets};
use native_config::EnvironmentId;
use native_driver::{DeallocateError, EnvironmentStatus, ObserveError, PrepareOptions, Status};
use serde_json::{Value, json};

use super::run::pump;
use crate::cli::{AllocateArgs, DeallocateArgs};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::watch::watch;

/// Makes an environment, starts its workload and prints its identifier.
pub(crate) async fn allocate(context: &Context, args: &AllocateArgs) -> Result<u8, Failure> {
    let (name, config) = context.config()?;
    let request = context.request(&name, args)?;
    let driver = context.driver_of(name, &config, PrepareOptions::CHANGE).await?;
    let allocated = driver.allocate(request, watch(&context.printer, &context.stop)).await?;
    context.printer.line(&allocated.identifier);
    context.printer.document(&allocated);
    Ok(0)
}

/// Removes environments; goes on after a failure, so that one that is stuck does not keep the others.
pub(crate) async fn deallocate(context: &Context, args: &DeallocateArgs) -> Result<u8, Failure> {
    let ids = args.ids.iter().map(|id| context.id(id)).collect::<Result<Vec<_>, _>>()?;
    let driver = context.driver(PrepareOptions { recover: args.all, ..PrepareOptions::READ }).await?;
    let ids: Vec<EnvironmentId> =
        if args.all { driver.list().await?.into_iter().map(|e| e.identifier).collect() } else { ids };
    let mut gone = Vec::new();
    let mut failures: Vec<(EnvironmentId, DeallocateError)> = Vec::new();
    let mut wanted = ids;
    loop {
        let gone_before = gone.len();
        for id in std::mem::take(&mut wanted) {
            match driver.deallocate(&id, watch(&context.printer, &context.stop)).await {
                Ok(done) => {
                    context.printer.line(format_args!("{id} is gone; audit: clean"));
                    gone.push(done);
                }
                // Another driver was quicker.
                Err(DeallocateError::NoSuch(_)) if args.all => {}
                Err(error) => failures.push((id, error)),
            }
        }
        // What kept one from going may have been another one, which is gone now.
        if !args.all || failures.is_empty() || gone.len() == gone_before || context.stop.exit().is_some() {
            break;
        }
        wanted.extend(failures.drain(..).map(|(id, _)| id));
    }
    let mut failures: Vec<Failure> = failures.into_iter().map(|(_, error)| error.into()).collect();
    // The one that matters most is the last that is said, and the one that programs are told.
    failures.sort_by_key(|f| f.exit == Exit::LeftBehind);
    let Some(mut last) = failures.pop() else {
        context.printer.document(&json!({ "environments": gone }));
        return Ok(0);
    };
    for failure in failures {
        last.detail.left.extend(failure.detail.left);
        last.detail.leaked.extend(failure.detail.leaked);
        context.printer.error(&failure.message);
    }
    Err(last.with("environments", json!(gone)))
}

/// What one environment is doing.
pub(crate) async fn status(context: &Context, id: &str) -> Result<u8, Failure> {
    let absent = |id: &str| {
        // Both at once: who looks at the result learns `NONE`, who looks at the code learns 15.
        context.printer.line(format_args!("identifier  {id}\nstatus      NONE"));
        Failure::new(Exit::Absent, "status", format!("there is no environment {id}"))
            .hint("`fish-native list` shows what there is")
            .with("identifier", json!(id))
            .with("status", json!(Status::None))
            .with("phase", Value::Null)
            .with("running", json!(false))
            .with("exit_code", Value::Null)
            .with("pids", json!(0))
            .with("usage", json!({ "cpu_seconds": 0.0, "memory_bytes": 0, "disk_bytes": 0 }))
    };
    let Ok(known) = id.parse::<EnvironmentId>() else { return Err(absent(id)) };
    let driver = context.driver(PrepareOptions::READ).await?;
    let status = match driver.inspect(&known).await {
        Err(ObserveError::NoSuch(_)) => return Err(absent(id)),
        other => other?,
    };
    context.printer.line(details(&status));
    context.printer.document(&status);
    Ok(0)
}

/// What all environments are doing.
pub(crate) async fn list(context: &Context) -> Result<u8, Failure> {
    let driver = context.driver(PrepareOptions::READ).await?;
    let environments = driver.list().await?;
    if !context.printer.is_json() {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["identifier", "phase", "workload", "pids", "cpu s", "memory", "disk", "created"]);
        for e in &environments {
            table.add_row([
                e.identifier.to_string(),
                word(&json!(e.phase)),
                workload(e),
                e.pids.to_string(),
                format!("{:.1}", e.usage.cpu_seconds),
                indicatif::HumanBytes(e.usage.memory_bytes).to_string(),
                indicatif::HumanBytes(e.usage.disk_bytes).to_string(),
                seconds(&e.created),
            ]);
        }
        if environments.is_empty() {
            context.printer.note("no environments");
        } else {
            context.printer.line(table.trim_fmt());
        }
    }
    context.printer.document(&json!({ "environments": environments }));
    Ok(0)
}

/// What a workload printed.
pub(crate) async fn logs(context: &Context, id: &str, follow: bool) -> Result<u8, Failure> {
    let id = context.id(id)?;
    let driver = context.driver(PrepareOptions::READ).await?;
    let mut reader = driver.logs(&id, follow).await?;
    let token = context.stop.token();
    if context.printer.is_json() {
        let mut log = Vec::new();
        while let Some(bytes) = tokio::select! {
            bytes = reader.next() => bytes?,
            () = token.cancelled() => None,
        } {
            log.extend_from_slice(&bytes);
        }
        context.printer.document(&json!({ "identifier": id, "log": String::from_utf8_lossy(&log) }));
    } else {
        tokio::select! {
            read = pump(reader, context.printer.clone()) => read?,
            () = token.cancelled() => return Err(context.stop.failure("logs")),
        }
    }
    Ok(0)
}

/// An environment for people, one line per fact.
fn details(e: &EnvironmentStatus) -> String {
    let mut rows = vec![
        ("identifier", e.identifier.to_string()),
        ("status", word(&json!(e.status))),
        ("phase", word(&json!(e.phase))),
        ("workload", workload(e)),
        ("account", format!("{}{}", e.user, e.uid.map(|uid| format!(", uid {uid}")).unwrap_or_default())),
        ("home", e.home.display().to_string()),
    ];
    rows.extend(e.disks.iter().map(|(name, path)| ("disk", format!("{name} at {}", path.display()))));
    rows.extend(e.layers.iter().map(|(volume, method)| ("layers", format!("{volume} by {method}"))));
    rows.extend([
        ("pids", e.pids.to_string()),
        ("limits", format!("{} CPU, {} GB memory, {} GB disk", e.limits.cpu, e.limits.ram_gb, e.limits.disk_gb)),
        (
            "usage",
            format!(
                "{:.1} s CPU, {} memory, {} disk",
                e.usage.cpu_seconds,
                indicatif::HumanBytes(e.usage.memory_bytes),
                indicatif::HumanBytes(e.usage.disk_bytes),
            ),
        ),
        ("created", seconds(&e.created)),
    ]);
    rows.extend(e.problems.iter().map(|p| ("problem", p.clone())));
    rows.iter().map(|(name, value)| format!("{name:<11} {value}")).collect::<Vec<_>>().join("\n")
}

/// A time without its fraction of a second, which only programs want.
fn seconds(time: &str) -> String {
    time.split_once('.').map_or_else(|| time.to_owned(), |(whole, _)| format!("{whole}Z"))
}

fn workload(e: &EnvironmentStatus) -> String {
    match (e.running, e.exit_code) {
        (true, _) => "running".to_owned(),
        (false, Some(code)) => format!("ended with {code}"),
        (false, None) => "not running".to_owned(),
    }
}

/// A unit variant as it is in the document.
fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
