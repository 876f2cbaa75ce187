//! Ending everything below this process.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::table::{Held, freeze_and_kill, signal_below};
use crate::spawn::Child;
use crate::sys::{self, Target};

/// How a process reaches all that is below it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// By walking down `/proc`, holding each process by descriptor.
    #[default]
    Walk,
    /// It is in a signal-scoped Landlock domain with all of them. `guard` is a process of this uid outside, usually the
    /// daemon: if that proves to be out of reach, one `kill(-1)` reaches exactly the domain, however fast it forks.
    /// Otherwise it walks.
    Domain {
        /// What must be out of reach.
        guard: Pid,
    },
    /// It is the first process of a process namespace, in which only they are: see [`super::settle`].
    Namespace,
}

/// How a whole tree is to end. `Default` walks, and tries for ten seconds.
#[derive(Debug)]
pub struct KillTree<'a> {
    /// How the tree is reached.
    pub reach: Reach,
    /// The one child whose status is wanted: it is killed like the others, and its end is kept here.
    pub command: Option<&'a mut Child>,
    /// How long to go on before the rest counts as survivors.
    pub limit: Duration,
}

impl Default for KillTree<'_> {
    fn default() -> Self {
        Self { reach: Reach::Walk, command: None, limit: Duration::from_secs(10) }
    }
}

/// What killing a tree took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KillReport {
    /// Processes that were ended and collected here, the command not counted.
    pub killed: u32,
    /// Whether something was still there at the limit.
    pub survivors: bool,
    /// From the first `KILL` until the tree was empty.
    pub kill_to_empty: Duration,
    /// How the tree was reached.
    pub mechanism: &'static str,
}

/// Kills every process below this one, which has to be a subreaper or the first of its namespace, and collects them.
///
/// # Errors
/// `EINVAL` if this process is neither: orphans would escape.
pub fn kill_descendants(kill: KillTree<'_>) -> Result<KillReport, Errno> {
    let KillTree { reach, mut command, limit } = kill;
    let first = rustix::process::getpid() == Pid::INIT;
    let orphans_come = first || (reach != Reach::Namespace && rustix::process::child_subreaper()?.is_some());
    if !orphans_come {
        return Err(Errno::INVAL);
    }
    let at_once = reaches_at_once(reach);
    let begun = Instant::now();
    let mut report = KillReport {
        killed: 0,
        survivors: false,
        kill_to_empty: Duration::ZERO,
        mechanism: match (at_once, reach) {
            (true, Reach::Namespace) => "kill(-1) in the process namespace",
            (true, _) => "kill(-1) in the signal-scoped domain",
            (false, _) => "pidfd walk",
        },
    };
    let blocked = sys::ChildSignal::block();
    loop {
        if at_once {
            // Nothing to reach is no failure.
            sys::signal_all(Signal::KILL).unwrap_or_default();
        } else {
            freeze_and_kill(rustix::process::getpid(), &[]);
        }
        let round = Instant::now() + ROUND;
        while !collect(command.as_deref_mut(), &mut report.killed) && Instant::now() < round {
            blocked.wait(round.saturating_duration_since(Instant::now()));
        }
        if collect(command.as_deref_mut(), &mut report.killed) {
            break;
        }
        if begun.elapsed() >= limit {
            report.survivors = true;
            break;
        }
    }
    report.kill_to_empty = begun.elapsed();
    Ok(report)
}

/// After this long the tree is signalled again: a walk may have missed what a dying parent handed over.
const ROUND: Duration = Duration::from_millis(5);

/// Asks every process below this one to end; a stopped one goes on, for it handles `TERM` only then.
pub fn terminate_descendants(reach: Reach) {
    if reaches_at_once(reach) {
        for signal in [Signal::TERM, Signal::CONT] {
            sys::signal_all(signal).unwrap_or_default();
        }
    } else {
        signal_below(rustix::process::getpid(), &[], &[Signal::TERM, Signal::CONT]);
    }
}

/// Collects every child that has ended, and says whether none is left: then the whole tree is empty, for this process is
/// a subreaper or the first of its namespace. The end of `command` is kept in it.
pub fn collect_ended(command: Option<&mut Child>) -> bool {
    collect(command, &mut 0)
}

fn collect(mut command: Option<&mut Child>, others: &mut u32) -> bool {
    loop {
        match sys::wait(Target::Any, false) {
            Ok(Some((pid, exited))) => match &mut command {
                Some(command) if command.pid() == pid => command.has_ended(exited),
                _ => *others += 1,
            },
            Ok(None) => return false,
            // There is no child.
            Err(_) => return true,
        }
    }
}

fn reaches_at_once(reach: Reach) -> bool {
    match reach {
        Reach::Walk => false,
        Reach::Domain { guard } => is_out_of_reach(guard),
        Reach::Namespace => rustix::process::getpid() == Pid::INIT,
    }
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
