//! Kernel keyrings.

use std::io;

use super::check;

/// The kernel's collector takes it, and every link to it, as soon as it can.
const KEYCTL_INVALIDATE: libc::c_long = 21;

/// Gives the process a session keyring of its own, so that what it keeps is not in its parent's.
pub(crate) fn keyring_join_new() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name makes an anonymous keyring.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) })
        .map(drop)
}

/// Empties the user and the user-session keyring of the calling uid and invalidates them, so that the kernel collects
/// them. Both outlive every process of the uid.
pub(crate) fn keyrings_remove() -> io::Result<()> {
    const KEYCTL_GET_KEYRING_ID: libc::c_long = 0;
    const KEYCTL_CLEAR: libc::c_long = 7;
    // By their serials: a look-up of either by its special name makes both of them anew.
    let mut rings = Vec::new();
    for name in [-4_i64, -5] {
        // SAFETY: integers only; without the last one nothing is made.
        match check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_GET_KEYRING_ID, name, 0_i64) }) {
            Ok(ring) => rings.push(ring),
            // None there; or no keyrings in this kernel, or none allowed here: then nothing is kept either.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOKEY | libc::ENOSYS | libc::EPERM | libc::EACCES)) => {}
            Err(e) => return Err(e),
        }
    }
    for (operation, ring) in
        [KEYCTL_CLEAR, KEYCTL_INVALIDATE].into_iter().flat_map(|o| rings.iter().map(move |r| (o, *r)))
    {
        // SAFETY: two integers.
        match check(unsafe { libc::syscall(libc::SYS_keyctl, operation, ring) }) {
            Ok(_) => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOKEY | libc::EKEYREVOKED)) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Takes away the persistent keyring of the calling uid, which the kernel keeps for three days after its last use.
pub(crate) fn keyring_persistent_remove() -> io::Result<()> {
    const KEYCTL_GET_PERSISTENT: libc::c_long = 22;
    const PROCESS_KEYRING: i64 = -2;
    // SAFETY: integers only.
    let ring = match check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_GET_PERSISTENT, -1_i64, PROCESS_KEYRING) }) {
        Ok(ring) => ring,
        // A kernel without them.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::EPERM | libc::EACCES)) => {
            return Ok(());
        }
        Err(e) => return Err(e),
    };
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_INVALIDATE, ring) }).map(drop)
}
