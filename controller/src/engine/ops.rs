//! What is done to one Run at a time: decided by the core, stored as one write, then answered.

mod conclude;
mod results;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use jiff::Timestamp;
use runtimed_api::ids::{Namespace, RunUid, RuntimeName, SecretName};
use runtimed_api::problem::{Code, Problem};
use runtimed_api::rule::Refusal;
use runtimed_api::run::Run;
use runtimed_api::run::status::Phase;
use runtimed_api::session::{Report, ReportAnswer, SecretValue};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::command::Created;
use super::quota::Denied;
use super::retention::Removal;
use super::slots::Slot;
use super::timers::Timer;
use super::{AGAIN, State, handout};
use crate::core::{Decision, Effect, Event, Identity, PatchGrant, Record, RunKey, decide};
use crate::store::{Key, Object, StoreError, Stored, Version};

/// What waits for one Run at most.
const WAITING: usize = 64;
/// Between two tries to remove what nobody needs any more.
pub(super) const REMOVE_AGAIN: Duration = Duration::from_secs(20);

pub(super) type Reply<T> = oneshot::Sender<Result<T, Problem>>;

/// Who waits for a submission.
pub(super) type Submitter = oneshot::Sender<Result<Created, Denied>>;

/// What is done to one Run.
pub(super) enum Op {
    /// Store it for the first time.
    Submit { record: Box<Record>, secrets: BTreeMap<SecretName, SecretValue>, reply: Submitter },
    /// Something that a person waits for.
    Ask { event: Event, reply: Reply<Run> },
    /// What its daemon says, oldest first.
    Reports(Said),
    /// Give it to a waiting slot; the prior patches once they are resolved.
    HandOut { slot: Slot, patches: Option<Vec<PatchGrant>> },
    /// A prior patch is not there; the slot goes to another Run.
    Refuse { slot: Slot, refusals: Vec<Refusal> },
    /// Something that nobody waits for.
    Event(Event),
    /// Remove what is over and was kept long enough.
    Remove { uid: RunUid },
}

/// What a daemon says of one Run.
pub(super) struct Said {
    pub(super) runtime: RuntimeName,
    pub(super) daemon: Identity,
    pub(super) reports: Vec<Report>,
    pub(super) reply: Reply<Vec<ReportAnswer>>,
}

/// What was under way outside and is done.
pub(super) enum Done {
    /// A state was stored, or not.
    Wrote { key: RunKey, then: Then, result: Result<Stored, StoreError> },
    /// A Run that was not in memory was looked up.
    Loaded { key: RunKey, op: Op, result: Result<Option<Stored>, StoreError> },
    /// A Run whose state was not the store's was looked up.
    Reloaded { key: RunKey, op: Op, result: Result<Option<Stored>, StoreError> },
    /// Prior patches were looked up.
    Resolved { key: RunKey, slot: Slot, result: Result<Result<Vec<PatchGrant>, Vec<Refusal>>, StoreError> },
    /// A Run was removed, or not.
    Removed { key: RunKey, uid: RunUid, result: Result<(), StoreError> },
    /// An uploaded patch or work tree was removed, or not, or is not due.
    UploadGone { key: Key, result: Result<Removal, StoreError> },
    /// The secrets of a Run were removed, or not.
    Forgot { namespace: Namespace, uid: RunUid, result: Result<(), StoreError> },
}

/// What follows when a state is stored.
pub(super) enum Then {
    Created { record: Box<Record>, reply: Submitter },
    Answer { event: Event, reply: Reply<Run>, effects: Vec<Effect> },
    Reported { said: Said, answers: Vec<ReportAnswer>, effects: Vec<Effect> },
    Deliver { slot: Slot, patches: Vec<PatchGrant> },
    Refused { slot: Slot, effects: Vec<Effect> },
    Happened { event: Event, effects: Vec<Effect> },
}

impl State {
    /// Begins an op, or lets it wait for those before it.
    pub(super) fn start(&mut self, key: RunKey, op: Op) {
        if let Some(waiting) = self.busy.get_mut(&key) {
            if waiting.len() < WAITING {
                waiting.push_back(op);
            } else {
                self.refuse_op(
                    &key,
                    op,
                    &Problem::new(Code::RateLimited, "too much is asked of this Run at once"),
                );
            }
            return;
        }
        if let Op::Remove { uid } = op {
            return self.remove(key, uid);
        }
        match self.index.get(&key) {
            Some(active) => {
                let (record, version) = (Arc::clone(&active.record), active.version);
                self.apply(key, op, &record, version);
            }
            None => match op {
                Op::Submit { record, secrets, reply } => {
                    let sealed = match self.vault.take(&key.namespace, &record.uid, secrets) {
                        Ok(sealed) => sealed,
                        Err(problem) => return answer(reply, Err(problem.into())),
                    };
                    let object = Object::Run(Arc::new((*record).clone()));
                    let store = Arc::clone(&self.parts.store);
                    let write = async move {
                        if let Some(sealed) = sealed {
                            store.create(sealed).await?;
                        }
                        store.create(object).await
                    };
                    self.index.expect(key.clone());
                    self.write(key, Then::Created { record, reply }, write);
                }
                Op::HandOut { slot, .. } | Op::Refuse { slot, .. } => self.give_back(slot),
                Op::Event(_) | Op::Remove { .. } => {}
                op @ (Op::Ask { .. } | Op::Reports(_)) => self.load(key, op),
            },
        }
    }

