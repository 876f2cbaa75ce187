//! What follows when what was under way is done.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;
use runtimed_api::problem::{Code, Problem};
use tokio::time::Instant;

use super::{Done, Op, REMOVE_AGAIN, Then, answer, existing, failed};
use crate::core::{Effect, Event, Record, RunKey, Standing};
use crate::engine::command::Created;
use crate::engine::slots::Slot;
use crate::engine::timers::Timer;
use crate::engine::{AGAIN, State};
use crate::store::{Object, StoreError, Stored, Version};

impl State {
    /// Concludes what was under way.
    pub(in crate::engine) fn conclude(&mut self, done: Done) {
        match done {
            Done::Wrote { key, then, result } => {
                self.index.expect_no_more(&key);
                let waiting = self.busy.remove(&key).unwrap_or_default();
                self.wrote(&key, then, result);
                self.go_on(key, waiting);
            }
            Done::Loaded { key, op, result } => match result {
                // It was created, or submitted again, meanwhile.
                Ok(_) if self.index.get(&key).is_some() || self.busy.contains_key(&key) => {
                    self.start(key, op);
                }
                Ok(Some(Stored { object: Object::Run(record), version })) => {
                    self.apply(key, op, &record, version);
                }
                Ok(_) => {
                    let problem = Problem::new(Code::NotFound, format!("there is no Run {key}"));
                    self.refuse_op(&key, op, &problem);
                }
                Err(error) => self.refuse_op(&key, op, &failed(&error)),
            },
            Done::Reloaded { key, op, result } => {
                let waiting = self.busy.remove(&key).unwrap_or_default();
                match result {
                    Ok(Some(Stored { object: Object::Run(record), version })) => {
                        self.take_in(&record, version);
                        self.apply(key.clone(), op, &record, version);
                    }
                    Ok(_) => {
                        let problem = Problem::new(Code::NotFound, format!("there is no Run {key}"));
                        self.refuse_op(&key, op, &problem);
                    }
                    Err(error) => self.refuse_op(&key, op, &failed(&error)),
                }
                self.go_on(key, waiting);
            }
            Done::Resolved { key, slot, result } => {
                let waiting = self.busy.remove(&key).unwrap_or_default();
                match result {
                    Ok(Ok(patches)) => self.start(key.clone(), Op::HandOut { slot, patches: Some(patches) }),
                    Ok(Err(refusals)) => self.start(key.clone(), Op::Refuse { slot, refusals }),
                    Err(error) => self.put_off(&key, slot, &error),
                }
                self.go_on(key, waiting);
            }
            Done::UploadGone { key, result } => self.upload_gone(key, result),
            Done::Forgot { namespace, uid, result } => self.forgot(namespace, uid, result),
            Done::Removed { key, uid, result } => {
                let waiting = self.busy.remove(&key).unwrap_or_default();
                if let Err(error) = result {
                    tracing::warn!(run = %key, %error, "a finished Run could not be removed; it is tried again");
                    self.timers.at(Instant::now() + REMOVE_AGAIN, Timer::Remove(key.clone(), uid));
                }
                self.go_on(key, waiting);
            }
        }
    }

    /// Starts what waited for a Run, and offers the Run again if it waits for a daemon.
    fn go_on(&mut self, key: RunKey, waiting: VecDeque<Op>) {
        for op in waiting {
            self.start(key.clone(), op);
        }
        let ready = self.index.get(&key).is_some_and(|active| {
            matches!(active.record.standing(), Standing::Waiting { ready_at, .. } if ready_at <= Timestamp::now())
        });
        if ready {
            self.make_ready(&key);
        }
    }

