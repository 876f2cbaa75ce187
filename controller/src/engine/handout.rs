//! Giving Runs to free slots.

use std::collections::HashSet;
use std::sync::Arc;

use runtimed_api::capacity::{Amounts, Capacity, Short};
use runtimed_api::ids::{RuntimeName, SessionId};
use runtimed_api::rule::{Refusal, Rule};
use runtimed_api::run::limits::Limits;
use runtimed_api::session::{Lease, LeasedPatch};

use super::State;
use super::index::{Given, Index};
use super::ops::Op;
use super::sessions::Sessions;
use super::slots::Slot;
use crate::core::{Blobs, Event, PatchGrant, Record, RunKey};
use crate::store::{Key, Object, PatchRecord, Store, StoreError};

impl State {
    /// Brings waiting Runs and waiting slots together, where either changed.
    pub(super) fn dispatch(&mut self) {
        while let Some(runtime) = self.dirty.iter().next().cloned() {
            self.dirty.remove(&runtime);
            while let Some(key) = self.index.first_ready(&runtime).cloned() {
                let Some(slot) = self.slot_for(&runtime, &key) else {
                    // Those who wait see for what.
                    self.publish(&key);
                    break;
                };
                if !self.sessions.is_alive(&slot.session, self.parts.lease) {
                    // Its poll is answered with nothing: if it lives it asks again.
                    continue;
                }
                self.index.set_ready(&key, false);
                self.index.promise(&key, slot.daemon.clone());
                self.start(key, Op::HandOut { slot, patches: None });
            }
        }
    }

    /// The slot that has waited longest of those whose daemon has room for the Run. Runs are served in their order, so
    /// that a large one is not starved by the small ones behind it; one that no pod can ever hold goes to any slot, whose
    /// daemon refuses it by the rule.
    fn slot_for(&mut self, runtime: &RuntimeName, key: &RunKey) -> Option<Slot> {
        let limits = &self.index.get(key)?.record.spec.limits;
        let never = |capacity: &Capacity| capacity.fits(Amounts::default(), capacity.need(limits)).is_err();
        let hopeless = self.sessions.capacities(runtime).all(never);
        let (index, sessions) = (&self.index, &self.sessions);
        // Each Session is judged once, however many slots of it wait.
        let mut full: HashSet<SessionId> = HashSet::new();
        self.slots.take(runtime, |session| {
            let has_room = hopeless
                || !full.contains(session) && short(index, sessions, runtime, session, limits).is_none();
            if !has_room {
                full.insert(session.clone());
            }
            has_room
        })
    }

    /// What the daemons with free slots lack for a Run; `None` where one has room.
    pub(super) fn lacks(&mut self, record: &Record) -> Option<Short> {
        let runtime = record.runtime();
        let mut last = None;
        for session in self.slots.sessions(runtime) {
            last = Some(short(&self.index, &self.sessions, runtime, &session, &record.spec.limits)?);
        }
        last
    }

    /// Gives a lease that is stored to the slot it is for.
    pub(super) fn deliver(&mut self, record: &Arc<Record>, slot: Slot, patches: Vec<PatchGrant>) {
        let Some(held) = record.held() else { return };
        let attempt = record.attempt_key(&held);
        let given_millis = self.parts.clock.millis();
        let lease = Lease {
            run: record.order(),
            requested_by: record.status.requested_by.clone(),
            trace: record.status.trace.clone(),
            token: self.parts.tokens.lease(&attempt),
            read_token: self.parts.tokens.read(&attempt),
            secrets: self.vault.get(&record.uid).cloned().unwrap_or_default(),
            patches: patches.into_iter().map(|grant| grant.patch).collect(),
            given_millis: Some(given_millis),
            attempt,
        };
        self.parts.metrics.handed_out(record.created, &record.status.attempts);
        if slot.reply.send(Box::new(lease)).is_err() {
            // Whoever waited is gone, and nothing was sent: the Run need not wait for the lease to run out.
            self.start(record.key.clone(), Op::Event(Event::Undelivered(held.fence)));
        } else if self.index.get(&record.key).is_some_and(|now| now.record.held() == Some(held)) {
            self.index.give(&record.key, Given::In(slot.session, given_millis));
        }
    }
}

/// What a daemon lacks for a Run of these limits beside those that it runs.
fn short(
    index: &Index,
    sessions: &Sessions,
    runtime: &RuntimeName,
    session: &SessionId,
    limits: &Limits,
) -> Option<Short> {
    let (daemon, capacity) = sessions.capacity(session)?;
    let need = capacity.need(limits);
    if need == Amounts::default() {
        return None;
    }
    capacity.fits(index.used(runtime, daemon, capacity), need).err()
}

/// Looks the prior patches of a Run up: each that a Run captured, and each by its digest, in the Run's own namespace
/// alone.
///
/// # Errors
/// The store failed. The inner error lists the patches that are not there.
pub(super) async fn resolve(
    store: &dyn Store,
    record: &Record,
) -> Result<Result<Vec<PatchGrant>, Vec<Refusal>>, StoreError> {
    let namespace = &record.key.namespace;
    let mut grants = Vec::new();
    let mut refusals = Vec::new();
    for (index, prior) in record.spec.prior_patches.iter().enumerate() {
        let found = match (&prior.run, prior.digest) {
            (Some(name), _) => {
                of_run(store, &RunKey { namespace: namespace.clone(), name: name.clone() }).await?
            }
            (None, Some(digest)) => {
                match store.get(Key::patch(namespace.clone(), digest)).await?.map(|stored| stored.object) {
                    Some(Object::Patch(patch)) => Ok(by_digest(&patch)),
                    _ => Err(format!(
                        "no patch {digest} was uploaded to, or captured in, namespace {namespace}"
                    )),
                }
            }
            (None, None) => Err("neither run nor digest is given".to_owned()),
        };
        match found {
            Ok(grant) => grants.push(grant),
            Err(message) => {
                let subject = format!("spec.priorPatches[{index}]");
                refusals.push(Refusal::new(Rule::PATCH_UNKNOWN, subject, message));
            }
        }
    }
    Ok(if refusals.is_empty() { Ok(grants) } else { Err(refusals) })
}

/// The newest Patch of a Run, from the Run itself: another Run may have made the same bytes on another tree.
async fn of_run(store: &dyn Store, key: &RunKey) -> Result<Result<PatchGrant, String>, StoreError> {
    let found = store.get(Key::run(key)).await?;
    let Some(run) = found.as_ref().and_then(|stored| stored.object.run()) else {
        return Ok(Err(format!("there is no Run {key}")));
    };
    let newest = run.status.attempts.iter().rev().find_map(|attempt| {
        let patch = attempt.result.as_ref()?.patch.as_ref()?;
        Some((attempt, patch, patch.digest?))
    });
    let Some((attempt, patch, digest)) = newest else {
        return Ok(Err(format!("the Run {key} captured no patch")));
    };
    let leased = LeasedPatch {
        digest,
        label: key.name.to_string(),
        base: Some(patch.base.clone()),
        result: Some(patch.result.clone()),
        statement: attempt.statement.clone(),
    };
    Ok(Ok(PatchGrant { patch: leased, place: Blobs::Run(run.uid.clone()) }))
}

fn by_digest(patch: &PatchRecord) -> PatchGrant {
    let leased = LeasedPatch {
        digest: patch.digest,
        label: patch.digest.to_string(),
        base: patch.base.clone(),
        result: patch.result.clone(),
        statement: patch.statement.clone(),
    };
    PatchGrant { patch: leased, place: patch.place.clone() }
}
