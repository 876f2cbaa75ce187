//! The upstream of a job that has its Run already: there is no controller to ask.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use runtimed_api::digest::Digest;
use runtimed_api::ids::RunName;
use runtimed_api::problem::{Code, Problem};
use runtimed_api::provenance::KeyHistory;
use runtimed_api::runtime::Runtime;
use runtimed_api::session::{Lease, ReportAnswer, Reported, Reports, Session};
use runtimed_client::ClientError;
use runtimed_client::controller::Blob;
use runtimed_client::download::Download;

/// One Run that was given at the start, with all that it needs of a controller.
#[derive(Debug)]
pub struct Given {
    session: Session,
    /// Taken by whoever leases first.
    lease: Mutex<Option<Lease>>,
    /// The prior patches, by digest.
    patches: BTreeMap<Digest, Bytes>,
    /// Where results go; they end with the job without it.
    results: Option<PathBuf>,
}

impl Given {
    /// The Run of this lease, its prior patches, and the directory that takes what it leaves.
    ///
    /// # Panics
    /// Never: the session's name is a good one.
    #[must_use]
    pub fn new(
        runtime: Runtime,
        lease: Lease,
        patches: BTreeMap<Digest, Bytes>,
        results: Option<PathBuf>,
    ) -> Self {
        let id = "given".parse().expect("it is a session id");
        // Nobody counts this period: it only says how often the daemon asks for orders.
        let keys = KeyHistory::default();
        let session = Session { id, lease_millis: 3_600_000, runtime, keys, at_millis: None };
        Self { session, lease: Mutex::new(Some(lease)), patches, results }
    }

    /// Which Run it is, as people name it.
    #[must_use]
    pub fn label(&self) -> Option<String> {
        let lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        lease.as_ref().map(|lease| format!("{}/{}", lease.attempt.namespace, lease.attempt.name))
    }

    pub(super) fn session(&self) -> Session {
        self.session.clone()
    }

    pub(super) async fn lease(&self, wait: Duration) -> Option<Lease> {
        let lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner).take();
        if lease.is_none() {
            tokio::time::sleep(wait).await;
        }
        lease
    }

    /// The job's own result is read where the attempt leaves it, so that every report is as good as applied.
    pub(super) fn report(reports: &Reports) -> Reported {
        Reported { answers: reports.reports.iter().map(|_| ReportAnswer::Applied).collect() }
    }

    pub(super) async fn put_blob(&self, digest: &Digest, blob: Blob) -> Result<(), ClientError> {
        let Some(results) = &self.results else { return Ok(()) };
        let path = results.join(digest.hex());
        let written = async {
            tokio::fs::create_dir_all(results).await?;
            match blob {
                Blob::Bytes(bytes) => tokio::fs::write(&path, bytes).await,
                Blob::File(mut file) => {
                    let mut kept = tokio::fs::File::create(&path).await?;
                    tokio::io::copy(&mut file, &mut kept).await?;
                    kept.sync_all().await
                }
            }
        };
        written.await.map_err(|error: std::io::Error| {
            let why = format!("{} cannot be written: {error}", path.display());
            problem(Problem::new(Code::StorageFailed, why))
        })
    }

    pub(super) fn get_blob(&self, digest: &Digest) -> Result<Download, ClientError> {
        let bytes = self.patches.get(digest).cloned().ok_or_else(|| {
            problem(Problem::new(Code::NotFound, format!("the job was given no patch {digest}")))
        })?;
        Ok(Download::ready(bytes))
    }
}

/// A job has no other Run's artifacts.
pub(super) fn no_other_run(run: &RunName) -> ClientError {
    problem(Problem::new(Code::NotFound, format!("a job knows of no other Run, and so not of {run}")))
}

fn problem(problem: Problem) -> ClientError {
    let status = problem.code.row().status;
    ClientError::Problem { status, problem: Box::new(problem), retry_after: None }
}
