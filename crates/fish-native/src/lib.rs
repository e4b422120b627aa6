//! The command line of Aquarium Fish's Native driver.
//!
//! Glue and rendering only: every command is a few calls of [`native_driver::Driver`], and whatever a Fish node
//! could want of an operation is there, not here. It is a library so that a program for another host (the
//! emulated Mac of the tests) is this one with another [`Host`], and the released program knows nothing of that.
//!
//! What it does *not* do: it decides nothing about labels, hosts or rights.
//!
//! ```no_run
//! fn main() -> std::process::ExitCode {
//!     fish_native::main(native_helper::Host::current(), std::env::args_os().skip(1).collect())
//! }
//! ```

mod cli;
mod commands;
mod context;
mod escape;
mod exit;
mod failure;
mod load;
mod nowhere;
mod printer;
mod render;
mod watch;

use std::ffi::OsString;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, panic};

use clap::Parser;
use clap::error::ErrorKind;
use native_helper::Host;

use crate::cli::{Cli, Command, LogFormat};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::printer::Printer;
use crate::watch::Stop;

/// Where a bug is reported.
const REPORT: &str = "https://github.com/adobe/aquarium-fish/issues";

/// The whole program, for a host. `args` come after the program's name.
pub fn main(host: Host, args: Vec<OsString>) -> ExitCode {
    // The same program is the root helper and the keeper, chosen by a hidden first argument. This comes before
    // everything else: those must start with one thread and nothing set up.
    if let Some(code) = native_helper::hidden_entry(&host, &args) {
        return code;
    }
    panic::set_hook(Box::new(|bug| {
        use std::io::Write;
        let text = format!(
            "{bug}\nerror: this is a bug of fish-native {}, please report it at {REPORT}\n",
            env!("CARGO_PKG_VERSION")
        );
        // Nobody is left to tell when standard error is gone.
        drop(std::io::stderr().lock().write_all(text.as_bytes()));
    }));
    let code = panic::catch_unwind(AssertUnwindSafe(|| start(host, &args))).unwrap_or(Exit::Bug.code());
    ExitCode::from(code)
}

/// Parses the arguments, does what they ask for, reports; returns the exit code.
fn start(host: Host, args: &[OsString]) -> u8 {
    let program = OsString::from("fish-native");
    let cli = match Cli::try_parse_from(std::iter::once(&program).chain(args)) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, args),
    };
    let printer = Printer::new(&cli.global);
    log(&cli, &printer);
    // Their own codes would be taken for the workload's.
    let beside_a_workload = matches!(cli.command, Command::Run(_) | Command::Exec { .. } | Command::Shell { .. });
    let code = |exit: Exit| if beside_a_workload { exit.beside_a_workload() } else { exit.code() };

    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let failure = Failure::new(Exit::NotReady, "start", "start the threads of the program");
            let failure = Failure { causes: vec![error.to_string()], ..failure };
            failure.report(&printer);
            return code(failure.exit);
        }
    };
    let result = runtime.block_on(async {
        let stop = Stop::default();
        let outcome = commands::run(cli, host, printer.clone(), stop.clone()).await;
        // The driver knows that it was cancelled; which signal did it is known here.
        outcome.map_err(|failure| match (failure.exit, stop.exit()) {
            (Exit::Interrupted, Some(Exit::Terminated)) => {
                Failure { exit: Exit::Terminated, message: "terminated".to_owned(), ..failure }
            }
            _ => failure,
        })
    });
    // What was cancelled may still be removing its half-made files.
    runtime.shutdown_timeout(Duration::from_secs(10));
    match result {
        Ok(code) => code,
        Err(failure) => {
            failure.report(&printer);
            code(failure.exit)
        }
    }
}

/// What clap says: help and version are results, the rest is a wrong use.
fn usage(error: &clap::Error, args: &[OsString]) -> u8 {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A reader that went away has read enough.
        drop(error.print());
        return Exit::Done.code();
    }
    drop(error.print());
    let asked = |word: &str| args.iter().take_while(|a| *a != "--").any(|a| a == word);
    if asked("--json") {
        let global = cli::Global {
            config: None,
            instance: String::new(),
            json: true,
            verbose: 0,
            quiet: true,
            log_format: LogFormat::Text,
        };
        let text = error.render().to_string();
        // The first paragraph says what is wrong; the usage follows.
        let words = text.lines().take_while(|line| !line.is_empty()).map(str::trim);
        let message = words.collect::<Vec<_>>().join(" ").trim_start_matches("error: ").to_owned();
        Printer::new(&global).document(&Failure::usage(message).hint("`fish-native --help`").document());
    }
    Exit::Usage.code()
}

/// Log lines of the libraries go to standard error: warnings always, more with `-v`, everything of ours with `-vv`.
fn log(cli: &Cli, printer: &Printer) {
    use tracing_subscriber::EnvFilter;
    let ours = |level: &str| {
        ["fish_native", "native_driver", "native_images", "native_helper", "native_platform_linux"]
            .map(|name| format!("{name}={level}"))
            .join(",")
    };
    let filter = match (cli.global.quiet, cli.global.verbose) {
        (true, _) => "error".to_owned(),
        // What a command has to say it says itself.
        (false, 0) => "error".to_owned(),
        (false, 1) => format!("warn,{}", ours("info")),
        (false, 2) => format!("info,{}", ours("debug")),
        (false, _) => "trace".to_owned(),
    };
    let filter = EnvFilter::new(env::var("FISH_NATIVE_LOG").unwrap_or(filter));
    let writer = printer.clone();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || writer.log_writer());
    // The second of two subscribers would be refused; there is only this one.
    match cli.global.log_format {
        LogFormat::Json => builder.json().init(),
        LogFormat::Text => builder.with_ansi(printer.colours_stderr()).with_target(false).init(),
    }
}
