//! `capacity`: how many more of a definition fit, and why not more.

use std::path::Path;
use std::sync::Arc;

use native_config::Source;
use native_driver::{NodeUsage, PrepareOptions, Tenant, WhatIf};

use crate::cli::CapacityArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::load;
use crate::nowhere::Nowhere;

/// Answers from the host and the journals, or from what the command line says in their place.
pub(crate) async fn capacity(context: &Context, args: &CapacityArgs) -> Result<u8, Failure> {
    let (name, config) = context.config()?;
    let label = load::label(context.host.target(), &context.printer, &args.label.label)?;
    let definition = load::definition(&label, &name, args.label.definition)?;
    let usage = match &args.usage {
        Some(path) => NodeUsage::Given(tenants(context, path)?),
        None => NodeUsage::Journals,
    };
    let what_if =
        WhatIf { total_cpu: args.total_cpu, total_ram_gb: args.total_ram, total_disk_gb: args.total_disk, usage };
    let driver = if args.is_what_if() {
        context.driver_on(name, &config, Arc::new(Nowhere), PrepareOptions::READ).await?
    } else {
        context.driver_of(name, &config, PrepareOptions::READ).await?
    };
    let capacity = driver.capacity(&what_if, &definition).await?;
    context.printer.line(capacity.count);
    if args.explain {
        for line in &capacity.explain {
            context.printer.line(line);
        }
    }
    context.printer.document(&capacity);
    Ok(Exit::Done.code())
}

/// What runs, from a file: a label with several definitions is a list of tenants as well as any.
fn tenants(context: &Context, path: &Path) -> Result<Vec<Tenant>, Failure> {
    let text = load::text(path)?;
    let name = load::name(path);
    let wrong = |message: String| {
        Failure::new(Exit::Usage, "usage", format!("{name}: {message}"))
            .hint("a list of definitions, of their `resources`, or of {cpu, ram, disk, multitenancy, ...}")
    };
    let value: serde_json::Value =
        serde_yaml::from_str(&text).map_err(|e| wrong(format!("not a list of what runs: {e}")))?;
    let items = match &value {
        serde_json::Value::Null => return Ok(Vec::new()),
        serde_json::Value::Array(items) => items.clone(),
        serde_json::Value::Object(map) => match ["usage", "environments", "tenants"].iter().find_map(|k| map.get(*k)) {
            Some(serde_json::Value::Array(items)) => items.clone(),
            Some(_) => return Err(wrong("must be a list".to_owned())),
            // A label: each of its definitions is one that runs.
            None => vec![value.clone()],
        },
        _ => return Err(wrong("must be a list".to_owned())),
    };
    let mut tenants = Vec::new();
    for (n, item) in items.iter().enumerate() {
        // A tenant as this program itself prints it.
        if let Ok(tenant) = serde_json::from_value::<Tenant>(item.clone()) {
            tenants.push(tenant);
            continue;
        }
        // Everything else goes through the reader that labels go through, with its checks and its messages.
        let text = definition_text(item).ok_or_else(|| wrong(format!("entry {n} is not a mapping")))?;
        let source = Source::new(&name, &text);
        let checked = native_config::parse_label(&source, context.host.target());
        let (label, _) = checked
            .into_result()
            .map_err(|problems| load::refused("usage", &name, &text, &problems.0, &context.printer))?;
        for definition in label.definitions.iter().filter(|d| d.is_native()) {
            let r = &definition.resources;
            tenants.push(Tenant {
                identifier: item["identifier"].as_str().map_or_else(|| format!("tenant {}", n + 1), str::to_owned),
                cpu: r.cpu,
                ram_gb: r.ram_gb,
                disk_gb: r.disk_gb(),
                multitenancy: r.multitenancy,
                cpu_overbook: r.cpu_overbook,
                ram_overbook: r.ram_overbook,
            });
        }
    }
    Ok(tenants)
}

/// The text of a definition around what an entry of the file gives: itself, or only its resources.
fn definition_text(item: &serde_json::Value) -> Option<String> {
    let map = item.as_object()?;
    let whole = ["driver", "definition", "definitions", "label", "resources"].iter().any(|k| map.contains_key(*k));
    let mut item = item.clone();
    if whole {
        if item.get("resources").is_some() && item.get("driver").is_none() {
            item["driver"] = "native".into();
        }
    } else {
        item = serde_json::json!({ "driver": "native", "resources": item });
    }
    serde_json::to_string_pretty(&item).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn resources_become_a_definition() {
        let text = definition_text(&json!({"cpu": 2, "ram": 4})).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value, json!({"driver": "native", "resources": {"cpu": 2, "ram": 4}}));
        let whole = json!({"driver": "native", "resources": {"cpu": 2, "ram": 4}});
        assert_eq!(serde_json::from_str::<serde_json::Value>(&definition_text(&whole).unwrap()).unwrap(), whole);
        assert!(definition_text(&json!(3)).is_none());
    }
}
