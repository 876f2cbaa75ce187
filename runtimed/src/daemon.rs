//! What every part of the daemon shares, and the attempts that it holds.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use runtimed_api::digest::Digest;
use runtimed_api::ids::{AttemptKey, BuildId, DaemonName, Namespace, RunName};
use runtimed_api::manifest::Manifest;
use runtimed_api::run::limits::LimitName;
use runtimed_api::run::status::AttemptResult;
use runtimed_api::run::step::Step;
use runtimed_api::session::{Held, SecretText};
use runtimed_sandbox::spawn::Executable;
use runtimed_sandbox::tree::Root;
use runtimed_store::BlobStore;
use tokio::sync::{Notify, watch};

use crate::admission::Admission;
use crate::config::Config;
use crate::hold::Hold;
use crate::isolation::Isolation;
use crate::journal::Journal;
use crate::logs::{Log, Pool};
use crate::metrics::{Metrics, Present};
use crate::mirrors::Mirrors;
use crate::notices::Notices;
use crate::outbox::Outbox;
use crate::state_dir::StateDir;
use crate::upstream::Upstream;

/// What every part of the daemon shares.
#[derive(Debug)]
pub struct Daemon {
    /// The configuration.
    pub config: Config,
    /// Its build, which its workers must share.
    pub build: BuildId,
    /// Its name.
    pub name: DaemonName,
    /// Its environment, of which some is handed on.
    pub environment: BTreeMap<String, String>,
    /// The three directories in which trees are made.
    pub roots: Roots,
    /// With the exclusive tier, the three that a Run has whole.
    pub whole: Option<Arc<Roots>>,
    /// Its own directory.
    pub state: StateDir,
    /// What fetches keep for later ones.
    pub mirrors: Mirrors,
    /// What outlives it.
    pub journal: Journal,
    /// Reports under way.
    pub outbox: Outbox,
    /// Who gives it work.
    pub controller: Upstream,
    /// Where results go, if not through the controller.
    pub store: Option<BlobStore>,
    /// What all logs may take.
    pub log_pool: Arc<Pool>,
    /// Until when the commands of Runs may go on.
    pub hold: Hold,
    /// The worker's executable.
    pub worker: Executable,
    /// How it sets Runs apart.
    pub isolation: Isolation,
    /// Ports that no Run may name.
    pub own_ports: Vec<u16>,
    /// The attempts that it holds.
    pub attempts: Attempts,
    /// What may begin.
    pub admission: Arc<Admission>,
    /// What the kernel tells of files.
    pub notices: Notices,
    /// Numbers.
    pub metrics: Metrics,
    /// Why it takes no work, if it does not.
    pub readiness: Readiness,
    /// The result of the attempt that ended last.
    pub ended: watch::Sender<Option<Arc<AttemptResult>>>,
}

impl Daemon {
    /// Its numbers, as text.
    #[must_use]
    pub fn numbers(&self) -> String {
        let (outbox, oldest) = self.outbox.waiting();
        let age = oldest.map_or(0, |at| at.duration_until(jiff::Timestamp::now()).as_secs());
        self.metrics.text(Present {
            ready: self.readiness.is_ready(),
            slots: self.config.slots,
            free_slots: self.readiness.free.load(Ordering::Acquire),
            quarantined: self.readiness.quarantined.load(Ordering::Acquire),
            log_pool: self.log_pool.used(),
            outbox,
            outbox_age: u64::try_from(age).unwrap_or(0),
        })
    }
}

/// Three directories.
#[derive(Debug)]
pub struct Roots {
    /// `/tmp`.
    pub tmp: Root,
    /// `/home/worker`.
    pub home: Root,
    /// `/workspace`.
    pub workspace: Root,
}

impl Roots {
    /// All three.
    #[must_use]
    pub fn all(&self) -> [&Root; 3] {
        [&self.tmp, &self.home, &self.workspace]
    }
}

