//! Jobs: one line of shell each, which runs as the environment's user.
//!
//! Every job says on its control stream how it ended, after a token that is new for each job. Without that
//! line a job has not ended well, whatever `su` says: `su` ends with 0 when a signal killed its shell
//! (shell_cmds su.c).

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use native_platform::{Enter, Limits, WorkloadStep};

/// A word that no output holds by chance. It is no secret: a workload that forges it lies about itself only.
#[expect(clippy::disallowed_methods, reason = "a name, for which any number does")]
pub(crate) fn token() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    format!("fish-native-{}-{}-{now}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A word of shell that means exactly this text. A job is one line, so a newline is written by the variable
/// that `job.sh` sets.
pub(crate) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''").replace('\n', "'\"$fish_native_nl\"'"))
}

fn quoted(path: &Path) -> String {
    quote(&path.display().to_string())
}

/// The line after which a job reports on descriptor 3, which is what it was given as standard output.
const CONTROL: &str = "exec 3>&1 1>&2; ";

/// Runs a command and reports its exit code.
fn reported(command: &str, token: &str) -> String {
    format!("{CONTROL}{command}; printf '\\n%s exit %s\\n' {token} \"$?\" >&3")
}

/// Makes the home nobody else's: `close` is the command for it.
pub(crate) fn close_home(close: &str, token: &str) -> String {
    reported(&format!("{close} </dev/null"), token)
}

/// Makes a directory of the account's own.
pub(crate) fn make_directory(make: &str, close: &str, token: &str) -> String {
    reported(&format!("{make} </dev/null && {close}"), token)
}

/// Unpacks the archive on standard input, and looks at what should be there then.
pub(crate) fn unpack(unpack: &str, into: &Path, names: &[String], token: &str) -> String {
    reported(&format!("{unpack} && {}", there(&quoted(into), names)), token)
}

/// Clones a tree that the account may read. `cp -p` gives the directory itself the tree's mode too, so it is
/// closed again: the home must not open to other accounts because of a layer.
pub(crate) fn clone(clone: &str, close: &str, into: &Path, names: &[String], token: &str) -> String {
    reported(&format!("{clone} </dev/null && {close} && {}", there(&quoted(into), names)), token)
}

fn there(into: &str, names: &[String]) -> String {
    let mut test = String::from("true");
    for name in names {
        let path = format!("{into}/{}", quote(name));
        write!(test, " && {{ [ -e {path} ] || [ -h {path} ]; }}").unwrap_or_default();
    }
    test
}

/// Runs commands as the account, one after another, whatever each of them says.
pub(crate) fn clean(commands: &[String], token: &str) -> String {
    reported(&format!("exec </dev/null; {}; true", commands.join("; ")), token)
}

fn limits(limits: &Limits) -> String {
    if limits.mode == native_config::LimitsMode::Off {
        return String::new();
    }
    // RLIMIT_NPROC counts by uid, so it ends fork bombs. Its letter differs between shells.
    format!(
        "ulimit -n {0} 2>/dev/null; ulimit -u {1} 2>/dev/null || ulimit -p {1} 2>/dev/null; ",
        limits.open_files, limits.pids
    )
}

fn exports(variables: &[(String, String)]) -> String {
    // Names come from labels by way of a strict alphabet; one that is none would be shell.
    let name = |n: &str| {
        !n.is_empty()
            && !n.starts_with(|c: char| c.is_ascii_digit())
            && n.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let export = |(n, v): &(String, String)| name(n).then(|| format!("export {n}={}; ", quote(v)));
    variables.iter().filter_map(export).collect()
}

/// Starts the entry. What it prints goes to the log; its process id and its end go to the control stream.
///
/// The entry runs in the foreground of the job's shell: a shell starts what runs in its background with SIGINT
/// ignored, and the entry could not be asked to end. The shell itself outlives SIGINT by a trap that does
/// nothing, which the entry does not inherit.
pub(crate) fn entry(step: &WorkloadStep, entry: &Path, temp: Option<&Path>, token: &str) -> String {
    let program = quoted(entry);
    let temp = temp.map(|t| format!("export TMPDIR={0}; ", quoted(t))).unwrap_or_default();
    let (limits, exports) = (limits(&step.limits), exports(&step.variables.0));
    format!(
        "{CONTROL}cd \"$HOME\" || exit 1; exec </dev/null; umask 022; {limits}{temp}{exports}\
         [ -f {program} ] && [ -x {program} ] || {{ printf '\\n%s none\\n' {token} >&3; exit 1; }}; trap : INT; \
         /bin/sh -c 'printf \"\\n%s pid %s\\n\" \"$1\" \"$$\" >&3; exec \"$0\" 3>&-' {program} {token}; \
         c=$?; printf '\\036%s end\\n' {token}; printf '\\n%s exit %s\\n' {token} \"$c\" >&3; exit 0"
    )
}

/// What stands in the entry's output where it ended: the log and the control stream are two pipes, and who
/// reads that the entry has ended expects all it printed to be in the log.
pub(crate) fn end_mark(token: &str) -> Vec<u8> {
    // It begins with a character that no text has: what may be its beginning is held back until more comes, and a
    // line's end must not be.
    format!("\x1e{token} end\n").into_bytes()
}

/// Runs a command of `exec`. It keeps standard input and output for itself; its end is the last line of
/// standard error.
pub(crate) fn enter(command: &Enter, shell: &Path, token: &str) -> String {
    let words: Vec<_> = command.command.iter().map(|w| quote(w)).collect();
    let line = if words.is_empty() { quoted(shell) } else { words.join(" ") };
    let exports = exports(&command.variables);
    format!("cd \"$HOME\" || exit 1; {exports}{line}; c=$?; printf '\\n%s exit %s\\n' {token} \"$c\" >&2; exit 0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_one_line_whatever_is_in_it() {
        let command = Enter {
            command: vec!["echo".to_owned(), "it's\n$(id) `id` \"x\"".to_owned()],
            terminal: None,
            variables: vec![("A".to_owned(), "b\nc".to_owned()), ("x;id".to_owned(), String::new())],
        };
        let line = enter(&command, Path::new("/bin/sh"), "token");
        assert!(!line.contains('\n') && line.contains("'it'\\''s'\"$fish_native_nl\"'$(id) `id` \"x\"'"), "{line}");
        assert!(line.contains("export A='b'\"$fish_native_nl\"'c'; ") && !line.contains("x;id"));
    }

    #[test]
    fn tokens_differ() {
        assert_ne!(token(), token());
    }
}
