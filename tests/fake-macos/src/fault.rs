//! What goes wrong, by script: `faults.json` of the emulated host.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Reply;

/// One thing that goes wrong.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fault {
    /// The index of the call that it hits, counted over the host's life; absent: every call that fits.
    pub call: Option<u64>,
    /// The tool that it hits; absent: any.
    pub tool: Option<String>,
    /// Text that the arguments, joined by spaces, contain; empty: any.
    #[serde(default)]
    pub args: String,
    /// How often it still happens.
    pub times: u32,
    /// What happens.
    pub action: Action,
}

/// What happens.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The tool does nothing and says this.
    Fail {
        /// Exit code.
        code: i32,
        /// Standard output.
        out: String,
        /// Standard error.
        err: String,
    },
    /// The tool does its work and then says this.
    DoThenFail {
        /// Exit code.
        code: i32,
        /// Standard error.
        err: String,
    },
    /// The tool ends with 0 and has done nothing.
    Lie,
    /// The tool does nothing and does not end.
    Hang,
    /// The tool does its work and does not end.
    DoThenHang,
    /// The tool is killed before it has done anything.
    Killed,
    /// The tool is killed when it has done its work.
    DoThenKilled,
    /// The tool takes this long, in ms, before it starts.
    Delay(u64),
}

impl Action {
    /// A documented failure: nothing done, this code and text.
    pub fn fail(code: i32, err: &str) -> Self {
        Self::Fail { code, out: String::new(), err: err.to_owned() }
    }
}

/// Runs the tool, or what happens instead.
pub fn apply(action: Option<&Action>, tool: impl FnOnce() -> Reply) -> Reply {
    match action {
        None => tool(),
        Some(Action::Fail { code, out, err }) => Reply { code: *code, out: out.clone(), err: err.clone() },
        Some(Action::DoThenFail { code, err }) => {
            let done = tool();
            Reply { code: *code, out: done.out, err: err.clone() }
        }
        Some(Action::Lie) => Reply::default(),
        Some(Action::Hang) => hang(),
        Some(Action::DoThenHang) => {
            drop(tool());
            hang()
        }
        Some(Action::Killed) => die(),
        Some(Action::DoThenKilled) => {
            drop(tool());
            die()
        }
        Some(Action::Delay(ms)) => {
            std::thread::sleep(Duration::from_millis(*ms));
            tool()
        }
    }
}

/// Does not end by itself; an hour is for ever here, and no stray outlives the machine's patience.
pub fn hang() -> ! {
    std::thread::sleep(Duration::from_secs(3600));
    die()
}

fn die() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort()
}
