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
/// The pause after an answer that will stay the same, while the log is still written: much can be mended until its end.
const HOPELESS: Duration = Duration::from_secs(30);

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
    /// Whether the same may work later. What an operator or a proxy mends is a matter of minutes (a token or a key that is
    /// changed, a way that is closed): only what is wrong with these very bytes, or with their attempt, stays so.
    fn is_retryable(&self) -> bool {
        match self {
            Self::Controller(ClientError::Problem { problem, .. }) => {
                problem.retryable
                    || matches!(problem.code, Code::Unauthenticated | Code::Forbidden | Code::Conflict)
            }
            Self::Controller(ClientError::Protocol { .. } | ClientError::Unreachable { .. }) => true,
            Self::Controller(ClientError::TooLong { .. } | ClientError::Token) => false,
            Self::Store(error) => error.is_retryable(),
        }
    }

    /// The attempt is another's by now, or its log is closed.
    fn is_stale(&self) -> bool {
        matches!(self, Self::Controller(error) if error.code() == Some(Code::StaleFence))
    }

    /// How long to wait before the next try: some seconds at most if nobody asks for more, for a daemon that drains has few
    /// of them left to find out that the store is back.
    fn pause(&self, failures: u32) -> Duration {
        let failures = failures.min(6);
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

/// What takes the log to the store, and says what did not get there.
pub(super) type Shipping = JoinHandle<Option<String>>;

/// Takes the log to the store until it is closed and all of it is there. The task says what did not get there, and why.
pub(super) fn ship(attempt: &Attempt) -> Shipping {
    let (daemon, log) = (Arc::clone(&attempt.daemon), Arc::clone(&attempt.live.log));
    let (key, token) = (attempt.key().clone(), attempt.lease.token.clone());
    let shipper = Shipper { daemon, log, key, token, stale: false, sent: Vec::new() };
    tokio::spawn(shipper.run().in_current_span())
}

struct Shipper {
    daemon: Arc<Daemon>,
    log: Arc<Log>,
    key: AttemptKey,
    token: SecretText,
    /// The Run is another's by now, and the token nobody's. The log of this attempt is still this daemon's.
    stale: bool,
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
            let error = match self.pass().await {
                Ok(()) if closed => return None,
                Ok(()) => {
                    failures = 0;
                    continue;
                }
                Err(error) => error,
            };
            let pause = if error.is_retryable() { error.pause(failures) } else { HOPELESS };
            failures += 1;
            self.daemon.metrics.upload_failed();
            if !closed {
                tracing::debug!(%error, "a part of a log is sent again");
                // The end is no time to wait for half a minute.
                let _elapsed = tokio::time::timeout(pause, ends.wait_for(|end| end.closed)).await;
            } else if error.is_retryable() {
                tokio::time::sleep(pause).await;
            } else {
                return Some(format!("log: {error}"));
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
                if !self.stale {
                    let of = LogOf::Lease(&self.token);
                    let put = put_log(&self.daemon, &self.key, segment.offset, bytes.clone(), of).await;
                    self.stale = put.as_ref().is_err_and(UploadError::is_stale);
                    if !self.stale {
                        put?;
                    }
                }
                if self.stale {
                    let of = LogOf::Left(&self.key, self.daemon.state.instance());
                    put_log(&self.daemon, &self.key, segment.offset, bytes, of).await?;
                }
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

/// Takes the log that an earlier life of the daemon left to the store, and removes what is left of the attempt. A daemon that
/// ends before leaves it to the next.
pub(crate) async fn leftover(daemon: Arc<Daemon>, key: AttemptKey, spool: PathBuf) {
    let deadline = Instant::now() + daemon.config.upload.deadline.get();
    let sent = tokio::select! {
        sent = send_left(&daemon, &key, &spool, deadline) => sent,
        () = daemon.attempts.uploads_due() => return,
    };
    match sent {
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

#[cfg(test)]
mod tests {
    use super::*;
    use runtimed_api::problem::Problem;

    #[test]
    fn only_what_is_wrong_with_the_bytes_or_their_attempt_stays_so() {
        let problem = |code: Code| {
            UploadError::from(ClientError::Problem {
                status: code.row().status,
                problem: Box::new(Problem::new(code, "x")),
                retry_after: None,
            })
        };
        for code in [Code::InvalidRequest, Code::TooLarge, Code::NotFound, Code::StaleFence] {
            assert!(!problem(code).is_retryable(), "{code}");
        }
        for code in [Code::Unauthenticated, Code::Forbidden, Code::Unavailable, Code::StorageFull] {
            assert!(problem(code).is_retryable(), "{code}");
        }
        let proxy = ClientError::Protocol { url: String::new(), why: "HTTP 403".to_owned() };
        assert!(UploadError::from(proxy).is_retryable());
        assert!(!UploadError::from(BlobError::TooLarge(1)).is_retryable());
    }
}