    /// Applies an op to a Run's newest state.
    fn apply(&mut self, key: RunKey, op: Op, record: &Arc<Record>, version: Version) {
        let now = Timestamp::now();
        match op {
            Op::Submit { record: wanted, secrets, reply } => {
                let found = self.view_of(record);
                let differ = self.vault.differs(&record.uid, record.private.submitted_secrets, &secrets);
                let same_spec = existing(&wanted, found);
                answer(
                    reply,
                    if differ { same_spec.and_then(|_| Err(other_secrets(&wanted))) } else { same_spec },
                );
            }
            Op::Ask { event, reply } => match decide(record, &event, now) {
                Ok(Decision { record: Some(next), effects }) => {
                    self.replace(key, next, version, Then::Answer { event, reply, effects });
                }
                Ok(Decision { record: None, .. }) => answer(reply, Ok(self.view_of(record))),
                Err(problem) => answer(reply, Err(problem)),
            },
            Op::Reports(said) => self.apply_reports(key, said, record, version, now),
            Op::HandOut { slot, patches: None } if !record.spec.prior_patches.is_empty() => {
                self.busy.insert(key.clone(), VecDeque::new());
                let store = Arc::clone(&self.parts.store);
                let record = Arc::clone(record);
                let resolve = async move { handout::resolve(&*store, &record).await };
                self.under_way.push(resolve.map(|result| Done::Resolved { key, slot, result }).boxed());
            }
            Op::HandOut { slot, patches } => {
                let patches = patches.unwrap_or_default();
                let event = Event::HandOut { daemon: slot.daemon.clone(), patches: patches.clone() };
                match decide(record, &event, now) {
                    Ok(Decision { record: Some(next), .. }) => {
                        self.replace(key, next, version, Then::Deliver { slot, patches });
                    }
                    Ok(Decision { record: None, .. }) | Err(_) => self.give_back(slot),
                }
            }
            Op::Refuse { slot, refusals } => match decide(record, &Event::Refuse(refusals), now) {
                Ok(Decision { record: Some(next), effects }) => {
                    self.replace(key, next, version, Then::Refused { slot, effects });
                }
                Ok(Decision { record: None, .. }) | Err(_) => self.give_back(slot),
            },
            Op::Event(event) => {
                if let Ok(Decision { record: Some(next), effects }) = decide(record, &event, now) {
                    self.replace(key, next, version, Then::Happened { event, effects });
                }
            }
            Op::Remove { .. } => {}
        }
    }

    /// Applies all that a daemon says of a Run as one write.
    fn apply_reports(
        &mut self,
        key: RunKey,
        said: Said,
        record: &Arc<Record>,
        version: Version,
        now: Timestamp,
    ) {
        let mut next: Option<Record> = None;
        let mut effects = Vec::new();
        let mut patch = None;
        let mut answers = Vec::with_capacity(said.reports.len());
        for report in &said.reports {
            let current = next.as_ref().unwrap_or(record);
            if *current.runtime() != said.runtime {
                answers.push(ReportAnswer::Rejected(Problem::new(
                    Code::Forbidden,
                    format!("the Run {key} is of Runtime {}", current.runtime()),
                )));
                continue;
            }
            let event = Event::Report { daemon: said.daemon.clone(), report: report.clone() };
            answers.push(match decide(current, &event, now) {
                Ok(decision) => {
                    if let Some(mut changed) = decision.record {
                        let (attempt, signing) = (report.attempt.attempt, &self.parts.signing);
                        if let Some(captured) = results::captured(&report.event)
                            && let Some(statement) = signing.captured(&changed, attempt, captured, now)
                        {
                            changed.vouch(attempt, &statement);
                            patch = Some((captured.clone(), statement));
                        }
                        next = Some(changed);
                    }
                    effects.extend(decision.effects);
                    ReportAnswer::Applied
                }
                Err(problem) => {
                    self.parts.metrics.report_rejected(problem.code);
                    ReportAnswer::Rejected(problem)
                }
            });
        }
        let Some(next) = next else { return answer(said.reply, Ok(answers)) };
        let store = Arc::clone(&self.parts.store);
        let write = async move {
            if let Some((patch, statement)) = patch {
                results::note_patch(&*store, &next, &patch, statement, now).await?;
            }
            store.replace(Object::Run(Arc::new(next)), version).await
        };
        self.write(key, Then::Reported { said, answers, effects }, write);
    }

