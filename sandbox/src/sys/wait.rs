//! Collecting children with what they used, and signals that safe wrappers do not send.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::checked;
use crate::spawn::{Exited, Rusage, Status};

/// Which child is waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    PidFd(BorrowedFd<'a>),
    Pid(Pid),
    Any,
}

/// Collects a child that has ended; `None` if it has not and `block` is false.
///
/// libc's `waitid` has no way to ask for the resource usage, the system call has.
pub(crate) fn wait(target: Target<'_>, block: bool) -> Result<Option<(Pid, Exited)>, Errno> {
    let (kind, id) = match target {
        Target::PidFd(fd) => (libc::P_PIDFD, fd.as_raw_fd()),
        Target::Pid(pid) => (libc::P_PID, pid.as_raw_pid()),
        Target::Any => (libc::P_ALL, 0),
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

fn read(info: &libc::siginfo_t, usage: &libc::rusage) -> Option<(Pid, Exited)> {
    // SAFETY: `waitid` either left the structure zeroed or filled it for SIGCHLD, whose layout these accessors read.
    let pid = Pid::from_raw(unsafe { info.si_pid() })?;
    // SAFETY: as above.
    let value = unsafe { info.si_status() };
    let status =
        if info.si_code == libc::CLD_EXITED { Status::Exited(value) } else { Status::Signalled(value) };
    let rusage = Rusage {
        user: duration(usage.ru_utime),
        system: duration(usage.ru_stime),
        max_rss_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0).saturating_mul(1024),
    };
    Some((pid, Exited { status, rusage }))
}

fn duration(time: libc::timeval) -> Duration {
    Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0))
        + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
}

/// `kill(-1, …)`: everything that the caller sees and may signal, except itself.
pub(crate) fn signal_all(signal: Signal) -> Result<(), Errno> {
    // SAFETY: the call takes no pointer. That it reaches nothing but the attempt is what `process::kill` has made sure of.
    checked(unsafe { libc::kill(-1, signal.as_raw()) }.into())
}

/// `SIGCHLD` blocked for this thread until it is dropped, so that it can be waited for.
pub(crate) struct ChildSignal {
    signal: libc::sigset_t,
    former: libc::sigset_t,
}

impl ChildSignal {
    pub(crate) fn block() -> Self {
        // SAFETY: all-zero bytes are an empty signal set.
        let mut signal: libc::sigset_t = unsafe { std::mem::zeroed() };
        let mut former = signal;
        // SAFETY: the set is a valid one of this frame's, and the signal exists.
        unsafe { libc::sigaddset(&raw mut signal, libc::SIGCHLD) };
        // SAFETY: both sets live in this frame; the call cannot fail with these arguments.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signal, &raw mut former) };
        Self { signal, former }
    }

    /// Sleeps until a child has ended since the last time, at most `timeout`, which is below a second.
    pub(crate) fn wait(&self, timeout: Duration) {
        let timeout = libc::timespec { tv_sec: 0, tv_nsec: timeout.subsec_nanos().into() };
        // SAFETY: the set and the time outlive the call, and no information about the signal is asked for. The outcome
        // does not matter: the caller looks at its children either way.
        unsafe { libc::sigtimedwait(&raw const self.signal, std::ptr::null_mut(), &raw const timeout) };
    }
}

impl Drop for ChildSignal {
    fn drop(&mut self) {
        // SAFETY: the set is the one that `block` was given back, and no former mask is asked for.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.former, std::ptr::null_mut()) };
    }
}
