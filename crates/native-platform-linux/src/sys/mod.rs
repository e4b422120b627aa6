//! The system calls that no safe crate wraps, each behind a safe function. All `unsafe` of the crate is here.

#![expect(unsafe_code, reason = "raw system calls: clone3, mount_setattr, open_tree, move_mount, loop ioctls, keyctl")]

mod disks;
mod keys;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{SigHandler, Signal};
use nix::unistd::Pid;

pub(crate) use disks::{
    begin_write_out, clear_fixed, handle_of, loop_clear, loop_configure, loop_get_free, loop_name, open_by_handle,
    shut_down,
};
pub(crate) use keys::{keyring_join_new, keyring_persistent_remove, keyrings_remove};

/// Turns a raw return value into a result.
fn check(value: libc::c_long) -> io::Result<libc::c_long> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// Which side of a fork this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forked {
    /// The child.
    Child,
    /// The parent, with the child's process id.
    Parent(Pid),
}

/// Forks the process.
///
/// The callers are the helper and the keeper, which have one thread at this point (the helper checks that at
/// start), so that the child may allocate and take locks like any process.
pub(crate) fn fork() -> io::Result<Forked> {
    // SAFETY: the process has one thread: no lock can be held by another one that is not in the child.
    match unsafe { libc::fork() } {
        0 => Ok(Forked::Child),
        pid => check(libc::c_long::from(pid)).map(|_| Forked::Parent(Pid::from_raw(pid))),
    }
}

/// `struct clone_args` of the kernel, as of 5.7.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Forks into new namespaces and, from its first instruction on, into a cgroup of the unified tree.
pub(crate) fn clone_into(namespaces: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Forked> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut args = CloneArgs {
        flags: u64::from(namespaces.cast_unsigned()),
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        ..CloneArgs::default()
    };
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(fd.as_raw_fd().cast_unsigned());
    }
    // SAFETY: the arguments outlive the call; without CLONE_VM this is a fork, and the process has one thread.
    match check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) })? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?))),
    }
}

/// `struct mount_attr` of the kernel.
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Read-only.
pub(crate) const ATTR_RDONLY: u64 = 0x1;
/// Set-uid bits and file capabilities have no effect.
pub(crate) const ATTR_NOSUID: u64 = 0x2;
/// Device nodes have no effect.
pub(crate) const ATTR_NODEV: u64 = 0x4;
/// Ids are mapped through a user namespace.
const ATTR_IDMAP: u64 = 0x0010_0000;
/// The whole tree of mounts below.
const AT_RECURSIVE: libc::c_long = 0x8000;

fn mount_setattr(dir: RawFd, path: &str, flags: libc::c_long, attr: &MountAttr) -> io::Result<()> {
    let path = CString::new(path)?;
    // SAFETY: path and attr outlive the call, the size is the struct's.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir,
            path.as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    check(done).map(drop)
}

/// Sets and clears attributes of the mount at `path`, or of the whole tree of mounts below it.
pub(crate) fn set_mount(path: &str, recursive: bool, set: u64, clear: u64) -> io::Result<()> {
    let attr = MountAttr { set, clear, ..MountAttr::default() };
    mount_setattr(libc::AT_FDCWD, path, if recursive { AT_RECURSIVE } else { 0 }, &attr)
}

/// A detached copy of the mount that an open directory lies on, rooted there.
pub(crate) fn open_tree(dir: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const OPEN_TREE_CLONE: libc::c_long = 1;
    const AT_EMPTY_PATH: libc::c_long = 0x1000;
    let path = CString::default();
    let flags = OPEN_TREE_CLONE | AT_EMPTY_PATH | libc::c_long::from(libc::O_CLOEXEC);
    // SAFETY: path outlives the call.
    let fd = check(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) })?;
    // SAFETY: the kernel has just returned this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?) })
}

/// Makes a detached mount read-only with its ids mapped through a user namespace.
pub(crate) fn idmap_readonly(mount: BorrowedFd<'_>, userns: BorrowedFd<'_>) -> io::Result<()> {
    const AT_EMPTY_PATH: libc::c_long = 0x1000;
    let attr = MountAttr {
        set: ATTR_IDMAP | ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV,
        userns_fd: u64::from(userns.as_raw_fd().cast_unsigned()),
        ..MountAttr::default()
    };
    mount_setattr(mount.as_raw_fd(), "", AT_EMPTY_PATH, &attr)
}

/// Attaches a detached mount at `path`.
pub(crate) fn move_mount(mount: BorrowedFd<'_>, path: &str) -> io::Result<()> {
    const MOVE_MOUNT_F_EMPTY_PATH: libc::c_long = 4;
    let (empty, path) = (CString::default(), CString::new(path)?);
    // SAFETY: both paths outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            empty.as_ptr(),
            libc::AT_FDCWD,
            path.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    check(done).map(drop)
}

