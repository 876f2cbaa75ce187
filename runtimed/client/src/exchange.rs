//! One request and its answer, under the bounds that hold for all of them.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use runtimed_api::ids::{Namespace, RunName};
use runtimed_api::parse;
use runtimed_api::problem::{Code, Problem};
use runtimed_api::session::SecretText;
use runtimed_api::trace::{self, TraceContext};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::download::Download;
use crate::endpoint::{Endpoint, EndpointError};
use crate::error::ClientError;

/// How long an answer's head, or the whole of a small answer, may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// The largest JSON answer: a page of Runs.
const MAX_JSON: u64 = 64 * 1024 * 1024;
/// The largest problem.
const MAX_PROBLEM: u64 = 256 * 1024;

/// A server, the connections to it, and the token that is shown to it.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    client: Client,
    base: Url,
    token: Option<SecretText>,
    trace: Option<TraceContext>,
}

/// A header's value that is never shown.
pub(crate) fn secret_header(text: &str) -> Result<HeaderValue, ClientError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| ClientError::Token)?;
    value.set_sensitive(true);
    Ok(value)
}

impl Exchange {
    pub(crate) fn new(endpoint: &Endpoint) -> Result<Self, EndpointError> {
        let base = endpoint.parse()?;
        Ok(Self { client: endpoint.client(&base)?, base, token: None, trace: None })
    }

    pub(crate) fn with_token(mut self, token: SecretText) -> Self {
        self.token = Some(token);
        self
    }

    pub(crate) fn with_trace(mut self, trace: TraceContext) -> Self {
        self.trace = Some(trace);
        self
    }

    pub(crate) fn base(&self) -> &Url {
        &self.base
    }

    /// The URL of a path below the server's; each segment is encoded.
    pub(crate) fn url<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// The URL of a Run, or of something of it.
    pub(crate) fn run<'a>(
        &self,
        namespace: &'a Namespace,
        name: &'a RunName,
        rest: impl IntoIterator<Item = &'a str>,
    ) -> Url {
        let run = ["v1", "namespaces", namespace.as_str(), "runs", name.as_str()];
        self.url(run.into_iter().chain(rest))
    }

    /// A request with this exchange's token, or with `token` instead.
    pub(crate) fn request(
        &self,
        method: Method,
        url: Url,
        token: Option<&SecretText>,
    ) -> Result<RequestBuilder, ClientError> {
        let mut request = self.client.request(method, url);
        if let Some(trace) = &self.trace {
            request = request.header(trace::TRACEPARENT, trace.parent());
            if let Some(state) = trace.state() {
                request = request.header(trace::TRACESTATE, state);
            }
        }
        let Some(token) = token.or(self.token.as_ref()) else { return Ok(request) };
        let bearer = Zeroizing::new(format!("Bearer {}", token.expose()));
        Ok(request.header(AUTHORIZATION, secret_header(&bearer)?))
    }

    /// Sends a request and waits for the head of a good answer.
    pub(crate) async fn send(
        &self,
        request: RequestBuilder,
        patience: Duration,
    ) -> Result<Response, ClientError> {
        let (response, url) = self.execute(request, patience).await?;
        if response.status().is_success() { Ok(response) } else { Err(problem(response, url).await) }
    }

    async fn execute(
        &self,
        request: RequestBuilder,
        patience: Duration,
    ) -> Result<(Response, Url), ClientError> {
        // A request that cannot be built has a header or URL of ours that is none.
        let request = request
            .build()
            .map_err(|error| ClientError::protocol(&self.base, error.without_url().to_string()))?;
        let url = request.url().clone();
        let response = tokio::time::timeout(patience, self.client.execute(request))
            .await
            .map_err(|_| ClientError::late(&url, patience))?
            .map_err(|error| ClientError::unreachable(&url, &error))?;
        Ok((response, url))
    }

    /// Sends a request whose answer is passed on, also where it is that a range begins after the end.
    pub(crate) async fn pass(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let (response, url) = self.execute(request, PATIENCE).await?;
        let passed = response.status().is_success() || response.status() == StatusCode::RANGE_NOT_SATISFIABLE;
        if passed { Ok(response) } else { Err(problem(response, url).await) }
    }

    /// Sends a request whose good answer is a JSON object of type `T`.
    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
        patience: Duration,
    ) -> Result<T, ClientError> {
        let response = self.send(request, patience).await?;
        read_json(response, MAX_JSON, patience).await
    }

    /// `GET` of a JSON object.
    pub(crate) async fn get<T: DeserializeOwned>(&self, url: Url) -> Result<T, ClientError> {
        self.json(self.request(Method::GET, url, None)?, PATIENCE).await
    }

    /// `POST` of a JSON object for another.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        url: Url,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.json(self.request(Method::POST, url, None)?.json(body), PATIENCE).await
    }

    /// Sends a request whose good answer is bytes, at most `most` of them.
    pub(crate) async fn download(
        &self,
        request: RequestBuilder,
        most: u64,
        stall: Option<Duration>,
    ) -> Result<Download, ClientError> {
        let response = self.send(request, PATIENCE).await?;
        Download::of(response, most, stall)
    }
}

