use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use super::table::{Held, children, freeze_and_kill, signal_below};
use crate::sys::{self, Target};

/// How a whole tree is to end. `Default` leaves nothing alone, gives no grace, and tries for ten seconds.
#[derive(Clone, Copy, Debug)]
pub struct KillTree<'a> {
    /// Neither signalled nor collected, nor anything below them.
    pub except: &'a [Pid],
    /// Killed like the others but not collected: somebody holds a [`crate::spawn::Child`] and wants its status.
    pub unreaped: &'a [Pid],
    /// A process of this uid outside the signal-scoped domain that this process is in, usually the daemon. If it proves
    /// to be out of reach, one `kill(-1)` reaches exactly the domain, however fast it forks.
    pub guard: Option<Pid>,
    /// How long the tree may take to end after `TERM`; zero sends `KILL` at once.
    pub grace: Duration,
    /// How long to go on after the grace before the rest counts as survivors.
    pub limit: Duration,
}

impl Default for KillTree<'_> {
    fn default() -> Self {
        Self {
            except: &[],
            unreaped: &[],
            guard: None,
            grace: Duration::ZERO,
            limit: Duration::from_secs(10),
        }
    }
}

/// What killing a tree took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KillReport {
    /// Processes that were sent `TERM`.
    pub term_sent: u32,
    /// Processes that were still there after the grace, ended by `KILL`, and were collected here.
    pub killed: u32,
    /// Processes that were still there at the limit.
    pub survivors: u32,
    /// From the first signal until the tree was empty, the grace included.
    pub elapsed: Duration,
    /// From the first `KILL` until the tree was empty.
    pub kill_to_empty: Duration,
    /// How the rest was killed.
    pub mechanism: &'static str,
}

/// Ends every process below this one, which has to be a subreaper, and collects them.
///
/// # Errors
/// `EINVAL` if this process is no subreaper: orphans would escape.
pub fn kill_descendants(kill: &KillTree<'_>) -> Result<KillReport, Errno> {
    if rustix::process::child_subreaper()?.is_none() && rustix::process::getpid() != Pid::INIT {
        return Err(Errno::INVAL);
    }
    let started = Instant::now();
    let mut tree = Below { kill, collected: 0 };
    let mut report = KillReport {
        term_sent: 0,
        killed: 0,
        survivors: 0,
        elapsed: Duration::ZERO,
        kill_to_empty: Duration::ZERO,
        mechanism: "none",
    };
    if !kill.grace.is_zero() && !tree.is_empty() {
        // A stopped process handles TERM only once it goes on.
        report.term_sent =
            signal_below(rustix::process::getpid(), kill.except, &[Signal::TERM, Signal::CONT]);
        tree.wait_until_empty(started + kill.grace, Duration::from_millis(100));
    }
    if !tree.is_empty() {
        let killing = Instant::now();
        let deadline = killing + kill.limit;
        let at_once = kill.except.is_empty() && kill.guard.is_some_and(is_out_of_reach);
        report.mechanism = if at_once { "kill(-1) in the signal-scoped domain" } else { "pidfd walk" };
        tree.collected = 0;
        loop {
            if at_once {
                kill_domain();
            } else {
                freeze_and_kill(rustix::process::getpid(), kill.except);
            }
            let round = Instant::now() + Duration::from_millis(20);
            if tree.wait_until_empty(round.min(deadline), Duration::from_millis(5))
                || Instant::now() >= deadline
            {
                break;
            }
        }
        report.kill_to_empty = killing.elapsed();
        report.killed = tree.collected;
        report.survivors = u32::try_from(super::descendants(rustix::process::getpid(), kill.except).len())
            .unwrap_or(u32::MAX)
            .saturating_sub(tree.kept_zombies());
    }
    report.elapsed = started.elapsed();
    Ok(report)
}

struct Below<'a> {
    kill: &'a KillTree<'a>,
    collected: u32,
}

impl Below<'_> {
    /// Collects what has ended, and says whether nothing is left.
    fn is_empty(&mut self) -> bool {
        self.living().is_empty()
    }

    /// This process's children that have not ended, after the others were collected. An empty answer means an empty
    /// tree: whatever was deeper has become our child by then.
    fn living(&mut self) -> Vec<Pid> {
        let mut living = Vec::new();
        for pid in children(rustix::process::getpid()) {
            if self.kill.except.contains(&pid) {
                continue;
            }
            if self.kill.unreaped.contains(&pid) {
                if !has_ended(pid) {
                    living.push(pid);
                }
                continue;
            }
            match sys::wait(Target::Pid(pid), false) {
                Ok(None) => living.push(pid),
                Ok(Some(_)) => self.collected += 1,
                // Somebody else collected it.
                Err(_) => {}
            }
        }
        living
    }

    /// Waits for the tree to become empty; looks again whenever a child ends, and at least once every `interval`.
    fn wait_until_empty(&mut self, deadline: Instant, interval: Duration) -> bool {
        loop {
            let living = self.living();
            if living.is_empty() {
                // What an ended child left behind has become ours in the meantime.
                if self.is_empty() {
                    return true;
                }
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            wait_for_any(&living, left.min(interval));
        }
    }

    fn kept_zombies(&self) -> u32 {
        let ended = self.kill.unreaped.iter().filter(|pid| has_ended(**pid)).count();
        u32::try_from(ended).unwrap_or(u32::MAX)
    }
}

/// Whether a child has ended, without collecting it.
fn has_ended(pid: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(rustix::process::waitid(WaitId::Pid(pid), options), Ok(None))
}

/// Sleeps until one of our children ends, at most `timeout`.
pub(super) fn wait_for_any(pids: &[Pid], timeout: Duration) {
    let ours = rustix::process::getpid();
    let held: Vec<_> = pids.iter().take(64).filter_map(|pid| Held::new(*pid, ours, ours)).collect();
    let mut polled: Vec<_> = held.iter().map(|held| PollFd::new(&held.pidfd, PollFlags::IN)).collect();
    let timeout = Timespec::try_from(timeout).ok();
    // An interruption only means that the caller looks again earlier.
    poll(&mut polled, timeout.as_ref()).unwrap_or_default();
}

/// Whether a process of our own uid refuses our signals, which is what a signal-scoped domain between us means.
///
/// Its uid matters: a refusal that comes from another uid would say nothing about the domain.
fn is_out_of_reach(guard: Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", guard.as_raw_pid())).unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    let ours = rustix::process::geteuid().as_raw().to_string();
    let same_uid =
        uids.split_ascii_whitespace().count() == 4 && uids.split_ascii_whitespace().all(|uid| uid == ours);
    same_uid && rustix::process::test_kill_process(guard) == Err(Errno::PERM)
}

/// `kill(-1, KILL)`: everything that this process may signal, except itself.
fn kill_domain() {
    sys::kill_all().unwrap_or_default();
}
