//! The program under test: found or built, run to its end, or started and talked to.

use std::io::{BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use crate::DEADLINE;

/// A command. The suite stands outside of the program, so it starts processes by itself.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    #[expect(clippy::disallowed_methods, reason = "the suite drives the program and common tools from outside")]
    Command::new(program)
}

/// The program: `$FISH_NATIVE_BIN`, else built by cargo for this profile.
///
/// # Panics
/// When it can't be built.
pub fn binary() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| built("fish-native", "fish-native")).clone()
}

/// The stand-alone root helper: beside the program, else built by cargo.
///
/// # Panics
/// When it can't be built.
pub(crate) fn helper() -> PathBuf {
    static HELPER: OnceLock<PathBuf> = OnceLock::new();
    HELPER.get_or_init(|| built("native-helper", "fish-native-helper")).clone()
}

fn built(package: &str, name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os("FISH_NATIVE_BIN") {
        return PathBuf::from(path).with_file_name(name);
    }
    let own = std::env::current_exe().expect("a test has a path");
    let dir = own.parent().and_then(|deps| deps.parent()).expect("tests lie in target/PROFILE/deps");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = command(cargo);
    build.args(["build", "--quiet", "--package", package]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if dir.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().is_ok_and(|s| s.success()), "{name} does not build");
    dir.join(name)
}

/// How a run of the program ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its exit code; 128 + n for a signal.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Outcome {
    /// The document on standard output.
    ///
    /// # Panics
    /// When it is not exactly one JSON document.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("no JSON document: {e}\n{self:#?}"))
    }

    /// The same outcome, if it has this exit code.
    ///
    /// # Panics
    /// When it has another one.
    #[track_caller]
    pub fn code(self, wanted: i32) -> Self {
        assert_eq!(self.code, wanted, "{}\n-- stdout\n{}\n-- stderr\n{}", self.code, self.stdout, self.stderr);
        self
    }
}

/// The program while it runs. Killed when it is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Stream,
    stderr: Stream,
}

#[derive(Debug)]
struct Stream {
    text: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Stream {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&text);
        let reader = thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut chunk = [0; 4096];
            while let Ok(n @ 1..) = pipe.read(&mut chunk) {
                shared.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&chunk[..n]);
            }
        });
        Self { text, reader: Some(reader) }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    fn end(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            drop(reader.join());
        }
        self.so_far()
    }
}

impl Running {
    /// Starts a command with both outputs captured and nothing to read.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start the program");
        let stdout = Stream::of(child.stdout.take().expect("stdout is piped"));
        let stderr = Stream::of(child.stderr.take().expect("stderr is piped"));
        Self { child, stdout, stderr }
    }

    /// Waits until standard output holds this text. `false` if the program ended without it.
    pub fn prints(&mut self, wanted: &str) -> bool {
        self.wait_for(wanted, |own| own.stdout.so_far())
    }

    /// Waits until standard error holds this text. `false` if the program ended without it.
    pub fn says(&mut self, wanted: &str) -> bool {
        self.wait_for(wanted, |own| own.stderr.so_far())
    }

    /// What it printed to standard output so far.
    pub fn printed(&self) -> String {
        self.stdout.so_far()
    }

    fn wait_for(&mut self, wanted: &str, read: impl Fn(&Self) -> String) -> bool {
        let start = Instant::now();
        loop {
            // Asked in this order: what it printed before it ended counts.
            let ended = self.child.try_wait().expect("ask after the program").is_some();
            if read(self).contains(wanted) {
                return true;
            }
            if ended {
                return false;
            }
            assert!(start.elapsed() < DEADLINE, "{wanted:?} did not come: {}", self.stderr.so_far());
            thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// Sends it a signal, if it still runs.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn signal(&mut self, signal: Signal) {
        if self.child.try_wait().is_ok_and(|status| status.is_none())
            && let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            kill_process(pid, signal).expect("signal the program");
        }
    }

    /// Kills it as `kill -9` does.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    pub fn finish(mut self) -> Outcome {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait for the program") {
                break status;
            }
            if start.elapsed() > DEADLINE {
                drop(self.child.kill());
                panic!("the program hangs\n-- stdout\n{}\n-- stderr\n{}", self.stdout.so_far(), self.stderr.so_far());
            }
            thread::sleep(std::time::Duration::from_millis(5));
        };
        Outcome { code: code(status), stdout: self.stdout.end(), stderr: self.stderr.end() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
