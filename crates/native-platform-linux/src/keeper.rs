//! The keeper: one small process per environment that outlives the driver.
//!
//! It is the parent of the environment's first process. It writes what the workload prints to `log` (bounded: the
//! older half goes when it is full), how the entry ended to `status`, and stops the workload when its lifetime is
//! over. When it dies, the environment dies with it (see [`crate::init`]): nothing can run unsupervised.
//!
//! It is forked from the helper and executes nothing, so that its memory is shared with nothing to speak of.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::fchown;
use std::thread;
use std::time::{Duration, Instant};

use native_config::Isolation;
use native_platform::{Exit, WorkloadStep};
use nix::fcntl::{OFlag, fcntl, openat, renameat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, UnlinkatFlags, unlinkat};
use serde::{Deserialize, Serialize};

use crate::cgroup::Groups;
use crate::document;
use crate::init::{self, Init, Report};
use crate::layout::Paths;
use crate::proc;
use crate::store::{ProcessId, Record};
use crate::sys::{self, Forked};

/// The version of the `status` document.
const VERSION: u32 = 1;
/// After which time the kernel is asked again to kill what is still there.
const KILL_AGAIN: Duration = Duration::from_millis(10);
/// How long a keeper may take to write down the last of what was printed.
const RETIRE: Duration = Duration::from_secs(2);
/// What the workload prints, in the environment's directory.
pub(crate) const LOG: &str = "log";
/// The older half of it.
pub(crate) const OLD_LOG: &str = "log.1";
/// How the entry is doing.
pub(crate) const STATUS: &str = "status";

/// The `status` document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// The document's version.
    pub(crate) version: u32,
    /// When the entry started, in ms of the clock that counts since boot.
    pub(crate) started_ms: u64,
    /// How the entry ended, once it has.
    pub(crate) exit: Option<Exit>,
}

/// What the keeper is started with.
pub(crate) struct Keeper<'a> {
    pub(crate) paths: &'a Paths,
    pub(crate) record: &'a Record,
    pub(crate) step: &'a WorkloadStep,
    pub(crate) groups: &'a Groups,
    /// The environment's directory.
    pub(crate) dir: OwnedFd,
    /// The host's mount namespace: the keeper goes back there, so as not to hold the environment's mounts.
    pub(crate) host: Option<OwnedFd>,
    pub(crate) report: File,
}

/// Never returns: this is a process of its own.
pub(crate) fn run(keeper: Keeper<'_>) -> ! {
    sys::set_name("fish-keeper");
    sys::be_as_before();
    let spare = keeper.report.try_clone();
    match start(keeper) {
        Ok(running) => {
            // The helper waits for the end of this pipe.
            drop(spare);
            serve(running);
        }
        Err((what, cause)) => {
            if let Ok(mut report) = spare {
                Report::Failed(format!("{what}: {cause}")).send(&mut report);
            }
            sys::exit_now(1);
        }
    }
}

/// A keeper at work.
struct Running {
    init: Pid,
    dir: OwnedFd,
    caller: u32,
    groups: Groups,
    output: File,
    exit: File,
    log: Log,
    started_ms: u64,
    lifetime_ms: Option<u64>,
    grace: Duration,
}

