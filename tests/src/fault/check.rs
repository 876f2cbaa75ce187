//! What must be true of every Run, whatever went wrong.

use std::time::Duration;

use futures_util::TryStreamExt as _;
use runtimed_api::log::LogEvent;
use runtimed_api::run::Run;
use runtimed_api::run::outcome::Verdict;
use runtimed_api::run::status::{AttemptEnd, AttemptResult, AttemptStatus, Phase, RunStatus};
use runtimed_client::controller::{Controller, LogQuery};
use tokio::time::Instant;

use super::plan::{Kind, Plan, PlannedRun, What, Who};
use super::watch::Watched;
use crate::cluster::namespace;
use crate::marks::{OVERLAP, OVERLAP_CODE};

/// How long the rest of a log may take that follows its report, as after a death or a lost lease, and the pause between two
/// looks.
const FOLLOWS: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

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
            let deadline = Instant::now() + FOLLOWS;
            while let Err(why) = log_is_whole(plan, run, attempt, client).await {
                if Instant::now() > deadline {
                    return Err(why);
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        results_are_there(plan, run, status, client).await?;
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

/// Whether a Run was lost by a daemon that nothing was done to, with a controller that nothing was done to: only a machine
/// that was busy for longer than a lease explains that.
#[must_use]
pub fn is_unexplained(plan: &Plan, run: &Run) -> bool {
    let Some(status) = run.status.as_ref().filter(|status| status.phase == Phase::Lost) else { return false };
    let daemon = status.attempts.last().and_then(|attempt| attempt.daemon.as_str().strip_prefix("daemon-"));
    let Some(daemon) = daemon.and_then(|index| index.parse::<usize>().ok()) else { return true };
    !plan.has(|what| match what {
        What::Kill(who) | What::Freeze(who) | What::Fill(who) | What::Fail(who) => match who {
            Who::Daemon(index) | Who::Worker(index) => index == daemon,
            Who::Controller => true,
        },
        What::Link(index, _) | What::Replay(index) | What::Drain(index) => index == daemon,
    })
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
        Kind::Prints { code: 0, .. } | Kind::Leaves | Kind::Collects => Phase::Succeeded,
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
            Kind::Leaves | Kind::Collects | Kind::Sleeps { .. } => 0,
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

/// What is kept of a log is what the command printed, at its place: of a beginning of it nothing is missing but what a gap
/// counts, which only a disk that fails explains, and of a command that ended by itself it is the whole.
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
        Ok(events) => events,
        Err(_) if result.log.bytes == 0 => Vec::new(),
        Err(_) if plan.has(|what| matches!(what, What::Fill(_))) && !result.uploads_incomplete.is_empty() => {
            return Ok(());
        }
        Err(error) => return wrong(format!("it cannot be read: {error}")),
    };
    if result.log.dropped > 0 && !plan.has(|what| matches!(what, What::Fill(_) | What::Fail(_))) {
        return wrong("bytes were dropped, and every disk had room".to_owned());
    }
    let output = run.output();
    let kept = match placed(output.as_bytes(), &read) {
        Ok(kept) => kept,
        Err(what) => return wrong(what),
    };
    // A gap at the very end is counted where there was no room for its record either.
    let Some(unsaid) = result.log.dropped.checked_sub(kept.dropped) else {
        return wrong(format!("{} bytes are missing in it", kept.dropped));
    };
    let arrived = result.log.dropped == 0 || result.uploads_incomplete.is_empty();
    // What was counted, and is not said to be missing, is there: after a death too, for the disk comes back.
    let answered = !result.uploads_incomplete.iter().any(|missing| missing.contains("log"))
        && !plan.has(|what| matches!(what, What::Fill(_) | What::Fail(_)));
    if answered && kept.reached - kept.dropped < result.log.bytes {
        return wrong(format!("{} bytes were acknowledged, and {kept:?} is there", result.log.bytes));
    }
    let whole = result.end == AttemptEnd::Completed && arrived && !died_early(result);
    if whole && kept.reached + unsaid != output.len() as u64 {
        return wrong(format!("{kept:?} is not all that was printed"));
    }
    Ok(())
}

/// Whether its daemon died before the results were collected, and with it what was still in the pipes.
fn died_early(result: &AttemptResult) -> bool {
    result.uploads_incomplete.iter().any(|missing| missing.ends_with("died before they were collected"))
}

/// What a command that ended by itself had made is there, or said not to be.
async fn results_are_there(
    plan: &Plan,
    run: &PlannedRun,
    status: &RunStatus,
    client: &Controller,
) -> Result<(), String> {
    let last = status.attempts.last().and_then(|attempt| attempt.result.as_ref());
    let completed = last.filter(|result| result.end == AttemptEnd::Completed && !died_early(result));
    // What is in the way of collecting is told in warnings.
    let hindered =
        |what| matches!(what, What::Kill(Who::Worker(_)) | What::Drain(_) | What::Fill(_) | What::Fail(_));
    let (Some(result), Kind::Collects, false) = (completed, run.kind, plan.has(hindered)) else {
        return Ok(());
    };
    if result.outputs.get("k") != Some(&run.name) {
        return Err(format!("{}: its output is not there: {result:?}", run.name));
    }
    // A lease that is given up meanwhile stops the collection, and the list of artifacts says so.
    let skipped = result.artifacts.as_ref().is_some_and(|artifacts| artifacts.skipped > 0);
    if skipped || !result.uploads_incomplete.is_empty() {
        return Ok(());
    }
    let name = run.name.parse().expect("a name");
    let artifact = client.artifact(&namespace(), &name, "file").await;
    let artifact =
        artifact.map_err(|error| format!("{name}: its artifact cannot be had: {error}: {result:?}"))?;
    let bytes = artifact.bytes().await.map_err(|error| error.to_string())?;
    if bytes == format!("kept by {name}\n") {
        Ok(())
    } else {
        Err(format!("{name}: its artifact is {bytes:?}"))
    }
}

/// How far a log goes.
#[derive(Debug, PartialEq, Eq)]
struct Kept {
    /// So many bytes of the output are in it or in its gaps.
    reached: u64,
    /// So many of these are in its gaps.
    dropped: u64,
}

/// Puts a log beside what was printed.
fn placed(output: &[u8], events: &[LogEvent]) -> Result<Kept, String> {
    let mut kept = Kept { reached: 0, dropped: 0 };
    for event in events {
        let rest = usize::try_from(kept.reached).ok().and_then(|from| output.get(from..)).unwrap_or_default();
        let bytes = event.bytes();
        if !rest.starts_with(&bytes) {
            let text = String::from_utf8_lossy(&bytes);
            return Err(format!("{text:?} is not what was printed after {} bytes", kept.reached));
        }
        let dropped = event.dropped.unwrap_or(0);
        kept.reached += bytes.len() as u64 + dropped;
        kept.dropped += dropped;
    }
    if kept.reached > output.len() as u64 {
        return Err(format!("it goes on to byte {}, and {} were printed", kept.reached, output.len()));
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use runtimed_api::log::{Body, Record, Stream};

    use super::*;

    fn log(bodies: &[Body<'_>]) -> Vec<LogEvent> {
        bodies.iter().map(|&body| LogEvent::of(1, &Record { micros: 0, body }, 0)).collect()
    }

    fn out(text: &str) -> Body<'_> {
        Body::Text(Stream::Stdout, text.as_bytes())
    }

    #[test]
    fn a_gap_stands_for_as_many_bytes_as_it_counts() {
        let kept = |reached, dropped| Ok(Kept { reached, dropped });
        assert_eq!(placed(b"abcdef", &log(&[out("ab"), Body::Gap(2), out("ef")])), kept(6, 2));
        assert_eq!(placed(b"abcdef", &log(&[Body::Gap(4), out("e")])), kept(5, 4));
        assert_eq!(placed(b"abcdef", &log(&[])), kept(0, 0));
    }

    #[test]
    fn whatever_is_at_another_place_is_found() {
        for wrong in [
            log(&[out("ab"), out("ef")]),
            log(&[out("ab"), Body::Gap(1), out("ef")]),
            log(&[Body::Gap(2), out("ab")]),
            log(&[out("abcdefg")]),
            log(&[out("abcdef"), Body::Gap(1)]),
        ] {
            placed(b"abcdef", &wrong).expect_err("it is at another place");
        }
    }
}
