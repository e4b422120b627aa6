//! `workload`: starts the entry and stays with it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use native_platform::Exit;

use super::log::Log;
use super::{Command, Dir, Report, STATUS, Status, VERSION, WorkloadSpec, failed, say};
use crate::job::end_mark;
use crate::mac::Answer;
use crate::parse;

/// Starts the process that stays and waits for its answer.
pub(super) fn start(spec: &WorkloadSpec) -> Answer {
    let mut argv = spec.keeper.clone();
    argv.push("workload-stays".to_owned());
    let spawned = Command(argv).process().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let answer = spawned.and_then(|mut child| {
        let text = serde_json::to_vec(spec)?;
        if let Some(mut pipe) = child.stdin.take() {
            pipe.write_all(&text)?;
        }
        let mut line = String::new();
        if let Some(pipe) = child.stdout.take() {
            BufReader::new(pipe).read_line(&mut line)?;
        }
        serde_json::from_str(&line).map_err(|_| io::Error::other("the keeper went away without a word"))
    });
    answer.unwrap_or_else(|e| failed(format!("the keeper: {e}")))
}

enum Event {
    Printed(Vec<u8>),
    /// All that the entry printed has come.
    AllPrinted,
    Said(Report),
    Closed,
}

/// The process that stays. It answers once, then closes its streams and lives until the entry has ended and
/// nobody can print any more.
pub(super) fn stay(spec: &WorkloadSpec) -> ExitCode {
    // Its own session: a terminal that closes, or a Ctrl-C at it, is the driver's and not the workload's.
    let _ = rustix::process::setsid();
    match Running::start(spec) {
        Ok(mut running) => {
            running.serve();
            ExitCode::SUCCESS
        }
        Err(answer) => {
            say(&answer);
            ExitCode::FAILURE
        }
    }
}

struct Running<'a> {
    spec: &'a WorkloadSpec,
    events: mpsc::Receiver<Event>,
    dir: Dir,
    log: Log,
    child: std::process::Child,
    began: Instant,
    pid: u32,
    exit: Option<Exit>,
    all_printed: bool,
    /// The exit code, while its output is still on its way; and until when that is waited for, if nothing marks its end.
    code: Option<(i32, Option<Instant>)>,
    /// The first of our own signals, and why they were sent.
    stopping: Option<(Instant, Why)>,
    _lock: File,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    Lifetime,
    Memory,
}

impl<'a> Running<'a> {
    fn start(spec: &'a WorkloadSpec) -> Result<Self, Answer> {
        let at = |what: &'static str| move |e: io::Error| failed(format!("{what}: {e}"));
        let lock = lock(&spec.lock).map_err(at("lock the environment"))?;
        let dir = Dir::open(&spec.dir).map_err(at("open the environment's directory"))?;
        let log = Log::open(&spec.dir, spec.log_bytes).map_err(at("create the log"))?;
        let mut child = spec
            .command
            .process()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(at("start su"))?;
        let (send, events) = mpsc::channel();
        if let Some(pipe) = child.stdout.take() {
            let (send, token) = (send.clone(), spec.token.clone());
            thread::spawn(move || control(pipe, &token, &send));
        }
        if let Some(pipe) = child.stderr.take() {
            let mark = end_mark(&spec.token);
            thread::spawn(move || printed(pipe, &mark, &send));
        }
        if let Some(mut pipe) = child.stdin.take() {
            // A su that refuses does not read; its end says why.
            drop(writeln!(pipe, "{}", spec.job));
        }
        let mut running = Self {
            spec,
            events,
            dir,
            log,
            child,
            began: Instant::now(),
            pid: 0,
            exit: None,
            all_printed: false,
            code: None,
            stopping: None,
            _lock: lock,
        };
        running.wait_for_start()?;
        Ok(running)
    }

    fn wait_for_start(&mut self) -> Result<(), Answer> {
        let mut early = Vec::new();
        loop {
            match self.events.recv() {
                Ok(Event::Said(Report::Started(pid))) => {
                    self.pid = pid;
                    self.log.write(&early);
                    self.write_status().map_err(|e| failed(format!("write the status: {e}")))?;
                    // A driver that does not hear it will never know of it.
                    if say(&Answer::Done { pid }) {
                        return Ok(());
                    }
                    self.kill();
                    return Err(failed("nobody listens".to_owned()));
                }
                Ok(Event::Said(Report::Missing)) => return Err(Answer::Missing),
                Ok(Event::Printed(bytes)) => early.extend(bytes),
                Ok(Event::AllPrinted) => self.all_printed = true,
                Ok(Event::Closed | Event::Said(_)) | Err(_) => {
                    let ended = self.child.wait().map_or_else(|e| e.to_string(), |s| s.to_string());
                    while let Ok(Event::Printed(bytes)) = self.events.recv_timeout(Duration::from_secs(1)) {
                        early.extend(bytes);
                    }
                    let said = String::from_utf8_lossy(&early);
                    return Err(failed(format!("su did not start the entry ({ended}): {}", said.trim())));
                }
            }
        }
    }

