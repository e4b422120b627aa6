//! What the root side lets go of when it starts, before it reads a request: whatever the caller handed down, and the
//! rights that no step needs.
//!
//! Files, limits, the mask of modes, ignored signals and the working directory come from whoever called, through sudo
//! too. A limit of file sizes would cut disks short, an ignored SIGCHLD would make every tool look lost, a mask of 077
//! would lock the environment's user out of its own home.

use std::io;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::stat::{Mode, umask};

use crate::sys;

/// What steps need: owners and modes of files, the user database, ids, signals, mounts and namespaces, looking into
/// other processes, limits, priorities, whiteouts and attributes of overlays, and what the system's own tools log.
const NEEDED: &[u32] = &[
    capability::CHOWN,
    capability::DAC_OVERRIDE,
    capability::DAC_READ_SEARCH,
    capability::FOWNER,
    capability::FSETID,
    capability::KILL,
    capability::SETGID,
    capability::SETUID,
    capability::LINUX_IMMUTABLE,
    capability::IPC_OWNER,
    capability::SYS_CHROOT,
    capability::SYS_PTRACE,
    capability::SYS_ADMIN,
    capability::SYS_NICE,
    capability::SYS_RESOURCE,
    capability::MKNOD,
    capability::AUDIT_WRITE,
    capability::SETFCAP,
];

/// Not used here, but left to be gained by set-uid programs of a workload with `allow_setuid` (sudo, ping).
const FOR_WORKLOADS: &[u32] = &[capability::SETPCAP, capability::NET_BIND_SERVICE, capability::NET_RAW];

/// Numbers of linux/capability.h.
mod capability {
    pub(super) const CHOWN: u32 = 0;
    pub(super) const DAC_OVERRIDE: u32 = 1;
    pub(super) const DAC_READ_SEARCH: u32 = 2;
    pub(super) const FOWNER: u32 = 3;
    pub(super) const FSETID: u32 = 4;
    pub(super) const KILL: u32 = 5;
    pub(super) const SETGID: u32 = 6;
    pub(super) const SETUID: u32 = 7;
    pub(super) const SETPCAP: u32 = 8;
    pub(super) const LINUX_IMMUTABLE: u32 = 9;
    pub(super) const NET_BIND_SERVICE: u32 = 10;
    pub(super) const NET_RAW: u32 = 13;
    pub(super) const IPC_OWNER: u32 = 15;
    pub(super) const SYS_CHROOT: u32 = 18;
    pub(super) const SYS_PTRACE: u32 = 19;
    pub(super) const SYS_ADMIN: u32 = 21;
    pub(super) const SYS_NICE: u32 = 23;
    pub(super) const SYS_RESOURCE: u32 = 24;
    pub(super) const MKNOD: u32 = 27;
    pub(super) const AUDIT_WRITE: u32 = 29;
    pub(super) const SETFCAP: u32 = 31;
}

fn bits(capabilities: &[u32]) -> u64 {
    capabilities.iter().fold(0, |bits, c| bits | 1 << c)
}

/// Lets go of it, and is before others at the processor. To be called while the process has one thread, after the caller's
/// identity was read from the environment.
///
/// # Errors
/// When something that the caller handed down can't be let go of: then nothing should be done for it.
pub fn unload() -> io::Result<()> {
    sys::close_from(3)?;
    sys::clear_environment();
    std::env::set_current_dir("/")?;
    umask(Mode::from_bits_truncate(0o022));
    sys::unignore_all();
    sys::ignore(Signal::SIGPIPE)?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    for limit in [
        Resource::RLIMIT_FSIZE,
        Resource::RLIMIT_CPU,
        Resource::RLIMIT_AS,
        Resource::RLIMIT_DATA,
        Resource::RLIMIT_NPROC,
    ] {
        raise(limit, RLIM_INFINITY);
    }
    raise(Resource::RLIMIT_STACK, 8 << 20);
    raise(Resource::RLIMIT_NOFILE, 4096);
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    sys::be_quick();
    if nix::unistd::geteuid().is_root() {
        sys::limit_capabilities(bits(NEEDED), bits(FOR_WORKLOADS))?;
    }
    Ok(())
}

/// Sets a limit, as far as that may be: root of a container has no right to go above what it was given, which is then the
/// container's limit and not the caller's.
fn raise(limit: Resource, wanted: u64) {
    let Ok((_, hard)) = getrlimit(limit) else { return };
    if setrlimit(limit, wanted, RLIM_INFINITY).is_err() {
        let _ = setrlimit(limit, wanted.min(hard), hard);
    }
}
