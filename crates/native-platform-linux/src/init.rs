//! The first process of an environment's namespaces, and the entry that it starts.
//!
//! It seals the namespace, starts the entry as the environment's user, tells the keeper how the entry ended, and
//! stays to reap what the workload leaves behind: when it dies, the kernel kills everything inside and unmounts
//! everything. It dies with its keeper. It keeps no capability and holds no file of the host.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use native_config::Isolation;
use native_platform::{VolumeName, WorkloadStep};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use serde::{Deserialize, Serialize};

use crate::layout::Paths;
use crate::seal;
use crate::store::Record;
use crate::sys::{self, Forked};

/// What comes back through the report pipe, one JSON line each, until the entry's program runs and the pipe ends.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// The first process's id on the host.
    Init(i32),
    /// The entry's process id on the host.
    Entry(i32),
    /// The label is wrong: the entry can't be run.
    Refused(String),
    /// Something else went wrong.
    Failed(String),
}

impl Report {
    pub(crate) fn send(&self, pipe: &mut File) {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        // The reader has gone: then nobody wants to know.
        drop(pipe.write_all(&line));
    }
}

/// What the first process starts with.
pub(crate) struct Init<'a> {
    pub(crate) paths: &'a Paths,
    pub(crate) record: &'a Record,
    pub(crate) step: &'a WorkloadStep,
    /// The host's `/proc`, by which a process learns its id there.
    pub(crate) host_proc: OwnedFd,
    /// Where the entry's output goes.
    pub(crate) output: OwnedFd,
    /// The workload's group of the unified tree, which the entry is started into.
    pub(crate) work: File,
    /// The groups of other trees that the entry joins.
    pub(crate) doors: Vec<File>,
    /// Ends when the entry's program runs.
    pub(crate) report: File,
    /// Told how the entry ended.
    pub(crate) exit: File,
}

/// Never returns: this is a process of its own.
pub(crate) fn run(mut init: Init<'_>) -> ! {
    sys::set_name("fish-init");
    if let Err(message) = start(&mut init) {
        message.send(&mut init.report);
        sys::exit_now(1);
    }
    sys::exit_now(0);
}

fn failed(what: &str, cause: impl std::fmt::Display) -> Report {
    Report::Failed(format!("{what}: {cause}"))
}

fn start(init: &mut Init<'_>) -> Result<(), Report> {
    sys::die_with_parent().map_err(|e| failed("tie the environment to its keeper", e))?;
    std::env::set_current_dir("/").map_err(|e| failed("leave the working directory", e))?;
    match init.record.scope.isolation {
        Isolation::Private => {
            seal::seal(init.paths, init.record, init.step).map_err(|e| failed(&e.what, e.cause))?;
        }
        Isolation::Basic => sys::adopt_orphans().map_err(|e| failed("adopt orphans", e))?,
    }
    // Children are waited for synchronously below.
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&children), None).map_err(|e| failed("block SIGCHLD", e))?;
    let started = sys::clone_into(0, Some(init.work.as_fd()));
    let entry = match started.map_err(|e| failed("start a process in the workload's cgroup", e))? {
        Forked::Child => {
            let problem = entry(init);
            problem.send(&mut init.report);
            sys::exit_now(126);
        }
        Forked::Parent(pid) => pid,
    };
    // Only the pipe to the keeper stays open: nothing of the host, nothing of the workload.
    sys::redirect(init.exit.as_fd(), 0).map_err(|e| failed("keep the pipe to the keeper", e))?;
    sys::close_from(1).map_err(|e| failed("close files", e))?;
    sys::keep_capabilities(0).map_err(|e| failed("drop capabilities", e))?;
    drop(sys::no_new_privileges());
    reap(entry, &children)
}

/// Reaps children for ever, and tells the keeper when the entry was among them.
fn reap(entry: nix::unistd::Pid, children: &SigSet) -> ! {
    loop {
        loop {
            let ended = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, format!("exit {code}\n")),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, format!("signal {}\n", signal as i32)),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                Ok(_) | Err(_) => continue,
            };
            if ended.0 == entry {
                let _ = nix::unistd::write(io::stdin(), ended.1.as_bytes());
            }
        }
        // Blocked since before the first child: none can end unseen between the loop above and this.
        let _ = children.wait();
    }
}

/// Becomes the entry. Returns only what went wrong.
fn entry(init: &Init<'_>) -> Report {
    match become_entry(init) {
        Ok(never) => match never {},
        Err(report) => report,
    }
}

fn become_entry(init: &Init<'_>) -> Result<std::convert::Infallible, Report> {
    let (record, step) = (init.record, init.step);
    let mut report = init.report.try_clone().map_err(|e| failed("copy the report pipe", e))?;
    let pid = nix::fcntl::readlinkat(&init.host_proc, "self").map_err(|e| failed("read its process id", e))?;
    if let Some(pid) = pid.to_str().and_then(|p| p.parse().ok()) {
        Report::Entry(pid).send(&mut report);
    }
    let home = init.paths.home(&record.scope.id);
    let program = if step.entry.starts_with('/') { PathBuf::from(&step.entry) } else { home.join(&step.entry) };
    let user = User { record, paths: init.paths, home, doors: &init.doors };
    let null = File::options().read(true).open("/dev/null").map_err(|e| failed("open /dev/null", e))?;
    let streams = [null.as_fd(), init.output.as_fd(), init.output.as_fd()];
    user.put_on(streams)?;
    let variables = user.variables(&step.variables.0).map_err(|e| Report::Refused(e.to_string()))?;
    Err(exec(&program, &[], &variables, &step.entry))
}

