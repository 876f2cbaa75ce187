//! What is known of the Runs that are not over: made from the store's watch alone.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use runtimed_api::ids::{Namespace, RunUid, RuntimeName};
use runtimed_api::run::Run;
use runtimed_api::run::status::{AttemptEnd, Phase};
use runtimed_api::run::step::Step;
use tokio::sync::watch;
use tokio::time::Instant;

use super::State;
use super::ops::Op;
use super::timers::Timer;
use crate::core::{Event, Identity, Record, RunKey, Standing};
use crate::store::{Change, Object, Stored, Version};

/// The Runs that are not over.
#[derive(Debug, Default)]
pub(super) struct Index {
    active: HashMap<RunKey, Active>,
    /// Those whose first write is under way: they have their place already.
    coming: HashSet<RunKey>,
    /// How many there are of each namespace, with those that are coming.
    counts: HashMap<Namespace, usize>,
    /// Those of each Runtime that may be handed out now, longest waiting first.
    ready: HashMap<RuntimeName, BTreeSet<(Timestamp, RunKey)>>,
}

/// A Run that is not over.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) record: Arc<Record>,
    pub(super) version: Version,
    /// What its daemon last said of it; told often and worth no write.
    pub(super) live: Live,
    /// Its lease holds until then, if a daemon has it.
    pub(super) lease_until: Option<Instant>,
    /// It is being handed to this daemon.
    pub(super) promised: Option<Identity>,
    /// Those who watch it.
    pub(super) watchers: Option<watch::Sender<Arc<Run>>>,
}

/// What a daemon tells with its renewals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) step: Option<Step>,
    pub(super) last_output: Option<Timestamp>,
}

impl Index {
    pub(super) fn get(&self, key: &RunKey) -> Option<&Active> {
        self.active.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &RunKey) -> Option<&mut Active> {
        self.active.get_mut(key)
    }

    /// How many Runs of a namespace are not over, or are just being stored.
    pub(super) fn of_namespace(&self, namespace: &Namespace) -> usize {
        self.counts.get(namespace).copied().unwrap_or(0)
    }

    /// A Run is being stored for the first time: of many that are submitted at once, each counts from here.
    pub(super) fn expect(&mut self, key: RunKey) {
        *self.counts.entry(key.namespace.clone()).or_default() += 1;
        self.coming.insert(key);
    }

    /// It is stored, and was seen to be; or it will not be.
    pub(super) fn expect_no_more(&mut self, key: &RunKey) {
        if self.coming.remove(key) {
            self.uncount(&key.namespace);
        }
    }

    /// Whether it has its place already.
    pub(super) fn is_counted(&self, key: &RunKey) -> bool {
        self.active.contains_key(key) || self.coming.contains(key)
    }

    fn insert(&mut self, key: RunKey, active: Active) {
        *self.counts.entry(key.namespace.clone()).or_default() += 1;
        self.expect_no_more(&key);
        self.active.insert(key, active);
    }

    fn remove(&mut self, key: &RunKey) -> Option<Active> {
        let removed = self.active.remove(key)?;
        self.uncount(&key.namespace);
        Some(removed)
    }

    fn uncount(&mut self, namespace: &Namespace) {
        if let Some(count) = self.counts.get_mut(namespace) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(namespace);
            }
        }
    }

    /// The Run of this uid, if it is not over.
    pub(super) fn of_uid(&self, key: &RunKey, uid: &RunUid) -> Option<&Active> {
        self.active.get(key).filter(|active| active.record.uid == *uid)
    }

    /// Whether the Run of this uid is not over. It looks at all of them: for the start alone.
    pub(super) fn has_uid(&self, uid: &RunUid) -> bool {
        self.active.values().any(|active| active.record.uid == *uid)
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &Record> {
        self.active.values().map(|active| &*active.record)
    }

    pub(super) fn len(&self) -> usize {
        self.active.len() + self.coming.len()
    }

    /// The Runs whose command a daemon runs, or is about to.
    pub(super) fn running_on(
        &self,
        runtime: &RuntimeName,
        daemon: &Identity,
    ) -> impl Iterator<Item = &Record> {
        let his = move |active: &&Active| {
            let record = &active.record;
            let runs = record.status.phase == Phase::Running
                && record.held().is_some_and(|held| held.is_with(daemon));
            record.runtime() == runtime && (runs || active.promised.as_ref() == Some(daemon))
        };
        self.active.values().filter(his).map(|active| &*active.record)
    }

    /// Lets those who watch see the end.
    pub(super) fn forget_watchers(&mut self) {
        for active in self.active.values_mut() {
            active.watchers = None;
        }
    }

    /// The Run that waits longest for a daemon of this Runtime.
    pub(super) fn first_ready(&self, runtime: &RuntimeName) -> Option<&RunKey> {
        self.ready.get(runtime)?.first().map(|(_, key)| key)
    }

    /// The Runs that wait for a daemon of this Runtime.
    pub(super) fn all_ready(&self, runtime: &RuntimeName) -> impl Iterator<Item = &RunKey> {
        self.ready.get(runtime).into_iter().flatten().map(|(_, key)| key)
    }

    pub(super) fn set_ready(&mut self, key: &RunKey, is_ready: bool) {
        let Some(active) = self.active.get_mut(key) else { return };
        let Standing::Waiting { ready_at, .. } = active.record.standing() else { return };
        let ready = self.ready.entry(active.record.runtime().clone()).or_default();
        if is_ready {
            active.promised = None;
            ready.insert((ready_at, key.clone()));
        } else {
            ready.remove(&(ready_at, key.clone()));
        }
    }
}

