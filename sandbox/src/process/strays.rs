//! Children that this process has not started: orphans of what it has.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::kill::wait_for_any;
use super::table::{Held, children, freeze_and_kill};
use crate::spawn::strays_of;
use crate::sys::{self, Target};

/// What became of the strays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StrayReport {
    /// Processes that were collected.
    pub collected: u32,
    /// Strays that were still there at the limit.
    pub survivors: u32,
}

/// Ends and collects every child that this process has not started itself, with everything below it.
///
/// Such a child is an orphan of an attempt, for this process is a subreaper. Children that [`crate::spawn`] started and
/// that have not been waited for are known, as are those in `known`; nothing below them is touched.
#[must_use]
pub fn reap_strays(known: &[Pid], limit: Duration) -> StrayReport {
    let ours = rustix::process::getpid();
    let deadline = Instant::now() + limit;
    let mut report = StrayReport::default();
    loop {
        let mut strays = strays_of(|| children(ours));
        strays.retain(|pid| !known.contains(pid) && !collect(*pid, &mut report));
        if strays.is_empty() {
            return report;
        }
        for stray in &strays {
            // Frozen from the top down, so that nothing grows while the walk goes on, then killed.
            let Some(top) = Held::new(*stray, ours, ours) else { continue };
            top.signal(Signal::STOP).unwrap_or_default();
            freeze_and_kill(*stray, &[]);
            top.signal(Signal::KILL).unwrap_or_default();
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            report.survivors = u32::try_from(strays.len()).unwrap_or(u32::MAX);
            return report;
        }
        wait_for_any(&strays, left.min(Duration::from_millis(5)));
    }
}

/// Collects the strays that have ended by themselves, leaves the others alone, and says how many it were: what a process
/// that is PID 1 owes to whatever else is started in its container.
#[must_use]
pub fn collect_ended_strays() -> u32 {
    let mut report = StrayReport::default();
    for stray in strays_of(|| children(rustix::process::getpid())) {
        collect(stray, &mut report);
    }
    report.collected
}

fn collect(pid: Pid, report: &mut StrayReport) -> bool {
    match sys::wait(Target::Pid(pid), false) {
        Ok(Some(_)) => {
            report.collected += 1;
            true
        }
        Ok(None) => false,
        Err(_) => true,
    }
}
