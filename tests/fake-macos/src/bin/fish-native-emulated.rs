//! `fish-native` for an emulated Mac: the same command line with another host. Only tests have this program.
//!
//! ```text
//! fish-native-emulated --platform macos-emulated --root DIR COMMAND...
//! ```
//!
//! Called as `fish-native-helper` below the directory, it is the root helper of that Mac.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use native_helper::Host;

/// How long a second of waiting is on an emulated Mac.
const SECOND: Duration = Duration::from_millis(20);

fn host(root: &Path) -> Host {
    let here = std::env::current_exe().unwrap_or_default().display().to_string();
    let again = [&here, "--platform", "macos-emulated", "--root", &root.display().to_string()].map(str::to_owned);
    // A suite that lets tools hang says how long they may.
    let limit = fs::read_to_string(root.join("limit_ms")).ok().and_then(|ms| ms.trim().parse().ok());
    Host::emulated_mac(root, again.into(), SECOND, limit.map(Duration::from_millis))
}

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    let program = args.drain(..1).next().map(PathBuf::from).unwrap_or_default();
    if program.ends_with("fs/usr/libexec/fish-native-helper") {
        let Some(root) = program.ancestors().nth(4) else { return ExitCode::from(2) };
        return native_helper::stand_alone(&host(root));
    }
    match args.as_slice() {
        [platform, macos, option, root, rest @ ..]
            if platform == "--platform" && macos == "macos-emulated" && option == "--root" =>
        {
            fish_native::main(host(Path::new(root)), rest.to_vec())
        }
        // Said by hand, as nothing of this is in the real program.
        _ => ExitCode::from(2),
    }
}
