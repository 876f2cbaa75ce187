//! The processes below the supervisor: collecting them, counting them, and ending all of them.
//!
//! The supervisor is a subreaper, so every orphan below it becomes its child: the tree is empty exactly when it has no
//! child left.

use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::resource::{Usage, UsageWho, getrusage};
use runtimed_sandbox::process::{KillReport, KillTree, Pid, Signal, children, descendants, kill_descendants};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, WaitOptions, pidfd_open, pidfd_send_signal, wait, waitpid};

use crate::diagnostics::say;

/// Collects the children that have ended, but never `kept`, whose status somebody wants.
pub(crate) fn collect_orphans(kept: Pid) {
    for pid in children(rustix::process::getpid()) {
        if pid != kept {
            // One that lives on, or that is gone already, is no news.
            waitpid(Some(pid), WaitOptions::NOHANG).unwrap_or_default();
        }
    }
}

/// Collects every child that has ended; true when none is left.
pub(crate) fn is_empty() -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
}

/// How many processes are below the supervisor.
pub(crate) fn count() -> u32 {
    u32::try_from(descendants(rustix::process::getpid(), &[]).len()).unwrap_or(u32::MAX)
}

/// Asks every process of the tree to end.
pub(crate) fn terminate() {
    let ours = rustix::process::getpid();
    for some in descendants(ours, &[]).chunks(AT_ONCE) {
        let held: Vec<(Pid, OwnedFd)> =
            some.iter().filter_map(|pid| Some((*pid, pidfd_open(*pid, PidfdFlags::empty()).ok()?))).collect();
        // Looked up again while they are held: a number that was given to somebody else meanwhile is not below us.
        let still = descendants(ours, &[]);
        for (_, pidfd) in held.iter().filter(|(pid, _)| still.contains(pid)) {
            // A stopped process handles TERM only once it goes on; one that has ended needs neither.
            pidfd_send_signal(pidfd, Signal::TERM).unwrap_or_default();
            pidfd_send_signal(pidfd, Signal::CONT).unwrap_or_default();
        }
    }
}

/// Processes held by descriptor at once.
const AT_ONCE: usize = 256;

/// Kills the whole tree and collects it, but for `kept`, which is killed and left to its owner to collect. The result is
/// how many could not be killed in ten seconds.
pub(crate) fn kill(guard: Option<Pid>, kept: Option<Pid>) -> u32 {
    let unreaped: Vec<Pid> = kept.into_iter().collect();
    let kill = KillTree { unreaped: &unreaped, guard, ..KillTree::default() };
    match kill_descendants(&kill) {
        Ok(report) => {
            let KillReport { killed, survivors, kill_to_empty, mechanism, .. } = report;
            say(&format!(
                "killed {killed} processes in {kill_to_empty:?} by {mechanism}; {survivors} are left"
            ));
            survivors
        }
        // The supervisor is a subreaper, which is all that is asked of it.
        Err(_) => count(),
    }
}

/// What everything collected so far has used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Used {
    user: Duration,
    system: Duration,
    max_rss: u64,
}

/// What a tree has used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TreeUsage {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
    /// Bytes.
    pub(crate) max_rss: u64,
}

impl Used {
    /// What all children that were collected until now have used.
    pub(crate) fn now() -> Option<Self> {
        let usage: Usage = getrusage(UsageWho::RUSAGE_CHILDREN).ok()?;
        let duration = |time: nix::sys::time::TimeVal| {
            Duration::from_secs(u64::try_from(time.tv_sec()).unwrap_or(0))
                + Duration::from_micros(u64::try_from(time.tv_usec()).unwrap_or(0))
        };
        Some(Self {
            user: duration(usage.user_time()),
            system: duration(usage.system_time()),
            max_rss: u64::try_from(usage.max_rss()).unwrap_or(0).saturating_mul(1024),
        })
    }

    /// What has been used since `earlier`. The kernel keeps only the largest resident set of all children ever, so an
    /// earlier phase may hide the tree's own: then the command's, `main_rss`, stands for it.
    pub(crate) fn since(self, earlier: Self, main_rss: u64) -> TreeUsage {
        TreeUsage {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
            max_rss: if self.max_rss > earlier.max_rss { self.max_rss } else { main_rss },
        }
    }
}
