//! What a daemon says to a controller.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use reqwest::header::CONTENT_LENGTH;
use reqwest::{Body, Method, StatusCode, Url};
use runtimed_api::digest::Digest;
use runtimed_api::ids::{AttemptKey, RunName, SessionId};
use runtimed_api::manifest::Manifest;
use runtimed_api::session::{
    Arrived, INSTANCE, Lease, LeaseRequest, OpenSession, Renew, Renewed, Reported, Reports, SecretText,
    Session,
};
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use super::Controller;
use crate::download::Download;
use crate::error::ClientError;
use crate::exchange::{PATIENCE, read_json, secret_header};

/// The longest silence within a blob that comes or goes.
const STALL: Duration = Duration::from_secs(60);
/// How long a controller may take to keep a blob that it has: all of it has to get to its disk.
const KEEPING: Duration = Duration::from_secs(300);
/// The largest lease: a Run, its secrets and its patches' names.
const MAX_LEASE: u64 = 16 * 1024 * 1024;
/// Pieces in which a file is read for upload, in bytes.
const PIECE: usize = 256 * 1024;

/// The bytes of a blob to upload.
#[derive(Debug)]
pub enum Blob {
    /// In memory.
    Bytes(Bytes),
    /// The rest of a file, from where it stands.
    File(tokio::fs::File),
}

/// Whose log it is that a segment is of.
#[derive(Debug, Clone, Copy)]
pub enum LogOf<'a> {
    /// Of the attempt with this lease.
    Lease(&'a SecretText),
    /// Of an attempt that an earlier life of this daemon left, or whose lease it lost, and the daemon's own secret.
    Left(&'a AttemptKey, &'a SecretText),
}

impl Controller {
    /// `POST /v1/sessions`.
    ///
    /// # Errors
    /// Among others `Forbidden` for a token of another Runtime.
    pub async fn open_session(&self, open: &OpenSession) -> Result<Session, ClientError> {
        self.exchange.post(self.exchange.url(["v1", "sessions"]), open).await
    }

    /// `POST /v1/sessions/{id}/lease`: waits up to `wait` for a Run; `None` when there was none.
    ///
    /// # Errors
    /// Among others `SessionUnknown`: open another.
    pub async fn lease(&self, session: &SessionId, wait: Duration) -> Result<Option<Lease>, ClientError> {
        let wait_millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let request = self
            .exchange
            .request(Method::POST, self.session(session, "lease"), None)?
            .json(&LeaseRequest { wait_millis });
        let response = self.exchange.send(request, wait.saturating_add(PATIENCE)).await?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        read_json(response, MAX_LEASE, PATIENCE).await.map(Some)
    }

    /// `POST /v1/sessions/{id}/renew`. The answer comes when there is something to do, or after a third of the lease
    /// period: `patience` must be longer than that.
    ///
    /// # Errors
    /// Among others `SessionUnknown`: open another.
    pub async fn renew(
        &self,
        session: &SessionId,
        renew: &Renew,
        patience: Duration,
    ) -> Result<Renewed, ClientError> {
        let request = self.exchange.request(Method::POST, self.session(session, "renew"), None)?;
        self.exchange.json(request.json(renew), patience).await
    }

    /// `POST /v1/sessions/{id}/drain`: nothing more is handed to this daemon, and its waiting slots are answered.
    ///
    /// # Errors
    /// Among others `SessionUnknown`: then there is nothing to drain.
    pub async fn drain(&self, session: &SessionId) -> Result<(), ClientError> {
        let request = self.exchange.request(Method::POST, self.session(session, "drain"), None)?;
        self.exchange.send(request, PATIENCE).await.map(drop)
    }

    /// `POST /v1/sessions/{id}/reports`.
    ///
    /// # Errors
    /// Among others `SessionUnknown`: open another. Nothing of the list is acknowledged then.
    pub async fn report(&self, session: &SessionId, reports: &Reports) -> Result<Reported, ClientError> {
        self.exchange.post(self.session(session, "reports"), reports).await
    }

