//! What may become of a Run: pure, without files, sockets or clocks.
//!
//! ```text
//!            submit
//!              │
//!              ▼       HandOut: fence + 1, a new attempt
//!  ┌──────► Pending ─────────────────────────► Running ──── Report(Exited) ────► Finishing
//!  │           │ ▲                              │   │                               │  │
//!  │           │ └─ Undelivered, NeverArrived, ─┘   │ Report(Finished), LeaseExpired │  │
//!  │           │       or declined                  │                                │  │
//!  │           │                                    ▼                               ▼  │
//!  │           │                              the attempt ends: `ending` judges it     │
//!  └───────────┼────── another attempt ───────────────┤                                │
//!              │ Cancel → Cancelled                   │ Completed, exit 0 → Succeeded  │
//!              │ QueueExpired → TimedOut              │ Completed otherwise → Failed   │
//!              │ Refuse → Refused                     │ TimedOut, Cancelled, Refused,  │
//!              │ SecretsLost → Fault                  │ Lost, Fault → the same phase   │
//!              ▼                                      │ Drained → Lost                 │
//!        a terminal phase ◄───────────────────────────┘                                │
//!              ▲───────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! `Pending` also holds a Run that waits out its backoff: [`Record::standing`] says from when it may be handed out. A
//! terminal phase never changes. A cancel of a Run that a daemon has sets `cancelRequested` and becomes an order to that
//! daemon; the attempt then ends as the daemon reports it, so that a command that had already completed keeps its
//! Outcome. What a daemon says under an old fence is refused and changes nothing; what it says twice is answered and
//! changes nothing.

mod bounded;
mod ending;
mod record;

pub use record::{Blobs, Held, Identity, PatchGrant, Private, Record, RunKey, Standing, Submitted};

use jiff::{SignedDuration, Timestamp};
use runtimed_api::ids::{AttemptKey, AttemptNumber, Fence};
use runtimed_api::problem::{Code, Problem};
use runtimed_api::rule::Refusal;
use runtimed_api::run::status::{AttemptEnd, AttemptResult, AttemptStatus, Phase};
use runtimed_api::session::{Report, ReportEvent};

/// Leases of one Run that may be declined, or not arrive: a pool that can take nothing must not hand it around for ever.
const MAX_DECLINED: u32 = 16;
/// Before a Run that was declined is handed out again: a daemon whose disk fails is not alone with it.
const AFTER_DECLINE: SignedDuration = SignedDuration::from_secs(1);

/// Something that happens to a Run.
#[derive(Debug, Clone)]
pub enum Event {
    /// A free slot of this daemon gets it, with its prior patches resolved.
    HandOut {
        /// The daemon.
        daemon: Identity,
        /// The prior patches.
        patches: Vec<PatchGrant>,
    },
    /// The lease could not be given to the slot: whoever waited there is gone.
    Undelivered(Fence),
    /// The answer with the lease was lost: its daemon has not begun the attempt, and will not.
    NeverArrived(Fence),
    /// A prior patch is not there.
    Refuse(Vec<Refusal>),
    /// The submitted secrets are in no memory any more.
    SecretsLost,
    /// The daemon that has it says something.
    Report {
        /// Which daemon says it.
        daemon: Identity,
        /// What it says.
        report: Report,
    },
    /// A person ends it.
    Cancel {
        /// Who.
        by: String,
    },
    /// A person removes it; a Run that is not over is cancelled first.
    Delete {
        /// Who.
        by: String,
    },
    /// Its daemon has not renewed the lease under this fence.
    LeaseExpired(Fence),
    /// It waited as long as it may.
    QueueExpired,
}

/// What has to be done outside because of a decision, beyond storing it. What follows from the state alone, whatever
/// led to it, is [`Record::standing`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Tell the daemon to stop this attempt.
    Stop(AttemptKey),
    /// The Run is over: the secrets submitted with it have no use any more.
    ForgetSecrets,
}

/// What a decision came to.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The Run as it has to be stored; `None` when nothing changes.
    pub record: Option<Record>,
    /// What has to be done when it is stored.
    pub effects: Vec<Effect>,
}

impl Decision {
    const UNCHANGED: Self = Self { record: None, effects: Vec::new() };

    fn changed(mut record: Record) -> Self {
        bounded::fit(&mut record);
        let over = record.status.phase.is_terminal();
        let effects = if over { vec![Effect::ForgetSecrets] } else { Vec::new() };
        Self { record: Some(record), effects }
    }
}

