//! Steps 13 to 15: upload, report, release. The slot is free by now.

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
use super::uploads::{self, Item};
use super::workspace::{Workspace, blocking};
use crate::artifacts::MAX_UPLOADS;
use crate::journal::Record;
use crate::live::Stop;

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
    let uploaded = async {
        if attempt.result.end == AttemptEnd::Lost {
            // The lease is another's: nothing more can be said of this attempt.
            attempt.shipping.take().inspect(JoinHandle::abort);
        } else {
            upload(&mut attempt).await;
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
    // The lease is renewed, and the log is served, until the controller knows the end.
    daemon.outbox.acknowledged(&key).await;
    daemon.metrics.reported(began.elapsed());
    daemon.attempts.remove(&key);
    let spool = attempt.live.spool.clone();
    let removed = blocking(move || match std::fs::remove_dir_all(spool) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    });
    if let Ok(Err(error)) = removed.await {
        tracing::error!(%error, "a spool is left behind");
    }
    attempt.live.log.forget();
}

/// Puts everything that was collected into the store, until the deadline.
async fn upload(attempt: &mut Attempt) {
    attempt.enter(Step::Upload);
    let facts = attempt.live.log.facts();
    attempt.result.log.bytes = facts.bytes;
    attempt.result.log.records = facts.records;
    attempt.result.log.dropped = facts.dropped;
    attempt.daemon.metrics.gaps(facts.gaps);
    if let Some(failure) = facts.failure {
        attempt.result.warnings.push(format!("the log could not be written whole: {failure}"));
    }
    let daemon = std::sync::Arc::clone(&attempt.daemon);
    let deadline = Instant::now() + daemon.config.upload.deadline.get();
    let mut shipping = attempt.shipping.take();
    let items = results(attempt);
    let nothing = items.is_empty() && facts.segments.is_empty();
    if !items.is_empty() || !attempt.result.outputs.is_empty() {
        // A daemon that dies from here has still to say what there was.
        attempt.mask();
        let (key, result) = (attempt.key().clone(), Box::new(attempt.result.clone()));
        if let Err(error) = daemon.journal.append(vec![Record::Collected { attempt: key, result }]).await {
            tracing::warn!(%error, "the results cannot be journaled, and are lost if the daemon dies now");
        }
    }
    let put = items.into_iter().map(|item| uploads::put(attempt, item, deadline));
    let others = futures_util::stream::iter(put)
        .buffer_unordered(MAX_UPLOADS)
        .filter_map(std::future::ready)
        .collect::<Vec<String>>();
    // Asked before: a Run that was cancelled while it ran keeps its results.
    let uncancelled = attempt.live.stopping().is_none();
    let all = async { tokio::join!(others, shipped(&mut shipping, deadline)) };
    let (mut failed, log) = tokio::select! {
        done = all => done,
        () = given_up(attempt), if uncancelled => {
            (vec!["results: given up some seconds after the Run was cancelled".to_owned()], Default::default())
        }
    };
    shipping.take().inspect(JoinHandle::abort);
    failed.extend(log);
    if let Some(store) = daemon.store.as_ref().filter(|_| !failed.is_empty()) {
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

/// How long unfinished uploads may be looked for.
const SWEEP: Duration = Duration::from_secs(5);

/// What uploads that go well get to come to their end when the Run is cancelled: a log is wanted of such a Run as well.
const AFTER_CANCEL: Duration = Duration::from_secs(5);

/// Returns when nobody waits for the uploads any more. A lost lease is no reason: the controller may be away for long, and
/// takes what the Run left as long as the fence is its own.
async fn given_up(attempt: &Attempt) {
    let mut stops = attempt.live.stops();
    match stops.wait_for(|stop| *stop == Some(Stop::Cancel)).await.map(drop) {
        Ok(()) => tokio::time::sleep(AFTER_CANCEL).await,
        Err(_) => std::future::pending().await,
    }
}

/// Waits until the log is in the store, and says what did not get there.
async fn shipped(shipping: &mut Option<JoinHandle<Option<String>>>, deadline: Instant) -> Option<String> {
    let shipping = shipping.as_mut()?;
    match tokio::time::timeout_at(deadline, &mut *shipping).await {
        Ok(Ok(failed)) => failed,
        Ok(Err(error)) => Some(format!("log: {error}")),
        Err(_elapsed) => {
            shipping.abort();
            Some("the end of the log: the store did not take it in time".to_owned())
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
