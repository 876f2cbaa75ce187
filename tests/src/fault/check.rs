//! What must be true of every Run, whatever went wrong.

use futures_util::TryStreamExt as _;
use runtimed_api::log::LogEvent;
use runtimed_api::run::Run;
use runtimed_api::run::outcome::Verdict;
use runtimed_api::run::status::{AttemptEnd, AttemptStatus, Phase, RunStatus};
use runtimed_client::controller::{Controller, LogQuery};

use super::plan::{Kind, Plan, PlannedRun, What, Who};
use super::watch::Watched;
use crate::cluster::namespace;
use crate::marks::{OVERLAP, OVERLAP_CODE};

/// Checks every Run of a schedule.
///
/// # Errors
/// The first thing that is not as it must be.
pub async fn runs(plan: &Plan, lives: &[(PlannedRun, Watched)], client: &Controller) -> Result<(), String> {
    for (run, life) in lives {
        let name = run.name.parse().expect("a name");
        let now = client.get(&namespace(), &name).await;
        let now = now.map_err(|error| format!("{name} was taken and is not there: {error}"))?;
        if now.metadata.uid != life.taken.metadata.uid {
            return Err(format!("{name} was taken as {:?} and is {:?}", life.taken.metadata, now.metadata));
        }
        if now.status != life.over.status {
            return Err(format!(
                "{name} was over, and changed: {:?} became {:?}",
                life.over.status, now.status
            ));
        }
        let status = status(&now)?;
        let allowed = allowed(plan, run, life);
        if !allowed.contains(&status.phase) {
            return Err(format!("{name} ended as {}, and may as {allowed:?}: {status:?}", status.phase));
        }
        attempts_are_right(plan, run, status)?;
        for attempt in &status.attempts {
            log_is_whole(plan, run, attempt, client).await?;
        }
    }
    let listed = client.list(&namespace(), &Default::default()).await.map_err(|error| error.to_string())?;
    if listed.items.len() == plan.runs.len() {
        Ok(())
    } else {
        Err(format!("{} Runs were taken, and there are {}", plan.runs.len(), listed.items.len()))
    }
}

/// How many attempts a Run had.
#[must_use]
pub fn attempts(run: &Run) -> u64 {
    run.status.as_ref().map_or(0, |status| status.attempts.len() as u64)
}

fn status(run: &Run) -> Result<&RunStatus, String> {
    run.status.as_ref().ok_or_else(|| format!("{:?} has no status", run.metadata))
}

/// The phases that a Run may end in. Losing its daemon is always one of them: a machine that is busy enough delays a
/// renewal past a lease of 300 ms all by itself.
fn allowed(plan: &Plan, run: &PlannedRun, life: &Watched) -> Vec<Phase> {
    let mut allowed = vec![natural(run.kind), Phase::Lost];
    if life.cancelled {
        allowed.push(Phase::Cancelled);
    }
    let faults = |what| matches!(what, What::Kill(Who::Worker(_)) | What::Fill(_) | What::Fail(_));
    if plan.has(faults) {
        allowed.push(Phase::Fault);
    }
    allowed
}

/// How it ends when nothing goes wrong.
fn natural(kind: Kind) -> Phase {
    match kind {
        Kind::Prints { code: 0, .. } | Kind::Leaves => Phase::Succeeded,
        Kind::Prints { .. } => Phase::Failed,
        Kind::Sleeps { .. } => Phase::TimedOut,
    }
}

fn attempts_are_right(plan: &Plan, run: &PlannedRun, status: &RunStatus) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{}: {what}: {status:?}", run.name));
    let drains = status.attempts.iter().filter(|attempt| ended(attempt) == Some(AttemptEnd::Drained)).count();
    let most = if run.retry { 3 + drains } else { 1 };
    if status.attempts.len() > most {
        return wrong("too many attempts");
    }
    if !status.attempts.windows(2).all(|pair| pair[0].fence < pair[1].fence) {
        return wrong("a fence did not rise");
    }
    if status.attempts.iter().any(|attempt| attempt.result.is_none() || attempt.finished_at.is_none()) {
        return wrong("an attempt goes on after the end");
    }
    for attempt in &status.attempts {
        let overlaps = attempt.outcome.as_ref().map(|outcome| outcome.verdict);
        if overlaps == Some(Verdict::Exited(OVERLAP_CODE)) {
            return wrong(OVERLAP);
        }
        let code = match run.kind {
            Kind::Prints { code, .. } => code,
            Kind::Leaves | Kind::Sleeps { .. } => 0,
        };
        let verdict = attempt.outcome.as_ref().map(|outcome| outcome.verdict);
        if ended(attempt) == Some(AttemptEnd::Completed) && verdict != Some(Verdict::Exited(code)) {
            // A worker that is killed takes its command with it, and who is killed shows as such.
            return wrong("the command did not end so");
        }
        let scrubbed = attempt.result.as_ref().and_then(|result| result.scrub.as_ref());
        if scrubbed.is_some_and(|scrub| !scrub.verified) {
            return wrong("a scrub was not verified");
        }
        if ended(attempt) == Some(AttemptEnd::Drained) && !plan.has(|what| matches!(what, What::Drain(_))) {
            return wrong("drained, and nobody drained");
        }
    }
    Ok(())
}

fn ended(attempt: &AttemptStatus) -> Option<AttemptEnd> {
    attempt.result.as_ref().map(|result| result.end)
}

/// What is kept of a log is a true beginning of what the command printed, all of it that is listed can be read, and of a
/// command that ended by itself it is the whole.
async fn log_is_whole(
    plan: &Plan,
    run: &PlannedRun,
    attempt: &AttemptStatus,
    client: &Controller,
) -> Result<(), String> {
    let Some(result) = &attempt.result else { return Ok(()) };
    let name = run.name.parse().expect("a name");
    let query = LogQuery { attempt: Some(attempt.number.0), ..LogQuery::default() };
    let wrong =
        |what: String| Err(format!("the log of {name}, attempt {}: {what}: {result:?}", attempt.number));
    let events = match client.logs(&namespace(), &name, &query).await {
        Ok(events) => events.try_collect::<Vec<_>>().await,
        Err(error) => Err(error),
    };
    let read = match events {
        Ok(events) => events.iter().flat_map(LogEvent::bytes).collect::<Vec<u8>>(),
        Err(_) if result.log.bytes == 0 => Vec::new(),
        Err(_) if plan.has(|what| matches!(what, What::Fill(_))) && !result.uploads_incomplete.is_empty() => {
            return Ok(());
        }
        Err(error) => return wrong(format!("it cannot be read: {error}")),
    };
    let output = run.output();
    let text = String::from_utf8_lossy(&read);
    if !output.starts_with(&*text) {
        return wrong(format!("{text:?} is not what was printed"));
    }
    let whole = result.end == AttemptEnd::Completed && result.log.dropped == 0;
    if whole && *text != output {
        return wrong(format!("{text:?} is not all that was printed"));
    }
    Ok(())
}
