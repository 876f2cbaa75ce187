//! What goes to the store: the log while the command still writes it, results when they are collected. It goes through the
//! controller, or straight to the store that both have.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use runtimed_api::digest::Digest;
use runtimed_api::ids::AttemptKey;
use runtimed_api::problem::Code;
use runtimed_api::session::SecretText;
use runtimed_client::ClientError;
use runtimed_client::controller::{Blob, LogOf};
use runtimed_store::{Begun, BlobError, PART, Place};
use tokio::io::AsyncSeekExt as _;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::Attempt;
use crate::daemon::Daemon;
use crate::logs::{Log, Segment};
use crate::session::{backoff, pause};

/// What a lost node may cost of a log: what was written in so long, or so many bytes of it.
const EVERY: Duration = Duration::from_secs(5);
const OR_BYTES: u64 = 4 * 1024 * 1024;
/// A segment that has gone up with as much as this is not sent again when more is written: another is begun.
const SEAL: u64 = 256 * 1024;

/// A file to upload.
pub(super) struct Item {
    pub(super) what: String,
    pub(super) path: PathBuf,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// An upload that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error(transparent)]
    Controller(#[from] ClientError),
    #[error(transparent)]
    Store(#[from] BlobError),
}

impl UploadError {
    fn is_retryable(&self) -> bool {
        match self {
            Self::Controller(error) => error.is_retryable(),
            Self::Store(error) => error.is_retryable(),
        }
    }

    /// The attempt is another's by now, or its log is closed.
    fn is_stale(&self) -> bool {
        matches!(self, Self::Controller(error) if error.code() == Some(Code::StaleFence))
    }

    /// How long to wait before the next try.
    fn pause(&self, failures: u32) -> Duration {
        match self {
            Self::Controller(error) => pause(error, failures),
            Self::Store(_) => backoff(failures),
        }
    }
}

/// Puts one item, again and again until the deadline. Returns what did not get there.
pub(super) async fn put(attempt: &Attempt, item: Item, deadline: Instant) -> Option<String> {
    let late = || Some(format!("{}: the store did not take it in time", item.what));
    let (mut failures, mut begun) = (0, Begun::default());
    loop {
        let tried = put_once(attempt, &item, failures > 0, &mut begun);
        let tried = tokio::time::timeout_at(deadline, tried).await;
        let error = match tried {
            Ok(Ok(())) => return None,
            Ok(Err(error)) => error,
            Err(_elapsed) => return late(),
        };
        let pause = error.pause(failures);
        failures += 1;
        attempt.daemon.metrics.upload_failed();
        if !error.is_retryable() || Instant::now() + pause >= deadline {
            return Some(format!("{}: {error}", item.what));
        }
        tracing::debug!(%error, what = item.what, "an upload is tried again");
        tokio::time::sleep(pause).await;
    }
}

async fn put_once(attempt: &Attempt, item: &Item, again: bool, begun: &mut Begun) -> Result<(), UploadError> {
    let daemon = &attempt.daemon;
    if let Some(store) = &daemon.store {
        let place = Place::of_run(&attempt.key().uid);
        store.put_file(&place, &item.digest, item.size, &item.path, begun).await?;
    } else {
        let (controller, token) = (&daemon.controller, &attempt.lease.token);
        let mut file = tokio::fs::File::open(&item.path).await.map_err(BlobError::File)?;
        let mut from = 0;
        if again && item.size > PART as u64 {
            // One that does not know is sent all of it.
            from = controller.arrived(&item.digest, token).await.unwrap_or(0).min(item.size);
            file.seek(SeekFrom::Start(from)).await.map_err(BlobError::File)?;
        }
        controller.put_blob(&item.digest, from, item.size - from, Blob::File(file), token).await?;
    }
    daemon.metrics.uploaded(item.size);
    Ok(())
}

/// Takes the log to the store until it is closed and all of it is there. The task says what did not get there, and why.
pub(super) fn ship(attempt: &Attempt) -> JoinHandle<Option<String>> {
    let (daemon, log) = (Arc::clone(&attempt.daemon), Arc::clone(&attempt.live.log));
    let (key, token) = (attempt.key().clone(), attempt.lease.token.clone());
    let shipper = Shipper { daemon, log, key, token, sent: Vec::new() };
    tokio::spawn(shipper.run().in_current_span())
}

struct Shipper {
    daemon: Arc<Daemon>,
    log: Arc<Log>,
    key: AttemptKey,
    token: SecretText,
    /// Bytes of each segment's file that are in the store.
    sent: Vec<u64>,
}

impl Shipper {
    async fn run(mut self) -> Option<String> {
        let mut ends = self.log.ends();
        let mut failures = 0;
        loop {
            let sent: u64 = self.sent.iter().sum();
            // The log lives as long as this task holds it.
            let end = ends.wait_for(|end| end.closed || end.stored > sent).await.ok().map(|end| *end)?;
            if !end.closed {
                let enough = ends.wait_for(|end| end.closed || end.stored >= sent + OR_BYTES);
                let _elapsed = tokio::time::timeout(EVERY, enough).await;
            }
            let closed = ends.borrow_and_update().closed;
            match self.pass().await {
                Ok(()) if closed => return None,
                Ok(()) => failures = 0,
                Err(error) if error.is_retryable() => {
                    self.daemon.metrics.upload_failed();
                    let pause = error.pause(failures);
                    failures += 1;
                    tracing::debug!(%error, "a part of a log is sent again");
                    tokio::time::sleep(pause).await;
                }
                Err(error) => return Some(format!("log: {error}")),
            }
        }
    }

    /// Sends what has been written since the last time.
    async fn pass(&mut self) -> Result<(), UploadError> {
        let segments = self.log.facts().segments;
        self.sent.resize(segments.len(), 0);
        for (segment, sent) in segments.into_iter().zip(&mut self.sent) {
            if *sent < segment.stored {
                let bytes = read(segment.path.clone(), segment.stored).await?;
                put_log(&self.daemon, &self.key, segment.offset, bytes, LogOf::Lease(&self.token)).await?;
                *sent = segment.stored;
            }
        }
        self.log.seal(SEAL);
        Ok(())
    }
}

async fn put_log(
    daemon: &Daemon,
    key: &AttemptKey,
    offset: u64,
    bytes: Bytes,
    of: LogOf<'_>,
) -> Result<(), UploadError> {
    match &daemon.store {
        Some(store) => store.put_log(&Place::of_run(&key.uid), key.attempt, offset, bytes).await?,
        None => daemon.controller.put_log(offset, bytes, of).await?,
    }
    Ok(())
}

/// The first `length` bytes of a file.
async fn read(path: PathBuf, length: u64) -> Result<Bytes, BlobError> {
    use std::io::Read as _;
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        std::fs::File::open(path)?.take(length).read_to_end(&mut bytes)?;
        Ok(Bytes::from(bytes))
    });
    read.await.map_err(|error| BlobError::Broken(error.to_string()))?.map_err(BlobError::File)
}

