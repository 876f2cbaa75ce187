//! Probes and counters.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use runtimed_api::problem::{Code, Problem};

use super::Shared;
use super::answer::{Answer, Failure};

/// The process answers.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// It takes Runs: the store was read before the listener was served.
pub(super) async fn readyz(State(app): Shared) -> (StatusCode, &'static str) {
    if app.stopping.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

/// The counters, over all namespaces: for a token that is good for all.
pub(super) async fn metrics(State(app): Shared, headers: HeaderMap) -> Answer<Response> {
    let person = app.authority.person(&headers)?;
    if !person.namespaces.iter().any(|namespace| namespace == "*") {
        let message = format!("{} may not see every namespace", person.subject);
        return Err(Failure(Problem::new(Code::Forbidden, message)));
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(CONTENT_TYPE, kind)], app.metrics.text(&app.engine.census().await?)).into_response())
}
