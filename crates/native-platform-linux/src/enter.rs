//! Running a command inside an environment: `exec` and `shell`.
//!
//! The command gets what the entry has: the namespaces, the cgroup and so the limits, the user, its variables.
//! Its streams go through this process, because the caller may be on the other side of sudo, where no descriptor
//! can be passed.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::thread;

use native_config::Isolation;
use native_platform::{Enter, EnterIo, ErrorKind, StepError, StepKind, Stream};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sched::{CloneFlags, setns};
use nix::sys::wait::{WaitStatus, waitpid};

use crate::cgroup::Groups;
use crate::init::{Report, User, exec};
use crate::layout::Paths;
use crate::proc;
use crate::store::Record;
use crate::sys::{self, Forked};

const STEP: StepKind = StepKind::Observe;

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> StepError {
    move |e| StepError::failed(STEP, format!("{what}: {e}"))
}

/// The command's ends of its streams.
struct Inner {
    streams: [OwnedFd; 3],
    terminal: bool,
}

/// Our ends.
struct Outer {
    input: File,
    output: OwnedFd,
    error: Option<OwnedFd>,
}

/// Runs the command to its end and returns its exit code.
pub(crate) fn run(
    paths: &Paths,
    record: &Record,
    groups: &Groups,
    command: &Enter,
    io: EnterIo<'_>,
) -> Result<i32, StepError> {
    let spaces = namespaces(record)?;
    let work = groups.open_work().map_err(failed("open the workload's cgroup"))?;
    let doors = groups.work_doors().map_err(failed("open the workload's cgroup"))?;
    let (inner, outer) = streams(record, command.terminal).map_err(failed("make the command's streams"))?;
    let (read_report, report) = pipe().map_err(failed("make a pipe"))?;
    let child = match sys::fork().map_err(failed("fork"))? {
        Forked::Child => {
            let mut report = File::from(report);
            // A process gets its process-id namespace by being created in it.
            let inside = spaces
                .iter()
                .try_for_each(|s| setns(s, CloneFlags::empty()))
                .map_err(io::Error::from)
                .and_then(|()| sys::clone_into(0, Some(work.as_fd())));
            let code = match inside {
                Err(e) => {
                    Report::Failed(format!("enter the namespaces: {e}")).send(&mut report);
                    126
                }
                Ok(Forked::Child) => {
                    let home = paths.home(&record.scope.id);
                    let user = User { record, paths, home, doors: &doors };
                    let Err(problem) = become_command(&user, &inner, command);
                    problem.send(&mut report);
                    126
                }
                Ok(Forked::Parent(pid)) => {
                    drop((report, inner, outer));
                    exit_code(pid)
                }
            };
            sys::exit_now(code);
        }
        Forked::Parent(pid) => pid,
    };
    drop((inner, report, doors, spaces));
    let problem = BufReader::new(File::from(read_report)).lines().map_while(Result::ok).last();
    if let Some(problem) = problem.and_then(|line| serde_json::from_str::<Report>(&line).ok()) {
        let _ = waitpid(child, None);
        return Err(match problem {
            Report::Refused(why) => StepError::new(STEP, ErrorKind::Invalid, why),
            Report::Failed(why) => StepError::failed(STEP, why),
            other => StepError::failed(STEP, format!("unexpected {other:?}")),
        });
    }
    relay(child, outer, io)
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(OFlag::O_CLOEXEC)?)
}

/// The namespaces of the environment's first process, which is made sure to be that very process.
fn namespaces(record: &Record) -> Result<Vec<File>, StepError> {
    let down = || StepError::new(STEP, ErrorKind::Absent, format!("{} is not up", record.scope.id));
    let init = record.init.as_ref().ok_or_else(down)?;
    let mut spaces = Vec::new();
    let names: &[&str] = match record.scope.isolation {
        Isolation::Private => &["ipc", "pid", "mnt"],
        Isolation::Basic => &[],
    };
    for name in names {
        spaces.push(File::open(format!("/proc/{}/ns/{name}", init.pid)).map_err(|_| down())?);
    }
    if proc::lives(init) { Ok(spaces) } else { Err(down()) }
}

fn streams(record: &Record, terminal: Option<(u16, u16)>) -> io::Result<(Inner, Outer)> {
    if let Some((columns, rows)) = terminal {
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None)?;
        fchown(&pty.slave, Some(record.uid), None)?;
        let streams = [pty.slave.try_clone()?, pty.slave.try_clone()?, pty.slave];
        let outer = Outer { input: File::from(pty.master.try_clone()?), output: pty.master, error: None };
        return Ok((Inner { streams, terminal: true }, outer));
    }
    let ((input, write_input), (output, write_output), (error, write_error)) = (pipe()?, pipe()?, pipe()?);
    let inner = Inner { streams: [input, write_output, write_error], terminal: false };
    Ok((inner, Outer { input: File::from(write_input), output, error: Some(error) }))
}