type Problem = (&'static str, io::Error);

fn at<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Problem {
    move |e| (what, e.into())
}

fn start(keeper: Keeper<'_>) -> Result<Running, Problem> {
    let _ = nix::unistd::setsid();
    // The helper's pipes are not ours to hold: its caller waits for their end.
    let null = File::options().read(true).write(true).open("/dev/null").map_err(at("open /dev/null"))?;
    for stream in 0..3 {
        sys::redirect(null.as_fd(), stream).map_err(at("let go of the helper's streams"))?;
    }
    // Whoever stops the driver's terminal or service does not mean the keeper.
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGPIPE] {
        sys::ignore(signal).map_err(at("ignore signals"))?;
    }
    let work = keeper.groups.open_work().map_err(at("open the workload's cgroup"))?;
    let doors = keeper.groups.work_doors().map_err(at("open the workload's cgroup"))?;
    let host_proc = openat(nix::fcntl::AT_FDCWD, "/proc", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(at("open /proc"))?;
    let (output, write_output) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(at("make a pipe"))?;
    let (exit, write_exit) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(at("make a pipe"))?;
    let log = Log::open(&keeper.dir, keeper.record.caller, keeper.step.log_bytes).map_err(at("create the log"))?;
    let started_ms = sys::boot_time_ms();
    write_status(&keeper.dir, keeper.record.caller, &Status { version: VERSION, started_ms, exit: None })
        .map_err(at("write the status"))?;
    let spaces = match keeper.record.scope.isolation {
        Isolation::Private => libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC,
        Isolation::Basic => 0,
    };
    let mut report = keeper.report;
    let init = match sys::clone_into(spaces, None).map_err(at("create namespaces"))? {
        Forked::Child => init::run(Init {
            paths: keeper.paths,
            record: keeper.record,
            step: keeper.step,
            host_proc,
            output: write_output,
            work,
            doors,
            report,
            exit: File::from(write_exit),
        }),
        Forked::Parent(pid) => pid,
    };
    Report::Init(init.as_raw()).send(&mut report);
    drop((report, work, doors, host_proc, write_output, write_exit));
    if let Some(host) = keeper.host {
        setns(&host, CloneFlags::CLONE_NEWNS).map_err(at("return to the host's mount namespace"))?;
    }
    std::env::set_current_dir("/").map_err(at("leave the working directory"))?;
    let flags = fcntl(&output, nix::fcntl::FcntlArg::F_GETFL).map_err(at("read the output without waiting"))?;
    let flags = OFlag::from_bits_truncate(flags) | OFlag::O_NONBLOCK;
    fcntl(&output, nix::fcntl::FcntlArg::F_SETFL(flags)).map_err(at("read the output without waiting"))?;
    Ok(Running {
        init,
        dir: keeper.dir,
        caller: keeper.record.caller,
        groups: keeper.groups.clone(),
        output: File::from(output),
        exit: File::from(exit),
        log,
        started_ms,
        lifetime_ms: keeper.step.lifetime_ms,
        grace: Duration::from_millis(keeper.step.stop_grace_ms),
    })
}

/// Serves the environment until its first process has ended.
fn serve(mut running: Running) -> ! {
    let mut exit = None;
    let mut lifetime_over = false;
    let mut output_open = true;
    loop {
        let overdue = exit.is_none()
            && !lifetime_over
            && running.lifetime_ms.is_some_and(|l| sys::boot_time_ms() >= running.started_ms.saturating_add(l));
        if overdue {
            lifetime_over = true;
            stop_workload(&running.groups, running.grace, &mut || {
                drain(&mut running.output, &mut running.log);
            });
        }
        let mut fds = [
            PollFd::new(running.exit.as_fd(), PollFlags::POLLIN),
            PollFd::new(running.output.as_fd(), PollFlags::POLLIN),
        ];
        let watched = if output_open { &mut fds[..] } else { &mut fds[..1] };
        let wait = running.lifetime_ms.filter(|_| exit.is_none() && !lifetime_over).map(|l| {
            let left = running.started_ms.saturating_add(l).saturating_sub(sys::boot_time_ms());
            // The poll clock stops while the machine sleeps and the lifetime does not: look again every minute.
            left.clamp(1, 60_000)
        });
        let wait = wait.and_then(|ms| PollTimeout::try_from(ms).ok()).unwrap_or(PollTimeout::NONE);
        match poll(watched, wait) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(_) => break,
        }
        output_open = output_open && drain(&mut running.output, &mut running.log);
        let ended = fds_ready(&running.exit);
        if let Some(line) = ended.then(|| read_line(&mut running.exit)) {
            let Some(line) = line else { break };
            // What it printed before it ended belongs before the news of its end.
            drain(&mut running.output, &mut running.log);
            let out_of_memory = running.groups.usage().out_of_memory;
            let status = exit.insert(parse_exit(&line, out_of_memory, lifetime_over));
            let status = Status { version: VERSION, started_ms: running.started_ms, exit: Some(status.clone()) };
            drop(write_status(&running.dir, running.caller, &status));
        }
    }
    // The first process has ended, and with it everything inside.
    let _ = waitpid(running.init, None);
    drain(&mut running.output, &mut running.log);
    if exit.is_none() {
        let killed = Exit { code: 137, signal: Some(libc::SIGKILL), out_of_memory: false, lifetime_over };
        let status = Status { version: VERSION, started_ms: running.started_ms, exit: Some(killed) };
        drop(write_status(&running.dir, running.caller, &status));
    }
    sys::exit_now(0);
}

fn fds_ready(file: &File) -> bool {
    let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(n) if n > 0)
}

/// One line from the first process; `None` when it has ended.
fn read_line(pipe: &mut File) -> Option<String> {
    let mut bytes = [0; 64];
    match pipe.read(&mut bytes) {
        Ok(0) | Err(_) => None,
        Ok(n) => Some(String::from_utf8_lossy(&bytes[..n]).into_owned()),
    }
}

fn parse_exit(line: &str, out_of_memory: bool, lifetime_over: bool) -> Exit {
    let number = |text: &str| text.trim().parse().unwrap_or(1);
    let (code, signal) = match line.split_once(' ') {
        Some(("signal", n)) => (128 + number(n), Some(number(n))),
        Some((_, n)) => (number(n), None),
        None => (1, None),
    };
    // With v1 the kernel kills one process of the group, which need not be the entry: it is told all the same.
    Exit { code, signal, out_of_memory, lifetime_over }
}

