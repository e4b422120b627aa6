//! [`trace`]: the program and everything that it forks, stopped before each call that changes the host.
//!
//! The program under test has no fail points of its own: every system call that has an effect is one. The tracer
//! numbers them across all processes (driver, helper, keeper, first process), and its caller decides at each of them
//! whether the call goes on, fails with an error, or never happens because somebody is killed. Programs that are
//! executed (`useradd`, `mkfs`, the workload) are left alone.
//!
//! Sources: ptrace(2), and the kernel's `arch/x86/entry/syscalls/syscall_64.tbl` for what an argument means. Only
//! `x86_64` is known; elsewhere the tests that need it skip.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::program::{Outcome, command};

/// Longer than any traced run takes.
const LONGEST: Duration = Duration::from_secs(300);

/// Who makes a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The program that was started.
    Driver,
    /// Its helper, or a short-lived fork of that.
    Helper,
    /// The keeper of an environment.
    Keeper,
    /// The first process of an environment, or the entry before its program runs.
    First,
}

/// A call that changes the host, about to be made.
#[derive(Debug, Clone)]
pub struct Call {
    /// How many came before it, in all processes.
    pub number: usize,
    /// Its name.
    pub name: &'static str,
    /// Who makes it.
    pub role: Role,
    /// Who lives, each once.
    pub alive: Vec<Role>,
}

/// What becomes of a call.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// It is made.
    Go,
    /// It is not made and returns this error instead.
    Fail(i32),
    /// Everybody with one of these roles is killed before it is made.
    Kill(Vec<Role>),
}

/// A traced run that has ended.
#[derive(Debug)]
pub struct Traced {
    /// How the program ended.
    pub outcome: Outcome,
    /// The calls that were stopped at.
    pub calls: usize,
}

/// Whether this machine's calls can be told apart.
pub const KNOWN: bool = cfg!(all(target_os = "linux", target_arch = "x86_64"));

/// Runs a program to its end and asks about each call. What it left running goes on untraced.
///
/// # Panics
/// When it can't be traced, or does not end.
pub fn trace(dir: &Path, program: &[&str], ask: impl FnMut(&Call) -> Verdict) -> Traced {
    let (out, err) = (dir.join("traced.out"), dir.join("traced.err"));
    let file = |path| fs::File::create(path).expect("make a file for the output");
    // The shell waits for its input until it is traced.
    let mut shell = command("/bin/sh");
    shell.args(["-c", "read -r go; exec \"$@\" </dev/null", "sh"]).args(program).current_dir(dir);
    let mut child = shell.stdin(Stdio::piped()).stdout(file(&out)).stderr(file(&err)).spawn().expect("start a shell");
    let root = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC;
    ptrace::seize(root, options).expect("trace the shell");
    drop(child.stdin.take());
    let mut tracer = Tracer { root, threads: HashMap::new(), calls: 0, code: None, ask };
    tracer.threads.insert(root, Thread { group: root, call: None });
    tracer.run();
    // The tracer has seen its end; the standard library has not.
    drop(child.wait());
    let text = |path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let code = tracer.code.expect("the program has ended");
    Traced { outcome: Outcome { code, stdout: text(out), stderr: text(err) }, calls: tracer.calls }
}

struct Thread {
    group: Pid,
    /// Inside of a call: the error that it is to return in place of its own result.
    call: Option<Option<i32>>,
}

struct Tracer<F> {
    root: Pid,
    threads: HashMap<Pid, Thread>,
    calls: usize,
    code: Option<i32>,
    ask: F,
}

impl<F: FnMut(&Call) -> Verdict> Tracer<F> {
    fn run(&mut self) {
        let start = Instant::now();
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD | WaitPidFlag::WNOHANG;
        let mut letting_go = false;
        while !self.threads.is_empty() {
            let status = match waitpid(Pid::from_raw(-1), Some(flags)) {
                Ok(WaitStatus::StillAlive) => {
                    assert!(start.elapsed() < LONGEST, "the traced program hangs: {:?}", self.roles());
                    if self.code.is_some() && !letting_go && !self.roles().contains(&Role::Helper) {
                        letting_go = true;
                        self.interrupt();
                    }
                    std::thread::sleep(Duration::from_micros(30));
                    continue;
                }
                Ok(status) => status,
                Err(nix::Error::EINTR) => continue,
                Err(_) => break,
            };
            self.step(status, letting_go);
        }
        assert!(self.code.is_some(), "the traced program was lost");
    }

