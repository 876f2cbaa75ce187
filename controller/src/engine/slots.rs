//! Free slots that wait for a Run, first come, first served.

use std::collections::{BTreeSet, HashMap, VecDeque};

use runtimed_api::ids::{RuntimeName, SessionId};
use runtimed_api::session::Lease;
use tokio::sync::oneshot;

use crate::core::Identity;

/// A free slot of a daemon that waits for a Run. Whoever asked may be gone by now; then `reply` is closed.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) session: SessionId,
    pub(super) daemon: Identity,
    pub(super) runtime: RuntimeName,
    pub(super) reply: oneshot::Sender<Box<Lease>>,
}

/// The waiting slots of every Runtime.
#[derive(Debug, Default)]
pub(super) struct Slots {
    waiting: HashMap<RuntimeName, VecDeque<Slot>>,
}

impl Slots {
    pub(super) fn add(&mut self, slot: Slot) {
        self.waiting.entry(slot.runtime.clone()).or_default().push_back(slot);
    }

    /// Puts a slot back that was taken out in vain: it has waited longest.
    pub(super) fn give_back(&mut self, slot: Slot) {
        self.waiting.entry(slot.runtime.clone()).or_default().push_front(slot);
    }

    /// The slot that has waited longest of those whose Session will do.
    pub(super) fn take(
        &mut self,
        runtime: &RuntimeName,
        mut will_do: impl FnMut(&SessionId) -> bool,
    ) -> Option<Slot> {
        let waiting = self.waiting.get_mut(runtime)?;
        waiting.retain(|slot| !slot.reply.is_closed());
        let place = waiting.iter().position(|slot| will_do(&slot.session))?;
        waiting.remove(place)
    }

    /// How many slots of a Runtime wait.
    pub(super) fn free(&mut self, runtime: &RuntimeName) -> usize {
        self.waiting.get_mut(runtime).map_or(0, |waiting| {
            waiting.retain(|slot| !slot.reply.is_closed());
            waiting.len()
        })
    }

    /// The Sessions whose slots wait, each once.
    pub(super) fn sessions(&self, runtime: &RuntimeName) -> BTreeSet<SessionId> {
        let waiting = self.waiting.get(runtime).into_iter().flatten();
        waiting.filter(|slot| !slot.reply.is_closed()).map(|slot| slot.session.clone()).collect()
    }

    /// How many slots of a Session wait.
    pub(super) fn of_session(&mut self, runtime: &RuntimeName, session: &SessionId) -> usize {
        self.waiting.get_mut(runtime).map_or(0, |waiting| {
            waiting.retain(|slot| !slot.reply.is_closed());
            waiting.iter().filter(|slot| slot.session == *session).count()
        })
    }

    /// Ends the waiting of a Session's slots.
    pub(super) fn end_session(&mut self, runtime: &RuntimeName, session: &SessionId) {
        if let Some(waiting) = self.waiting.get_mut(runtime) {
            waiting.retain(|slot| slot.session != *session);
        }
    }

    /// Ends all waiting.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }
}