/// Moves what the workload has printed to the log; false when nobody can print any more.
fn drain(output: &mut File, log: &mut Log) -> bool {
    let mut chunk = [0; 32 << 10];
    // Bounded, so that a workload that never stops printing does not keep us from its end or its lifetime.
    for _ in 0..64 {
        match output.read(&mut chunk) {
            Ok(0) => return false,
            Ok(n) => log.write(&chunk[..n]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
    true
}

/// SIGINT to the workload, the grace polled, then SIGKILL to all of it.
pub(crate) fn stop_workload(groups: &Groups, grace: Duration, meanwhile: &mut dyn FnMut()) {
    if !grace.is_zero() {
        for pid in groups.work_pids() {
            // By descriptor: the id may belong to somebody else by the time that the signal is sent.
            if let Ok(process) = sys::pidfd_open(Pid::from_raw(pid))
                && groups.work_has(pid)
            {
                drop(sys::pidfd_signal(process.as_fd(), libc::SIGINT));
            }
        }
        let deadline = Instant::now() + grace;
        while groups.working() && Instant::now() < deadline {
            meanwhile();
            thread::sleep(Duration::from_millis(2));
        }
    }
    let file = groups.work().join("cgroup.kill");
    // A single process is gone in a fraction of a millisecond, half a thousand in some fifty.
    let mut wait = Duration::from_micros(100);
    let mut again = None;
    while groups.working() {
        if again.is_none_or(|at| Instant::now() >= at) {
            // The kernel kills what is being forked too: to ask again takes its time with half a thousand. Before Linux 5.14
            // they are killed one by one, and some are new each time.
            if std::fs::write(&file, "1").is_ok() {
                again = Some(Instant::now() + KILL_AGAIN);
            } else {
                for pid in groups.work_pids() {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
            }
        }
        meanwhile();
        thread::sleep(wait);
        wait = (wait * 2).min(Duration::from_millis(2));
    }
}

/// A process on its way to its end.
pub(crate) struct Ending(OwnedFd);

/// Lets the keeper come to its own end, once the workload has: it still has to write down what was printed last. What it
/// holds, and the namespaces with their mounts, are taken down meanwhile. Returns the keeper and the first process.
pub(crate) fn retire(record: &Record) -> Option<(Ending, Ending)> {
    let (keeper, init) = (record.keeper.as_ref()?, record.init.as_ref()?);
    // By descriptor and start time: the id may have become somebody else's.
    let open = |process: &ProcessId| sys::pidfd_open(Pid::from_raw(process.pid)).ok().filter(|_| proc::lives(process));
    let (watched, first) = (open(keeper)?, open(init)?);
    for process in [keeper, init] {
        sys::hurry(Pid::from_raw(process.pid));
    }
    sys::pidfd_signal(first.as_fd(), libc::SIGKILL).ok()?;
    Some((Ending(watched), Ending(first)))
}

impl Ending {
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Waits for the end. A process that takes too long is killed with the rest of the environment.
    pub(crate) fn wait(&self) {
        let deadline = Instant::now() + RETIRE;
        let mut ended = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            if poll(&mut ended, wait) != Err(nix::Error::EINTR) {
                return;
            }
        }
    }
}

/// Replaces the status atomically, in a directory that the caller owns: only by its descriptor, never through a link.
fn write_status(dir: &OwnedFd, caller: u32, status: &Status) -> io::Result<()> {
    let temporary = "status.tmp";
    let _ = unlinkat(dir, temporary, UnlinkatFlags::NoRemoveDir);
    let mut file = create(dir, temporary, caller)?;
    file.write_all(&serde_json::to_vec(status)?)?;
    Ok(document::put_in_place((dir, temporary), (dir, STATUS))?)
}

/// A new file that the caller may read.
fn create(dir: &OwnedFd, name: &str, caller: u32) -> io::Result<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(dir, name, flags, Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP)?;
    fchown(&file, Some(caller), None)?;
    Ok(File::from(file))
}

/// The log in two halves, so that its size is bounded and its end is always there.
struct Log {
    dir: OwnedFd,
    caller: u32,
    file: Option<File>,
    written: u64,
    half: u64,
}

impl Log {
    fn open(dir: &OwnedFd, caller: u32, bytes: u64) -> io::Result<Self> {
        for name in [LOG, OLD_LOG] {
            let _ = unlinkat(dir, name, UnlinkatFlags::NoRemoveDir);
        }
        let file = Some(create(dir, LOG, caller)?);
        Ok(Self { dir: dir.try_clone()?, caller, file, written: 0, half: (bytes / 2).max(4096) })
    }

    /// A full disk must not stop the workload: what can't be written is lost, and the next bytes are tried again.
    fn write(&mut self, bytes: &[u8]) {
        if self.written.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX)) > self.half {
            let _ = renameat(&self.dir, LOG, &self.dir, OLD_LOG);
            self.file = create(&self.dir, LOG, self.caller).ok();
            self.written = 0;
        }
        if let Some(file) = &mut self.file
            && file.write_all(bytes).is_ok()
        {
            self.written += u64::try_from(bytes.len()).unwrap_or(0);
        }
    }
}
