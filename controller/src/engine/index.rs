//! What is known of the Runs that are not over: made from the store's watch alone.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use runtimed_api::capacity::{Amounts, Capacity, Load};
use runtimed_api::ids::{DaemonName, Namespace, RunUid, RuntimeName, SessionId};
use runtimed_api::run::Run;
use runtimed_api::run::status::Phase;
use runtimed_api::run::step::Step;
use runtimed_api::session::begins_within;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::core::{Held, Identity, Record, RunKey, Standing};
use crate::store::Version;

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
    /// What the daemons of each Runtime are asked for by the Runs whose commands they run, or are about to.
    loads: HashMap<RuntimeName, HashMap<Identity, Load>>,
    /// Those that were handed to a daemon of this name, which has not named them yet.
    unheard: HashMap<(RuntimeName, DaemonName), BTreeSet<RunKey>>,
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
    promised: Option<Identity>,
    /// When it was handed to the daemon that has it, until that one names it.
    given: Option<Given>,
    /// Those who watch it.
    pub(super) watchers: Option<watch::Sender<Arc<Run>>>,
}

/// When a lease was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Given {
    /// Before this process began.
    Earlier,
    /// In this Session, at so many milliseconds of the controller's clock.
    In(SessionId, u64),
}

impl Given {
    /// Whether a daemon never had it that says so in this Session, as of a time of the controller's clock: see
    /// [`Renew::as_of_millis`](runtimed_api::session::Renew::as_of_millis).
    fn is_given_up(&self, session: &SessionId, as_of_millis: u64, lease_millis: u64) -> bool {
        match self {
            Self::In(given_in, at_millis) if given_in == session => {
                as_of_millis > at_millis.saturating_add(begins_within(lease_millis))
            }
            Self::In(..) | Self::Earlier => true,
        }
    }
}

impl Active {
    /// In its newest state. What was known of the attempt still holds; what was known of another does not.
    pub(super) fn new(record: Arc<Record>, version: Version, known: Option<Self>) -> Self {
        let same = known.as_ref().filter(|known| known.record.held() == record.held());
        let (live, lease_until) = same.map_or((Live::default(), None), |same| (same.live, same.lease_until));
        let given = same.and_then(|same| same.given.clone()).filter(|_| record.is_unheard());
        let watchers = known.and_then(|known| known.watchers);
        Self { record, version, live, lease_until, promised: None, given, watchers }
    }

    /// Whose load it is part of.
    fn occupies(&self) -> Option<Identity> {
        if self.record.status.phase != Phase::Running {
            return self.promised.clone();
        }
        self.record.held().map(|held| Identity { name: held.daemon, instance: held.instance })
    }

    fn unheard_by(&self) -> Option<(RuntimeName, DaemonName)> {
        self.given.as_ref()?;
        Some((self.record.runtime().clone(), self.record.held()?.daemon))
    }
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

    /// Takes one in, in the place of none.
    pub(super) fn insert(&mut self, key: RunKey, active: Active) {
        *self.counts.entry(key.namespace.clone()).or_default() += 1;
        self.expect_no_more(&key);
        self.link(&key, &active);
        self.active.insert(key, active);
    }

    /// Takes one out.
    pub(super) fn remove(&mut self, key: &RunKey) -> Option<Active> {
        let removed = self.active.remove(key)?;
        self.unlink(key, &removed);
        self.uncount(&key.namespace);
        Some(removed)
    }

    /// Changes whose it is.
    fn relink(&mut self, key: &RunKey, change: impl FnOnce(&mut Active)) {
        let Some((key, mut active)) = self.active.remove_entry(key) else { return };
        self.unlink(&key, &active);
        change(&mut active);
        self.link(&key, &active);
        self.active.insert(key, active);
    }

