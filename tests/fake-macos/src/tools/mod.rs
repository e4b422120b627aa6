//! The tools.

mod accounts;
mod dscl;
mod files;
mod hdiutil;
mod machine;
mod processes;
mod switch;

use crate::{Host, Reply};

/// The names that the multi-call binary answers to.
pub const NAMES: &[&str] = &[
    "chflags",
    "chown",
    "cp",
    "createhomedir",
    "crontab",
    "diskutil",
    "dscl",
    "find",
    "hdiutil",
    "id",
    "ipcrm",
    "ipcs",
    "killall",
    "launchctl",
    "mdutil",
    "mount",
    "pgrep",
    "pkill",
    "ps",
    "rm",
    "su",
    "sudo",
    "sw_vers",
    "sysadminctl",
    "sysctl",
    "tar",
];

/// Runs a tool.
pub fn dispatch(host: &Host, tool: &str, args: &[&str]) -> Reply {
    match tool {
        "dscl" => dscl::run(host, args),
        "id" => accounts::id(host, args),
        "createhomedir" => accounts::createhomedir(host, args),
        "sysadminctl" => accounts::sysadminctl(host, args),
        "hdiutil" => hdiutil::run(host, args),
        "diskutil" => hdiutil::diskutil(host, args),
        "mount" => hdiutil::mount(host, args),
        "mdutil" => machine::mdutil(host, args),
        "sw_vers" => machine::sw_vers(host, args),
        "sysctl" => machine::sysctl(args),
        "ipcs" => machine::ipcs(host, args),
        "ipcrm" => machine::ipcrm(host, args),
        "crontab" => machine::crontab(host, args),
        "launchctl" => machine::launchctl(host, args),
        "ps" => processes::ps(host, args),
        "killall" => processes::killall(host, args),
        "pkill" => processes::pkill(host, args),
        "pgrep" => processes::pgrep(host, args),
        "su" => switch::su(host, args),
        "sudo" => switch::sudo(host, args),
        "rm" | "find" | "cp" | "chown" | "chflags" | "tar" => files::run(host, tool, args),
        _ => Reply::unsupported(tool, args),
    }
}
