//! Schedules of faults: the real binaries, what goes wrong with them, and what must be true afterwards whatever did.
//!
//! ```text
//! seed ─► Plan ─► World: a controller, two daemons, a proxy before each ─► all is put right ─► every Run ends ─► check
//! ```
//!
//! A seed gives the same plan each time. What becomes of it depends on the machine as well, so that a seed that failed may
//! have to be played several times until it fails again.

pub mod check;
pub mod disk;
pub mod failing;
pub mod plan;
pub mod proxy;
pub mod recorder;
pub mod watch;
pub mod world;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use runtimed_api::run::status::Phase;

use plan::Plan;

/// Why an act was left out that fills a disk.
pub const NO_DISK: &str = "a disk was to be filled, and only root may mount one";

/// What was seen over many schedules.
#[derive(Debug, Default)]
pub struct Tally {
    /// Schedules that were played.
    pub schedules: u64,
    /// How many Runs ended in each phase.
    pub phases: BTreeMap<String, u64>,
    /// How many attempts all of them took.
    pub attempts: u64,
    /// Runs that were lost, and nothing had been done to their daemon or to the controller.
    pub unexplained: u64,
    /// Acts that could not be carried out, and why.
    pub left_out: BTreeMap<&'static str, u64>,
    /// What was not as it must be, with the seed.
    pub failures: Vec<(u64, String)>,
}

impl Tally {
    /// How many Runs there were.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.phases.values().sum()
    }

    /// How many Runs ended in this phase.
    #[must_use]
    pub fn ended(&self, phase: Phase) -> u64 {
        self.phases.get(&phase.to_string()).copied().unwrap_or(0)
    }
}

/// Plays the schedules of these seeds, so many at a time, until the time is up or one fails.
pub fn play(seeds: std::ops::Range<u64>, at_once: usize, time: Duration) -> Tally {
    let (next, tally) = (AtomicU64::new(seeds.start), Mutex::new(Tally::default()));
    let deadline = Instant::now() + time;
    let one_after_another = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let failed = tally.lock().is_ok_and(|tally| !tally.failures.is_empty());
            if seed >= seeds.end || Instant::now() >= deadline || failed {
                return;
            }
            let played = play_one(seed);
            let Ok(mut tally) = tally.lock() else { return };
            tally.schedules += 1;
            match played {
                Ok(seen) => {
                    for phase in seen.phases {
                        *tally.phases.entry(phase.to_string()).or_default() += 1;
                    }
                    tally.attempts += seen.attempts;
                    tally.unexplained += seen.unexplained;
                    for why in seen.left_out {
                        *tally.left_out.entry(why).or_default() += 1;
                    }
                }
                Err(why) => tally.failures.push((seed, why)),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(one_after_another);
        }
    });
    tally.into_inner().unwrap_or_default()
}

/// What was seen in one schedule.
#[derive(Debug, Default)]
pub struct Seen {
    phases: Vec<Phase>,
    attempts: u64,
    unexplained: u64,
    left_out: Vec<&'static str>,
}

/// Plays the schedule of a seed.
///
/// # Errors
/// What was not as it must be, with the plan and what the servers said.
pub fn play_one(seed: u64) -> Result<Seen, String> {
    let plan = Plan::of(seed);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let played = runtime.block_on(world::play(&plan));
    runtime.shutdown_timeout(Duration::from_secs(5));
    played.map_err(|why| format!("seed {seed}: {why}\n{plan}"))
}
