//! CPU time and threads of processes, from `/proc/PID/stat` (proc(5)).

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use runtimed_sandbox::process::Pid;

/// What one look at a process tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    /// Ticks that it has used itself: fields 14 and 15.
    own: u64,
    /// Ticks of those children that it has waited for, theirs included: fields 16 and 17.
    reaped: u64,
    /// Its threads: field 20.
    pub(super) threads: u64,
    /// When it began: field 22. With the number, it is this process and no later one.
    began: u64,
}

impl Stat {
    /// Nothing for one that is gone.
    pub(super) fn of(pid: Pid) -> Option<Self> {
        parse(&fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).ok()?)
    }
}

/// What the children that a process has waited for have used, theirs included.
pub(super) fn reaped(pid: Pid) -> Duration {
    Stat::of(pid).map_or(Duration::ZERO, |stat| time(stat.reaped))
}

/// CPU time of a tree, of which the kernel keeps no sum: a process whose parent does not want to know how it ends is counted
/// nowhere once it is gone. So what each had used when it was last seen is kept.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    seen: HashMap<(Pid, u64), u64>,
    gone: u64,
}

impl Ledger {
    /// What the tree has used: of what lives, with those that it has waited for, and `reaped` by the worker; or what was seen of
    /// each, if that is more.
    pub(super) fn used(&mut self, tree: &[(Pid, Stat)], reaped: Duration) -> Duration {
        let told: u64 = tree.iter().map(|(_, stat)| stat.own.saturating_add(stat.reaped)).sum();
        for (pid, stat) in tree {
            self.seen.insert((*pid, stat.began), stat.own);
        }
        let living: std::collections::HashSet<_> =
            tree.iter().map(|(pid, stat)| (*pid, stat.began)).collect();
        let gone = &mut self.gone;
        self.seen.retain(|(pid, began), own| {
            // One that was missed by this look alone is still there.
            let there =
                living.contains(&(*pid, *began)) || Stat::of(*pid).is_some_and(|now| now.began == *began);
            if !there {
                *gone = gone.saturating_add(*own);
            }
            there
        });
        let seen = self.seen.values().fold(self.gone, |sum, own| sum.saturating_add(*own));
        (time(told) + reaped).max(time(seen))
    }
}

fn parse(stat: &str) -> Option<Stat> {
    // The second field is the program's name, which may hold anything, a parenthesis and a space too.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let ticks = |number| field(number).map(|ticks| ticks.min(u64::from(u32::MAX) << 8));
    Some(Stat {
        own: ticks(14)? + ticks(15)?,
        reaped: ticks(16)? + ticks(17)?,
        threads: field(20)?,
        began: field(22)?,
    })
}

fn time(ticks: u64) -> Duration {
    Duration::from_millis(ticks.saturating_mul(1000) / rustix::param::clock_ticks_per_second().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_looks_like_fields_is_skipped() {
        let stat = "7 (a) b (1 2) R 1 7 7 0 -1 4194304 0 0 0 0 12 3 40 5 20 0 4 0 99 0 0";
        assert_eq!(parse(stat), Some(Stat { own: 15, reaped: 45, threads: 4, began: 99 }));
        assert_eq!(parse("7 (a"), None);
        assert!(Stat::of(rustix::process::getpid()).is_some());
    }

    #[test]
    fn what_nobody_waited_for_counts_and_what_somebody_did_counts_once() {
        let tick = time(1);
        // Numbers that no process has.
        let pid = |number: i32| Pid::from_raw(i32::MAX - number).expect("a number");
        let stat = |own, reaped| Stat { own, reaped, threads: 1, began: 1 };
        let mut ledger = Ledger::default();
        assert_eq!(ledger.used(&[(pid(0), stat(1, 0)), (pid(1), stat(5, 0))], tick), tick * 7);
        // The second is gone, and its parent has not waited for it.
        assert_eq!(ledger.used(&[(pid(0), stat(2, 0)), (pid(2), stat(4, 0))], Duration::ZERO), tick * 11);
        // These were waited for, with what they had used since they were seen.
        assert_eq!(ledger.used(&[(pid(0), stat(2, 12))], Duration::ZERO), tick * 14);
        let again = ledger.used(&[(pid(0), stat(2, 12))], Duration::ZERO);
        assert_eq!((again, ledger.seen.len()), (tick * 14, 1));
    }
}
