//! The daemons that are connected: Sessions, renewals, orders.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use runtimed_api::capacity::Capacity;
use runtimed_api::digest::Digest;
use runtimed_api::ids::{AttemptKey, DaemonName, RuntimeName, SessionId};
use runtimed_api::problem::{Code, Problem};
use runtimed_api::session::{
    INSTANCE_CHARS, Lease, OpenSession, Order, OrderKind, Renew, Renewed, ReportAnswer, ReportEvent,
    SecretText,
};
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use super::State;
use super::command::stopping;
use super::index::Live;
use super::ops::{Op, Reply, Said, answer, is_held};
use super::slots::Slot;
use super::timers::Timer;
use crate::core::{Event, Held, Identity, Record, RunKey};

/// Slots of one daemon at most.
const MAX_SLOTS: u32 = 1024;
/// Daemons of one Runtime that are connected at most: whoever has its token could open Sessions without end.
const MAX_SESSIONS: usize = 4096;
/// Lease periods of silence after which a daemon counts as gone. Its leases run out by themselves, earlier.
const SILENCE: u32 = 2;
/// Characters of a daemon's reason.
const MAX_WHY: usize = 200;
/// Ended attempts that are remembered for each Session.
const REMEMBERED: usize = 256;

/// The daemons that are connected. A daemon's leases are not here but with their Runs: they outlive a Session.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    by_id: HashMap<SessionId, Session>,
    /// Those of one name, of which each has another secret.
    by_name: HashMap<(RuntimeName, DaemonName), Vec<SessionId>>,
}

/// One daemon that is connected.
#[derive(Debug)]
pub(super) struct Session {
    daemon: Identity,
    runtime: RuntimeName,
    slots: usize,
    address: Option<String>,
    /// What its pod has for Runs together.
    capacity: Capacity,
    /// Why it takes no other Run, as it says.
    unready: Option<String>,
    seen: Instant,
    /// When it last renewed: a daemon that is frozen, or cut off, leaves its polls open and does not.
    renewed: Instant,
    /// It ends: it is handed nothing more.
    draining: bool,
    renewal: Option<Renewal>,
    /// Attempts that ended by its own report: a renewal that crossed the report may still name them.
    finished: VecDeque<AttemptKey>,
}

/// A daemon that is connected, for whoever counts them.
pub(super) struct Connected<'a> {
    pub(super) runtime: &'a RuntimeName,
    pub(super) slots: usize,
    /// It takes no Run now.
    pub(super) is_unready: bool,
}

/// A renewal that waits for something to do.
#[derive(Debug)]
struct Renewal {
    attempts: Vec<AttemptKey>,
    reply: Reply<Renewed>,
}

impl Sessions {
    /// Daemons of this Runtime that are connected.
    pub(super) fn count(&self, runtime: &RuntimeName) -> usize {
        self.by_id.values().filter(|session| session.runtime == *runtime).count()
    }