/// Decides what an event does to a Run.
///
/// # Errors
/// The event does not fit the state; nothing changes. For a report the problem is the answer that ends its redelivery.
pub fn decide(record: &Record, event: &Event, now: Timestamp) -> Result<Decision, Problem> {
    match event {
        Event::HandOut { daemon, patches } => hand_out(record, daemon, patches, now),
        Event::Undelivered(fence) => Ok(taken_back(record, *fence, |next| never_begun(next, None, now))),
        Event::NeverArrived(fence) => Ok(taken_back(record, *fence, |next| {
            let daemon = next.held().map_or_else(String::new, |held| held.daemon.to_string());
            declined(next, format!("daemon {daemon} never had it: the lease did not arrive"), now)
        })),
        Event::Refuse(refusals) => refuse(record, refusals, now),
        Event::SecretsLost => pending(record).map(|()| {
            let lost = "secret-invalid: the submitted secrets cannot be opened with the controller's key; submit again";
            Decision::changed(ended(record, Phase::Fault, lost, now))
        }),
        Event::Report { daemon, report } => apply_report(record, daemon, report, now),
        Event::Cancel { by } => Ok(cancel(record, by, now)),
        Event::Delete { by } => Ok(delete(record, by, now)),
        Event::LeaseExpired(fence) => Ok(lease_expired(record, *fence, now)),
        Event::QueueExpired => pending(record).map(|()| {
            let waited = format!("no daemon took it within {}", record.private.queue);
            Decision::changed(ended(record, Phase::TimedOut, &waited, now))
        }),
    }
}

fn hand_out(
    record: &Record,
    daemon: &Identity,
    patches: &[PatchGrant],
    now: Timestamp,
) -> Result<Decision, Problem> {
    pending(record)?;
    let mut next = record.clone();
    let number = u32::try_from(next.status.attempts.len()).unwrap_or(u32::MAX).saturating_add(1);
    next.status.fence = Fence(next.status.fence.0 + 1);
    next.status.attempts.push(AttemptStatus {
        number: AttemptNumber(number),
        fence: next.status.fence,
        daemon: daemon.name.clone(),
        started_at: now,
        finished_at: None,
        outcome: None,
        result: None,
        statement: None,
    });
    next.private.applied.push(0);
    if let Some(instance) = daemon.instance {
        next.private.instances.insert(next.status.fence, instance);
    }
    if let Standing::Waiting { since, .. } = record.standing() {
        next.private.waits_since = Some(since);
    }
    next.private.not_before = None;
    next.private.patches = patches.to_vec();
    next.enter(Phase::Running, Some(format!("daemon {} has it", daemon.name)), now);
    Ok(Decision::changed(next))
}

/// Takes a hand-out back that certainly reached nobody: whoever has said something of it has it.
fn taken_back(record: &Record, fence: Fence, back: impl FnOnce(Record) -> Record) -> Decision {
    let is_held = record.held().is_some_and(|held| held.fence == fence);
    if is_held && record.is_unheard() { Decision::changed(back(record.clone())) } else { Decision::UNCHANGED }
}

/// As if the last hand-out had not been, but for the fence: the Run waits on, in its place and for what is left of its
/// time.
fn never_begun(mut next: Record, why: Option<String>, now: Timestamp) -> Record {
    if let Some(attempt) = next.status.attempts.pop() {
        next.private.instances.remove(&attempt.fence);
    }
    next.private.applied.pop();
    next.private.patches.clear();
    if next.status.cancel_requested {
        return ended(&next, Phase::Cancelled, "cancelled before a daemon had it", now);
    }
    next.enter(Phase::Pending, why, now);
    next
}

/// Takes a hand-out back that its daemon could not take, or never had. Not for ever: a lease that ends whoever reads it
/// does not arrive either.
fn declined(mut next: Record, why: String, now: Timestamp) -> Record {
    next.private.declined += 1;
    if next.private.declined >= MAX_DECLINED {
        let mut result = AttemptResult::bare(AttemptEnd::Fault);
        result.reason = Some(why);
        ending::end_attempt(&mut next, result, now);
        return next;
    }
    let mut next = never_begun(next, Some(why), now);
    next.private.not_before = now.checked_add(AFTER_DECLINE).ok();
    next
}

fn refuse(record: &Record, refusals: &[Refusal], now: Timestamp) -> Result<Decision, Problem> {
    pending(record)?;
    let reason = Problem::refused(refusals.to_vec()).message;
    let mut next = ended(record, Phase::Refused, &reason, now);
    next.status.refusals = refusals.to_vec();
    Ok(Decision::changed(next))
}

