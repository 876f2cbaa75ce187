use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Pid;

use super::checked;
use crate::spawn::{Exited, Rusage, Status};

/// Which child is waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    PidFd(BorrowedFd<'a>),
    Pid(Pid),
}

/// Collects a child that has ended; `None` if it has not and `block` is false.
///
/// libc's `waitid` has no way to ask for the resource usage, the system call has.
pub(crate) fn wait(target: Target<'_>, block: bool) -> Result<Option<Exited>, Errno> {
    let (kind, id) = match target {
        Target::PidFd(fd) => (libc::P_PIDFD, fd.as_raw_fd()),
        Target::Pid(pid) => (libc::P_PID, pid.as_raw_pid()),
    };
    let options = libc::WEXITED | if block { 0 } else { libc::WNOHANG };
    loop {
        // SAFETY: all-zero bytes are valid for this structure of integers.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: all-zero bytes are valid for this structure of integers.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes one `siginfo_t` and one `rusage`, both of this frame's.
        let waited =
            unsafe { libc::syscall(libc::SYS_waitid, kind, id, &raw mut info, options, &raw mut usage) };
        match checked(waited) {
            Ok(()) => return Ok(read(&info, &usage)),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn read(info: &libc::siginfo_t, usage: &libc::rusage) -> Option<Exited> {
    // SAFETY: `waitid` either left the structure zeroed or filled it for SIGCHLD, whose layout these accessors read.
    let pid = unsafe { info.si_pid() };
    if pid == 0 {
        return None;
    }
    // SAFETY: as above.
    let value = unsafe { info.si_status() };
    let status =
        if info.si_code == libc::CLD_EXITED { Status::Exited(value) } else { Status::Signalled(value) };
    let rusage = Rusage {
        user: duration(usage.ru_utime),
        system: duration(usage.ru_stime),
        max_rss_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0).saturating_mul(1024),
    };
    Some(Exited { status, rusage })
}

fn duration(time: libc::timeval) -> Duration {
    Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0))
        + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
}

/// `kill(-1, SIGKILL)`: everything that the caller may signal, except itself.
pub(crate) fn kill_all() -> Result<(), Errno> {
    // SAFETY: the call takes no pointer. That it reaches nothing but the attempt is what `process::kill` has made sure of.
    checked(unsafe { libc::kill(-1, libc::SIGKILL) }.into())
}