/// Whether the daemon takes work.
#[derive(Debug)]
pub struct Readiness {
    /// Runs at once.
    slots: u32,
    /// Slots that have no Run.
    free: AtomicU32,
    /// Slots whose last Run could not be journaled or kept: the daemon can promise nothing.
    broken: AtomicU32,
    /// Slots that are out of use, for what they staged could not be removed.
    quarantined: AtomicU32,
    /// It has a session.
    pub connected: AtomicBool,
    /// It is being shut down.
    pub draining: AtomicBool,
    /// The selftest is required, and something did not hold.
    pub untested: AtomicBool,
    /// A disk is nearly full: which.
    full: Mutex<Option<String>>,
}

/// A slot that is counted, for as long as this lives.
#[derive(Debug)]
pub struct Counted<'a>(&'a AtomicU32);

impl<'a> Counted<'a> {
    fn among(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Readiness {
    /// Of a daemon with so many slots, none of which is served yet.
    #[must_use]
    pub fn new(slots: u32) -> Self {
        Self {
            slots,
            free: AtomicU32::new(0),
            broken: AtomicU32::new(0),
            quarantined: AtomicU32::new(0),
            connected: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            untested: AtomicBool::new(false),
            full: Mutex::default(),
        }
    }

    /// Counts a slot as free.
    pub fn free(&self) -> Counted<'_> {
        Counted::among(&self.free)
    }

    /// Counts a slot as one that can keep nothing.
    pub fn broken(&self) -> Counted<'_> {
        Counted::among(&self.broken)
    }

    /// Takes a slot out of use for good.
    pub fn quarantine(&self) {
        self.quarantined.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether it takes work.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.connected.load(Ordering::Acquire) && self.why_not().is_none()
    }

    /// Why it takes no work beside having no session, in a sentence; `None` when it would.
    #[must_use]
    pub fn why_not(&self) -> Option<String> {
        let is = |flag: &AtomicBool| flag.load(Ordering::Acquire);
        let why = if is(&self.draining) {
            "it is being shut down"
        } else if self.broken.load(Ordering::Acquire) > 0 {
            "its journal cannot be written"
        } else if self.quarantined.load(Ordering::Acquire) >= self.slots {
            "every slot is out of use: what was staged there could not be removed"
        } else if is(&self.untested) {
            "its selftest is required, and something did not hold"
        } else {
            return self.lock().clone();
        };
        Some(why.to_owned())
    }

    /// Notes which disk is nearly full, if one is.
    pub fn set_full(&self, why: Option<String>) {
        let mut full = self.lock();
        if let (None, Some(why)) = (&*full, &why) {
            tracing::warn!(why, "no Run is taken until there is room");
        }
        *full = why;
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.full.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an attempt is to end. The first reason given stays.
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
    pub spool: std::path::PathBuf,
    stop: watch::Sender<Option<Stop>>,
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
    pub fn new(key: AttemptKey, read_token: &SecretText, log: Arc<Log>, spool: std::path::PathBuf) -> Self {
        let read_token = Digest::of(read_token.expose().as_bytes());
        Self { key, read_token, log, spool, stop: watch::Sender::new(None), now: Mutex::default() }
    }

    /// Asks for its end. A later reason changes nothing.
    pub fn stop(&self, why: Stop) {
        self.stop.send_if_modified(|stop| {
            let first = stop.is_none();
            if first {
                *stop = Some(why);
            }
            first
        });
    }

    /// Tells when its end is asked for.
    #[must_use]
    pub fn stops(&self) -> watch::Receiver<Option<Stop>> {
        self.stop.subscribe()
    }

    /// Why its end is asked for, if it is.
    #[must_use]
    pub fn stopping(&self) -> Option<Stop> {
        *self.stop.borrow()
    }

    /// Returns when what is still to be collected is not wanted any more, or not waited for: the daemon ends, or the
    /// lease is lost.
    pub async fn hurried(&self) {
        let mut stops = self.stop.subscribe();
        let hurries = |stop: &Option<Stop>| matches!(stop, Some(Stop::Drain | Stop::LeaseLost));
        if stops.wait_for(hurries).await.is_err() {
            std::future::pending::<()>().await;
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
            stopping: live.stopping().is_some(),
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
    use crate::logs::{Bounds, Overflow};

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
}