fn apply_report(
    record: &Record,
    daemon: &Identity,
    report: &Report,
    now: Timestamp,
) -> Result<Decision, Problem> {
    let key = &report.attempt;
    if key.uid != record.uid {
        return Err(Problem::new(Code::NotFound, format!("the Run {} is another one by now", record.key)));
    }
    let index = usize::try_from(key.attempt.0).unwrap_or(usize::MAX).wrapping_sub(1);
    let stale = || {
        Problem::new(Code::StaleFence, format!("{key} was given up; the fence is {}", record.status.fence))
    };
    let attempt = record.status.attempts.get(index).ok_or_else(stale)?;
    if attempt.fence != key.fence {
        return Err(stale());
    }
    if !record.hold(attempt).is_with(daemon) {
        let other = if attempt.daemon == daemon.name { "another daemon of the name" } else { "daemon" };
        return Err(Problem::new(Code::Forbidden, format!("{key} belongs to {other} {}", attempt.daemon)));
    }
    if record.private.applied.get(index).is_some_and(|applied| report.sequence <= *applied) {
        return Ok(Decision::UNCHANGED);
    }
    // An attempt that ended without its daemon (its lease ran out) stays ended so.
    if attempt.result.is_some() || record.held().is_none_or(|held| held.fence != key.fence) {
        return Err(stale());
    }
    let begun = record.private.applied.get(index).is_none_or(|applied| *applied > 0);
    let mut next = record.clone();
    if let Some(applied) = next.private.applied.get_mut(index) {
        *applied = report.sequence;
    }
    match &report.event {
        ReportEvent::Exited(outcome) => {
            if let Some(attempt) = next.status.attempts.get_mut(index) {
                attempt.outcome.get_or_insert_with(|| outcome.clone());
            }
            if next.status.phase == Phase::Running {
                next.enter(Phase::Finishing, Some("the command has ended".to_owned()), now);
            }
            Ok(Decision::changed(next))
        }
        ReportEvent::Finished(result) => {
            ending::end_attempt(&mut next, (**result).clone(), now);
            Ok(Decision::changed(next))
        }
        ReportEvent::Declined(_) if begun => {
            Err(Problem::new(Code::Conflict, format!("{key} has begun and cannot be declined any more")))
        }
        ReportEvent::Declined(why) => {
            // A daemon's words are as long as it likes.
            let why = format!("daemon {} declined it: {why}", daemon.name).chars().take(1024).collect();
            Ok(Decision::changed(declined(next, why, now)))
        }
    }
}

fn cancel(record: &Record, by: &str, now: Timestamp) -> Decision {
    let mut next = record.clone();
    match next.status.phase {
        Phase::Pending => {
            next.status.cancel_requested = true;
            Decision::changed(ended(&next, Phase::Cancelled, &format!("cancelled by {by}"), now))
        }
        Phase::Running | Phase::Finishing if !next.status.cancel_requested => {
            next.status.cancel_requested = true;
            next.status.reason = Some(format!("{by} asked for its end"));
            let stop = next.held().map(|held| Effect::Stop(next.attempt_key(&held)));
            Decision { effects: stop.into_iter().collect(), ..Decision::changed(next) }
        }
        _ => Decision::UNCHANGED,
    }
}

fn delete(record: &Record, by: &str, now: Timestamp) -> Decision {
    let mut decision = cancel(record, by, now);
    let mut next = decision.record.take().unwrap_or_else(|| record.clone());
    if next.private.doomed {
        return Decision::UNCHANGED;
    }
    next.private.doomed = true;
    decision.record = Some(next);
    decision
}

fn lease_expired(record: &Record, fence: Fence, now: Timestamp) -> Decision {
    let Some(held) = record.held().filter(|held| held.fence == fence) else {
        return Decision::UNCHANGED;
    };
    let mut lost = AttemptResult::bare(AttemptEnd::Lost);
    lost.reason = Some(format!("daemon {} went away: it did not renew its lease", held.daemon));
    let mut next = record.clone();
    ending::end_attempt(&mut next, lost, now);
    Decision::changed(next)
}

fn pending(record: &Record) -> Result<(), Problem> {
    match record.status.phase {
        Phase::Pending => Ok(()),
        phase => Err(Problem::new(Code::Conflict, format!("the Run {} is {phase}", record.key))),
    }
}

/// The Run, ended without an attempt having ended it.
fn ended(record: &Record, phase: Phase, reason: &str, now: Timestamp) -> Record {
    let mut next = record.clone();
    next.enter(phase, Some(reason.to_owned()), now);
    next
}

#[cfg(test)]
mod tests;
