//! The daemon's endpoints. Run code shares the pod's network, so that everything but the probes needs a token: a
//! person's, or the one that opens a single attempt.

mod auth;
mod logs;
mod runs;

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use runtimed_api::problem::{Code, Problem};
use runtimed_client::logs::compression;
use tokio_util::sync::CancellationToken;

use crate::daemon::Daemon;
use crate::slot;

/// What every handler has at hand.
#[derive(Debug, Clone)]
struct Shared {
    daemon: Arc<Daemon>,
    /// The daemon ends: answers without an end must end too.
    closing: CancellationToken,
}

/// The routes.
pub fn router(daemon: Arc<Daemon>, closing: CancellationToken) -> Router {
    let run = "/v1/namespaces/{namespace}/runs/{name}";
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/posture", get(runs::posture))
        .route(run, get(runs::run))
        .route(&format!("{run}/logs"), get(logs::logs).layer(compression()))
        .route(&format!("{run}/artifacts"), get(runs::manifest))
        .route(&format!("{run}/artifacts/{{*path}}"), get(runs::artifact))
        .route(&format!("{run}/patch"), get(runs::patch))
        .fallback(|| async { Refused(Problem::new(Code::NotFound, "there is nothing at this path")) })
        .with_state(Shared { daemon, closing })
}

/// A constant body, for a Run may ask as well; who holds a token is told why.
async fn ready(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    let daemon = &shared.daemon;
    let _asked_now = slot::full(daemon);
    if daemon.readiness.is_ready() {
        return "ready\n".into_response();
    }
    let known = auth::person(daemon, &headers).or_else(|_| auth::metrics(daemon, &headers));
    let body = match known {
        Ok(()) => {
            let why = daemon.readiness.why_not();
            format!("not ready: {}\n", why.as_deref().unwrap_or("it has no session with the controller"))
        }
        Err(_) => "not ready\n".to_owned(),
    };
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

async fn metrics(State(shared): State<Shared>, headers: HeaderMap) -> Result<Response, Refused> {
    auth::metrics(&shared.daemon, &headers)?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], shared.daemon.numbers()).into_response())
}

/// A problem as an answer.
#[derive(Debug)]
struct Refused(Problem);

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.code.row().status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.0)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let scheme = header::HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}
