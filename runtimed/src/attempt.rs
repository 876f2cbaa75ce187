//! One attempt, from the lease to the release of its trees. The order is the specification's.
//!
//! ```text
//! accept ─► allocate ─► launch ─► source, patches ─► stage ─► run ─► wait ─► capture ─► scrub ─► upload ─► report ─► release
//!    │           └───────────┴───────────┴──────────────┴───────┴──────┴────────┴──────────►│
//!    └─ refused ────────────────────────────────────────────────────────────────────────────────────►│
//! ```
//!
//! Whatever happens between `allocate` and `capture` leads to `scrub`, and from there the same way for all: the log and
//! whatever else was collected is kept for every end. The slot is free after `scrub`; what comes later goes on beside
//! the next Run.

mod accept;
mod again;
mod clock;
mod collect;
mod conversation;
mod cpu;
mod given;
mod intent;
mod prior;
mod rotation;
mod sampler;
mod source;
mod tail;
mod uploads;
mod verdict;
mod workspace;

pub(crate) use intent::image_directories;
pub(crate) use uploads::leftover;
pub(crate) use workspace::scrub_of;

use std::sync::Arc;

use runtimed_api::ids::AttemptKey;
use runtimed_api::problem::{Chain, Code, Problem};
use runtimed_api::provenance::KeyHistory;
use runtimed_api::rule::Refusal;
use runtimed_api::run::limits::LimitName;
use runtimed_api::run::outcome::{Outcome, Verdict};
use runtimed_api::run::status::{AttemptEnd, AttemptResult};
use runtimed_api::run::step::Step;
use runtimed_api::runtime::Runtime;
use runtimed_api::session::{Lease, Report, ReportEvent};
use runtimed_api::trace::TraceContext;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::admission::Permit;
use crate::config::LogOutput;
use crate::daemon::Daemon;
use crate::live::{Live, Stop};
use crate::logs::{LiveSource, echo};
use crate::redact::Redactor;
use crate::session::Current;
use accept::{Accepted, NotAccepted};
use clock::Clock;
use workspace::Workspace;

/// What became of the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// It can take the next Run.
    Free,
    /// The same, and nothing of this one has begun.
    Unused,
    /// The journal takes nothing: another Run could not be accepted either.
    Broken,
    /// Something that was staged may still be there: it must take no other.
    Quarantined,
}

/// Why an attempt does not go on to its own end.
#[derive(Debug)]
pub enum Ended {
    /// Policy forbids it, or what it asks for is not there.
    Refused(Vec<Refusal>),
    /// Our failure.
    Fault(Problem),
    /// It was stopped before the command could end by itself.
    Stopped(Stop),
}

impl From<Problem> for Ended {
    fn from(problem: Problem) -> Self {
        Self::Fault(problem)
    }
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(vec![refusal])
    }
}

/// What every step of an attempt has at hand.
#[derive(Debug)]
struct Attempt {
    daemon: Arc<Daemon>,
    lease: Lease,
    runtime: Arc<Runtime>,
    /// The keys that the controller signs statements with.
    keys: KeyHistory,
    live: Arc<Live>,
    redactor: Redactor,
    clock: Clock,
    result: AttemptResult,
    /// What takes the log to the store, and says what did not get there.
    shipping: Option<uploads::Shipping>,
}

impl Attempt {
    /// Shows what it is at.
    fn enter(&self, step: Step) {
        self.live.set(|now| now.step = Some(step));
    }

    /// Notes how long that took, which is all since the step before.
    fn leave(&mut self, step: Step) {
        let lap = self.clock.lap(step);
        self.result.steps.push(lap);
    }
}

/// Runs a lease up to its scrub, and leaves the rest to a task of `tails`. All that is said of it on the way is said in a
/// span that names it.
pub async fn run(daemon: Arc<Daemon>, lease: Lease, session: &Current, tails: &TaskTracker) -> Slot {
    let span = span(&lease.attempt, lease.trace.as_ref());
    steps(daemon, lease, session, tails).instrument(span).await
}

/// Names an attempt in every line of the log that is written within.
pub(crate) fn span(key: &AttemptKey, trace: Option<&TraceContext>) -> tracing::Span {
    let trace = trace.map(TraceContext::trace_id);
    tracing::info_span!("attempt", namespace = %key.namespace, run = %key.name, attempt = key.attempt.0, trace)
}

async fn steps(daemon: Arc<Daemon>, lease: Lease, session: &Current, tails: &TaskTracker) -> Slot {
    let key = lease.attempt.clone();
    tracing::info!("a lease is taken");
    let sender = Arc::clone(&daemon);
    let (mut attempt, accepted) = match accept::accept(daemon, lease, session).await {
        Ok(accepted) => accepted,
        Err(NotAccepted::TooLate) => {
            tracing::warn!("a lease is declined: it came too late");
            sender.outbox.deliver(declined(key, "the lease came too late".to_owned()));
            return Slot::Unused;
        }
        Err(NotAccepted::Journal(error)) => {
            tracing::error!(%error, "a lease was not accepted");
            let why = storage("the attempt cannot be journaled", &error).message;
            sender.outbox.deliver(declined(key, why));
            return Slot::Broken;
        }
    };
    attempt.shipping = Some(uploads::ship(&attempt));
    if attempt.daemon.config.logs.stdout == LogOutput::Json {
        let live = &attempt.live;
        let source = LiveSource::new(Arc::clone(&live.log), live.key.attempt.0, CancellationToken::new());
        tails.spawn(echo(source, live.key.clone()).in_current_span());
    }
    let mut workspace = None;
    let ended = match accepted {
        Ok(accepted) => course(&mut attempt, accepted, &mut workspace).await,
        Err(ended) => Err(ended),
    };
    attempt.settle(ended);
    attempt.live.log.close();
    let slot = match &mut workspace {
        Some(workspace) => workspace.scrub(&mut attempt).await,
        None => Slot::Free,
    };
    tails.spawn(tail::run(attempt, workspace).in_current_span());
    slot
}

