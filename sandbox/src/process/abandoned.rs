//! What a starter that is dead has left running: processes that are nobody's children any more.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::tree::TreeName;

/// As much of a process's arguments, and of its environment, as is looked at, in bytes: the kernel lets both together grow
/// beyond that only where the stack limit was raised.
const MOST: u64 = 2 << 20;

/// What became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AbandonedReport {
    /// Processes that were found, and have ended.
    pub ended: u32,
    /// Processes that were still there at the limit.
    pub survivors: u32,
}

/// Ends every process that names one of these trees in its arguments or in its environment, or bears its mark, but for this one.
/// What a confined command starts keeps the mark whatever it does ([`Rlimits::mark`](crate::policy::Rlimits::mark)).
///
/// One that names a tree in its arguments is a supervisor: it notices by itself that its starter is dead, unless it is stopped. It
/// is told to go on, and for `patience` it is left to end its own tree, for it alone knows all of it. Whatever is there after
/// that is killed. Processes of another uid are out of reach and are not counted.
///
/// # Errors
/// `/proc` cannot be listed.
pub fn end_abandoned(trees: &[&str], patience: Duration, limit: Duration) -> io::Result<AbandonedReport> {
    let begun = Instant::now();
    let marks = trees.iter().filter_map(|tree| tree.parse::<TreeName>().ok()).map(|name| name.mark());
    let marks: Vec<u64> = marks.collect();
    let mut seen = HashSet::new();
    loop {
        let found = find(trees, &marks)?;
        seen.extend(found.iter().map(|process| process.pid));
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        if found.is_empty() || begun.elapsed() >= limit {
            let survivors = count(found.len());
            return Ok(AbandonedReport { ended: count(seen.len()) - survivors, survivors });
        }
        let supervised = begun.elapsed() < patience && found.iter().any(|process| process.supervisor);
        for process in &found {
            let signal = match (supervised, process.supervisor) {
                (false, _) => Signal::KILL,
                (true, true) => Signal::CONT,
                (true, false) => continue,
            };
            // One that has ended in this very moment needs none.
            rustix::process::pidfd_send_signal(&process.pidfd, signal).unwrap_or_default();
        }
        // What was forked meanwhile is found by looking again, soon.
        let mut polled: Vec<_> =
            found.iter().map(|process| PollFd::new(&process.pidfd, PollFlags::IN)).collect();
        let soon = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        poll(&mut polled, Some(&soon)).unwrap_or_default();
    }
}

struct Marked {
    pid: Pid,
    pidfd: OwnedFd,
    supervisor: bool,
}

fn find(trees: &[&str], marks: &[u64]) -> io::Result<Vec<Marked>> {
    let ours = rustix::process::getpid();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = number.and_then(Pid::from_raw).filter(|pid| *pid != ours) else { continue };
        // Opened before the look, so that what is signalled is what was looked at, or nothing.
        let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { continue };
        let text = |file: &str| {
            let mut text = Vec::new();
            // It is gone, or another's.
            let read = File::open(format!("/proc/{}/{file}", pid.as_raw_pid()))
                .and_then(|file| file.take(MOST).read_to_end(&mut text));
            read.map(|_| text).unwrap_or_default()
        };
        let names = |file| {
            let text = text(file);
            trees.iter().any(|tree| holds(&text, tree.as_bytes()))
        };
        let supervisor = names("cmdline");
        let bears = || mark(&text("limits")).is_some_and(|mark| marks.contains(&mark));
        // Another uid's refuses even this.
        let found_it = supervisor || (bears() && !has_ended(&pidfd)) || names("environ");
        if found_it && rustix::process::test_kill_process(pid).is_ok() {
            found.push(Marked { pid, pidfd, supervisor });
        }
    }
    Ok(found)
}

/// Whether nothing is left of it but that its parent has not asked how it ended: it keeps its limits until then. A pidfd is
/// readable from the end on (pidfd_open(2)).
fn has_ended(pidfd: &OwnedFd) -> bool {
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(1)
}

/// The hard limit of file locks, as `/proc/PID/limits` has it: name, soft, hard, unit.
fn mark(limits: &[u8]) -> Option<u64> {
    let limits = str::from_utf8(limits).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max file locks"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn holds(text: &[u8], mark: &[u8]) -> bool {
    !mark.is_empty() && text.windows(mark.len()).any(|window| window == mark)
}