/// The environment's user, as a process becomes it.
pub(crate) struct User<'a> {
    pub(crate) record: &'a Record,
    pub(crate) paths: &'a Paths,
    pub(crate) home: PathBuf,
    pub(crate) doors: &'a [File],
}

impl User<'_> {
    /// Makes this process the user's: cgroup, session, streams, limits, ids, home directory. There is no way back.
    pub(crate) fn put_on(&self, streams: [std::os::fd::BorrowedFd<'_>; 3]) -> Result<(), Report> {
        for mut door in self.doors {
            door.write_all(b"0").map_err(|e| failed("join the workload's cgroup", e))?;
        }
        sys::be_as_before();
        // A terminal's child is the leader of its session already.
        let _ = nix::unistd::setsid();
        for (n, stream) in streams.into_iter().enumerate() {
            sys::redirect(stream, i32::try_from(n).unwrap_or(2)).map_err(|e| failed("redirect its streams", e))?;
        }
        sys::close_on_exec_from(3).map_err(|e| failed("close files", e))?;
        sys::unignore_all();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).map_err(|e| failed("unblock signals", e))?;
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
        // Root without CAP_SYS_RESOURCE (a container) can't go above the limit that it got itself.
        let most = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(_, hard)| hard);
        let files = self.record.open_files;
        setrlimit(Resource::RLIMIT_NOFILE, files, files)
            .or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, files.min(most), files.min(most)))
            .and_then(|()| setrlimit(Resource::RLIMIT_CORE, 0, 0))
            .map_err(|e| failed("set its limits", e))?;
        // A kernel without keyrings has none to share.
        drop(sys::keyring_join_new());
        // Here, where the right to do it is still there: so it holds with `allow_setuid` too. An older kernel has no such
        // scopes; there, a disk that is pinned is found, ended and told.
        sys::scope_abstract_sockets().map_err(|e| failed("confine it to its own sockets", e))?;
        sys::set_group_ids(self.record.gid, &self.record.groups).map_err(|e| failed("set its groups", e))?;
        sys::set_user_ids(self.record.uid, self.record.uid, self.record.uid).map_err(|e| failed("set its user", e))?;
        if !self.record.allow_setuid {
            sys::no_new_privileges().map_err(|e| failed("forbid new privileges", e))?;
        }
        std::env::set_current_dir(&self.home).map_err(|e| failed("enter its home directory", e))
    }

    /// The whole of its variables: ours first, so that the label's win.
    ///
    /// # Errors
    /// When one of them has a NUL.
    pub(crate) fn variables(&self, own: &[(String, String)]) -> Result<Vec<CString>, std::ffi::NulError> {
        let id = self.record.scope.id.as_ref();
        let mut base = vec![
            ("HOME", self.home.to_string_lossy().into_owned()),
            ("USER", id.to_owned()),
            ("LOGNAME", id.to_owned()),
            ("SHELL", "/bin/sh".to_owned()),
            ("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin".to_owned()),
            ("LANG", "C.UTF-8".to_owned()),
        ];
        if self.record.scope.isolation == Isolation::Basic {
            // There /tmp is the host's. This one is sized and goes with the environment.
            let temp = self.paths.volume(&self.record.scope.id, &VolumeName::Temp).join("tmp");
            base.push(("TMPDIR", temp.to_string_lossy().into_owned()));
        }
        let ours = base.iter().filter(|(name, _)| !own.iter().any(|(n, _)| n == name));
        let ours = ours.map(|(name, value)| format!("{name}={value}"));
        ours.chain(own.iter().map(|(n, v)| format!("{n}={v}"))).map(CString::new).collect()
    }
}

/// Executes a program. Returns only what went wrong.
pub(crate) fn exec(program: &std::path::Path, args: &[String], variables: &[CString], name: &str) -> Report {
    let c = |text: &[u8]| CString::new(text);
    let Ok(path) = c(program.as_os_str().as_encoded_bytes()) else {
        return Report::Refused(format!("{name:?} has a NUL"));
    };
    let mut argv = vec![path.clone()];
    for arg in args {
        match c(arg.as_bytes()) {
            Ok(arg) => argv.push(arg),
            Err(_) => return Report::Refused(format!("argument {arg:?} has a NUL")),
        }
    }
    let Err(error) = nix::unistd::execve(&path, &argv, variables);
    let shown = program.display();
    match error {
        Errno::ENOEXEC => {
            // A script without `#!`: a shell runs it, as `su -c` does.
            let mut head = Vec::new();
            drop(File::open(program).and_then(|file| file.take(64).read_to_end(&mut head)));
            if head.contains(&0) || head.starts_with(b"\x7fELF") {
                return Report::Refused(format!("{shown} is not a program for this machine"));
            }
            argv.insert(0, c"/bin/sh".to_owned());
            let Err(error) = nix::unistd::execve(c"/bin/sh", &argv, variables);
            failed("run /bin/sh", error)
        }
        Errno::ENOENT if program.exists() => {
            Report::Refused(format!("{shown} names an interpreter in its first line that does not exist"))
        }
        Errno::ENOENT | Errno::ENOTDIR => Report::Refused(format!("{shown} does not exist")),
        Errno::EACCES if program.is_dir() => Report::Refused(format!("{shown} is a directory")),
        Errno::EACCES => Report::Refused(format!("{shown} is not executable for the environment's user")),
        Errno::E2BIG => Report::Refused("the metadata is too large for an environment".to_owned()),
        e => failed(&format!("run {shown}"), e),
    }
}
