//! Loop devices, and putting an end to what is on them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;

/// `struct loop_info64` of the kernel.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of the kernel (5.8).
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

impl LoopInfo {
    fn empty() -> Self {
        Self {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            sizelimit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: 0,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        }
    }
}

/// The number of a free loop device.
pub(crate) fn loop_get_free(control: BorrowedFd<'_>) -> io::Result<i64> {
    const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
    // SAFETY: this ioctl takes no argument.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    check(libc::c_long::from(number))
}

/// Ties a file to a loop device that unties itself with its last user.
///
/// `name` is what the kernel remembers as the device's file name (at most 63 bytes): how a device is told to be
/// ours when its file has no name any more.
pub(crate) fn loop_configure(device: BorrowedFd<'_>, file: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
    const LO_FLAGS_AUTOCLEAR: u32 = 4;
    const LO_FLAGS_DIRECT_IO: u32 = 16;
    let mut info = LoopInfo::empty();
    info.flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO;
    for (to, from) in info.file_name[..63].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    let config = LoopConfig { fd: file.as_raw_fd().cast_unsigned(), block_size: 4096, info, reserved: [0; 8] };
    // SAFETY: the struct has the kernel's layout and outlives the call.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
    check(libc::c_long::from(done)).map(drop)
}

/// Unties a loop device: at once, or with its last user if there is one.
pub(crate) fn loop_clear(device: BorrowedFd<'_>) -> io::Result<()> {
    const LOOP_CLR_FD: libc::Ioctl = 0x4C01;
    // SAFETY: this ioctl takes no argument.
    check(libc::c_long::from(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CLR_FD) })).map(drop)
}

/// The file name that a loop device was configured with; `None` if it is not in use.
pub(crate) fn loop_name(device: BorrowedFd<'_>) -> io::Result<Option<String>> {
    const LOOP_GET_STATUS64: libc::Ioctl = 0x4C05;
    let mut info = LoopInfo::empty();
    // SAFETY: the struct has the kernel's layout and outlives the call.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) };
    match check(libc::c_long::from(done)) {
        Ok(_) => {}
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => return Ok(None),
        Err(e) => return Err(e),
    }
    let end = info.file_name.iter().position(|&b| b == 0).unwrap_or(info.file_name.len());
    Ok(Some(String::from_utf8_lossy(&info.file_name[..end]).into_owned()))
}

/// Begins to write out what a file has, without waiting for it.
pub(crate) fn begin_write_out(file: BorrowedFd<'_>) {
    // SAFETY: integers only. Where it can't be begun early it is done later.
    let _ = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Puts an end to a mounted file system: from now on whoever has a file of it open gets EIO. ext4, xfs and f2fs know it.
/// `keep` writes out what it has first; else nothing more reaches the disk.
pub(crate) fn shut_down(directory: BorrowedFd<'_>, keep: bool) -> io::Result<()> {
    // EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN are the same number and take the same flags.
    const SHUTDOWN: libc::Ioctl = 0x8004_587D;
    const LOGFLUSH: u32 = 1;
    const NOLOGFLUSH: u32 = 2;
    let flags = if keep { LOGFLUSH } else { NOLOGFLUSH };
    // SAFETY: the integer outlives the call.
    let done = unsafe { libc::ioctl(directory.as_raw_fd(), SHUTDOWN, &raw const flags) };
    check(libc::c_long::from(done)).map(drop)
}

/// How the kernel names a file that may have no name in any directory.
#[repr(C)]
struct FileHandle {
    bytes: u32,
    kind: i32,
    data: [u8; 128],
}

/// What [`open_by_handle`] finds this file by, as long as it exists.
pub(crate) fn handle_of(file: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut handle = FileHandle { bytes: 128, kind: 0, data: [0; 128] };
    let (empty, mut mount) = (c"", 0_i32);
    // SAFETY: all three outlive the call, and the handle says how much room it has.
    let done = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            file.as_raw_fd(),
            empty.as_ptr(),
            &raw mut handle,
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    check(done)?;
    let length = usize::try_from(handle.bytes).unwrap_or(0).min(handle.data.len());
    Ok([&handle.kind.to_ne_bytes()[..], &handle.data[..length]].concat())
}

/// Opens a file of the file system that `place` lies on.
pub(crate) fn open_by_handle(place: BorrowedFd<'_>, handle: &[u8]) -> io::Result<OwnedFd> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidInput, "not a file handle");
    let (kind, bytes) = handle.split_first_chunk::<4>().ok_or_else(wrong)?;
    let mut data = [0; 128];
    data.get_mut(..bytes.len()).ok_or_else(wrong)?.copy_from_slice(bytes);
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    let handle = FileHandle { bytes: length, kind: i32::from_ne_bytes(*kind), data };
    let flags = libc::O_RDWR | libc::O_CLOEXEC;
    // SAFETY: the handle outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_by_handle_at, place.as_raw_fd(), &raw const handle, flags) };
    let fd = i32::try_from(check(fd)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes the immutable and append-only flags from a file, which keep even root from removing it.
pub(crate) fn clear_fixed(file: BorrowedFd<'_>) -> io::Result<()> {
    const FS_IOC_GETFLAGS: libc::Ioctl = 0x8008_6601;
    const FS_IOC_SETFLAGS: libc::Ioctl = 0x4008_6602;
    const FIXED: libc::c_int = 0x10 | 0x20;
    let mut flags: libc::c_int = 0;
    // SAFETY: the integer outlives the call; the kernel writes an int whatever the number's size says.
    check(libc::c_long::from(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_GETFLAGS, &raw mut flags) }))?;
    flags &= !FIXED;
    // SAFETY: as above.
    check(libc::c_long::from(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_SETFLAGS, &raw const flags) })).map(drop)
}