    fn link(&mut self, key: &RunKey, active: &Active) {
        if let Some(daemon) = active.occupies() {
            let loads = self.loads.entry(active.record.runtime().clone()).or_default();
            loads.entry(daemon).or_default().add(&active.record.spec.limits);
        }
        if let Some(daemon) = active.unheard_by() {
            self.unheard.entry(daemon).or_default().insert(key.clone());
        }
    }

    fn unlink(&mut self, key: &RunKey, active: &Active) {
        let runtime = active.record.runtime();
        if let Some(daemon) = active.occupies()
            && let Some(loads) = self.loads.get_mut(runtime)
            && let Some(load) = loads.get_mut(&daemon)
        {
            load.remove(&active.record.spec.limits);
            if *load == Load::default() {
                loads.remove(&daemon);
            }
            if loads.is_empty() {
                self.loads.remove(runtime);
            }
        }
        if let Some(daemon) = active.unheard_by()
            && let Some(keys) = self.unheard.get_mut(&daemon)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.unheard.remove(&daemon);
            }
        }
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

    /// What the Runs use of a daemon's capacity whose commands it runs, or is about to. What was handed to a name without a
    /// secret counts for each daemon of the name.
    pub(super) fn used(&self, runtime: &RuntimeName, daemon: &Identity, capacity: &Capacity) -> Amounts {
        let Some(loads) = self.loads.get(runtime) else { return Amounts::default() };
        let of = |daemon: &Identity| loads.get(daemon).map_or(Amounts::default(), |load| capacity.used(load));
        let nameless = Identity { instance: None, ..daemon.clone() };
        if nameless == *daemon { of(daemon) } else { of(daemon).plus(of(&nameless)) }
    }

    /// A daemon is about to get it.
    pub(super) fn promise(&mut self, key: &RunKey, daemon: Identity) {
        self.relink(key, |active| active.promised = Some(daemon));
    }

    /// The lease is on its way to the daemon that has it.
    pub(super) fn give(&mut self, key: &RunKey, given: Given) {
        self.relink(key, |active| active.given = Some(given));
    }

    /// Its daemon has named it.
    pub(super) fn hear(&mut self, key: &RunKey) {
        if self.active.get(key).is_some_and(|active| active.given.is_some()) {
            self.relink(key, |active| active.given = None);
        }
    }

    /// After a start: nobody knows which leases have arrived.
    pub(super) fn hear_of_all_anew(&mut self) {
        let unheard = |(key, active): (&RunKey, &Active)| active.record.is_unheard().then(|| key.clone());
        let keys: Vec<RunKey> = self.active.iter().filter_map(unheard).collect();
        keys.iter().for_each(|key| self.give(key, Given::Earlier));
    }

    /// The Runs that this daemon has by the book alone: a renewal in this Session that did not name them was made as of that
    /// time, and what it had not begun by then it never begins.
    pub(super) fn never_arrived(
        &self,
        runtime: &RuntimeName,
        daemon: &Identity,
        session: &SessionId,
        as_of_millis: u64,
        lease_millis: u64,
    ) -> Vec<(RunKey, Held)> {
        let keys = self.unheard.get(&(runtime.clone(), daemon.name.clone())).into_iter().flatten();
        keys.filter_map(|key| {
            let active = self.active.get(key)?;
            let given_up = active.given.as_ref()?.is_given_up(session, as_of_millis, lease_millis);
            // Several may have a name without a secret: none of them speaks for the others.
            let held = active.record.held().filter(|held| held.instance.is_some() && held.is_with(daemon))?;
            given_up.then(|| (key.clone(), held))
        })
        .collect()
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
        let Some(active) = self.active.get(key) else { return };
        let Standing::Waiting { since, .. } = active.record.standing() else { return };
        let ready = self.ready.entry(active.record.runtime().clone()).or_default();
        if is_ready {
            ready.insert((since, key.clone()));
            self.relink(key, |active| active.promised = None);
        } else {
            ready.remove(&(since, key.clone()));
        }
    }
}

#[cfg(test)]
mod tests;