/// Makes an empty file share the blocks of another one. Both must lie on the same file system, which must be able to.
pub(crate) fn clone_file(to: BorrowedFd<'_>, from: BorrowedFd<'_>) -> io::Result<()> {
    const FICLONE: libc::Ioctl = 0x4004_9409;
    // SAFETY: two descriptors.
    let done = unsafe { libc::ioctl(to.as_raw_fd(), FICLONE, from.as_raw_fd()) };
    check(libc::c_long::from(done)).map(drop)
}

/// This process's nice value, or its parent's where that was put aside (see [`be_quick`]).
static NICE: AtomicI32 = AtomicI32::new(0);

/// The nice value of what must not wait for workloads.
const QUICK: i32 = -10;

/// Puts this process before those that have no right to that, so that no workload, however many processes it has, keeps
/// environments from being made and removed in their time.
pub(crate) fn be_quick() {
    // SAFETY: integers only.
    let own = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    NICE.store(own, Ordering::Relaxed);
    // A container may have no right to it: then it is as quick as it was.
    // SAFETY: integers only.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, own.min(QUICK)) };
}

/// The same for another process, which is about to end: what its end takes down is its own work.
pub(crate) fn hurry(process: Pid) {
    // SAFETY: integers only; no process has a negative id.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, process.as_raw().cast_unsigned(), QUICK) };
}

/// Takes [`be_quick`] back, for what goes on after the operation.
pub(crate) fn be_as_before() {
    // SAFETY: integers only.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE.load(Ordering::Relaxed)) };
}

/// Forbids this process and its children to gain privileges by executing a file.
pub(crate) fn no_new_privileges() -> io::Result<()> {
    // SAFETY: integers only.
    check(libc::c_long::from(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })).map(drop)
}

/// Asks the kernel to kill this process when its parent dies.
pub(crate) fn die_with_parent() -> io::Result<()> {
    // SAFETY: integers only.
    check(libc::c_long::from(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) })).map(drop)
}

/// Names the process as `ps` shows it.
pub(crate) fn set_name(name: &str) {
    if let Ok(name) = CString::new(name) {
        // SAFETY: the string outlives the call; a name that is too long is cut.
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
    }
}

/// Drops every capability of the process but those in `kept` (a bit set), for good.
pub(crate) fn keep_capabilities(kept: u64) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header { version: VERSION_3, pid: 0 };
    let word = |bits: u64| {
        let bits = u32::try_from(bits & 0xFFFF_FFFF).unwrap_or(0);
        Data { effective: bits, permitted: bits, inheritable: 0 }
    };
    let data = [word(kept), word(kept >> 32)];
    // SAFETY: header and data have the kernel's layout and outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// Keeps `kept` of the calling process's capabilities, and lets what it executes gain no others than those and `more`.
pub(crate) fn limit_capabilities(kept: u64, more: u64) -> io::Result<()> {
    for capability in 0..u64::from(u32::BITS * 2) {
        if (kept | more) & (1 << capability) != 0 {
            continue;
        }
        // SAFETY: integers only.
        match check(libc::c_long::from(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) })) {
            Ok(_) => {}
            // Past the last one that this kernel knows; or a root without CAP_SETPCAP, which has few of them anyway.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EPERM)) => {}
            Err(e) => return Err(e),
        }
    }
    keep_capabilities(kept & permitted_capabilities())
}

/// What this process has: no more than that can be kept.
fn permitted_capabilities() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let hex = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    hex.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(u64::MAX)
}

/// Empties the environment. To be called while the process has one thread.
pub(crate) fn clear_environment() {
    // SAFETY: no other thread can read the environment meanwhile.
    unsafe { libc::clearenv() };
}

/// Closes every descriptor from `first` on.
pub(crate) fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: integers only; the callers own no descriptor above `first` that they use afterwards.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Marks every descriptor from `first` on to be closed when a program is executed.
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) }).map(drop)
}

/// Makes the descriptor number `to` a copy of `from`.
pub(crate) fn redirect(from: BorrowedFd<'_>, to: RawFd) -> io::Result<()> {
    // SAFETY: both are plain descriptor numbers; the old `to` is one of the three standard streams.
    check(libc::c_long::from(unsafe { libc::dup2(from.as_raw_fd(), to) })).map(drop)
}

/// Signals every process that the caller may signal, atomically with regard to forks.
pub(crate) fn kill_all_visible() {
    // SAFETY: integers only. ESRCH means that there was none.
    unsafe { libc::kill(-1, libc::SIGKILL) };
}

/// Sets real, effective and saved user ids, which may differ.
pub(crate) fn set_user_ids(real: u32, effective: u32, saved: u32) -> io::Result<()> {
    // SAFETY: integers only.
    check(libc::c_long::from(unsafe { libc::setresuid(real, effective, saved) })).map(drop)
}