    fn step(&mut self, status: WaitStatus, letting_go: bool) {
        match status {
            WaitStatus::Exited(pid, code) => self.gone(pid, code),
            WaitStatus::Signaled(pid, signal, _) => self.gone(pid, 128 + signal as i32),
            WaitStatus::PtraceEvent(pid, _, event) => {
                self.know(pid);
                if event == libc::PTRACE_EVENT_EXEC && pid != self.root && !is_ours(pid) || letting_go {
                    self.threads.remove(&pid);
                    let _ = ptrace::detach(pid, None);
                } else {
                    let _ = ptrace::syscall(pid, None);
                }
            }
            WaitStatus::PtraceSyscall(pid) => {
                self.know(pid);
                self.syscall(pid);
                if letting_go {
                    self.threads.remove(&pid);
                    let _ = ptrace::detach(pid, None);
                } else {
                    let _ = ptrace::syscall(pid, None);
                }
            }
            WaitStatus::Stopped(pid, signal) => {
                self.know(pid);
                if letting_go {
                    self.threads.remove(&pid);
                    let _ = ptrace::detach(pid, signal);
                } else {
                    let _ = ptrace::syscall(pid, signal);
                }
            }
            WaitStatus::Continued(_) | WaitStatus::StillAlive => {}
        }
    }

    fn know(&mut self, pid: Pid) {
        self.threads.entry(pid).or_insert_with(|| Thread { group: group_of(pid), call: None });
    }

    fn gone(&mut self, pid: Pid, code: i32) {
        self.threads.remove(&pid);
        if pid == self.root {
            self.code = Some(code);
        }
    }

    /// Asks everybody who is left to stop, so that they can be let go.
    fn interrupt(&self) {
        for pid in self.threads.keys() {
            let _ = ptrace::interrupt(*pid);
        }
    }

    fn groups(&self) -> BTreeSet<Pid> {
        self.threads.values().map(|t| t.group).collect()
    }

    fn roles(&self) -> Vec<Role> {
        let roles: BTreeSet<Role> = self.groups().into_iter().map(|group| self.role(group)).collect();
        roles.into_iter().collect()
    }

    fn role(&self, group: Pid) -> Role {
        if group == self.root {
            return Role::Driver;
        }
        match fs::read_to_string(format!("/proc/{group}/comm")).unwrap_or_default().trim() {
            "fish-keeper" => Role::Keeper,
            "fish-init" => Role::First,
            _ => Role::Helper,
        }
    }

    /// A thread has stopped before or after a call.
    fn syscall(&mut self, pid: Pid) {
        let Some(thread) = self.threads.get_mut(&pid) else { return };
        let group = thread.group;
        if let Some(error) = thread.call.take() {
            if let Some(error) = error {
                registers::answer(pid, -i64::from(error));
            }
            return;
        }
        thread.call = Some(None);
        let Some(name) = registers::effect(pid) else { return };
        let call = Call { number: self.calls, name, role: self.role(group), alive: self.roles() };
        self.calls += 1;
        match (self.ask)(&call) {
            Verdict::Go => {}
            Verdict::Fail(error) => {
                registers::skip(pid);
                if let Some(thread) = self.threads.get_mut(&pid) {
                    thread.call = Some(Some(error));
                }
            }
            Verdict::Kill(roles) => {
                for group in self.groups().into_iter().filter(|g| roles.contains(&self.role(*g))) {
                    let _ = kill(group, Signal::SIGKILL);
                }
            }
        }
    }
}

/// The process that a thread belongs to.
fn group_of(pid: Pid) -> Pid {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let group = status.lines().find_map(|l| l.strip_prefix("Tgid:")).and_then(|n| n.trim().parse().ok());
    group.map_or(pid, Pid::from_raw)
}

