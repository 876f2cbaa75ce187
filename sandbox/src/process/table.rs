//! Who is below whom, as `/proc` says, and signals to all of them.

use std::collections::HashSet;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

/// The children of a process, of all its threads, as `/proc` lists them; zombies included. None if it is gone.
#[must_use]
pub fn children(pid: Pid) -> Vec<Pid> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_pid())) else { return Vec::new() };
    let mut children = Vec::new();
    for task in tasks.flatten() {
        let Ok(list) = std::fs::read_to_string(task.path().join("children")) else { continue };
        children.extend(list.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)));
    }
    children
}

/// Every process below `pid`, parents before their children, without what is in `except` and below it.
#[must_use]
pub fn descendants(pid: Pid, except: &[Pid]) -> Vec<Pid> {
    walk(pid, except, |_, _| true)
}

/// Visits every process below `top`; `visit` is told the process and its parent and says whether to go below it.
fn walk(top: Pid, except: &[Pid], mut visit: impl FnMut(Pid, Pid) -> bool) -> Vec<Pid> {
    let mut seen: HashSet<Pid> = except.iter().copied().chain([top]).collect();
    let mut found = Vec::new();
    let mut pending = vec![top];
    while let Some(parent) = pending.pop() {
        for child in children(parent) {
            if seen.insert(child) && visit(child, parent) {
                found.push(child);
                pending.push(child);
            }
        }
    }
    found
}

/// A process that was below ours when it was looked at, held so that its number cannot come to mean another.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) pidfd: OwnedFd,
}

impl Held {
    /// Takes hold of `pid` if it is still a child of `parent`, or has become one of `ours` meanwhile.
    pub(super) fn new(pid: Pid, parent: Pid, ours: Pid) -> Option<Self> {
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Asked after the descriptor exists: a process that took the number over in between has another parent.
        let found = parent_of(pid)?;
        (found == parent || found == ours).then_some(Self { pidfd })
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<(), Errno> {
        rustix::process::pidfd_send_signal(&self.pidfd, signal)
    }
}

/// Signals every process below `top` once, and says how many there were.
///
/// Listed first and signalled then: a parent that ends at the signal hands its children over, and a walk that signals as it
/// goes would look for them where they are not any more. What was forked or handed over meanwhile is found by looking
/// again; a storm that goes on forking is left to KILL.
pub(super) fn signal_below(top: Pid, except: &[Pid], signals: &[Signal]) -> u32 {
    let ours = rustix::process::getpid();
    let mut told = HashSet::new();
    for _ in 0..ROUNDS {
        let mut fresh = Vec::new();
        walk(top, except, |pid, parent| {
            if !told.contains(&pid) {
                fresh.push((pid, parent));
            }
            true
        });
        // A large tree may be a storm, which would grow for as long as it is told to end.
        if fresh.is_empty() || told.len() >= CAUGHT_UP {
            break;
        }
        let held: Vec<_> =
            fresh.iter().map(|(pid, parent)| (*pid, Held::new(*pid, *parent, ours))).take(HELD_CAP).collect();
        for (pid, process) in held {
            // One that was handed over in between is found under its new parent.
            let Some(process) = process else { continue };
            for signal in signals {
                // One that has ended meanwhile needs no signal, and one out of reach shows as a survivor.
                process.signal(*signal).unwrap_or_default();
            }
            told.insert(pid);
        }
    }
    u32::try_from(told.len()).unwrap_or(u32::MAX)
}

/// Looks at a tree that is being signalled: two for what changed during the first, and not more, for a storm grows.
const ROUNDS: usize = 3;

/// A tree of this many processes is looked at once.
const CAUGHT_UP: usize = 64;

/// Stops every process below `top`, then kills them.
///
/// Each is stopped before its children are listed, and a fork that is under way when a signal arrives is abandoned by
/// the kernel; so the list is complete, and nothing grows while the walk goes on.
pub(super) fn freeze_and_kill(top: Pid, except: &[Pid]) {
    let ours = rustix::process::getpid();
    let mut held = Vec::new();
    walk(top, except, |pid, parent| {
        let Some(process) = Held::new(pid, parent, ours) else { return false };
        process.signal(Signal::STOP).unwrap_or_default();
        // A descriptor for each of a storm's processes would run out. Those beyond stay stopped until the next round.
        if held.len() < HELD_CAP {
            held.push(process);
        }
        true
    });
    for process in held {
        process.signal(Signal::KILL).unwrap_or_default();
    }
}

/// Processes held at once, far below any descriptor limit of a server.
const HELD_CAP: usize = 256;

fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).ok()?;
    // The name in parentheses is the process's own choice and may hold anything, so fields count from its end.
    let (_, fields) = stat.rsplit_once(')')?;
    Pid::from_raw(fields.split_ascii_whitespace().nth(1)?.parse().ok()?)
}
