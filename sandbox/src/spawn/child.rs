use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::registry::{self, Entry};
use crate::sys::{self, Target};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It exited with this code.
    Exited(i32),
    /// This signal ended it.
    Signalled(i32),
}

/// What a process, with the descendants that it waited for, used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rusage {
    /// Processor time in user mode.
    pub user: Duration,
    /// Processor time in the kernel.
    pub system: Duration,
    /// The largest resident set of any one process, in bytes.
    pub max_rss_bytes: u64,
}

/// A process that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exited {
    /// How it ended.
    pub status: Status,
    /// What it used.
    pub rusage: Rusage,
}

/// A child of this process. Dropping it neither kills nor collects it: it then counts as a stray.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    exited: Option<Exited>,
    entry: Entry,
}

impl Child {
    pub(super) fn new(pid: Pid, pidfd: OwnedFd, entry: Entry) -> Self {
        Self { pid, pidfd, exited: None, entry }
    }

    /// Its number. After it has been collected the number may be another process's.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// A descriptor that becomes readable when it has ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Waits until it has ended, and collects it. Later calls give the same answer.
    ///
    /// # Errors
    /// `ECHILD` if something else collected it.
    pub fn wait(&mut self) -> Result<Exited, Errno> {
        loop {
            if let Some(exited) = self.collect(true)? {
                return Ok(exited);
            }
        }
    }

    /// Collects it if it has ended.
    ///
    /// # Errors
    /// As [`Child::wait`].
    pub fn try_wait(&mut self) -> Result<Option<Exited>, Errno> {
        self.collect(false)
    }

    /// How it ended, if it has been collected, be it by this value or by [`crate::process::collect_ended`].
    #[must_use]
    pub fn exited(&self) -> Option<Exited> {
        self.exited
    }

    /// Sends it a signal; it is no error if it has ended.
    ///
    /// # Errors
    /// `EPERM` if it is out of reach.
    pub fn signal(&self, signal: Signal) -> Result<(), Errno> {
        match rustix::process::pidfd_send_signal(&self.pidfd, signal) {
            Err(Errno::SRCH) => Ok(()),
            answer => answer,
        }
    }

    /// Somebody else has collected it.
    pub(crate) fn has_ended(&mut self, exited: Exited) {
        self.exited = Some(exited);
        registry::forget(self.pid, self.entry);
    }

    fn collect(&mut self, block: bool) -> Result<Option<Exited>, Errno> {
        if self.exited.is_none() {
            self.exited = sys::wait(Target::PidFd(self.pidfd.as_fd()), block)?.map(|(_, exited)| exited);
            if self.exited.is_some() {
                registry::forget(self.pid, self.entry);
            }
        }
        Ok(self.exited)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        registry::forget(self.pid, self.entry);
    }
}