    /// Daemons that are connected.
    pub(super) fn all(&self) -> impl Iterator<Item = Connected<'_>> {
        self.by_id.values().map(|session| Connected {
            runtime: &session.runtime,
            slots: session.slots,
            is_unready: session.draining || session.unready.is_some(),
        })
    }

    /// Why daemons of this Runtime take no other Run, where they say so.
    pub(super) fn unready(&self, runtime: &RuntimeName) -> Vec<String> {
        let said =
            |session: &Session| Some(format!("{}: {}", session.daemon.name, session.unready.as_ref()?));
        let of_runtime = self.by_id.values().filter(|session| session.runtime == *runtime);
        let mut said: Vec<String> = of_runtime.filter_map(said).collect();
        said.sort_unstable();
        said.truncate(3);
        said
    }

    /// The daemon of a Session, and what its pod has for Runs together.
    pub(super) fn capacity(&self, id: &SessionId) -> Option<(&Identity, &Capacity)> {
        self.by_id.get(id).map(|session| (&session.daemon, &session.capacity))
    }

    /// What the pods of a Runtime have for Runs together.
    pub(super) fn capacities(&self, runtime: &RuntimeName) -> impl Iterator<Item = &Capacity> {
        let of_runtime = self.by_id.values().filter(move |session| session.runtime == *runtime);
        of_runtime.map(|session| &session.capacity)
    }

    /// Whether a daemon still renews, as one does that is alive, every third of the period: nothing is handed to another.
    pub(super) fn is_alive(&self, id: &SessionId, lease: Duration) -> bool {
        self.by_id.get(id).is_some_and(|session| session.renewed.elapsed() < lease * 2 / 3)
    }

    /// The address of the endpoints of the daemon that has an attempt.
    pub(super) fn address(&self, runtime: &RuntimeName, held: &Held) -> Option<String> {
        let id = self.find(runtime, &held.daemon, |daemon| held.is_with(daemon))?;
        self.by_id.get(&id)?.address.clone()
    }

    /// The Session of a daemon.
    fn find(
        &self,
        runtime: &RuntimeName,
        name: &DaemonName,
        is_it: impl Fn(&Identity) -> bool,
    ) -> Option<SessionId> {
        let mut of_name = self.by_name.get(&(runtime.clone(), name.clone()))?.iter();
        of_name.find(|id| self.by_id.get(id).is_some_and(|session| is_it(&session.daemon))).cloned()
    }

    /// Remembers which attempts a daemon's reports have ended.
    pub(super) fn note_finished(&mut self, said: &Said) {
        let id = self.find(&said.runtime, &said.daemon.name, |daemon| *daemon == said.daemon);
        let Some(session) = id.and_then(|id| self.by_id.get_mut(&id)) else { return };
        for report in said.reports.iter().filter(|report| matches!(report.event, ReportEvent::Finished(_))) {
            if session.finished.len() == REMEMBERED {
                session.finished.pop_front();
            }
            session.finished.push_back(report.attempt.clone());
        }
    }

    fn remove(&mut self, id: &SessionId) -> Option<Session> {
        let session = self.by_id.remove(id)?;
        let name = (session.runtime.clone(), session.daemon.name.clone());
        if let Some(of_name) = self.by_name.get_mut(&name) {
            of_name.retain(|other| other != id);
            if of_name.is_empty() {
                self.by_name.remove(&name);
            }
        }
        Some(session)
    }
}

impl State {
    /// Opens a Session; an earlier one of the same daemon ends. One of another that has only the same name does not: names are
    /// given anew, and anybody with the Runtime's token can claim one.
    pub(super) fn open_session(&mut self, open: OpenSession) -> Result<SessionId, Problem> {
        if !(1..=MAX_SLOTS).contains(&open.slots) {
            let message = format!("a daemon has 1 to {MAX_SLOTS} slots, not {}", open.slots);
            return Err(Problem::new(Code::InvalidRequest, message));
        }
        let instance = match open.instance.as_ref().map(SecretText::expose) {
            Some(text) if !INSTANCE_CHARS.contains(&text.len()) => {
                let (least, most) = INSTANCE_CHARS.into_inner();
                let message = format!("a daemon's own secret has {least} to {most} characters");
                return Err(Problem::new(Code::InvalidRequest, message));
            }
            text => text.map(|text| Digest::of(text.as_bytes())),
        };
        let daemon = Identity { name: open.daemon, instance };
        if let Some(earlier) = self.sessions.find(&open.runtime, &daemon.name, |other| *other == daemon) {
            self.end_session(&earlier);
        }
        if self.sessions.count(&open.runtime) >= MAX_SESSIONS {
            let message = format!("{MAX_SESSIONS} daemons of Runtime {} are connected already", open.runtime);
            let hint =
                "one that is gone counts for two lease periods more; more daemons need another Runtime";
            return Err(Problem::new(Code::Unavailable, message).hint(hint));
        }
        let name = (open.runtime.clone(), daemon.name.clone());
        let id = SessionId::try_from(Uuid::now_v7().to_string())
            .map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
        let session = Session {
            daemon,
            runtime: open.runtime.clone(),
            slots: usize::try_from(open.slots).unwrap_or(usize::MAX),
            address: open.address,
            capacity: open.capacity,
            unready: None,
            seen: Instant::now(),
            renewed: Instant::now(),
            draining: false,
            renewal: None,
            finished: VecDeque::new(),
        };
        tracing::info!(daemon = %session.daemon.name, runtime = %session.runtime, slots = session.slots, "a daemon is connected");
        self.sessions.by_id.insert(id.clone(), session);
        self.sessions.by_name.entry(name).or_default().push(id.clone());
        self.timers.at(Instant::now() + self.parts.lease, Timer::Session(id.clone()));
        self.publish_waiting(&open.runtime);
        Ok(id)
    }