    fn serve(&mut self) {
        // Standard output was the answer's: closing it lets the first keeper's reader see the end.
        let mut control_open = true;
        loop {
            let tick = if self.code.is_some() && self.exit.is_none() { 10 } else { self.spec.tick_ms };
            match self.events.recv_timeout(Duration::from_millis(tick)) {
                Ok(Event::Printed(bytes)) => self.log.write(&bytes),
                Ok(Event::AllPrinted) => self.all_printed = true,
                Ok(Event::Said(Report::Ended(code))) => self.code = Some((code, None)),
                Ok(Event::Said(_)) => {}
                Ok(Event::Closed) => {
                    control_open = false;
                    // The shell is gone and said nothing: SIGKILL, which nobody reports. It left no mark in the output;
                    // what is on its way comes within a moment.
                    let until = Instant::now() + Duration::from_millis(200);
                    self.code.get_or_insert((128 + 9, Some(until)));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if let Some((code, until)) = self.code
                && (self.all_printed || until.is_some_and(|until| Instant::now() > until))
            {
                self.ended(code);
            }
            if control_open {
                self.watch();
            }
        }
        if let Some((code, _)) = self.code {
            self.ended(code);
        }
        drop(self.child.wait());
    }

    fn ended(&mut self, code: i32) {
        if self.exit.is_some() {
            return;
        }
        let why = self.stopping.map(|(_, why)| why);
        self.exit = Some(Exit {
            code,
            signal: (code > 128).then_some(code - 128),
            out_of_memory: why == Some(Why::Memory),
            lifetime_over: why == Some(Why::Lifetime),
        });
        drop(self.write_status());
    }

    /// Lifetime and memory; each ends the workload, nicely first.
    fn watch(&mut self) {
        let elapsed = |ms| self.began.elapsed() >= Duration::from_millis(ms);
        match self.stopping {
            None if self.spec.lifetime_ms.is_some_and(elapsed) => self.stop(Why::Lifetime),
            None if self.spec.memory_bytes.is_some_and(|most| self.memory() > most) => {
                // Memory does not wait for a grace time.
                self.stopping = Some((Instant::now(), Why::Memory));
                self.kill();
            }
            Some((since, _)) if since.elapsed() >= Duration::from_millis(self.spec.grace_ms) => self.kill(),
            _ => {}
        }
    }

    fn stop(&mut self, why: Why) {
        self.stopping = Some((Instant::now(), why));
        self.spec.interrupt.output();
    }

    fn kill(&self) {
        self.spec.kill.iter().for_each(|command| drop(command.output()));
    }

    fn memory(&self) -> u64 {
        let text = self.spec.processes.output();
        parse::processes(&text).iter().filter(|p| p.is_of(self.spec.uid)).map(|p| p.rss_kib * 1024).sum()
    }

    fn write_status(&self) -> io::Result<()> {
        let status = Status { version: VERSION, pid: self.pid, exit: self.exit.clone() };
        let temp = "status.tmp";
        self.dir.create(temp)?.write_all(&serde_json::to_vec(&status)?)?;
        self.dir.rename(temp, STATUS)
    }
}

fn lock(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.try_lock().map_err(|_| io::Error::other("another keeper holds it"))?;
    file.set_len(0)?;
    write!(file, "{}", std::process::id())?;
    Ok(file)
}

fn control(pipe: impl Read, token: &str, send: &mpsc::Sender<Event>) {
    for line in BufReader::new(pipe).split(b'\n') {
        let Ok(line) = line else { break };
        if let Some(report) = Report::parse(&String::from_utf8_lossy(&line), token) {
            drop(send.send(Event::Said(report)));
        }
    }
    drop(send.send(Event::Closed));
}

fn printed(mut pipe: impl Read, mark: &[u8], send: &mpsc::Sender<Event>) {
    let (mut held, mut chunk) = (Vec::new(), [0; 16 << 10]);
    let pass = |bytes: Vec<u8>| {
        if !bytes.is_empty() {
            drop(send.send(Event::Printed(bytes)));
        }
    };
    loop {
        match pipe.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => held.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        }
        if let Some(at) = held.windows(mark.len()).position(|w| w == mark) {
            let after = held.split_off(at + mark.len());
            held.truncate(at);
            pass(std::mem::replace(&mut held, after));
            drop(send.send(Event::AllPrinted));
        }
        // The end of it may be the beginning of the mark.
        let kept = (1..mark.len()).rev().find(|n| held.ends_with(&mark[..*n])).unwrap_or(0);
        let rest = held.split_off(held.len() - kept);
        pass(std::mem::replace(&mut held, rest));
    }
    pass(held);
    drop(send.send(Event::AllPrinted));
}
