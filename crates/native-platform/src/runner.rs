//! [`Runner`]: the one way to run a tool, and [`SystemRunner`], the real one.
//!
//! Every tool is run by absolute path, with an empty environment but for `PATH` and `LC_ALL=C` (output is
//! parsed), in its own process group (Ctrl-C is the driver's to handle), with a time limit and with bounded
//! output. A tool that outlives its limit is killed with its whole group.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Where tools are looked for when the config names none. `sbin` first: the tools that matter are there.
pub const TOOL_PATH: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";

/// The most that is kept of a tool's standard output, in bytes.
const STDOUT_KEPT: usize = 4 << 20;
/// The most that is kept of a tool's standard error, in bytes: its end, where the reason is.
const STDERR_KEPT: usize = 1 << 10;

/// A command, ready to run.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// The command's id, for messages.
    pub id: &'static str,
    /// The tool's absolute path.
    pub program: PathBuf,
    /// Its arguments. Never a secret: they are world-readable.
    pub args: Vec<String>,
    /// What it reads; nothing if absent.
    pub stdin: Option<Vec<u8>>,
    /// How long it may take.
    pub limit: Duration,
}

impl Invocation {
    /// A command that reads nothing and may take 60 s.
    pub fn new(id: &'static str, program: PathBuf, args: Vec<String>) -> Self {
        Self { id, program, args, stdin: None, limit: Duration::from_secs(60) }
    }
}

/// How a tool ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

impl From<ExitStatus> for Ended {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, signal) => Self::Signal(signal.unwrap_or(0)),
        }
    }
}

/// What a tool said.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Output {
    /// How it ended.
    pub ended: Ended,
    /// Its standard output.
    pub stdout: String,
    /// The end of its standard error.
    pub stderr: String,
}

/// A tool that did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not be started.
    #[error("{id}: could not start {}", program.display())]
    Start {
        /// The command's id.
        id: &'static str,
        /// The tool.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It took longer than it may and was killed.
    #[error("{id}: {} did not end within {limit:?} and was killed", program.display())]
    TimedOut {
        /// The command's id.
        id: &'static str,
        /// The tool.
        program: PathBuf,
        /// How long it might take.
        limit: Duration,
    },
    /// It ended with something other than 0.
    #[error("{id}: {} {} ended with {ended}: {stderr}", program.display(), args.join(" "))]
    Failed {
        /// The command's id.
        id: &'static str,
        /// The tool.
        program: PathBuf,
        /// Its arguments.
        args: Vec<String>,
        /// How it ended.
        ended: Ended,
        /// What it said, trimmed.
        stderr: String,
    },
}

/// A long-lived process that is spoken to through pipes: the root helper.
#[derive(Debug)]
pub struct Connection {
    /// What it reads. Closing it asks it to end.
    pub input: ChildStdin,
    /// What it writes.
    pub output: ChildStdout,
    /// The process itself, to be waited for when its input is closed.
    pub child: Child,
}

/// Runs tools.
pub trait Runner: Send + Sync {
    /// Runs a command to its end and returns what it said, whatever its exit code.
    ///
    /// # Errors
    /// [`RunError::Start`] and [`RunError::TimedOut`].
    ///
    /// # Streams
    /// Standard input is what the invocation says, else null; both outputs are captured.
    fn run(&self, invocation: &Invocation) -> Result<Output, RunError>;

    /// Starts a process that stays, with pipes to its standard input and output.
    ///
    /// # Errors
    /// [`RunError::Start`].
    ///
    /// # Streams
    /// Standard error is ours.
    fn connect(&self, invocation: &Invocation) -> Result<Connection, RunError>;
}

impl dyn Runner + '_ {
    /// Runs a command that must end with 0.
    ///
    /// # Errors
    /// As [`Runner::run`], and [`RunError::Failed`].
    pub fn check(&self, invocation: &Invocation) -> Result<Output, RunError> {
        let output = self.run(invocation)?;
        if output.ended == Ended::Code(0) {
            return Ok(output);
        }
        Err(RunError::Failed {
            id: invocation.id,
            program: invocation.program.clone(),
            args: invocation.args.clone(),
            ended: output.ended,
            stderr: output.stderr.trim().to_owned(),
        })
    }
}