    /// A free slot begins to wait.
    pub(super) fn wait_for_run(
        &mut self,
        id: &SessionId,
        runtime: &RuntimeName,
        reply: oneshot::Sender<Box<Lease>>,
    ) -> Result<(), Problem> {
        if self.draining {
            return Err(stopping());
        }
        let session = self.session(id, runtime)?;
        if session.draining {
            // The reply is dropped: there is nothing for it.
            return Ok(());
        }
        let (daemon, slots) = (session.daemon.clone(), session.slots);
        if self.slots.of_session(runtime, id) >= slots {
            let message = format!("daemon {} waits with more slots than its {slots}", daemon.name);
            return Err(Problem::new(Code::RateLimited, message));
        }
        self.slots.add(Slot { session: id.clone(), daemon, runtime: runtime.clone(), reply });
        self.dirty.insert(runtime.clone());
        Ok(())
    }

    /// Hands nothing more to a daemon that ends. Once this is answered, every lease that it was given is on its way.
    pub(super) fn drain_session(&mut self, id: &SessionId, runtime: &RuntimeName) -> Result<(), Problem> {
        self.session(id, runtime)?;
        if let Some(session) = self.sessions.by_id.get_mut(id) {
            session.draining = true;
        }
        self.slots.end_session(runtime, id);
        self.publish_waiting(runtime);
        Ok(())
    }

    /// Renews the leases of a daemon. The answer comes when there is something to do; who asks bounds the wait.
    pub(super) fn renew(
        &mut self,
        id: &SessionId,
        runtime: &RuntimeName,
        renew: Renew,
        reply: Reply<Renewed>,
    ) {
        let Renew { attempts, unready, prompt, as_of_millis } = renew;
        let daemon = match self.session(id, runtime) {
            Ok(session) => session.daemon.clone(),
            Err(problem) => return answer(reply, Err(problem)),
        };
        let until = Instant::now() + self.parts.lease;
        if let Some(session) = self.sessions.by_id.get_mut(id) {
            session.renewed = Instant::now();
            // A daemon's words are shown to people.
            let unready = unready.map(|why| why.chars().filter(|c| !c.is_control()).take(MAX_WHY).collect());
            let takes_none = unready.is_some();
            if session.unready != unready {
                session.unready = unready;
                self.publish_waiting(runtime);
            }
            if takes_none {
                // They would decline: each asks again when its daemon takes Runs again.
                self.slots.end_session(runtime, id);
            }
        }
        for held in &attempts {
            let key = run_key(&held.attempt);
            let Some(active) = self.index.get_mut(&key) else { continue };
            if !is_his(&active.record, &daemon, runtime, &held.attempt) {
                continue;
            }
            // Never shortened: what was handed out just now holds for a third longer.
            active.lease_until = active.lease_until.max(Some(until));
            let live = Live { step: held.step, last_output: held.last_output };
            let is_news = active.live != live;
            active.live = live;
            self.index.hear(&key);
            if is_news {
                self.publish(&key);
            }
        }
        if let Some(as_of_millis) = as_of_millis {
            self.hand_out_anew(id, runtime, &daemon, as_of_millis);
        }
        let listening: Vec<AttemptKey> =
            attempts.into_iter().filter(|held| !held.stopping).map(|held| held.attempt).collect();
        let orders = self.orders(id, &listening);
        let Some(session) = self.sessions.by_id.get_mut(id) else { return };
        if orders.is_empty() && !self.draining && !prompt {
            session.renewal = Some(Renewal { attempts: listening, reply });
        } else {
            answer(reply, Ok(Renewed { orders, at_millis: None }));
        }
    }

    /// Takes back what this daemon was handed and never had: the answers with these leases were lost.
    fn hand_out_anew(&mut self, id: &SessionId, runtime: &RuntimeName, daemon: &Identity, as_of_millis: u64) {
        let lease_millis = u64::try_from(self.parts.lease.as_millis()).unwrap_or(u64::MAX);
        for (run, held) in self.index.never_arrived(runtime, daemon, id, as_of_millis, lease_millis) {
            tracing::warn!(%run, daemon = %daemon.name, "a lease did not arrive: the Run is handed out anew");
            self.start(run, Op::Event(Event::NeverArrived(held.fence)));
        }
    }

