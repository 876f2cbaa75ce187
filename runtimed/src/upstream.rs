//! Where Runs come from and reports go: a controller, or the one Run that a job was given.
//!
//! Both speak the daemons' part of the protocol, so that an attempt has one implementation whoever asked for it.

mod given;

use std::time::Duration;

use bytes::Bytes;
use runtimed_api::digest::Digest;
use runtimed_api::ids::{RunName, SessionId};
use runtimed_api::manifest::Manifest;
use runtimed_api::session::{Lease, OpenSession, Renew, Renewed, Reported, Reports, SecretText, Session};
use runtimed_client::ClientError;
use runtimed_client::controller::{Blob, Controller, LogOf};
use runtimed_client::download::Download;

pub use given::Given;

/// Where Runs come from and reports go. The methods are those of [`Controller`], with the same meaning.
#[derive(Debug)]
pub enum Upstream {
    /// A controller, which leases.
    Controller(Controller),
    /// One Run, given at the start.
    Given(Box<Given>),
}

impl Upstream {
    /// Its name for errors.
    #[must_use]
    pub fn url(&self) -> &str {
        match self {
            Self::Controller(controller) => controller.url(),
            Self::Given(_) => "the job itself",
        }
    }

    /// See [`Controller::open_session`].
    ///
    /// # Errors
    /// See [`ClientError`], here and below.
    pub async fn open_session(&self, open: &OpenSession) -> Result<Session, ClientError> {
        match self {
            Self::Controller(controller) => controller.open_session(open).await,
            Self::Given(given) => Ok(given.session()),
        }
    }

    /// See [`Controller::lease`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn lease(&self, session: &SessionId, wait: Duration) -> Result<Option<Lease>, ClientError> {
        match self {
            Self::Controller(controller) => controller.lease(session, wait).await,
            Self::Given(given) => Ok(given.lease(wait).await),
        }
    }

    /// See [`Controller::renew`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn renew(
        &self,
        session: &SessionId,
        renew: &Renew,
        patience: Duration,
    ) -> Result<Renewed, ClientError> {
        match self {
            Self::Controller(controller) => controller.renew(session, renew, patience).await,
            Self::Given(_) => {
                // Nobody else could hand the Run to another, so that there is nothing to order.
                if !renew.prompt {
                    tokio::time::sleep(patience / 2).await;
                }
                Ok(Renewed::default())
            }
        }
    }

    /// See [`Controller::drain`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn drain(&self, session: &SessionId) -> Result<(), ClientError> {
        match self {
            Self::Controller(controller) => controller.drain(session).await,
            Self::Given(_) => Ok(()),
        }
    }

    /// See [`Controller::report`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn report(&self, session: &SessionId, reports: &Reports) -> Result<Reported, ClientError> {
        match self {
            Self::Controller(controller) => controller.report(session, reports).await,
            Self::Given(_) => Ok(Given::report(reports)),
        }
    }

    /// See [`Controller::put_blob`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn put_blob(
        &self,
        digest: &Digest,
        from: u64,
        size: u64,
        blob: Blob,
        token: &SecretText,
    ) -> Result<(), ClientError> {
        match self {
            Self::Controller(controller) => controller.put_blob(digest, from, size, blob, token).await,
            Self::Given(given) => given.put_blob(digest, blob).await,
        }
    }

    /// See [`Controller::arrived`]. A job's own directory keeps nothing in part.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn arrived(&self, digest: &Digest, token: &SecretText) -> Result<u64, ClientError> {
        match self {
            Self::Controller(controller) => controller.arrived(digest, token).await,
            Self::Given(_) => Ok(0),
        }
    }

    /// See [`Controller::put_log`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn put_log(&self, offset: u64, segment: Bytes, of: LogOf<'_>) -> Result<(), ClientError> {
        match self {
            Self::Controller(controller) => controller.put_log(offset, segment, of).await,
            // The job writes its log to its own output, and keeps no other.
            Self::Given(_) => Ok(()),
        }
    }

    /// See [`Controller::get_blob`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get_blob(
        &self,
        digest: &Digest,
        token: &SecretText,
        most: u64,
    ) -> Result<Download, ClientError> {
        match self {
            Self::Controller(controller) => controller.get_blob(digest, token, most).await,
            Self::Given(given) => given.get_blob(digest),
        }
    }

    /// See [`Controller::get_artifacts`].
    ///
    /// # Errors
    /// See [`ClientError`]; `NotFound` in a job, which knows of no other Run.
    pub async fn get_artifacts(&self, run: &RunName, token: &SecretText) -> Result<Manifest, ClientError> {
        match self {
            Self::Controller(controller) => controller.get_artifacts(run, token).await,
            Self::Given(_) => Err(given::no_other_run(run)),
        }
    }

    /// See [`Controller::get_artifact`].
    ///
    /// # Errors
    /// As [`Upstream::get_artifacts`].
    pub async fn get_artifact(
        &self,
        run: &RunName,
        digest: &Digest,
        token: &SecretText,
        most: u64,
    ) -> Result<Download, ClientError> {
        match self {
            Self::Controller(controller) => controller.get_artifact(run, digest, token, most).await,
            Self::Given(_) => Err(given::no_other_run(run)),
        }
    }
}
