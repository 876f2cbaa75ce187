//! CPU time of processes, from `/proc/PID/stat` (proc(5)).

use std::fs;
use std::time::Duration;

use runtimed_sandbox::process::Pid;

/// What a process and those children of it that it has waited for have used; nothing for one that is gone.
pub(super) fn used(pid: Pid) -> Duration {
    ticks(pid).map_or(Duration::ZERO, |[user, system, child_user, child_system]| {
        time(user + system + child_user + child_system)
    })
}

/// What the children that a process has waited for have used, theirs included.
pub(super) fn reaped(pid: Pid) -> Duration {
    ticks(pid).map_or(Duration::ZERO, |[_, _, user, system]| time(user + system))
}

/// Fields 14 to 17: `utime`, `stime`, `cutime`, `cstime`.
fn ticks(pid: Pid) -> Option<[u64; 4]> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).ok()?;
    parse(&stat)
}

fn parse(stat: &str) -> Option<[u64; 4]> {
    // The second field is the program's name, which may hold anything, a parenthesis and a space too.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok().map(|ticks| ticks.min(u64::from(u32::MAX) << 8));
    Some([next()?, next()?, next()?, next()?])
}

fn time(ticks: u64) -> Duration {
    Duration::from_millis(ticks.saturating_mul(1000) / rustix::param::clock_ticks_per_second().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_looks_like_fields_is_skipped() {
        let stat = "7 (a) b (1 2) R 1 7 7 0 -1 4194304 0 0 0 0 12 3 40 5 20 0 1 0 0 0 0";
        assert_eq!(parse(stat), Some([12, 3, 40, 5]));
        assert_eq!(parse("7 (a"), None);
        assert!(ticks(rustix::process::getpid()).is_some());
    }
}