    /// `PUT /v1/blobs/{digest}`, with the token of a lease: what comes after the first `from` bytes, which have arrived before,
    /// `size` bytes. A blob that is there already is answered like one that was not.
    ///
    /// # Errors
    /// Among others `TooLarge`, `InvalidRequest` when the bytes have another digest, and `Conflict` when others have arrived.
    pub async fn put_blob(
        &self,
        digest: &Digest,
        from: u64,
        size: u64,
        blob: Blob,
        token: &SecretText,
    ) -> Result<(), ClientError> {
        let taken = Arc::new(AtomicU64::new(0));
        let body = match blob {
            Blob::Bytes(bytes) => {
                taken.store(size, Ordering::Relaxed);
                Body::from(bytes)
            }
            // A file that grows meanwhile is cut at its size; one that shrinks breaks the request.
            Blob::File(file) => {
                let taken = Arc::clone(&taken);
                let pieces = ReaderStream::with_capacity(file.take(size), PIECE);
                Body::wrap_stream(pieces.inspect_ok(move |piece| {
                    taken.fetch_add(piece.len() as u64, Ordering::Relaxed);
                }))
            }
        };
        let mut url = self.blob(digest);
        if from > 0 {
            url.query_pairs_mut().append_pair("from", &from.to_string());
        }
        let request =
            self.exchange.request(Method::PUT, url, Some(token))?.header(CONTENT_LENGTH, size).body(body);
        let sent = self.exchange.send(request, upload_patience(size));
        let mut sent = std::pin::pin!(sent);
        let mut before = 0;
        loop {
            let patience = if before < size { STALL } else { KEEPING };
            if let Ok(sent) = tokio::time::timeout(patience, &mut sent).await {
                return sent.map(drop);
            }
            let now = taken.load(Ordering::Relaxed);
            if now == before {
                return Err(ClientError::late(&self.blob(digest), patience));
            }
            before = now;
        }
    }

    /// `GET /v1/blobs/{digest}/arrived`: how many bytes of a blob arrived before its connection broke, none of a small one.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn arrived(&self, digest: &Digest, token: &SecretText) -> Result<u64, ClientError> {
        let url = self.exchange.url(["v1", "blobs", &digest.to_string(), "arrived"]);
        let request = self.exchange.request(Method::GET, url, Some(token))?;
        let arrived: Arrived = self.exchange.json(request, PATIENCE).await?;
        Ok(arrived.bytes)
    }

    /// `PUT /v1/logs/{offset}`: a segment of an attempt's log, in the place of one that began there. With the token of the
    /// attempt's lease; after the daemon's restart with its own, for the attempt that it left. One that is shorter than what is
    /// there changes nothing.
    ///
    /// # Errors
    /// Among others `StaleFence` when the attempt is another's by now, and `Forbidden` when it always was.
    pub async fn put_log(&self, offset: u64, segment: Bytes, of: LogOf<'_>) -> Result<(), ClientError> {
        let mut url = self.exchange.url(["v1", "logs", &offset.to_string()]);
        let (token, instance) = match of {
            LogOf::Lease(token) => (Some(token), None),
            LogOf::Left(attempt, instance) => {
                url.query_pairs_mut()
                    .append_pair("namespace", attempt.namespace.as_str())
                    .append_pair("name", attempt.name.as_str())
                    .append_pair("uid", attempt.uid.as_str())
                    .append_pair("attempt", &attempt.attempt.0.to_string())
                    .append_pair("fence", &attempt.fence.0.to_string());
                (None, Some(instance))
            }
        };
        let patience = upload_patience(segment.len() as u64);
        let mut request = self.exchange.request(Method::PUT, url, token)?.body(segment);
        if let Some(instance) = instance {
            request = request.header(INSTANCE, secret_header(instance.expose())?);
        }
        self.exchange.send(request, patience).await.map(drop)
    }

    /// `GET /v1/blobs/{digest}`, at most `most` bytes. Whoever uses them checks the digest.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get_blob(
        &self,
        digest: &Digest,
        token: &SecretText,
        most: u64,
    ) -> Result<Download, ClientError> {
        let request = self.exchange.request(Method::GET, self.blob(digest), Some(token))?;
        self.exchange.download(request, most, Some(STALL)).await
    }

    /// `GET /v1/artifacts/{run}`: the artifacts of the Run that the lease's own Run names as its source.
    ///
    /// # Errors
    /// Among others `NotFound`: no such Run in the namespace, or none with artifacts.
    pub async fn get_artifacts(&self, run: &RunName, token: &SecretText) -> Result<Manifest, ClientError> {
        let url = self.exchange.url(["v1", "artifacts", run.as_str()]);
        let request = self.exchange.request(Method::GET, url, Some(token))?;
        let response = self.exchange.send(request, PATIENCE).await?;
        read_json(response, MAX_LEASE, PATIENCE).await
    }

    /// `GET /v1/artifacts/{run}/{digest}`, at most `most` bytes. Whoever uses them checks the digest.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get_artifact(
        &self,
        run: &RunName,
        digest: &Digest,
        token: &SecretText,
        most: u64,
    ) -> Result<Download, ClientError> {
        let url = self.exchange.url(["v1", "artifacts", run.as_str(), &digest.to_string()]);
        let request = self.exchange.request(Method::GET, url, Some(token))?;
        self.exchange.download(request, most, Some(STALL)).await
    }

    fn session(&self, session: &SessionId, what: &str) -> Url {
        self.exchange.url(["v1", "sessions", session.as_str(), what])
    }

    fn blob(&self, digest: &Digest) -> Url {
        self.exchange.url(["v1", "blobs", &digest.to_string()])
    }
}

/// How long an upload of so many bytes may take: a link slower than 256 KiB/s counts as broken.
pub(super) fn upload_patience(size: u64) -> Duration {
    PATIENCE.saturating_add(Duration::from_secs(size >> 18))
}