/// Whether a process runs the program under test.
fn is_ours(pid: Pid) -> bool {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    exe.file_name().is_some_and(|name| name.to_string_lossy().starts_with("fish-native"))
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod registers {
    use nix::libc::{self, c_long};
    use nix::sys::ptrace;
    use nix::unistd::Pid;

    /// The name of the call that a thread is about to make, if it changes the host.
    pub(super) fn effect(pid: Pid) -> Option<&'static str> {
        let regs = ptrace::getregs(pid).ok()?;
        // Flags are the low 32 bits of their register.
        let [first, second, third] = [regs.rdi, regs.rsi, regs.rdx].map(|value| value & 0xffff_ffff);
        let flag = |value: u64, flags: i32| value & u64::try_from(flags).unwrap_or(0) != 0;
        let writes = libc::O_CREAT | libc::O_WRONLY | libc::O_RDWR;
        Some(match c_long::try_from(regs.orig_rax).ok()? {
            libc::SYS_open if flag(second, writes) => "open to write",
            libc::SYS_openat if flag(third, writes) => "open to write",
            // Standard output and error of the driver change nothing; the pipe to a helper is another number.
            libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_writev if first > 2 => match kind(pid, first) {
                Kind::File => "write",
                Kind::Pipe => "write to a pipe",
                Kind::Wake => return None,
            },
            libc::SYS_fsync | libc::SYS_fdatasync => "fsync",
            libc::SYS_rename | libc::SYS_renameat | libc::SYS_renameat2 => "rename",
            libc::SYS_mkdir | libc::SYS_mkdirat => "mkdir",
            libc::SYS_rmdir => "rmdir",
            libc::SYS_unlink | libc::SYS_unlinkat => "unlink",
            libc::SYS_link | libc::SYS_linkat => "link",
            libc::SYS_symlink | libc::SYS_symlinkat => "symlink",
            libc::SYS_ftruncate | libc::SYS_truncate | libc::SYS_fallocate => "truncate",
            libc::SYS_chown | libc::SYS_lchown | libc::SYS_fchown | libc::SYS_fchownat => "chown",
            libc::SYS_chmod | libc::SYS_fchmod | libc::SYS_fchmodat => "chmod",
            libc::SYS_mount | libc::SYS_move_mount | libc::SYS_fsmount | libc::SYS_open_tree => "mount",
            libc::SYS_mount_setattr => "mount_setattr",
            libc::SYS_umount2 => "umount",
            libc::SYS_pivot_root | libc::SYS_chroot => "pivot_root",
            // Loop devices: 'L' in the second byte.
            libc::SYS_ioctl if second >> 8 == 0x4c => "ioctl of a loop",
            libc::SYS_clone if !flag(first, libc::CLONE_THREAD) => "fork",
            libc::SYS_clone3 | libc::SYS_fork | libc::SYS_vfork => "fork",
            libc::SYS_execve | libc::SYS_execveat => "execve",
            libc::SYS_setns => "setns",
            libc::SYS_unshare => "unshare",
            libc::SYS_wait4 | libc::SYS_waitid => "wait",
            libc::SYS_kill | libc::SYS_tgkill | libc::SYS_pidfd_send_signal => "kill",
            libc::SYS_setresuid | libc::SYS_setresgid | libc::SYS_setgroups => "set ids",
            libc::SYS_keyctl => "keyctl",
            libc::SYS_flock => "flock",
            libc::SYS_pipe2 => "pipe",
            libc::SYS_shmctl | libc::SYS_semctl | libc::SYS_msgctl => "remove IPC",
            _ => return None,
        })
    }

    enum Kind {
        File,
        Pipe,
        /// One thread wakes another of the same process: the host does not see it.
        Wake,
    }

    fn kind(pid: Pid, file: u64) -> Kind {
        let link = std::fs::read_link(format!("/proc/{pid}/fd/{file}")).unwrap_or_default();
        match link.to_string_lossy() {
            name if name.starts_with('/') => Kind::File,
            name if name.contains("eventfd") => Kind::Wake,
            _ => Kind::Pipe,
        }
    }

    /// Makes the call a call of nothing.
    pub(super) fn skip(pid: Pid) {
        if let Ok(mut regs) = ptrace::getregs(pid) {
            regs.orig_rax = u64::MAX;
            let _ = ptrace::setregs(pid, regs);
        }
    }

    /// Sets what the call returns.
    pub(super) fn answer(pid: Pid, value: i64) {
        if let Ok(mut regs) = ptrace::getregs(pid) {
            regs.rax = value.cast_unsigned();
            let _ = ptrace::setregs(pid, regs);
        }
    }
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
mod registers {
    use nix::unistd::Pid;

    pub(super) fn effect(_pid: Pid) -> Option<&'static str> {
        None
    }

    pub(super) fn skip(_pid: Pid) {}

    pub(super) fn answer(_pid: Pid, _value: i64) {}
}
