//! What people and agents ask of a controller.

use bytes::Bytes;
use reqwest::{Method, Url};
use runtimed_api::digest::Digest;
use runtimed_api::ids::{Namespace, RunName};
use runtimed_api::manifest::Manifest;
use runtimed_api::provenance::KeyHistory;
use runtimed_api::run::status::Phase;
use runtimed_api::run::{Run, RunList};
use runtimed_api::runtime::Runtime;
use runtimed_api::session::Submission;

use super::Controller;
use crate::download::Download;
use crate::error::ClientError;
use crate::exchange::PATIENCE;

/// The longest silence within a download.
const STALL: std::time::Duration = std::time::Duration::from_secs(60);
/// No artifact and no patch is larger than this, in bytes: a server that sends more has lost its mind.
const MAX_DOWNLOAD: u64 = 1 << 40;

/// Which Runs to list; everything without it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Those that have all of these labels.
    pub labels: Vec<(String, String)>,
    /// Those in this phase.
    pub phase: Option<Phase>,
    /// At most so many; the controller has its own bound.
    pub limit: Option<u32>,
    /// [`RunList::next`] of the page before.
    pub next: Option<String>,
}

impl Controller {
    /// `POST /v1/namespaces/{ns}/runs`. The same name with the same spec answers the existing Run.
    ///
    /// # Errors
    /// Among others a `Refused` problem with every broken rule, or `Conflict` for a name with another spec.
    pub async fn submit(&self, namespace: &Namespace, submission: &Submission) -> Result<Run, ClientError> {
        self.exchange.post(self.runs(namespace), submission).await
    }

    /// `GET …/runs/{name}`.
    ///
    /// # Errors
    /// Among others a `NotFound` problem.
    pub async fn get(&self, namespace: &Namespace, name: &RunName) -> Result<Run, ClientError> {
        self.exchange.get(self.exchange.run(namespace, name, [])).await
    }

    /// `GET …/runs`, one page.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn list(&self, namespace: &Namespace, query: &ListQuery) -> Result<RunList, ClientError> {
        let mut url = self.runs(namespace);
        let pairs = query
            .labels
            .iter()
            .map(|(key, value)| ("label", format!("{key}={value}")))
            .chain(query.phase.map(|phase| ("phase", phase.to_string())))
            .chain(query.limit.map(|limit| ("limit", limit.to_string())))
            .chain(query.next.clone().map(|next| ("continue", next)));
        for (key, value) in pairs {
            url.query_pairs_mut().append_pair(key, &value);
        }
        self.exchange.get(url).await
    }

    /// `POST …/runs/{name}/cancel`; answers the Run as it is then. A Run that is over stays as it is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn cancel(&self, namespace: &Namespace, name: &RunName) -> Result<Run, ClientError> {
        let url = self.exchange.run(namespace, name, ["cancel"]);
        self.exchange.json(self.exchange.request(Method::POST, url, None)?, PATIENCE).await
    }

    /// `DELETE …/runs/{name}`; answers the Run as it is then. One that goes on is cancelled, and removed when it is over.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete(&self, namespace: &Namespace, name: &RunName) -> Result<Run, ClientError> {
        let request = self.exchange.request(Method::DELETE, self.exchange.run(namespace, name, []), None)?;
        self.exchange.json(request, PATIENCE).await
    }

    /// `GET …/artifacts`: the list of the last attempt's.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn manifest(&self, namespace: &Namespace, name: &RunName) -> Result<Manifest, ClientError> {
        self.exchange.get(self.exchange.run(namespace, name, ["artifacts"])).await
    }

    /// `GET …/artifacts/{path}`: the bytes of one. Whoever keeps them compares with the manifest's digest.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn artifact(
        &self,
        namespace: &Namespace,
        name: &RunName,
        path: &str,
    ) -> Result<Download, ClientError> {
        let url = self.exchange.run(namespace, name, std::iter::once("artifacts").chain(path.split('/')));
        let request = self.exchange.request(Method::GET, url, None)?;
        self.exchange.download(request, MAX_DOWNLOAD, Some(STALL)).await
    }

    /// `GET …/patch`: the bytes of the Patch that the Run captured.
    ///
    /// # Errors
    /// Among others a `NotFound` problem for a Run that changed nothing.
    pub async fn patch(&self, namespace: &Namespace, name: &RunName) -> Result<Download, ClientError> {
        let request =
            self.exchange.request(Method::GET, self.exchange.run(namespace, name, ["patch"]), None)?;
        self.exchange.download(request, MAX_DOWNLOAD, Some(STALL)).await
    }

    /// `PUT /v1/namespaces/{ns}/patches/{digest}`: uploads a patch, to be named as a prior patch by its digest.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn put_patch(&self, namespace: &Namespace, patch: Bytes) -> Result<Digest, ClientError> {
        self.upload(namespace, "patches", patch).await
    }

    /// `PUT /v1/namespaces/{ns}/sources/{digest}`: uploads a work tree, as a git pack, for Runs to start from.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn put_source(&self, namespace: &Namespace, pack: Bytes) -> Result<Digest, ClientError> {
        self.upload(namespace, "sources", pack).await
    }

    async fn upload(&self, namespace: &Namespace, kind: &str, bytes: Bytes) -> Result<Digest, ClientError> {
        let digest = Digest::of(&bytes);
        let text = digest.to_string();
        let url = self.exchange.url(["v1", "namespaces", namespace.as_str(), kind, &text]);
        let patience = super::daemons::upload_patience(bytes.len() as u64);
        let request = self.exchange.request(Method::PUT, url, None)?.body(bytes);
        self.exchange.send(request, patience).await?;
        Ok(digest)
    }

    /// `GET /v1/namespaces/{ns}/patches/{digest}`: a patch of the namespace, by its digest.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get_patch(&self, namespace: &Namespace, digest: &Digest) -> Result<Download, ClientError> {
        let text = digest.to_string();
        let url = self.exchange.url(["v1", "namespaces", namespace.as_str(), "patches", &text]);
        let request = self.exchange.request(Method::GET, url, None)?;
        self.exchange.download(request, MAX_DOWNLOAD, Some(STALL)).await
    }

    /// `GET /v1/keys`: what the controller signs statements about patches with, and did before.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn keys(&self) -> Result<KeyHistory, ClientError> {
        self.exchange.get(self.exchange.url(["v1", "keys"])).await
    }

    /// `GET /v1/runtimes`: a JSON array of the Runtimes that the token may use.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn runtimes(&self) -> Result<Vec<Runtime>, ClientError> {
        self.exchange.get(self.exchange.url(["v1", "runtimes"])).await
    }

    fn runs(&self, namespace: &Namespace) -> Url {
        self.exchange.url(["v1", "namespaces", namespace.as_str(), "runs"])
    }
}
