//! A daemon's own endpoints: what a person with a port-forward, or the controller's proxy, asks of it.

use std::time::Duration;

use reqwest::header::{ACCEPT, HeaderMap, RANGE};
use reqwest::{Method, StatusCode};
use runtimed_api::ids::{Namespace, RunName};
use runtimed_api::manifest::Manifest;
use runtimed_api::run::Run;
use runtimed_api::session::SecretText;

use crate::controller::LogQuery;
use crate::download::Download;
use crate::endpoint::{Endpoint, EndpointError};
use crate::error::ClientError;
use crate::exchange::Exchange;

/// The longest silence within a download that is not followed.
const STALL: Duration = Duration::from_secs(60);

/// A daemon and the connections to it. A clone shares them.
#[derive(Debug, Clone)]
pub struct Daemon {
    exchange: Exchange,
}

/// An answer that is passed on as it is.
#[derive(Debug)]
pub struct Passed {
    /// 200, 206 or 416.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Download,
}

impl Daemon {
    /// A daemon that is spoken to without a token.
    ///
    /// # Errors
    /// The endpoint's URL or certificate authorities cannot be used.
    pub fn new(endpoint: &Endpoint) -> Result<Self, EndpointError> {
        Ok(Self { exchange: Exchange::new(endpoint)? })
    }

    /// The same daemon over the same connections, spoken to with this token: a person's, or an attempt's read token.
    #[must_use]
    pub fn with_token(&self, token: SecretText) -> Self {
        Self { exchange: self.exchange.clone().with_token(token) }
    }

    /// `GET /v1/namespaces/{ns}/runs/{name}`: the Run as this daemon knows it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn run(&self, namespace: &Namespace, name: &RunName) -> Result<Run, ClientError> {
        self.exchange.get(self.exchange.run(namespace, name, [])).await
    }

    /// `GET …/logs`: the answer, to be passed on. `accept` is the media type that is asked for, such as
    /// `text/event-stream`; `range` the bytes.
    ///
    /// # Errors
    /// See [`ClientError`]. That a range begins after the end is an answer.
    pub async fn logs(
        &self,
        namespace: &Namespace,
        name: &RunName,
        query: &LogQuery,
        accept: &str,
        range: Option<&str>,
    ) -> Result<Passed, ClientError> {
        let mut url = self.exchange.run(namespace, name, ["logs"]);
        query.write(&mut url);
        let mut request = self.exchange.request(Method::GET, url, None)?.header(ACCEPT, accept);
        if let Some(range) = range {
            request = request.header(RANGE, range);
        }
        // A followed log is silent for as long as its command is.
        let stall = (!query.follow).then_some(STALL);
        let response = self.exchange.pass(request).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        Ok(Passed { status, headers, body: Download::of(response, u64::MAX, stall)? })
    }

    /// `GET …/artifacts`: what the daemon has collected so far.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn manifest(&self, namespace: &Namespace, name: &RunName) -> Result<Manifest, ClientError> {
        self.exchange.get(self.exchange.run(namespace, name, ["artifacts"])).await
    }

    /// `GET …/artifacts/{path}`, at most `most` bytes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn artifact(
        &self,
        namespace: &Namespace,
        name: &RunName,
        path: &str,
        most: u64,
    ) -> Result<Download, ClientError> {
        let url = self.exchange.run(namespace, name, std::iter::once("artifacts").chain(path.split('/')));
        self.exchange.download(self.exchange.request(Method::GET, url, None)?, most, Some(STALL)).await
    }

    /// `GET …/patch`, at most `most` bytes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn patch(
        &self,
        namespace: &Namespace,
        name: &RunName,
        most: u64,
    ) -> Result<Download, ClientError> {
        let url = self.exchange.run(namespace, name, ["patch"]);
        self.exchange.download(self.exchange.request(Method::GET, url, None)?, most, Some(STALL)).await
    }
}
