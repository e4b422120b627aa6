//! One function per command.

mod audit;
mod capacity;
mod check;
mod demo;
mod enter;
mod environments;
mod images;
mod reference;
mod run;
mod sudoers;

use native_helper::Host;

use crate::cli::{Cli, Command};
use crate::context::Context;
use crate::failure::Failure;
use crate::printer::Printer;
use crate::watch::Stop;

/// Does what was asked for and returns the exit code.
pub(crate) async fn run(cli: Cli, host: Host, printer: Printer, stop: Stop) -> Result<u8, Failure> {
    let context = Context { host, printer, stop, global: cli.global };
    match cli.command {
        Command::Run(args) => run::run(&context, &args).await,
        Command::Allocate(args) => environments::allocate(&context, &args).await,
        Command::Deallocate(args) => environments::deallocate(&context, &args).await,
        Command::Status { id } => environments::status(&context, &id).await,
        Command::List => environments::list(&context).await,
        Command::Logs { id, follow } => environments::logs(&context, &id, follow).await,
        Command::Exec { id, command } => enter::exec(&context, &id, command).await,
        Command::Shell { id } => enter::shell(&context, &id).await,
        Command::Capacity(args) => capacity::capacity(&context, &args).await,
        Command::Check(args) => check::check(&context, &args),
        Command::Doctor => audit::doctor(&context).await,
        Command::Audit { fix } => audit::audit(&context, fix).await,
        Command::Images(command) => images::images(&context, &command).await,
        Command::Sudoers(args) => sudoers::sudoers(&context, &args),
        Command::Demo => demo::demo(&context).await,
        Command::Completions { shell } => Ok(reference::completions(&context, shell)),
        Command::Man { dir, markdown } => reference::man(&context, dir.as_deref(), markdown),
    }
}
