//! Steps 13 to 15: upload, report, release. The slot is free by now.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt as _;
use runtimed_api::digest::Digest;
use runtimed_api::run::status::{AttemptEnd, LogSegment};
use runtimed_api::run::step::Step;
use runtimed_api::session::{Report, ReportEvent};
use runtimed_client::controller::Blob;
use tokio::time::Instant;

use super::collect::PATCH;
use super::workspace::{Workspace, blocking};
use super::{Attempt, storage};
use crate::journal::Record;
use crate::session::backoff;

/// Uploads of one Run at once.
const PARALLEL: usize = 4;

/// A file to upload.
struct Item {
    what: String,
    path: PathBuf,
    digest: Digest,
    size: u64,
}

/// Uploads, reports and releases.
pub(super) async fn run(mut attempt: Attempt, workspace: Option<Workspace>) {
    let key = attempt.key().clone();
    if attempt.result.end != AttemptEnd::Lost {
        upload(&mut attempt).await;
    }
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
    tracing::info!(attempt = %key, end = ?attempt.result.end, "the attempt is over");
    if let Err(error) = daemon.outbox.send(&daemon, Vec::new(), report.clone()).await {
        tracing::error!(attempt = %key, %error, "the result cannot be journaled, and is lost if the daemon dies now");
        daemon.outbox.deliver(report);
    }
    let released = match workspace {
        Some(workspace) => workspace.release().await,
        None => Ok(()),
    };
    match released {
        Ok(()) => daemon.journal.note(Record::Released { attempt: key.clone() }),
        // The journal keeps the record, so that the next start tries again.
        Err(problem) => tracing::error!(attempt = %key, %problem, "a workspace is left behind"),
    }
    // The lease is renewed, and the log is served, until the controller knows the end.
    daemon.outbox.acknowledged(&key).await;
    daemon.attempts.remove(&key);
    let spool = attempt.live.spool.clone();
    let removed = blocking(move || match std::fs::remove_dir_all(spool) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    });
    if let Ok(Err(error)) = removed.await {
        tracing::error!(attempt = %key, %error, "a spool is left behind");
    }
}

/// Puts everything that was collected into the store, until the deadline.
async fn upload(attempt: &mut Attempt) {
    attempt.live.set(|now| now.step = Some(Step::Upload));
    let segments = match segments(attempt).await {
        Ok(segments) => segments,
        Err(problem) => {
            attempt.result.warnings.push(problem.to_string());
            Vec::new()
        }
    };
    let facts = attempt.live.log.facts();
    attempt.result.log.bytes = facts.bytes;
    attempt.result.log.records = facts.records;
    attempt.result.log.dropped = facts.dropped;
    if let Some(failure) = facts.failure {
        attempt.result.warnings.push(format!("the log could not be written whole: {failure}"));
    }
    let mut items = Vec::new();
    for (item, segment) in segments {
        items.push(item);
        attempt.result.log.segments.push(segment);
    }
    items.extend(results(attempt));
    if items.is_empty() {
        return;
    }
    let deadline = Instant::now() + attempt.daemon.config.upload.deadline.get();
    let put = items.into_iter().map(|item| put(attempt, item, deadline));
    let failed: Vec<String> = futures_util::stream::iter(put)
        .buffer_unordered(PARALLEL)
        .filter_map(std::future::ready)
        .collect()
        .await;
    attempt.result.uploads_incomplete = failed.into_iter().take(100).collect();
    let lap = attempt.clock.lap(Step::Upload);
    attempt.result.steps.push(lap);
}

/// The log's segments, hashed.
async fn segments(attempt: &Attempt) -> Result<Vec<(Item, LogSegment)>, runtimed_api::problem::Problem> {
    let segments = attempt.live.log.facts().segments;
    if segments.is_empty() {
        return Ok(Vec::new());
    }
    blocking(move || {
        let mut items = Vec::new();
        for segment in segments {
            let bytes =
                std::fs::read(&segment.path).map_err(|error| storage("the log cannot be read", &error))?;
            let digest = Digest::of(&bytes);
            let what = format!("log from {}", segment.offset);
            let kept = LogSegment { digest, offset: segment.offset, length: segment.length };
            items.push((Item { what, path: segment.path, digest, size: bytes.len() as u64 }, kept));
        }
        Ok(items)
    })
    .await?
}

/// Patch, artifacts and manifest, as they are in the spool.
fn results(attempt: &Attempt) -> Vec<Item> {
    let spool = &attempt.live.spool;
    let mut items = Vec::new();
    if let Some(patch) = &attempt.result.patch
        && let Some(digest) = patch.digest
    {
        items.push(Item { what: "patch".to_owned(), path: spool.join(PATCH), digest, size: patch.size });
    }
    let Some(manifest) = attempt.live.now().manifest else { return items };
    let mut seen = std::collections::BTreeSet::new();
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

/// Puts one item, again and again until the deadline. Returns what did not get there.
async fn put(attempt: &Attempt, item: Item, deadline: Instant) -> Option<String> {
    let mut failures = 0;
    loop {
        let error = match tokio::fs::File::open(&item.path).await {
            Ok(file) => {
                let blob = Blob::File(file);
                let client = &attempt.daemon.controller;
                match client.put_blob(&item.digest, item.size, blob, &attempt.lease.token).await {
                    Ok(()) => return None,
                    Err(error) => error,
                }
            }
            Err(error) => return Some(format!("{}: {error}", item.what)),
        };
        let pause = error.retry_after().unwrap_or_else(|| backoff(failures));
        failures += 1;
        if !error.is_retryable() || Instant::now() + pause >= deadline {
            return Some(format!("{}: {error}", item.what));
        }
        tracing::debug!(attempt = %attempt.key(), %error, what = item.what, "an upload is tried again");
        tokio::time::sleep(pause.max(Duration::from_millis(1))).await;
    }
}
