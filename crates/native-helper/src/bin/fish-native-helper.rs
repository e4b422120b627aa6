//! `fish-native-helper`: the stand-alone root helper, for one rule in sudoers. It takes no arguments.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(native_helper::run_as_helper())
}
