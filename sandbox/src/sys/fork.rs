//! Forking a process of one thread, closing descriptors, and ending at once.

use std::os::fd::RawFd;

use rustix::io::Errno;
use rustix::process::Pid;

use super::{checked, last_errno};

/// Which side of a fork this is.
#[derive(Debug)]
pub(crate) enum Side {
    Child,
    Parent(Pid),
}

/// Copies the process. The caller has made sure that it has one thread: otherwise the child could meet a lock that
/// nobody will ever release.
pub(crate) fn fork() -> Result<Side, Errno> {
    // SAFETY: the process has one thread, so the child's copy of memory is consistent and any code may run in it.
    match unsafe { libc::fork() } {
        -1 => Err(last_errno()),
        0 => Ok(Side::Child),
        pid => Pid::from_raw(pid).map(Side::Parent).ok_or(Errno::IO),
    }
}

/// Closes every descriptor that is not in `keep`, which is sorted.
pub(crate) fn close_all_but(keep: &[RawFd]) -> Result<(), Errno> {
    let mut next: RawFd = 0;
    for &kept in keep {
        if kept > next {
            close(next, kept - 1)?;
        }
        next = kept.saturating_add(1);
    }
    close(next, RawFd::MAX)
}

fn close(first: RawFd, last: RawFd) -> Result<(), Errno> {
    // SAFETY: the caller is a forked child that ends without dropping what it inherited, so nothing closes, or uses, one
    // of these numbers again; `spawn::fork_phase` documents it for the values that its body holds.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })
}

/// Ends the process at once: no destructor, no buffer and no exit handler of the parent's runs a second time.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: the call takes no pointer and does not return.
    unsafe { libc::_exit(code) }
}
