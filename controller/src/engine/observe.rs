//! What a change of the store does: the index follows it, and whatever waits for it is done.

use std::sync::Arc;

use jiff::Timestamp;
use runtimed_api::run::status::AttemptEnd;
use tokio::time::Instant;

use super::State;
use super::index::Active;
use super::ops::Op;
use super::timers::Timer;
use crate::core::{Event, Record, RunKey, Standing};
use crate::store::{Change, Object, Stored, Version};

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
        let mut active = Active::new(Arc::clone(&record), version, known);
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
            Standing::Waiting { ready_at, since, gives_up_at } => {
                active.lease_until = None;
                self.index.insert(key.clone(), active);
                self.timers.at_time(gives_up_at, Timer::GiveUp(key.clone(), since));
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

    pub(super) fn give_up(&mut self, key: RunKey, waits_since: Timestamp) {
        let still_waits = self.index.get(&key).is_some_and(
            |active| matches!(active.record.standing(), Standing::Waiting { since, .. } if since == waits_since),
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

/// How the attempt ended that a daemon had, if it is over now.
fn end_of(known: &Active, now: &Record) -> Option<AttemptEnd> {
    let held = known.record.held().filter(|held| now.held().as_ref() != Some(held))?;
    let attempt = now.status.attempts.iter().find(|attempt| attempt.fence == held.fence)?;
    Some(attempt.result.as_ref()?.end)
}