/// Asks sudo whether it would run a command, for the caller or (as root) for a user; runs nothing.
///
/// # Errors
/// As [`Runner::run`].
pub fn sudo_permits(
    runner: &dyn Runner,
    sudo: &Path,
    user: Option<&str>,
    argv: &[String],
    limit: Duration,
) -> Result<bool, RunError> {
    // Without -n sudo would wait for a password for ever.
    let mut args = vec!["-n".to_owned(), "-l".to_owned()];
    args.extend(user.into_iter().flat_map(|user| ["-U".to_owned(), user.to_owned()]));
    args.extend(argv.iter().cloned());
    let invocation = Invocation { limit, ..Invocation::new("sudo-list", sudo.to_owned(), args) };
    Ok(runner.run(&invocation)?.ended == Ended::Code(0))
}

/// Finds a tool in the `PATH` that tools get.
pub fn find_tool(name: &str) -> Option<PathBuf> {
    TOOL_PATH.split(':').map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())
}

/// The runner that really starts processes.
#[derive(Debug)]
pub struct SystemRunner(());

impl SystemRunner {
    /// The real thing; the name makes every use of it easy to find.
    pub fn real() -> Self {
        Self(())
    }

    fn command(invocation: &Invocation) -> Command {
        #[expect(clippy::disallowed_methods, reason = "this is the Runner")]
        let mut command = Command::new(&invocation.program);
        command.args(&invocation.args).env_clear().env("PATH", TOOL_PATH).env("LC_ALL", "C").current_dir("/");
        command.process_group(0).stdout(Stdio::piped());
        command
    }
}

impl Runner for SystemRunner {
    fn run(&self, invocation: &Invocation) -> Result<Output, RunError> {
        let start = |source| RunError::Start { id: invocation.id, program: invocation.program.clone(), source };
        let mut command = Self::command(invocation);
        command.stderr(Stdio::piped());
        command.stdin(if invocation.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = command.spawn().map_err(start)?;
        let deadline = Instant::now() + invocation.limit;
        // The three pipes are served at the same time: a tool that fills one while we wait on another would hang. The
        // threads own their pipe and report through a channel: a grandchild that keeps a pipe open, or a sudo that we
        // may not signal, costs us the time limit and a thread, not for ever.
        let mut threads = Vec::new();
        let (send, receive) = mpsc::channel();
        let input = child.stdin.take().zip(invocation.stdin.clone());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let served = (|| {
            if let Some((mut pipe, bytes)) = input {
                // A tool that does not read its input to the end is no error of ours: EPIPE is ignored.
                threads.push(in_thread(move || drop(pipe.write_all(&bytes)))?);
            }
            if let Some(pipe) = stdout {
                let send = send.clone();
                threads.push(in_thread(move || drop(send.send((0, read_end(pipe, STDOUT_KEPT)))))?);
            }
            if let Some(pipe) = stderr {
                threads.push(in_thread(move || drop(send.send((1, read_end(pipe, STDERR_KEPT)))))?);
            }
            Ok(())
        })();
        if let Err(source) = served {
            kill_group(&mut child);
            join(threads, Instant::now() + Duration::from_secs(1));
            return Err(start(source));
        }
        let timed_out = |child: &mut Child, threads| {
            kill_group(child);
            join(threads, Instant::now() + Duration::from_secs(1));
            let (id, program) = (invocation.id, invocation.program.clone());
            Err(RunError::TimedOut { id, program, limit: invocation.limit })
        };
        let mut texts = [String::new(), String::new()];
        for _ in 0..2 {
            match receive.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((which, text)) => texts[which] = text,
                Err(_) => return timed_out(&mut child, threads),
            }
        }
        let ended = loop {
            match child.try_wait().map_err(start)? {
                Some(status) => break Ended::from(status),
                None if Instant::now() >= deadline => return timed_out(&mut child, threads),
                // Both pipes are closed: the tool is ending, this takes microseconds.
                None => thread::sleep(Duration::from_micros(200)),
            }
        };
        join(threads, deadline);
        let [stdout, stderr] = texts;
        Ok(Output { ended, stdout, stderr })
    }

