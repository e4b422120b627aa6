//! `fish-native-helper`: the stand-alone root helper, for one rule in sudoers. It takes no arguments, but for those by
//! which it starts itself again (the process beside a workload, on macOS).

use std::process::ExitCode;

fn main() -> ExitCode {
    let (host, args) = (native_helper::Host::current(), std::env::args_os().skip(1).collect::<Vec<_>>());
    match native_helper::hidden_entry(&host, &args) {
        Some(code) => code,
        None if args.is_empty() => native_helper::stand_alone(&host),
        None => ExitCode::from(2),
    }
}