    /// Tells the daemon that has this attempt to stop it, if it listens; if not, its next renewal learns of it. The
    /// renewal that waits need not name the attempt: it may have been handed out since.
    pub(super) fn tell_to_stop(&mut self, record: &Record, attempt: &AttemptKey) {
        let Some(held) = record.held() else { return };
        let found = self.sessions.find(record.runtime(), &held.daemon, |daemon| held.is_with(daemon));
        let Some(id) = found else { return };
        let Some(session) = self.sessions.by_id.get_mut(&id) else { return };
        let Some(mut renewal) = session.renewal.take() else { return };
        if !renewal.attempts.contains(attempt) {
            renewal.attempts.push(attempt.clone());
        }
        let orders = self.orders(&id, &renewal.attempts);
        answer(renewal.reply, Ok(Renewed { orders, at_millis: None }));
    }

    /// What to do about the attempts that a daemon names.
    fn orders(&self, id: &SessionId, attempts: &[AttemptKey]) -> Vec<Order> {
        let Some(session) = self.sessions.by_id.get(id) else { return Vec::new() };
        let order = |attempt: &AttemptKey| {
            let active = self.index.get(&run_key(attempt));
            let his = active.filter(|a| is_his(&a.record, &session.daemon, &session.runtime, attempt));
            match his {
                Some(active) if active.record.status.cancel_requested => Some(OrderKind::Cancel),
                Some(_) => None,
                None if session.finished.contains(attempt) => None,
                None => Some(OrderKind::Abandon),
            }
        };
        attempts
            .iter()
            .filter_map(|attempt| order(attempt).map(|order| Order { attempt: attempt.clone(), order }))
            .collect()
    }

    /// Applies reports, those of one Run together.
    pub(super) fn report(
        &mut self,
        id: &SessionId,
        runtime: &RuntimeName,
        key: RunKey,
        reports: Vec<runtimed_api::session::Report>,
        reply: Reply<Vec<ReportAnswer>>,
    ) {
        match self.session(id, runtime) {
            Ok(session) => {
                let daemon = session.daemon.clone();
                self.start(key, Op::Reports(Said { runtime: runtime.clone(), daemon, reports, reply }));
            }
            Err(problem) => answer(reply, Err(problem)),
        }
    }

    /// Ends a Session that has gone silent.
    pub(super) fn check_session(&mut self, id: &SessionId) {
        let Some(session) = self.sessions.by_id.get(id) else { return };
        let runtime = session.runtime.clone();
        let renewing = session.renewal.as_ref().is_some_and(|renewal| !renewal.reply.is_closed());
        let listens = renewing || self.slots.of_session(&runtime, id) > 0;
        let until = if listens { Instant::now() } else { session.seen } + self.parts.lease * SILENCE;
        if until > Instant::now() {
            return self.timers.at(until, Timer::Session(id.clone()));
        }
        tracing::info!(daemon = %session.daemon.name, %runtime, "a daemon is not connected any more");
        self.end_session(id);
        self.publish_waiting(&runtime);
    }

    /// Ends all waiting, so that the listener can be closed.
    pub(super) fn drain(&mut self) {
        self.draining = true;
        self.slots.clear();
        for session in self.sessions.by_id.values_mut() {
            session.renewal = None;
        }
        self.index.forget_watchers();
    }

    fn end_session(&mut self, id: &SessionId) {
        if let Some(session) = self.sessions.remove(id) {
            self.slots.end_session(&session.runtime, id);
        }
    }

    /// The Session of this id, if a daemon of this Runtime has it; it is seen by that.
    fn session(&mut self, id: &SessionId, runtime: &RuntimeName) -> Result<&Session, Problem> {
        match self.sessions.by_id.get_mut(id).filter(|session| session.runtime == *runtime) {
            Some(session) => {
                session.seen = Instant::now();
                Ok(session)
            }
            None => {
                Err(Problem::new(Code::SessionUnknown, "the Session ended, or the controller was restarted")
                    .hint("open another Session"))
            }
        }
    }
}

fn is_his(record: &Arc<Record>, daemon: &Identity, runtime: &RuntimeName, attempt: &AttemptKey) -> bool {
    is_held(record)
        && record.runtime() == runtime
        && record.held().is_some_and(|held| held.is_with(daemon) && record.attempt_key(&held) == *attempt)
}

/// The Run that an attempt is of.
pub(super) fn run_key(attempt: &AttemptKey) -> RunKey {
    RunKey { namespace: attempt.namespace.clone(), name: attempt.name.clone() }
}