/// Reads the whole of a JSON answer.
pub(crate) async fn read_json<T: DeserializeOwned>(
    response: Response,
    most: u64,
    patience: Duration,
) -> Result<T, ClientError> {
    let url = response.url().clone();
    let body = Download::of(response, most, Some(patience))?.bytes().await?;
    parse::json(&body).map_err(|error| ClientError::protocol(&url, error.to_string()))
}

/// What a server that did not do as asked had to say.
async fn problem(response: Response, url: Url) -> ClientError {
    let status = response.status().as_u16();
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| asked_to_wait(value.to_str().ok()?, jiff::Timestamp::now()));
    let body = match Download::of(response, MAX_PROBLEM, Some(PATIENCE)) {
        Ok(download) => download.bytes().await.unwrap_or_else(|_| Bytes::new()),
        Err(_) => Bytes::new(),
    };
    match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => ClientError::Problem { status, problem: Box::new(problem), retry_after },
        Err(_) if (300..400).contains(&status) => {
            ClientError::protocol(&url, format!("a redirect, HTTP {status}; none is followed"))
        }
        // Not one of ours: what stands before a server that is away, such as a proxy, says so.
        Err(_) if status >= 500 && retry_after.is_none() => ClientError::unavailable(&url, status),
        Err(_) => match said_by_a_proxy(status) {
            Some(problem) => ClientError::Problem { status, problem: Box::new(problem), retry_after },
            None => ClientError::protocol(&url, format!("HTTP {status} without a reason")),
        },
    }
}

/// What a proxy before the server means, which answers without a reason of ours.
fn said_by_a_proxy(status: u16) -> Option<Problem> {
    let code = match status {
        401 => Code::Unauthenticated,
        403 => Code::Forbidden,
        413 => Code::TooLarge,
        429 => Code::RateLimited,
        500.. => Code::Unavailable,
        _ => return None,
    };
    Some(Problem::new(code, format!("HTTP {status} without a reason: a proxy before the server may say so")))
}

/// The longest wait that a server may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// A `Retry-After`: seconds, or a date (RFC 9110, 10.2.3); ten minutes at most, whatever it says.
fn asked_to_wait(value: &str, now: jiff::Timestamp) -> Option<Duration> {
    let asked = match value.trim().parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value.trim()).ok()?;
            // A date that has passed asks for no wait.
            Duration::try_from(date.duration_since(now)).unwrap_or_default()
        }
    };
    Some(asked.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_in_seconds_or_a_date_and_never_long() {
        let now = "2026-11-21T22:00:00Z".parse().expect("a time");
        let seconds = |value| asked_to_wait(value, now).map(|wait| wait.as_secs());
        assert_eq!(seconds("2"), Some(2));
        assert_eq!(seconds("Sat, 21 Nov 2026 22:00:30 GMT"), Some(30));
        assert_eq!(seconds("Sat, 21 Nov 2026 21:00:00 GMT"), Some(0));
        assert_eq!(seconds("18446744073709551615"), Some(600));
        assert_eq!(seconds("Thu, 31 Dec 9998 23:59:59 GMT"), Some(600));
        assert_eq!(["", "soon", "-1", "1.5"].map(seconds), [None; 4]);
    }

    #[test]
    fn what_a_proxy_says_without_a_reason_is_told_apart() {
        let code = |status| said_by_a_proxy(status).map(|problem| problem.code);
        assert_eq!(code(413), Some(Code::TooLarge));
        assert_eq!([400, 404, 418].map(code), [None; 3]);
    }
}