/// Takes the log that an earlier life of the daemon left to the store, and removes what is left of the attempt.
pub(crate) async fn leftover(daemon: Arc<Daemon>, key: AttemptKey, spool: PathBuf) {
    let deadline = Instant::now() + daemon.config.upload.deadline.get();
    match send_left(&daemon, &key, &spool, deadline).await {
        Ok(()) => {}
        Err(error) if error.is_stale() => tracing::debug!(%error, "nothing more is taken of a log"),
        Err(error) => {
            tracing::warn!(%error, "the end of a log is lost with the daemon that wrote it");
        }
    }
    let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(spool));
    if let Ok(Err(error)) = removed.await
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::error!(%error, "a spool is left behind");
    }
}

async fn send_left(
    daemon: &Daemon,
    key: &AttemptKey,
    spool: &Path,
    deadline: Instant,
) -> Result<(), UploadError> {
    for segment in left_segments(&spool.join("log")) {
        let bytes = read(segment.path, segment.stored).await?;
        let of = LogOf::Left(key, daemon.state.instance());
        let mut failures = 0;
        while let Err(error) = put_log(daemon, key, segment.offset, bytes.clone(), of).await {
            let pause = error.pause(failures);
            failures += 1;
            if !error.is_retryable() || Instant::now() + pause >= deadline {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
        }
    }
    Ok(())
}

/// The segments in a directory, as their names say.
fn left_segments(dir: &Path) -> Vec<Segment> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut segments: Vec<_> = entries
        .filter_map(|entry| {
            let offset = entry.file_name().to_str()?.parse().ok()?;
            Some(Segment { path: entry.path(), offset, length: 0, stored: entry.metadata().ok()?.len() })
        })
        .collect();
    segments.sort_by_key(|segment| segment.offset);
    segments
}
