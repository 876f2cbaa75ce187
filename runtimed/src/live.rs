//! The attempts that the daemon holds: where each is, and whether it is to end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use runtimed_api::digest::Digest;
use runtimed_api::ids::{AttemptKey, Namespace, RunName};
use runtimed_api::manifest::Manifest;
use runtimed_api::run::limits::LimitName;
use runtimed_api::run::step::Step;
use runtimed_api::session::{Held, SecretText};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::logs::Log;

/// Why an attempt is to end. It ends for the first reason given; a later one can only hurry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// A person asked for it.
    Cancel,
    /// The daemon shuts down.
    Drain,
    /// The lease cannot be held, or the fence is stale: no time for a grace.
    LeaseLost,
    /// The timeout ran out.
    TimedOut,
    /// A limit was reached.
    Limit(LimitName),
}

impl Stop {
    /// How little time is left for the end.
    fn haste(self) -> u8 {
        match self {
            Self::Cancel | Self::TimedOut | Self::Limit(_) => 0,
            Self::Drain => 1,
            Self::LeaseLost => 2,
        }
    }
}

/// What was asked of an attempt so far.
#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    first: Option<Stop>,
    /// What leaves the least time.
    hastiest: Option<Stop>,
    cancelled: bool,
}

/// An attempt that the daemon holds.
#[derive(Debug)]
pub struct Live {
    /// Which.
    pub key: AttemptKey,
    /// Opens the endpoints for this attempt.
    pub read_token: Digest,
    /// Its log.
    pub log: Arc<Log>,
    /// Where its results are spooled.
    pub spool: PathBuf,
    asked: watch::Sender<Asked>,
    now: Mutex<Now>,
}

/// Where an attempt is.
#[derive(Debug, Clone, Default)]
pub struct Now {
    /// The step that it is at.
    pub step: Option<Step>,
    /// Its artifacts, once collected.
    pub manifest: Option<Arc<Manifest>>,
    /// Its patch, once captured and not withheld.
    pub patch: Option<Digest>,
}

impl Live {
    /// An attempt at its beginning.
    #[must_use]
    pub fn new(key: AttemptKey, read_token: &SecretText, log: Arc<Log>, spool: PathBuf) -> Self {
        let read_token = Digest::of(read_token.expose().as_bytes());
        let (asked, now) = (watch::Sender::default(), Mutex::default());
        Self { key, read_token, log, spool, asked, now }
    }

    /// Asks for its end.
    pub fn stop(&self, why: Stop) {
        self.asked.send_modify(|asked| {
            asked.first.get_or_insert(why);
            if asked.hastiest.map(Stop::haste) < Some(why.haste()) {
                asked.hastiest = Some(why);
            }
            asked.cancelled |= why == Stop::Cancel;
        });
    }

    /// Why its end is asked for, if it is: the first reason.
    #[must_use]
    pub fn stopping(&self) -> Option<Stop> {
        self.asked.borrow().first
    }

    /// Returns that reason, when there is one.
    pub async fn stopped(&self) -> Stop {
        self.until(|asked| asked.first).await
    }

    /// Returns the reason that leaves the least time, when it leaves less than `than` does.
    pub async fn hastier(&self, than: Option<Stop>) -> Stop {
        self.until(|asked| asked.hastiest.filter(|why| than.map(Stop::haste) < Some(why.haste()))).await
    }

    /// Returns when what is still to be collected is not wanted any more, or not waited for: the daemon ends, or the
    /// lease is lost.
    pub async fn hurried(&self) {
        self.hastier(Some(Stop::Cancel)).await;
    }

