//! Schedules of faults against the real binaries. Half an hour of them is `target/debug/faults`; see docs/OPERATIONS.md.

use std::time::Duration;

use runtimed_api::run::status::Phase;
use runtimed_tests::{binaries, fault};

/// Schedules of one run of the tests.
const SCHEDULES: u64 = 240;

/// The same seeds each time: what a change breaks is found by the schedule that it was found by before.
#[test]
fn whatever_goes_wrong_each_run_ends_once_and_nothing_is_left() {
    assert!(binaries::path("runtimed").is_file());
    let tally = fault::play(1..1 + SCHEDULES, 3, Duration::from_secs(1800));
    let failures: Vec<_> = tally.failures.iter().map(|(_, why)| why.as_str()).collect();
    assert!(failures.is_empty(), "play one again with target/debug/faults --seed N\n{}", failures.join("\n"));
    assert_eq!(tally.schedules, SCHEDULES, "the time was up before all were played");
    // An ordinary user cannot mount the small disks; for root each full disk must have been one.
    let unmounted = tally.left_out.get(fault::NO_DISK).copied().unwrap_or(0);
    let root = rustix::process::geteuid().is_root();
    assert!(!root || unmounted == 0, "{unmounted} full disks were left out: {:?}", tally.left_out);
    // Were most Runs lost, little else would have been tried.
    let lost = tally.ended(Phase::Lost);
    assert!(lost * 10 < tally.runs() * 9, "{lost} of {} Runs were lost", tally.runs());
    // A lease is 300 ms, and a busy machine alone may delay a renewal by that: seldom.
    assert!(tally.unexplained * 20 <= tally.runs(), "{} Runs were lost for no reason", tally.unexplained);
    for phase in [Phase::Succeeded, Phase::Failed, Phase::TimedOut, Phase::Cancelled, Phase::Lost] {
        assert!(tally.ended(phase) > 0, "no Run ended as {phase}: {:?}", tally.phases);
    }
}