/// Sets real, effective and saved group ids, and the supplementary groups.
pub(crate) fn set_group_ids(gid: u32, supplementary: &[u32]) -> io::Result<()> {
    // SAFETY: the list outlives the call.
    check(libc::c_long::from(unsafe { libc::setgroups(supplementary.len(), supplementary.as_ptr()) }))?;
    // SAFETY: integers only.
    check(libc::c_long::from(unsafe { libc::setresgid(gid, gid, gid) })).map(drop)
}

/// A descriptor of a process, by which it can be signalled without the danger of a reused id.
pub(crate) fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: integers only.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    // SAFETY: the kernel has just returned this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?) })
}

/// Signals the process behind a descriptor.
pub(crate) fn pidfd_signal(process: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo makes the kernel fill it in as kill(2) does.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, none, 0) }).map(drop)
}

/// Ends the process at once, without running anything of ours: for the children of [`fork`].
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: never returns.
    unsafe { libc::_exit(code) }
}

/// A clock that goes on while the machine sleeps and that nobody can set, in ms.
pub(crate) fn boot_time_ms() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the struct outlives the call; this clock exists since Linux 2.6.39.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}

/// Tells whether a new terminal's slave side becomes the controlling terminal of the caller's session.
pub(crate) fn take_terminal(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer.
    check(libc::c_long::from(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) })).map(drop)
}

/// Ignores a signal. What is executed later inherits that, so that [`unignore_all`] goes before an exec.
pub(crate) fn ignore(signal: Signal) -> io::Result<()> {
    // SAFETY: ignoring installs no handler that could run.
    unsafe { nix::sys::signal::signal(signal, SigHandler::SigIgn) }.map(drop).map_err(io::Error::from)
}

/// Gives every signal its default effect again: a workload that starts with SIGINT ignored can't be stopped by it.
pub(crate) fn unignore_all() {
    for signal in Signal::iterator() {
        // SAFETY: the default installs no handler. SIGKILL and SIGSTOP can't be set, which is as good.
        let _ = unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) };
    }
}

/// Removes SysV shared memory, semaphores or a message queue.
pub(crate) fn ipc_remove(kind: &str, id: i32) -> io::Result<()> {
    // SAFETY: IPC_RMID ignores the last argument.
    let done = unsafe {
        match kind {
            "shm" => libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()),
            "sem" => libc::semctl(id, 0, libc::IPC_RMID),
            _ => libc::msgctl(id, libc::IPC_RMID, std::ptr::null_mut()),
        }
    };
    check(libc::c_long::from(done)).map(drop)
}

/// Removes a POSIX message queue of this IPC namespace.
pub(crate) fn queue_remove(name: &str) -> io::Result<()> {
    let name = CString::new(name)?;
    // SAFETY: the name outlives the call.
    check(libc::c_long::from(unsafe { libc::mq_unlink(name.as_ptr()) })).map(drop)
}

/// Makes this process the parent of what its descendants leave behind.
pub(crate) fn adopt_orphans() -> io::Result<()> {
    // SAFETY: integers only.
    check(libc::c_long::from(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) })).map(drop)
}

/// Confines the process so that it can't connect to abstract sockets outside of what it starts: the way by which two
/// environments could hand each other open files, and so pin each other's disks. Needs Linux 6.12 and CAP_SYS_ADMIN (or
/// [`no_new_privileges`]); says whether the kernel knows it.
pub(crate) fn scope_abstract_sockets() -> io::Result<bool> {
    const LANDLOCK_CREATE_RULESET_VERSION: libc::c_long = 1;
    const LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;
    #[repr(C)]
    struct Ruleset {
        handled_access_fs: u64,
        handled_access_net: u64,
        scoped: u64,
    }
    let (create, restrict) = (libc::SYS_landlock_create_ruleset, libc::SYS_landlock_restrict_self);
    let none = std::ptr::null::<Ruleset>();
    // SAFETY: with this flag the kernel only tells its version.
    let version = unsafe { libc::syscall(create, none, 0, LANDLOCK_CREATE_RULESET_VERSION) };
    if version < 6 {
        return Ok(false);
    }
    let ruleset = Ruleset { handled_access_fs: 0, handled_access_net: 0, scoped: LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET };
    // SAFETY: the struct has the kernel's layout and outlives the call.
    let fd = check(unsafe { libc::syscall(create, &raw const ruleset, size_of::<Ruleset>(), 0) })?;
    // SAFETY: the kernel has just returned this descriptor to us alone.
    let fd = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?) };
    // SAFETY: a descriptor and a flag.
    check(unsafe { libc::syscall(restrict, fd.as_raw_fd(), 0) }).map(|_| true)
}
