//! Steps 13 to 15: upload, report, release. The slot is free by now.

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use runtimed_api::run::status::AttemptEnd;
use runtimed_api::run::step::Step;
use runtimed_api::session::{Report, ReportEvent};
use runtimed_store::Place;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Attempt;
use super::clock;
use super::collect::PATCH;
use super::uploads::{self, Item, Shipping};
use super::workspace::{Workspace, blocking};
use crate::artifacts::MAX_UPLOADS;
use crate::daemon::Daemon;
use crate::journal::Record;
use crate::recovery::mark_left;

/// Uploads, reports and releases.
pub(super) async fn run(mut attempt: Attempt, workspace: Option<Workspace>) {
    let key = attempt.key().clone();
    // Everything that goes up is in the spool: a store that is away holds no tree.
    let released = async {
        let workspace = workspace?;
        let began = Instant::now();
        let released = workspace.release().await;
        Some((released, clock::of(Step::Release, began.elapsed())))
    };
    count_log(&mut attempt);
    let uploaded = async {
        if attempt.result.end != AttemptEnd::Lost {
            return upload(&mut attempt).await;
        }
        // What is left of a lost attempt is its log, which can follow the report.
        if attempt.result.log.records > 0
            && let Err(error) = mark_left(&attempt.live.spool, &key)
        {
            tracing::warn!(%error, "the end of a log is lost if this daemon dies before it has gone up");
        }
    };
    let (released, ()) = tokio::join!(released, uploaded);
    let released = released.map_or(Ok(()), |(released, took)| {
        attempt.result.steps.push(took);
        released
    });
    // What the uploads have added is masked as well.
    attempt.mask();
    let daemon = std::sync::Arc::clone(&attempt.daemon);
    daemon.metrics.finished(&attempt.result);
    daemon.ended.send_replace(Some(std::sync::Arc::new(attempt.result.clone())));
    let report = Report {
        attempt: key.clone(),
        sequence: 2,
        at: jiff::Timestamp::now(),
        event: ReportEvent::Finished(Box::new(attempt.result.clone())),
    };
    let began = Instant::now();
    tracing::info!(end = ?attempt.result.end, "the attempt is over");
    if let Err(error) = daemon.outbox.send(&daemon, Vec::new(), report.clone()).await {
        tracing::error!(%error, "the result cannot be journaled, and is lost if the daemon dies now");
        daemon.outbox.deliver(report);
    }
    match released {
        Ok(()) => daemon.journal.note(Record::Released { attempt: key.clone() }),
        // The journal keeps the record, so that the next start tries again.
        Err(problem) => tracing::error!(%problem, "a workspace is left behind"),
    }
    let told = async {
        // The lease is renewed, and the log is served, until the controller knows the end.
        daemon.outbox.acknowledged(&key).await;
        daemon.metrics.reported(began.elapsed());
        daemon.attempts.remove(&key);
    };
    let ((), rest) = tokio::join!(told, rest_of_log(attempt.shipping.take(), &daemon));
    attempt.live.log.forget();
    if rest.is_err() {
        return;
    }
    let spool = attempt.live.spool.clone();
    let removed = blocking(move || match std::fs::remove_dir_all(spool) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    });
    if let Ok(Err(error)) = removed.await {
        tracing::error!(%error, "a spool is left behind");
    }
}

/// What the result says of the log.
fn count_log(attempt: &mut Attempt) {
    let facts = attempt.live.log.facts();
    attempt.result.log.bytes = facts.bytes;
    attempt.result.log.records = facts.records;
    attempt.result.log.dropped = facts.dropped;
    attempt.daemon.metrics.gaps(facts.gaps);
    if let Some(failure) = facts.failure {
        attempt.result.warnings.push(format!("the log could not be written whole: {failure}"));
    }
}

/// Waits until the log of a lost attempt is in the store: its lease does not take it any more, but the daemon's own secret does.
///
/// # Errors
/// The daemon ends before: the next one goes on with it.
async fn rest_of_log(mut shipping: Option<Shipping>, daemon: &Daemon) -> Result<(), Drained> {
    let deadline = Instant::now() + daemon.config.upload.deadline.get();
    let rest = tokio::select! {
        // First, for there may be nothing to wait for.
        biased;
        failed = shipped(&mut shipping, deadline) => Ok(failed),
        () = daemon.attempts.uploads_due() => Err(Drained),
    };
    shipping.inspect(JoinHandle::abort);
    if let Some(failed) = rest? {
        tracing::warn!(failed, "a part of the log of a lost attempt is lost as well");
    }
    Ok(())
}

/// The daemon ends.
struct Drained;

