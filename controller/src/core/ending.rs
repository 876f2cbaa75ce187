//! How an attempt's end becomes a Run's phase, or another attempt.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use runtimed_api::run::outcome::Verdict;
use runtimed_api::run::spec::RetryOn;
use runtimed_api::run::status::{AttemptEnd, AttemptResult, Phase};

use super::record::Record;

/// The backoff before the second attempt, where the Run does not say.
const DEFAULT_BACKOFF: Duration = Duration::from_secs(1);
/// The longest backoff.
const MAX_BACKOFF: Duration = Duration::from_secs(600);
/// Shutdowns of pods that do not count as attempts. Beyond it they do, so that a pool that is torn down over and over
/// cannot make one Run's record grow without bound.
pub(super) const MAX_DRAINED: u32 = 100;

/// Ends the current attempt, and the Run with it unless it is to be tried again.
pub(super) fn end_attempt(record: &mut Record, mut result: AttemptResult, now: Timestamp) {
    let Some(attempt) = record.status.attempts.last_mut() else { return };
    // The Outcome was fixed when the command exited; a later word on it changes nothing.
    let outcome = attempt.outcome.take().or(result.outcome.take());
    attempt.outcome.clone_from(&outcome);
    result.outcome = outcome;
    attempt.finished_at = Some(now);
    attempt.result = Some(result.clone());
    record.status.step = None;
    record.private.patches.clear();
    record.private.waits_since = None;

    match next_attempt(record, &result) {
        Some(Next { backoff, counted }) => {
            if !counted {
                record.private.drained += 1;
            }
            let backoff = SignedDuration::try_from(backoff).unwrap_or(SignedDuration::ZERO);
            record.private.not_before = Some(now.checked_add(backoff).unwrap_or(now));
            let reason = format!("to be tried again: {}", sentence(&result));
            record.enter(Phase::Pending, Some(reason), now);
        }
        None => {
            let phase = phase(&result, record.status.cancel_requested);
            record.status.refusals.clone_from(&result.refusals);
            record.enter(phase, Some(sentence(&result)), now);
        }
    }
}

struct Next {
    backoff: Duration,
    counted: bool,
}

/// Whether another attempt follows.
fn next_attempt(record: &Record, result: &AttemptResult) -> Option<Next> {
    let retry = record.spec.retry.as_ref()?;
    let cause = cause(result)?;
    if record.status.cancel_requested || !retry.on.contains(&cause) {
        return None;
    }
    // What cannot succeed unchanged, such as a program that is not there, is not tried again for being our failure.
    if cause == RetryOn::Fault && result.fault.as_ref().is_some_and(|fault| !fault.retryable) {
        return None;
    }
    if cause == RetryOn::Drained && record.private.drained < MAX_DRAINED {
        return Some(Next { backoff: Duration::ZERO, counted: false });
    }
    let attempts = u32::try_from(record.status.attempts.len()).unwrap_or(u32::MAX);
    let counted = attempts.saturating_sub(record.private.drained);
    if counted >= retry.max_attempts {
        return None;
    }
    let base = retry.backoff.map_or(DEFAULT_BACKOFF, |span| span.get());
    let factor = 1_u32.checked_shl(counted.saturating_sub(1)).unwrap_or(u32::MAX);
    Some(Next { backoff: base.saturating_mul(factor).min(MAX_BACKOFF), counted: true })
}

fn cause(result: &AttemptResult) -> Option<RetryOn> {
    let verdict = result.outcome.as_ref().map(|outcome| outcome.verdict);
    match result.end {
        AttemptEnd::Completed => match verdict {
            Some(Verdict::Exited(0)) => None,
            Some(Verdict::LimitExceeded(_)) => Some(RetryOn::LimitExceeded),
            Some(Verdict::Exited(_) | Verdict::Signalled(_)) | None => Some(RetryOn::Failed),
        },
        AttemptEnd::TimedOut => Some(RetryOn::TimedOut),
        AttemptEnd::Drained => Some(RetryOn::Drained),
        AttemptEnd::Lost => Some(RetryOn::Lost),
        AttemptEnd::Fault => Some(RetryOn::Fault),
        AttemptEnd::Cancelled | AttemptEnd::Refused => None,
    }
}

/// The phase that an end leads to. A Run whose end a person asked for, and whose daemon then went away or was shut down,
/// got what was asked: it is `Cancelled`. A Run that was drained and may not be tried again is `Lost`.
fn phase(result: &AttemptResult, cancel_requested: bool) -> Phase {
    let success = result.outcome.as_ref().is_some_and(|outcome| outcome.verdict.is_success());
    match result.end {
        AttemptEnd::Completed if success => Phase::Succeeded,
        AttemptEnd::Completed => Phase::Failed,
        AttemptEnd::TimedOut => Phase::TimedOut,
        AttemptEnd::Cancelled => Phase::Cancelled,
        AttemptEnd::Lost | AttemptEnd::Drained if cancel_requested => Phase::Cancelled,
        AttemptEnd::Lost | AttemptEnd::Drained => Phase::Lost,
        AttemptEnd::Refused => Phase::Refused,
        AttemptEnd::Fault => Phase::Fault,
    }
}

fn sentence(result: &AttemptResult) -> String {
    if let Some(reason) = &result.reason {
        return reason.clone();
    }
    if let Some(fault) = &result.fault {
        return format!("{}: {}", fault.code, fault.message);
    }
    if let Some(refusal) = result.refusals.first() {
        return refusal.to_string();
    }
    let verdict = result.outcome.as_ref().map(|outcome| outcome.verdict);
    match (result.end, verdict) {
        (AttemptEnd::Completed, Some(Verdict::Exited(code))) => format!("the command exited with {code}"),
        (AttemptEnd::Completed, Some(Verdict::Signalled(signal))) => {
            format!("signal {signal} ended the command")
        }
        (AttemptEnd::Completed, Some(Verdict::LimitExceeded(limit))) => {
            format!("the command went over its limit: {limit:?}")
        }
        (AttemptEnd::Completed, None) => "the command ended, and how is not known".to_owned(),
        (AttemptEnd::TimedOut, _) => "the timeout ran out".to_owned(),
        (AttemptEnd::Cancelled, _) => "cancelled".to_owned(),
        (AttemptEnd::Drained, _) => "drained: its daemon was shut down".to_owned(),
        (AttemptEnd::Refused, _) => "refused".to_owned(),
        (AttemptEnd::Lost, _) => "its daemon went away".to_owned(),
        (AttemptEnd::Fault, _) => "a fault of ours".to_owned(),
    }
}
