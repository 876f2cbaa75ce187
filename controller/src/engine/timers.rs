//! Deadlines, the next one first. A deadline that has become meaningless is found out when it comes: none is ever taken
//! back, so that renewing a lease costs nothing.

use std::collections::BTreeMap;

use jiff::Timestamp;
use runtimed_api::ids::{Namespace, RunUid, SessionId};
use tokio::time::Instant;

use crate::core::RunKey;
use crate::store::Key;

/// What a deadline is for.
#[derive(Debug)]
pub(super) enum Timer {
    /// The backoff of a Run is over.
    Ready(RunKey),
    /// A Run that has been waiting since then has waited long enough.
    GiveUp(RunKey, Timestamp),
    /// A lease may have run out.
    Lease(RunKey),
    /// A finished Run has been kept long enough.
    Remove(RunKey, RunUid),
    /// A Session may have gone silent.
    Session(SessionId),
    /// An uploaded patch or work tree may have been kept long enough.
    Upload(Key),
    /// The secrets of a finished Run could not be removed.
    Forget(Namespace, RunUid),
}

/// Deadlines, the next one first.
#[derive(Debug, Default)]
pub(super) struct Timers {
    set: BTreeMap<(Instant, u64), Timer>,
    /// Keeps apart what falls on one instant.
    count: u64,
}

impl Timers {
    pub(super) fn at(&mut self, deadline: Instant, timer: Timer) {
        self.count += 1;
        self.set.insert((deadline, self.count), timer);
    }

    /// Sets a deadline on the wall clock, as it is now.
    pub(super) fn at_time(&mut self, deadline: Timestamp, timer: Timer) {
        self.at(instant_of(deadline), timer);
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.set.first_key_value().map(|((deadline, _), _)| *deadline)
    }

    /// Takes out a deadline that has come.
    pub(super) fn due(&mut self, now: Instant) -> Option<Timer> {
        let first = self.set.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(first.remove())
    }
}

/// When the monotonic clock will show what is this time of the wall clock; now for the past.
fn instant_of(time: Timestamp) -> Instant {
    let ahead = time.duration_since(Timestamp::now()).unsigned_abs();
    if time <= Timestamp::now() {
        return Instant::now();
    }
    // A deadline too far to count is as good as a year.
    const YEAR: std::time::Duration = std::time::Duration::from_secs(366 * 24 * 3600);
    Instant::now() + ahead.min(YEAR)
}
