//! `check`: configurations and labels, without touching the host.

use native_config::{Problem, Severity, Source};
use serde_json::json;

use crate::cli::{CheckArgs, Kind};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::{load, render};

/// Validates files; or prints the schema of one kind of them.
pub(crate) fn check(context: &Context, args: &CheckArgs) -> Result<u8, Failure> {
    if let Some(kind) = args.schema {
        let schema = match kind {
            Kind::Label => native_config::json_schema_label(),
            Kind::Config => native_config::json_schema_config(),
        };
        let text = serde_json::to_string_pretty(&schema).unwrap_or_default();
        context.printer.line(text);
        context.printer.document(&schema);
        return Ok(Exit::Done.code());
    }
    let mut all: Vec<Problem> = Vec::new();
    let mut valid = true;
    for path in &args.files {
        let name = load::name(path);
        let text = match load::text(path) {
            Ok(text) => text,
            Err(failure) => {
                // One file that can't be read says nothing about the others.
                let problem = unread(name.clone(), &failure);
                if !context.printer.is_json() {
                    context.printer.error(&problem.message);
                }
                context.printer.line(format!("{name}: not read"));
                valid = false;
                all.push(problem);
                continue;
            }
        };
        let source = Source::new(&name, &text);
        let kind = match args.kind {
            Some(Kind::Label) => native_config::Kind::Label,
            Some(Kind::Config) => native_config::Kind::Config,
            None => native_config::sniff(&source),
        };
        let (word, problems) = match kind {
            native_config::Kind::Label => {
                ("label", native_config::parse_label(&source, context.host.target()).problems)
            }
            native_config::Kind::Config => {
                ("config", native_config::parse_config(&source, context.host.target()).problems)
            }
        };
        let errors = problems.iter().filter(|p| p.severity == Severity::Error).count();
        if !problems.is_empty() && !context.printer.is_json() {
            context.printer.rendered(&render::problems(&text, &problems, context.printer.colours_stderr()));
        }
        let warnings = problems.len() - errors;
        context.printer.line(match (errors, warnings) {
            (0, 0) => format!("{name}: {word}, valid"),
            (0, n) => format!("{name}: {word}, valid, {}", count(n, "warning")),
            (n, _) => format!("{name}: {word}, {}", count(n, "error")),
        });
        valid &= errors == 0;
        all.extend(problems);
    }
    context.printer.document(&json!({ "valid": valid, "problems": all }));
    Ok(if valid { Exit::Done.code() } else { Exit::Usage.code() })
}

/// The problem of a file as a whole.
fn unread(file: String, failure: &Failure) -> Problem {
    let message = std::iter::once(&failure.message).chain(&failure.causes).cloned().collect::<Vec<_>>().join(": ");
    Problem {
        file,
        line: 1,
        column: 1,
        field: String::new(),
        message,
        hint: failure.hint.clone(),
        severity: Severity::Error,
    }
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
