//! `audit` and `doctor`: what is left on this host, and whether it is ready.

use native_driver::{Audit, PrepareOptions};

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::watch::{unstoppable, watch};

/// Searches for leftovers, and removes them if asked to.
pub(crate) async fn audit(context: &Context, fix: bool) -> Result<u8, Failure> {
    let recover = PrepareOptions { recover: true, ..PrepareOptions::READ };
    let driver = context.driver(if fix { recover } else { PrepareOptions::READ }).await?;
    let audit = if fix {
        let fixed = driver.audit_fix(unstoppable(&context.printer)).await?;
        context.recovered(&fixed.recovered);
        context.printer.document(&fixed);
        fixed.audit
    } else {
        let audit = driver.audit().await?;
        context.printer.document(&audit);
        audit
    };
    say(context, &audit, fix);
    Ok(if audit.clean { Exit::Done.code() } else { Exit::LeftBehind.code() })
}

fn say(context: &Context, audit: &Audit, fixed: bool) {
    if audit.clean {
        context.printer.line("clean: nothing of ours is left on this host");
        return;
    }
    for leak in &audit.leaked {
        let whose = leak.identifier.as_ref().map(|id| format!("{id}: ")).unwrap_or_default();
        context.printer.line(format_args!("{whose}{} {}", leak.kind, leak.path));
    }
    let advice = if fixed { "these could not be removed" } else { "`fish-native audit --fix` removes what is ours" };
    context.printer.hint(advice);
}

/// Every right and tool, and a full round trip.
pub(crate) async fn doctor(context: &Context) -> Result<u8, Failure> {
    // As a node starts, except that what is missing is an answer here and not an error.
    let options = PrepareOptions { recover: true, ..PrepareOptions::READ };
    let driver = context.driver(options).await?;
    let verified = driver.verify(watch(&context.printer, &context.stop)).await?;
    for check in &verified.checks {
        let mark = if check.ok { "ok     " } else { "MISSING" };
        context.printer.line(format_args!("{mark} {:<20} {}", check.id, check.detail));
        if !check.ok && !check.fix.is_empty() {
            context.printer.line(format_args!("        {:<20} fix: {}", "", check.fix));
        }
    }
    context.printer.line(if verified.ready { "this host is ready" } else { "this host is not ready" });
    context.printer.document(&verified);
    Ok(if verified.ready { Exit::Done.code() } else { Exit::NotReady.code() })
}
