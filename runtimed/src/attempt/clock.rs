//! How long each step takes.

use std::time::{Duration, Instant};

use runtimed_api::run::step::{Step, StepTime};

/// A stopwatch that runs from one step to the next.
#[derive(Debug)]
pub(super) struct Clock {
    lap: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { lap: Instant::now() }
    }

    /// The time since the last lap, as that of `step`.
    pub(super) fn lap(&mut self, step: Step) -> StepTime {
        let now = Instant::now();
        let time = of(step, now - self.lap);
        self.lap = now;
        time
    }
}

pub(super) fn of(step: Step, took: Duration) -> StepTime {
    StepTime { step, micros: u64::try_from(took.as_micros()).unwrap_or(u64::MAX) }
}
