//! `exec` and `shell`: into an environment, as its user.

use std::io::{self, IsTerminal};

use native_driver::{OutputSink, PrepareOptions};
use native_platform::{Enter, Stream};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;

/// Runs a command and passes its output and exit code through.
pub(crate) async fn exec(context: &Context, id: &str, command: Vec<String>) -> Result<u8, Failure> {
    enter(context, id, Enter { command, terminal: None, variables: Vec::new() }).await
}

/// Runs a shell: with a terminal if we are at one.
pub(crate) async fn shell(context: &Context, id: &str) -> Result<u8, Failure> {
    let terminal = if io::stdin().is_terminal() && io::stdout().is_terminal() {
        let size = tcgetwinsize(io::stdout()).ok();
        Some(size.map_or((80, 24), |size| (size.ws_col, size.ws_row)))
    } else {
        None
    };
    let term = std::env::var("TERM").ok().filter(|_| terminal.is_some());
    let variables = term.map(|term| ("TERM".to_owned(), term)).into_iter().collect();
    // From here to the end every key goes inside, Ctrl-C too; the terminal is put back whatever happens.
    let raw = if terminal.is_some() { Raw::begin() } else { None };
    let code = enter(context, id, Enter { command: Vec::new(), terminal, variables }).await;
    drop(raw);
    code
}

async fn enter(context: &Context, id: &str, command: Enter) -> Result<u8, Failure> {
    let id = context.id(id)?;
    let driver = context.driver(PrepareOptions::READ).await?;
    let printer = context.printer.clone();
    let sink: OutputSink = Box::new(move |stream, bytes| match stream {
        Stream::Out => printer.workload(bytes),
        Stream::Err => printer.workload_error(bytes),
    });
    let token = context.stop.token();
    let code = tokio::select! {
        code = driver.enter(&id, command, Box::new(io::stdin()), sink) => code?,
        () = token.cancelled() => return Err(context.stop.failure("exec")),
    };
    context.printer.document(&json!({ "identifier": id, "exit_code": code }));
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}

/// A terminal that hands on every key as it is, until it is dropped.
struct Raw(Termios);

impl Raw {
    fn begin() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal went away: there is nothing to put back.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
