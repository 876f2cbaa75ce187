//! The processes below the supervisor: ending all of them, and what they used.

use std::time::Duration;

use nix::sys::resource::{Usage, UsageWho, getrusage};
use runtimed_sandbox::process::{KillReport, KillTree, Reach, kill_descendants};
use runtimed_sandbox::spawn::Child;

use crate::diagnostics::say;

/// Kills the whole tree and collects it; the end of `command` is kept in it.
pub(crate) fn kill(reach: Reach, command: Option<&mut Child>) -> KillReport {
    let report = kill_descendants(KillTree { reach, command, ..KillTree::default() });
    // The supervisor is a subreaper, or the first of its namespace, which is all that is asked of it.
    let report = report.unwrap_or(KillReport {
        killed: 0,
        survivors: true,
        kill_to_empty: Duration::ZERO,
        mechanism: "nothing",
    });
    let KillReport { killed, survivors, kill_to_empty, mechanism } = report;
    let left = if survivors { "some are left" } else { "none is left" };
    say(&format!("killed {killed} processes in {kill_to_empty:?} by {mechanism}; {left}"));
    report
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
