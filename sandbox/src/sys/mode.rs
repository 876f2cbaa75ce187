//! Changing a mode through a descriptor, whatever it was opened for.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::last_errno;

/// `fchmodat2` has one number on every architecture; libc names it only on some.
const SYS_FCHMODAT2: libc::c_long = 452;

/// Changes the mode of what a descriptor refers to, also when it was opened with `O_PATH`, which `fchmod` refuses.
///
/// Linux 6.6 has `fchmodat2` with `AT_EMPTY_PATH`. Before that, and where a seccomp profile does not know the call, the
/// descriptor's link in `/proc/self/fd` leads to the very same inode.
pub(crate) fn chmod_descriptor(fd: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    // SAFETY: the path is a NUL-terminated constant, the descriptor is borrowed for the call, and the kernel only reads.
    let done = unsafe {
        libc::syscall(
            SYS_FCHMODAT2,
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::c_ulong::from(mode),
            libc::AT_EMPTY_PATH,
        )
    };
    if done == 0 {
        return Ok(());
    }
    match last_errno() {
        Errno::NOSYS | Errno::INVAL => {
            let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
            rustix::fs::chmod(link, rustix::fs::Mode::from_raw_mode(mode))
        }
        errno => Err(errno),
    }
}
