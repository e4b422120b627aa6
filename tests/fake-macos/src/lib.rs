//! The tools of macOS that the driver runs, emulated on Linux.
//!
//! One binary plays them all: installed under each tool's name it answers with the texts and the exit codes
//! that macOS gives, and it really does what the tool does, below one directory: files get real owners, `su`
//! really changes the user, `pkill` really kills. The directory of users, the disk images, the mounts and
//! launchd's domains are one JSON document there.
//!
//! What it does *not* do: it is no model of the driver. Its sources are Apple's published code, manual pages and
//! what other projects report; an argument that is not described there ends with 250 and
//! `FAKE: unsupported argv`, so that a test fails loudly. It needs root, because it changes owners; a suite
//! without root says so and skips. It emulates no timing, no prompt, no Background session and no file
//! system's quota.
//!
//! ```
//! use fake_macos::Reply;
//!
//! let reply = Reply::failed(56, "<dscl_cmd> DS Error: -14136 (eDSRecordNotFound)\n");
//! assert_eq!((reply.code, reply.out.as_str()), (56, ""));
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | [`host`] | the emulated host: its directory, its document, its settings |
//! | [`fault`] | what goes wrong, by script |
//! | [`sudoers`] | sudo's matching of a command with the rules |
//! | [`tools`] | the tools |

pub mod base;
pub mod fault;
pub mod host;
pub mod pattern;
pub mod sudoers;
pub mod tools;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

pub use fault::{Action, Fault};
pub use host::{Config, Host, State};

/// The exit code for what the emulator does not know.
pub const UNSUPPORTED: i32 = 250;

/// How a tool ended and what it said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Reply {
    /// Success, with this on standard output.
    pub fn said(out: impl Into<String>) -> Self {
        Self { code: 0, out: out.into(), err: String::new() }
    }

    /// Failure, with this on standard error.
    pub fn failed(code: i32, err: impl Into<String>) -> Self {
        Self { code, out: String::new(), err: err.into() }
    }

    /// This argument shape is none that the driver has a reason to use.
    pub fn unsupported(tool: &str, args: &[&str]) -> Self {
        Self::failed(UNSUPPORTED, format!("FAKE: unsupported argv: {tool} {}\n", args.join(" ")))
    }
}

/// `fake-macos install DIR`: makes an emulated Mac in an empty directory, for whoever runs the driver against it.
fn install(dir: &Path) -> ExitCode {
    let made = std::env::current_exe().and_then(|exe| Host::install(dir, &exe, Config::default()));
    match made {
        Ok(_) => ExitCode::SUCCESS,
        Err(e) => {
            drop(writeln!(std::io::stderr(), "{}: {e}", dir.display()));
            ExitCode::FAILURE
        }
    }
}

/// Plays the tool that `argv[0]` names, below the directory that its path lies in.
pub fn run(argv: Vec<String>) -> ExitCode {
    let mut argv = argv.into_iter();
    let program = argv.next().unwrap_or_default();
    let args: Vec<String> = argv.collect();
    let program = Path::new(&program);
    let name = program.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    if let ("fake-macos", [verb, dir]) = (name, args.as_slice())
        && verb == "install"
    {
        return install(Path::new(dir));
    }
    let root = std::env::var_os("FAKE_ROOT").map(Into::into);
    let root = root.or_else(|| program.parent().and_then(Path::parent).map(Path::to_path_buf));
    let reply = match root.as_deref().map(Host::open) {
        Some(Ok(host)) => answer(&host, name, &args),
        Some(Err(e)) => Reply::failed(UNSUPPORTED, format!("FAKE: no emulated host: {e}\n")),
        None => Reply::failed(UNSUPPORTED, "FAKE: call it by its absolute path\n"),
    };
    // A reader that has gone away is the caller's business.
    drop(std::io::stdout().write_all(reply.out.as_bytes()));
    drop(std::io::stderr().write_all(reply.err.as_bytes()));
    ExitCode::from(u8::try_from(reply.code & 0xff).unwrap_or(255))
}

fn answer(host: &Host, tool: &str, args: &[String]) -> Reply {
    if let Err(e) = host.elevate() {
        return Reply::failed(UNSUPPORTED, format!("FAKE: {e}\n"));
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let index = match host.count_call() {
        Ok(index) => index,
        Err(e) => return Reply::failed(UNSUPPORTED, format!("FAKE: calls: {e}\n")),
    };
    let action = host.fault_for(index, tool, &args);
    let reply = fault::apply(action.as_ref(), || tools::dispatch(host, tool, &args));
    host.log_call(index, tool, &args, &reply);
    reply
}