    fn wrote(&mut self, key: &RunKey, then: Then, result: Result<Stored, StoreError>) {
        let stored = match result {
            Ok(stored) => stored,
            Err(error) => return self.not_written(key, then, error),
        };
        let Object::Run(record) = stored.object else { return };
        match then {
            Then::Created { reply, .. } => {
                self.parts.metrics.submitted();
                answer(reply, Ok(Created { run: self.view_of(&record), new: true }));
            }
            Then::Answer { reply, effects, .. } => {
                self.effect(&record, effects);
                answer(reply, Ok(self.view_of(&record)));
            }
            Then::Reported { said, answers, effects } => {
                self.sessions.note_finished(&said);
                self.effect(&record, effects);
                answer(said.reply, Ok(answers));
            }
            Then::Deliver { slot, patches } => self.deliver(&record, slot, patches),
            Then::Refused { slot, effects } => {
                self.effect(&record, effects);
                self.give_back(slot);
            }
            Then::Happened { event, effects } => {
                if matches!(event, Event::LeaseExpired(_)) {
                    self.parts.metrics.lease_expired();
                }
                self.effect(&record, effects);
            }
        }
    }

    /// A write that did not happen. Where the store has another state than was known here, it is decided anew on that one.
    fn not_written(&mut self, key: &RunKey, then: Then, error: StoreError) {
        let again = matches!(error, StoreError::Conflict | StoreError::Missing);
        match then {
            Then::Created { record, reply } => {
                if record.private.submitted_secrets {
                    self.forget_secrets(record.key.namespace.clone(), record.uid.clone());
                }
                match error {
                    StoreError::Exists(stored) => match stored.object {
                        Object::Run(found) => {
                            self.take_in(&found, stored.version);
                            answer(reply, existing(&record, self.view_of(&found)));
                        }
                        Object::Patch(_) | Object::Tree(_) | Object::Secrets(_) => {
                            answer(reply, Err(failed(&StoreError::Missing).into()));
                        }
                    },
                    error => answer(reply, Err(failed(&error).into())),
                }
            }
            Then::Answer { event, reply, .. } if again => self.reload(key, Op::Ask { event, reply }),
            Then::Answer { reply, .. } => answer(reply, Err(failed(&error))),
            Then::Reported { said, .. } if again => self.reload(key, Op::Reports(said)),
            Then::Reported { said, .. } => answer(said.reply, Err(failed(&error))),
            Then::Deliver { slot, .. } | Then::Refused { slot, .. } => self.put_off(key, slot, &error),
            Then::Happened { event, .. } if again => self.reload(key, Op::Event(event)),
            Then::Happened { .. } => {
                tracing::error!(run = %key, %error, "a Run's state could not be stored; it is tried again");
                self.rearm(key);
            }
        }
    }

    /// Takes in what the store turned out to have. What is over and is not known has nothing to wait for.
    fn take_in(&mut self, record: &Arc<Record>, version: Version) {
        if self.index.get(&record.key).is_some() || !record.status.phase.is_terminal() {
            self.put(Arc::clone(record), version);
        }
    }

    /// Sets the deadline anew that led to a write which the store could not do.
    pub(super) fn rearm(&mut self, key: &RunKey) {
        let soon = Instant::now() + AGAIN;
        let Some(active) = self.index.get(key) else { return };
        match active.record.standing() {
            Standing::Held(_) => self.timers.at(soon, Timer::Lease(key.clone())),
            Standing::Waiting { since, .. } => {
                self.timers.at(soon, Timer::GiveUp(key.clone(), since));
            }
            Standing::Over { .. } => {}
        }
    }

    fn effect(&mut self, record: &Record, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Stop(attempt) => self.tell_to_stop(record, &attempt),
                Effect::ForgetSecrets => {
                    if record.private.submitted_secrets {
                        self.forget_secrets(record.key.namespace.clone(), record.uid.clone());
                    }
                    self.parts.metrics.finished(record.status.phase);
                }
            }
        }
    }

    /// A hand-out that the store could not do: the Run is offered again a little later, the slot at once.
    fn put_off(&mut self, key: &RunKey, slot: Slot, error: &StoreError) {
        tracing::error!(run = %key, %error, "a Run could not be handed out; it is tried again");
        self.index.set_ready(key, false);
        self.timers.at(Instant::now() + AGAIN, Timer::Ready(key.clone()));
        self.slots.give_back(slot);
    }
}