    fn connect(&self, invocation: &Invocation) -> Result<Connection, RunError> {
        let start = |source| RunError::Start { id: invocation.id, program: invocation.program.clone(), source };
        let mut child = Self::command(invocation).stdin(Stdio::piped()).spawn().map_err(start)?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok(Connection { input, output, child }),
            _ => Err(start(io::Error::other("the process has no pipes"))),
        }
    }
}

/// Starts a thread. On a host without free processes that is an error, where `thread::spawn` panics.
fn in_thread(work: impl FnOnce() + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().spawn(work)
}

/// Waits for threads that are about to end. The root helper forks, and a fork while another thread lives may copy a
/// lock that nobody will ever free: so this program is to have one thread again.
fn join(threads: Vec<thread::JoinHandle<()>>, deadline: Instant) {
    for handle in threads {
        while !handle.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_micros(100));
        }
        if handle.is_finished() {
            drop(handle.join());
        }
    }
}

/// Kills a tool and what it started, and reaps it.
fn kill_group(child: &mut Child) {
    if let Ok(group) = i32::try_from(child.id()) {
        // Already gone is as good as killed.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    // A sudo of root's is not ours to signal, and so not to wait for: one second, then it is left to itself.
    let deadline = Instant::now() + Duration::from_secs(1);
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Reads to the end, keeping the last `kept` bytes.
fn read_end(mut pipe: impl Read, kept: usize) -> String {
    let mut text = Vec::new();
    let mut chunk = [0; 16 << 10];
    loop {
        match pipe.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => {
                text.extend_from_slice(&chunk[..n]);
                if text.len() > 2 * kept {
                    text.drain(..text.len() - kept);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    if text.len() > kept {
        text.drain(..text.len() - kept);
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Invocation {
        Invocation::new("test", PathBuf::from("/bin/sh"), vec!["-c".to_owned(), script.to_owned()])
    }

    #[test]
    fn captures_both_streams_and_the_exit_code() {
        let out = SystemRunner::real().run(&sh("echo out; echo err >&2; exit 3")).unwrap();
        assert_eq!((out.ended, out.stdout.as_str(), out.stderr.as_str()), (Ended::Code(3), "out\n", "err\n"));
    }

    #[test]
    fn the_environment_is_empty_but_for_two() {
        let out = SystemRunner::real().run(&sh("env | grep -v -e ^PWD= -e ^SHLVL= -e ^_= | sort")).unwrap();
        assert_eq!(out.stdout, format!("LC_ALL=C\nPATH={TOOL_PATH}\n"));
    }

    #[test]
    fn stdin_reaches_the_tool_and_a_tool_that_does_not_read_is_no_error() {
        let runner = SystemRunner::real();
        let big = vec![b'x'; 1 << 20];
        let out = runner.run(&Invocation { stdin: Some(big.clone()), ..sh("wc -c") }).unwrap();
        assert_eq!(out.stdout.trim(), "1048576");
        let out = runner.run(&Invocation { stdin: Some(big), ..sh("exit 0") }).unwrap();
        assert_eq!(out.ended, Ended::Code(0));
    }

    #[test]
    fn a_tool_that_hangs_is_killed_with_its_children() {
        let hang = Invocation { limit: Duration::from_millis(50), ..sh("sleep 600 & sleep 600") };
        assert!(matches!(SystemRunner::real().run(&hang), Err(RunError::TimedOut { .. })));
    }

    #[test]
    fn a_flood_is_bounded_to_its_end() {
        let out = SystemRunner::real().run(&sh("head -c 100000 /dev/zero | tr '\\0' x >&2; echo last >&2")).unwrap();
        assert!(out.stderr.len() <= STDERR_KEPT && out.stderr.ends_with("last\n"));
    }

    #[test]
    fn a_failure_names_the_program_its_arguments_and_its_reason() {
        let runner: &dyn Runner = &SystemRunner::real();
        let error = runner.check(&sh("echo no such luck >&2; exit 4")).unwrap_err().to_string();
        assert!(error.contains("/bin/sh -c") && error.ends_with("exit code 4: no such luck"), "{error}");
    }
}
