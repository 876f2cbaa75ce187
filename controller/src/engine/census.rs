//! Runs, daemons and slots as they are now, for whoever asks for metrics.

use jiff::Timestamp;
use runtimed_api::run::status::Phase;

use super::State;
use crate::metrics::{Census, OfRuntime};

impl State {
    /// Counts what there is. It looks at every Run that is not over: a matter of milliseconds for as many as there may be.
    pub(super) fn census(&mut self) -> Census {
        let mut census = Census::default();
        let now = Timestamp::now();
        for record in self.index.all() {
            let of: &mut OfRuntime = census.0.entry(record.runtime().clone()).or_default();
            match record.status.phase {
                Phase::Pending => {
                    let waited = record.status.since.duration_until(now).as_secs();
                    of.pending += 1;
                    of.oldest_pending = of.oldest_pending.max(u64::try_from(waited).unwrap_or(0));
                }
                Phase::Finishing => of.finishing += 1,
                _ => of.running += 1,
            }
        }
        for daemon in self.sessions.all() {
            let of = census.0.entry(daemon.runtime.clone()).or_default();
            of.daemons += 1;
            of.unready += u64::from(daemon.is_unready);
            of.slots += daemon.slots as u64;
        }
        for (runtime, of) in &mut census.0 {
            of.free_slots = self.slots.free(runtime) as u64;
        }
        census
    }
}