    fn replace(&mut self, key: RunKey, next: Record, version: Version, then: Then) {
        let store = Arc::clone(&self.parts.store);
        self.write(key, then, async move { store.replace(Object::Run(Arc::new(next)), version).await });
    }

    fn write(
        &mut self,
        key: RunKey,
        then: Then,
        write: impl Future<Output = Result<Stored, StoreError>> + Send + 'static,
    ) {
        self.busy.entry(key.clone()).or_default();
        self.under_way.push(write.map(|result| Done::Wrote { key, then, result }).boxed());
    }

    fn load(&mut self, key: RunKey, op: Op) {
        let store = Arc::clone(&self.parts.store);
        let wanted = Key::run(&key);
        let load = async move { store.get(wanted).await };
        self.under_way.push(load.map(|result| Done::Loaded { key, op, result }).boxed());
    }

    /// Looks a Run up whose known state the store refused, whatever the index says, and applies the op to what is there.
    fn reload(&mut self, key: &RunKey, op: Op) {
        self.busy.entry(key.clone()).or_default();
        let (store, key) = (Arc::clone(&self.parts.store), key.clone());
        let load = async move {
            let result = store.get(Key::run(&key)).await;
            Done::Reloaded { key, op, result }
        };
        self.under_way.push(load.boxed());
    }

    fn remove(&mut self, key: RunKey, uid: RunUid) {
        self.busy.entry(key.clone()).or_default();
        let (store, blobs) = (Arc::clone(&self.parts.store), self.parts.blobs.clone());
        let run = key.clone();
        let removal = async move {
            let result = results::remove(&*store, &blobs, &run, &uid).await;
            Done::Removed { key: run, uid, result }
        };
        self.under_way.push(removal.boxed());
    }

    fn give_back(&mut self, slot: Slot) {
        self.dirty.insert(slot.runtime.clone());
        self.slots.give_back(slot);
    }

    fn refuse_op(&mut self, key: &RunKey, op: Op, problem: &Problem) {
        match op {
            Op::Submit { reply, .. } => answer(reply, Err(problem.clone().into())),
            Op::Ask { reply, .. } => answer(reply, Err(problem.clone())),
            Op::Reports(said) if problem.code == Code::NotFound => {
                let rejected = |_: &Report| ReportAnswer::Rejected(problem.clone());
                let answers = said.reports.iter().map(rejected).collect();
                answer(said.reply, Ok(answers));
            }
            Op::Reports(said) => answer(said.reply, Err(problem.clone())),
            Op::HandOut { slot, .. } | Op::Refuse { slot, .. } => self.give_back(slot),
            Op::Event(_) => self.rearm(key),
            Op::Remove { uid } => {
                self.timers.at(Instant::now() + AGAIN, Timer::Remove(key.clone(), uid));
            }
        }
    }
}

/// What a submission gets whose name is taken.
fn existing(wanted: &Record, found: Run) -> Result<Created, Denied> {
    if wanted.spec == found.spec {
        return Ok(Created { run: found, new: false });
    }
    let message = format!("the Run {} exists with another spec", wanted.key);
    Err(Problem::new(Code::Conflict, message).hint("choose another name, or use generateName").into())
}

/// A Run that goes on with other secrets than these is not the one that is asked for.
fn other_secrets(wanted: &Record) -> Denied {
    let message = format!("the Run {} exists with other values of its secrets", wanted.key);
    Problem::new(Code::Conflict, message)
        .hint("choose another name, or use generateName; or delete that Run first")
        .into()
}

/// What a person or a daemon is told of a failure of the store; its cause is in our log alone.
pub(crate) fn failed(error: &StoreError) -> Problem {
    tracing::error!(%error, "the store failed");
    if matches!(error, StoreError::Full) {
        return Problem::new(Code::StorageFull, "the controller's store is full")
            .hint("try again when its operator has made room");
    }
    Problem::new(Code::Internal, "the controller's store failed")
        .hint("try again; the controller's log says why")
}

/// Answers; whoever asked may not wait any more.
pub(super) fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    drop(reply.send(value));
}

/// Whether a Run is in a phase that a daemon may work in.
pub(super) fn is_held(record: &Record) -> bool {
    matches!(record.status.phase, Phase::Running | Phase::Finishing)
}