    /// Whether its lease is lost, whatever else it is to end for.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.asked.borrow().hastiest == Some(Stop::LeaseLost)
    }

    /// Whether a person asked for its end, whatever else it is to end for.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.asked.borrow().cancelled
    }

    /// Returns when a person has asked for its end.
    pub async fn cancelled(&self) {
        self.until(|asked| asked.cancelled.then_some(())).await;
    }

    async fn until<T>(&self, wanted: impl Fn(&Asked) -> Option<T>) -> T {
        let mut changes = self.asked.subscribe();
        loop {
            let found = wanted(&changes.borrow_and_update());
            if let Some(found) = found {
                return found;
            }
            // The sender is our own.
            let _changed = changes.changed().await;
        }
    }

    /// Where it is.
    #[must_use]
    pub fn now(&self) -> Now {
        self.lock().clone()
    }

    /// Changes where it is.
    pub fn set(&self, change: impl FnOnce(&mut Now)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The attempts that a daemon holds, from acceptance until their trees are gone.
#[derive(Debug, Default)]
pub struct Attempts {
    held: Mutex<AllHeld>,
    more: Notify,
    /// Until when uploads may go on, once the daemon ends.
    until: watch::Sender<Option<Instant>>,
}

#[derive(Debug, Default)]
struct AllHeld {
    live: BTreeMap<AttemptKey, Arc<Live>>,
    /// Why all of them are to end, and whatever comes yet.
    stop: Option<Stop>,
}

impl Attempts {
    /// One more. Where all were asked to end it is too: a lease may be on its way while the daemon drains.
    pub fn insert(&self, live: Arc<Live>) {
        let mut held = self.lock();
        if let Some(why) = held.stop {
            live.stop(why);
        }
        held.live.insert(live.key.clone(), live);
        drop(held);
        self.more.notify_one();
    }

    /// Asks all of them to end, and each that comes later.
    pub fn stop(&self, why: Stop) {
        let mut held = self.lock();
        held.stop = Some(why);
        held.live.values().for_each(|live| live.stop(why));
    }

    /// The daemon ends: uploads may go on until then.
    pub fn upload_until(&self, until: Instant) {
        self.until.send_replace(Some(until));
    }

    /// Returns when the daemon ends, and no upload may go on.
    pub async fn uploads_due(&self) {
        let mut until = self.until.subscribe();
        match until.wait_for(Option::is_some).await.map(|until| *until) {
            Ok(Some(until)) => tokio::time::sleep_until(until).await,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// One less.
    pub fn remove(&self, key: &AttemptKey) {
        self.lock().live.remove(key);
    }

    /// The one of this key.
    #[must_use]
    pub fn get(&self, key: &AttemptKey) -> Option<Arc<Live>> {
        self.lock().live.get(key).cloned()
    }

    /// The newest attempt at this Run.
    #[must_use]
    pub fn of_run(&self, namespace: &Namespace, name: &RunName) -> Option<Arc<Live>> {
        let held = self.lock();
        let of_run =
            held.live.values().filter(|live| live.key.namespace == *namespace && live.key.name == *name);
        of_run.max_by_key(|live| live.key.fence).cloned()
    }

    /// The first attempt that this daemon holds. One waits for it at most.
    pub async fn first(&self) -> Arc<Live> {
        loop {
            if let Some(live) = self.lock().live.values().next() {
                return Arc::clone(live);
            }
            // Kept for whoever asks next, so that none falls between the look and the wait.
            self.more.notified().await;
        }
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().live.len()
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Live>> {
        self.lock().live.values().cloned().collect()
    }

    /// All of them, as a renewal names them.
    #[must_use]
    pub fn held(&self) -> Vec<Held> {
        let held = |live: &Arc<Live>| Held {
            attempt: live.key.clone(),
            // A Run that is ended for another reason has still to hear of a cancel, and of a lost lease: its uploads go on.
            stopping: live.is_cancelled() || live.is_lost(),
            step: live.now().step,
            last_output: live.log.last_output(),
        };
        self.lock().live.values().map(held).collect()
    }

    fn lock(&self) -> MutexGuard<'_, AllHeld> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::{Bounds, Overflow, Pool};

    fn live(fence: u64) -> Arc<Live> {
        let key =
            serde_json::json!({ "namespace": "n", "name": "r", "uid": "u", "attempt": 1, "fence": fence });
        let bounds = Bounds { limit: 0, share: Pool::new(0).share(), overflow: Overflow::Drop };
        let (token, log) = (SecretText::new("t".to_owned()), Arc::new(Log::new("/nowhere".into(), bounds)));
        Arc::new(Live::new(serde_json::from_value(key).expect("a key"), &token, log, "/nowhere".into()))
    }

    #[test]
    fn what_comes_after_all_were_stopped_is_stopped_as_well() {
        let attempts = Attempts::default();
        let (before, after) = (live(1), live(2));
        attempts.insert(Arc::clone(&before));
        assert_eq!(before.stopping(), None);
        attempts.stop(Stop::Drain);
        attempts.insert(Arc::clone(&after));
        assert_eq!((before.stopping(), after.stopping()), (Some(Stop::Drain), Some(Stop::Drain)));
    }

    #[tokio::test]
    async fn a_later_reason_hurries_and_does_not_take_the_place_of_the_first() {
        let live = live(1);
        live.stop(Stop::TimedOut);
        assert_eq!((live.hastier(None).await, live.is_cancelled()), (Stop::TimedOut, false));
        live.stop(Stop::Cancel);
        live.stop(Stop::Drain);
        assert_eq!((live.hastier(Some(Stop::TimedOut)).await, live.is_cancelled()), (Stop::Drain, true));
        live.stop(Stop::LeaseLost);
        live.stop(Stop::Drain);
        assert_eq!((live.hastier(Some(Stop::Drain)).await, live.is_lost()), (Stop::LeaseLost, true));
        assert_eq!((live.stopped().await, live.stopping()), (Stop::TimedOut, Some(Stop::TimedOut)));
    }
}