/// Puts everything that was collected into the store, until the deadline.
async fn upload(attempt: &mut Attempt) {
    attempt.enter(Step::Upload);
    let daemon = std::sync::Arc::clone(&attempt.daemon);
    let deadline = Instant::now() + daemon.config.upload.deadline.get();
    let mut shipping = attempt.shipping.take();
    let items = results(attempt);
    let nothing = items.is_empty() && attempt.result.log.records == 0;
    if !items.is_empty() || !attempt.result.outputs.is_empty() {
        // A daemon that dies from here has still to say what there was.
        attempt.mask();
        let (key, result) = (attempt.key().clone(), Box::new(attempt.result.clone()));
        if let Err(error) = daemon.journal.append(vec![Record::Collected { attempt: key, result }]).await {
            tracing::warn!(%error, "the results cannot be journaled, and are lost if the daemon dies now");
        }
    }
    let (failed, why) = arrive(attempt, items, &mut shipping, deadline).await;
    shipping.take().inspect(JoinHandle::abort);
    if let Some(store) = daemon.store.as_ref().filter(|_| !failed.is_empty() && why != Some(SHUT_DOWN)) {
        // What was given up in the middle leaves parts. The controller looks again when the Run is removed.
        match tokio::time::timeout(SWEEP, store.sweep(&Place::of_run(&attempt.key().uid))).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "parts may be left in the store"),
            Err(_elapsed) => tracing::warn!("parts may be left in the store, which does not answer"),
        }
    }
    attempt.result.uploads_incomplete = failed.into_iter().take(100).collect();
    if !nothing {
        attempt.leave(Step::Upload);
    }
}

/// Waits until items and log are in the store. Returns what is not, and, if they were given up, why.
async fn arrive(
    attempt: &Attempt,
    items: Vec<Item>,
    shipping: &mut Option<Shipping>,
    deadline: Instant,
) -> (Vec<String>, Option<&'static str>) {
    // By their places: two files may be called alike.
    let mut waiting: Vec<Option<String>> = items.iter().map(|item| Some(item.what.clone())).collect();
    let log_place = waiting.len();
    waiting.push(Some(LOG_END.to_owned()));
    let put = async |(place, item)| (place, uploads::put(attempt, item, deadline).await);
    let items = futures_util::stream::iter(items.into_iter().enumerate()).map(put);
    let log = futures_util::stream::once(async { (log_place, shipped(shipping, deadline).await) });
    let mut uploads = pin!(futures_util::stream::select(items.buffer_unordered(MAX_UPLOADS), log));
    let mut given_up = pin!(given_up(attempt));
    let mut failed = Vec::new();
    loop {
        tokio::select! {
            done = uploads.next() => match done {
                Some((place, problem)) => {
                    waiting[place] = None;
                    failed.extend(problem);
                }
                None => return (failed, None),
            },
            why = &mut given_up => {
                let left = waiting.into_iter().flatten();
                failed.extend(left.map(|what| format!("{what}: given up, for {why}")));
                return (failed, Some(why));
            }
        }
    }
}

/// How long unfinished uploads may be looked for.
const SWEEP: Duration = Duration::from_secs(5);

/// What uploads that go well get to come to their end when the Run is cancelled: a log is wanted of such a Run as well.
const AFTER_CANCEL: Duration = Duration::from_secs(5);

/// What is said of a log that is not in the store to its end.
const LOG_END: &str = "the end of the log";

/// Why uploads were given up.
const CANCELLED: &str = "the Run was cancelled";
const SHUT_DOWN: &str = "the daemon was shut down";

/// Returns when nobody waits for the uploads any more, and why. A lost lease is no reason: the controller may be away for long,
/// and takes what the Run left as long as the fence is its own.
async fn given_up(attempt: &Attempt) -> &'static str {
    // Asked before: a Run that was cancelled while it ran keeps its results.
    let before = attempt.live.is_cancelled();
    let cancelled = async {
        attempt.live.cancelled().await;
        tokio::time::sleep(AFTER_CANCEL).await;
    };
    tokio::select! {
        () = cancelled, if !before => CANCELLED,
        () = attempt.daemon.attempts.uploads_due() => SHUT_DOWN,
    }
}

/// Waits until the log is in the store, and says what did not get there.
async fn shipped(shipping: &mut Option<Shipping>, deadline: Instant) -> Option<String> {
    let shipping = shipping.as_mut()?;
    match tokio::time::timeout_at(deadline, &mut *shipping).await {
        Ok(Ok(failed)) => failed,
        Ok(Err(error)) => Some(format!("log: {error}")),
        Err(_elapsed) => {
            shipping.abort();
            Some(format!("{LOG_END}: the store did not take it in time"))
        }
    }
}

/// Patch, artifacts and manifest, as they are in the spool.
fn results(attempt: &Attempt) -> Vec<Item> {
    let spool = &attempt.live.spool;
    let mut items = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    if let Some(patch) = &attempt.result.patch
        && let Some(digest) = patch.digest
    {
        seen.insert(digest);
        items.push(Item { what: "patch".to_owned(), path: spool.join(PATCH), digest, size: patch.size });
    }
    let Some(manifest) = attempt.live.now().manifest else { return items };
    for file in &manifest.files {
        if seen.insert(file.digest) {
            let path = spool.join(file.digest.hex());
            items.push(Item { what: file.path.clone(), path, digest: file.digest, size: file.size });
        }
    }
    if let Some(summary) = &attempt.result.artifacts {
        let path = spool.join(summary.manifest.hex());
        // Not there means that it was not collected, and that is a warning already.
        if let Ok(metadata) = std::fs::metadata(&path) {
            let what = "list of artifacts".to_owned();
            items.push(Item { what, path, digest: summary.manifest, size: metadata.len() });
        }
    }
    items
}