/// Becomes the command. Returns only what went wrong.
fn become_command(user: &User<'_>, inner: &Inner, command: &Enter) -> Result<Infallible, Report> {
    let [input, output, error] = &inner.streams;
    user.put_on([input.as_fd(), output.as_fd(), error.as_fd()])?;
    if inner.terminal {
        sys::take_terminal(io::stdin().as_fd()).map_err(|e| Report::Failed(format!("take the terminal: {e}")))?;
    }
    let variables = user.variables(&command.variables).map_err(|e| Report::Refused(e.to_string()))?;
    let shell = ["/bin/bash", "/bin/sh"].into_iter().find(|s| Path::new(s).exists()).unwrap_or("/bin/sh");
    let (name, args) = match command.command.as_slice() {
        [] => (shell, &[][..]),
        [name, args @ ..] => (name.as_str(), args),
    };
    let path = variables.iter().find_map(|v| v.to_str().ok()?.strip_prefix("PATH=")).unwrap_or_default();
    let program = find(name, path, &user.home)
        .ok_or_else(|| Report::Refused(format!("{name} is not a program in the environment's PATH ({path})")))?;
    Err(exec(&program, args, &variables, name))
}

fn find(name: &str, path: &str, home: &Path) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(home.join(name));
    }
    let candidates = path.split(':').map(|dir| Path::new(dir).join(name));
    let mut programs =
        candidates.filter(|p| p.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0));
    programs.next()
}

fn exit_code(pid: nix::unistd::Pid) -> i32 {
    loop {
        match waitpid(pid, None) {
            Ok(WaitStatus::Exited(_, code)) => return code,
            Ok(WaitStatus::Signaled(_, signal, _)) => return 128 + signal as i32,
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(_) => return 1,
        }
    }
}

/// Moves bytes until the command has ended and what it wrote has been read.
fn relay(child: nix::unistd::Pid, outer: Outer, io: EnterIo<'_>) -> Result<i32, StepError> {
    let Outer { mut input, output, error } = outer;
    let terminal = error.is_none();
    let mut from = io.input;
    // Ends when the caller's input does, or never: it is left behind with this process, which ends soon after.
    let pass_on = move || {
        let mut chunk = [0; 16 << 10];
        while let Ok(n) = from.read(&mut chunk) {
            if n == 0 {
                if terminal {
                    // The end of input, as a terminal says it.
                    drop(input.write_all(&[4]));
                }
                break;
            }
            if input.write_all(&chunk[..n]).is_err() {
                break;
            }
        }
    };
    thread::Builder::new().spawn(pass_on).map_err(failed("start a thread"))?;
    let ended = sys::pidfd_open(child).map_err(failed("watch the command"))?;
    let mut sources = vec![(Stream::Out, Some(File::from(output)))];
    sources.extend(error.map(|e| (Stream::Err, Some(File::from(e)))));
    loop {
        let open: Vec<BorrowedFd<'_>> = sources.iter().filter_map(|(_, f)| f.as_ref().map(AsFd::as_fd)).collect();
        let mut fds: Vec<_> = open.iter().map(|f| PollFd::new(*f, PollFlags::POLLIN)).collect();
        fds.push(PollFd::new(ended.as_fd(), PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(e) => return Err(failed("wait for the command")(e.into())),
        }
        let is_over = fds.last().is_some_and(|f| f.any() == Some(true));
        let mut quiet = true;
        for (stream, source) in &mut sources {
            while let Some(file) = source.as_mut().filter(|f| ready(f)) {
                let mut chunk = [0; 16 << 10];
                match file.read(&mut chunk) {
                    // A terminal ends with EIO when the last process has let go of it.
                    Ok(0) | Err(_) => *source = None,
                    Ok(n) => {
                        quiet = false;
                        (io.output)(*stream, &chunk[..n]);
                        // Back to the poll now and then, so that one stream can't starve the other.
                        break;
                    }
                }
            }
        }
        // What it left running in the background may hold the streams for ever; the command itself is over.
        if is_over && quiet {
            return Ok(exit_code(child));
        }
    }
}

fn ready(file: &File) -> bool {
    let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(n) if n > 0)
}