/// How the attempt ended that a daemon had, if it is over now.
fn end_of(known: &Active, now: &Record) -> Option<AttemptEnd> {
    let held = known.record.held().filter(|held| now.held().as_ref() != Some(held))?;
    let attempt = now.status.attempts.iter().find(|attempt| attempt.fence == held.fence)?;
    Some(attempt.result.as_ref()?.end)
}

impl State {
    /// Takes a change of the store in.
    pub(super) fn observe(&mut self, change: Change) {
        match change {
            Change::Put(Stored { object: Object::Run(record), version }) => self.put(record, version),
            Change::Deleted(Object::Run(record)) => {
                self.forget_finished_run(&record);
                if self.index.of_uid(&record.key, &record.uid).is_some() {
                    self.index.set_ready(&record.key, false);
                    self.dirty.insert(record.runtime().clone());
                    self.index.remove(&record.key);
                }
            }
            Change::Put(Stored { object, .. }) => self.note_upload(&object),
            Change::Deleted(Object::Patch(_) | Object::Tree(_) | Object::Secrets(_)) => {}
        }
    }

    /// Takes a Run's state in, whatever was known of it.
    pub(super) fn put(&mut self, record: Arc<Record>, version: Version) {
        let key = record.key.clone();
        if self.index.get(&key).is_some_and(|known| known.version == version) {
            return;
        }
        self.index.set_ready(&key, false);
        // Its end may be the room that another waits for.
        self.dirty.insert(record.runtime().clone());
        let known = self.index.remove(&key).filter(|known| known.record.uid == record.uid);
        if let Some(end) = known.as_ref().and_then(|known| end_of(known, &record)) {
            self.parts.metrics.attempt_ended(end);
        }
        // What was known of this attempt still holds; what was known of another does not.
        let same = known.as_ref().filter(|known| known.record.held() == record.held());
        let (live, lease_until) = same.map_or((Live::default(), None), |same| (same.live, same.lease_until));
        let watchers = known.and_then(|known| known.watchers);
        let mut active =
            Active { record: Arc::clone(&record), version, live, lease_until, promised: None, watchers };
        match record.standing() {
            Standing::Over { remove_at } => {
                self.timers.at_time(remove_at, Timer::Remove(key, record.uid.clone()));
                self.note_finished_run(&record);
                // Those who watch see the last state, and then the end.
                if let Some(watchers) = active.watchers {
                    watchers.send_replace(Arc::new(record.view()));
                }
                return;
            }
            Standing::Held(_) => {
                if active.lease_until.is_none() {
                    // The daemon counts from when it has the lease: a third more covers the way there.
                    let until = Instant::now() + self.parts.lease + self.parts.lease / 3;
                    active.lease_until = Some(until);
                    self.timers.at(until, Timer::Lease(key.clone()));
                }
                self.index.insert(key.clone(), active);
            }
            Standing::Waiting { ready_at, gives_up_at } => {
                active.lease_until = None;
                self.index.insert(key.clone(), active);
                self.timers.at_time(gives_up_at, Timer::GiveUp(key.clone(), ready_at));
                if record.private.submitted_secrets && self.vault.get(&record.uid).is_none() {
                    self.start(key.clone(), Op::Event(Event::SecretsLost));
                } else if ready_at <= Timestamp::now() {
                    self.make_ready(&key);
                } else {
                    self.timers.at_time(ready_at, Timer::Ready(key.clone()));
                }
            }
        }
        self.publish(&key);
    }

    /// Lets a waiting Run be handed out.
    pub(super) fn make_ready(&mut self, key: &RunKey) {
        let Some(active) = self.index.get(key) else { return };
        let runtime = active.record.runtime().clone();
        // While a write is under way it is not offered: its conclusion comes back here.
        if !self.busy.contains_key(key) {
            self.index.set_ready(key, true);
        }
        self.dirty.insert(runtime);
    }

    pub(super) fn give_up(&mut self, key: RunKey, since: Timestamp) {
        let still_waits = self.index.get(&key).is_some_and(
            |active| matches!(active.record.standing(), Standing::Waiting { ready_at, .. } if ready_at == since),
        );
        if still_waits {
            self.start(key, Op::Event(Event::QueueExpired));
        }
    }

    pub(super) fn check_lease(&mut self, key: RunKey) {
        let Some(active) = self.index.get(&key) else { return };
        let (Some(until), Some(held)) = (active.lease_until, active.record.held()) else { return };
        if until > Instant::now() {
            self.timers.at(until, Timer::Lease(key));
        } else {
            self.start(key, Op::Event(Event::LeaseExpired(held.fence)));
        }
    }
}