/// From allocation to capture.
async fn course(
    attempt: &mut Attempt,
    accepted: Accepted,
    workspace: &mut Option<Workspace>,
) -> Result<AttemptEnd, Ended> {
    let permit = admit(attempt, &accepted).await?;
    let place = workspace.insert(Workspace::allocate(attempt, accepted.tree.clone(), permit).await?);
    let conversation = conversation::Conversation::launch(attempt, &accepted).await?;
    conversation.hold(attempt, accepted, place).await
}

/// Waits until there is room for it beside the others; a stop ends the wait.
async fn admit(attempt: &Attempt, accepted: &Accepted) -> Result<Permit, Ended> {
    tokio::select! {
        biased;
        permit = attempt.daemon.admission.admit(&accepted.granted.limits) => Ok(permit),
        stop = attempt.live.stopped() => Err(Ended::Stopped(stop)),
    }
}

impl Attempt {
    /// Writes down how it ended.
    fn settle(&mut self, ended: Result<AttemptEnd, Ended>) {
        let result = &mut self.result;
        match ended {
            Ok(end) => result.end = end,
            Err(Ended::Refused(refusals)) => {
                result.end = AttemptEnd::Refused;
                result.reason = refusals.first().map(ToString::to_string);
                result.refusals = refusals;
            }
            // The Run's own limit, and not a failure of ours: its command could not begin within it.
            Err(Ended::Fault(problem)) if problem.code == Code::MemoryExceeded => {
                let verdict = Verdict::LimitExceeded(LimitName::Memory);
                let unstarted = Outcome { verdict, leaked: 0, cpu_micros: 0, max_rss: 0 };
                result.end = AttemptEnd::Completed;
                result.outcome.get_or_insert(unstarted);
                let sentences = std::iter::once(problem.message).chain(problem.hint);
                result.reason = Some(sentences.collect::<Vec<_>>().join("; "));
            }
            Err(Ended::Fault(problem)) => {
                result.end = AttemptEnd::Fault;
                result.reason = Some(problem.message.clone());
                result.fault = Some(problem);
            }
            Err(Ended::Stopped(stop)) => result.end = end_of(stop),
        }
        if result.reason.is_none() {
            result.reason = reason_of(self.live.stopping(), result.end);
        }
        self.mask();
    }

    /// Masks what came from elsewhere: a remote's words, and what the command wrote.
    fn mask(&mut self) {
        let result = &mut self.result;
        let mask = |text: &mut String| *text = self.redactor.mask_text(text);
        result.reason.as_mut().map(mask);
        result.warnings.iter_mut().for_each(mask);
        result.uploads_incomplete.iter_mut().for_each(mask);
        result.outputs.values_mut().for_each(mask);
        for refusal in &mut result.refusals {
            mask(&mut refusal.message);
            mask(&mut refusal.subject);
        }
        if let Some(fault) = &mut result.fault {
            mask(&mut fault.message);
        }
    }

    fn key(&self) -> &AttemptKey {
        &self.live.key
    }
}

/// Gives a lease back of which nothing was journaled and nothing done. The report need not outlive the daemon: without it the
/// lease runs out.
pub(crate) fn declined(attempt: AttemptKey, why: String) -> Report {
    Report { attempt, sequence: 1, at: jiff::Timestamp::now(), event: ReportEvent::Declined(why) }
}

/// How an attempt that was stopped for this reason ends.
fn end_of(stop: Stop) -> AttemptEnd {
    match stop {
        Stop::Cancel => AttemptEnd::Cancelled,
        Stop::Drain => AttemptEnd::Drained,
        Stop::LeaseLost => AttemptEnd::Lost,
        Stop::TimedOut => AttemptEnd::TimedOut,
        // The Outcome names the limit.
        Stop::Limit(_) => AttemptEnd::Completed,
    }
}

fn reason_of(stop: Option<Stop>, end: AttemptEnd) -> Option<String> {
    let text = match end {
        AttemptEnd::TimedOut => "the timeout ran out",
        AttemptEnd::Cancelled => "cancelled on request",
        AttemptEnd::Drained => "the daemon was shut down",
        AttemptEnd::Lost if stop == Some(Stop::LeaseLost) => "the lease could not be held",
        _ => return None,
    };
    Some(text.to_owned())
}

/// A file system's failure, as a fault that names what was being done.
fn storage(what: &str, error: &(dyn std::error::Error + 'static)) -> Problem {
    let is_full = |cause: &(dyn std::error::Error + 'static)| {
        let errno = cause.downcast_ref::<rustix::io::Errno>().copied();
        let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        matches!(errno, Some(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT))
            || matches!(kind, Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded))
    };
    let mut causes = std::iter::successors(Some(error), |cause| (*cause).source());
    let code = if causes.any(is_full) { Code::StorageFull } else { Code::StorageFailed };
    Problem::new(code, format!("{what}: {}", Chain(error)))
}
