//! Runs as people see them: what is stored, with what is known only here.

use std::sync::Arc;

use jiff::Timestamp;
use runtimed_api::ids::RuntimeName;
use runtimed_api::run::Run;
use runtimed_api::run::status::Phase;
use tokio::sync::watch;

use super::State;
use super::index::Live;
use crate::core::{Record, RunKey, Standing};

impl State {
    /// A Run that is not over, as people see it now.
    pub(super) fn view(&mut self, key: &RunKey) -> Option<Run> {
        let active = self.index.get(key)?;
        let (record, live) = (Arc::clone(&active.record), active.live);
        Some(self.refresh(&record, live))
    }

    /// A stored Run, with what is known only here if it is still in this state.
    pub(super) fn view_of(&mut self, record: &Arc<Record>) -> Run {
        match self.index.of_uid(&record.key, &record.uid) {
            Some(_) => self.view(&record.key).unwrap_or_else(|| record.view()),
            None => record.view(),
        }
    }

    fn refresh(&mut self, record: &Record, live: Live) -> Run {
        let mut run = record.view();
        let waits = (record.status.phase == Phase::Pending).then(|| self.why_pending(record));
        if let Some(status) = &mut run.status {
            status.step = live.step.or(status.step);
            status.last_output = live.last_output.or(status.last_output);
            if waits.is_some() {
                status.reason = waits;
            }
        }
        run
    }

    /// Why a Run waits: always one sentence.
    fn why_pending(&mut self, record: &Record) -> String {
        let runtime = record.runtime();
        let said = !record.status.attempts.is_empty() || record.private.declined > 0;
        let before = record.status.reason.as_deref().filter(|_| said);
        let now = match (self.sessions.count(runtime), record.standing()) {
            (_, Standing::Waiting { ready_at, .. }) if ready_at > Timestamp::now() => {
                format!("waits until {ready_at:.3}")
            }
            (0, _) => format!("no daemon of Runtime {runtime} is connected"),
            (daemons, _) => {
                let free = self.slots.free(runtime);
                let plural = |n: usize| if n == 1 { "" } else { "s" };
                let mut text =
                    format!("{daemons} daemon{}, {free} free slot{}", plural(daemons), plural(free));
                if let Some(short) = self.lacks(record) {
                    text.push_str(&format!(", none with room: {short}"));
                }
                for why in self.sessions.unready(runtime) {
                    text.push_str(&format!("; {why}"));
                }
                text
            }
        };
        before.map_or(now.clone(), |before| format!("{before}; {now}"))
    }

    /// Tells those who watch a Run.
    pub(super) fn publish(&mut self, key: &RunKey) {
        if self.index.get(key).is_none_or(|active| active.watchers.is_none()) {
            return;
        }
        let Some(view) = self.view(key) else { return };
        if let Some(active) = self.index.get_mut(key)
            && let Some(watchers) = &active.watchers
        {
            if watchers.receiver_count() == 0 {
                active.watchers = None;
            } else {
                watchers.send_replace(Arc::new(view));
            }
        }
    }

    /// Tells those who watch a Run that waits for a daemon of this Runtime: daemons came or went.
    pub(super) fn publish_waiting(&mut self, runtime: &RuntimeName) {
        let waiting: Vec<RunKey> = self
            .index
            .all_ready(runtime)
            .filter(|key| self.index.get(key).is_some_and(|active| active.watchers.is_some()))
            .cloned()
            .collect();
        for key in waiting {
            self.publish(&key);
        }
    }

    /// Watches a Run that is not over: its state now, and each one that follows, the last of them a terminal one.
    pub(super) fn watch(&mut self, key: &RunKey) -> Option<watch::Receiver<Arc<Run>>> {
        let view = Arc::new(self.view(key)?);
        let active = self.index.get_mut(key)?;
        match &active.watchers {
            Some(watchers) => {
                let receiver = watchers.subscribe();
                watchers.send_replace(view);
                Some(receiver)
            }
            None => {
                let (watchers, receiver) = watch::channel(view);
                active.watchers = Some(watchers);
                Some(receiver)
            }
        }
    }
}
