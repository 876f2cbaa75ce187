//! Whose and which Run a request is about, in every line of the log that is written while it is answered.

use axum::extract::Request;
use runtimed_api::trace::{TRACEPARENT, TRACESTATE, TraceContext};
use tracing::Span;
use tracing::field::{Empty, display};

use super::App;
use crate::auth::bearer;

/// The span of a request. What names a Run is its path, or the token of an attempt.
pub(super) fn of(app: &App, request: &Request) -> Span {
    let span = tracing::info_span!(
        "request",
        method = %request.method(),
        namespace = Empty,
        run = Empty,
        attempt = Empty,
        trace = Empty,
    );
    if span.is_disabled() {
        return span;
    }
    let headers = request.headers();
    let mut segments = request.uri().path().split('/').skip(1);
    match (segments.next(), segments.next()) {
        (Some("v1"), Some("namespaces")) => {
            // A stranger's words: only what could be a name is written down.
            let name = |text: &str| text.parse::<runtimed_api::ids::RunName>().ok();
            if let Some(namespace) = segments.next().and_then(name) {
                span.record("namespace", display(namespace));
            }
            if let (Some("runs"), Some(run)) = (segments.next(), segments.next().and_then(name)) {
                span.record("run", display(run));
            }
        }
        (Some("v1"), Some("blobs" | "logs" | "artifacts")) => {
            if let Some(attempt) = bearer(headers).ok().and_then(|token| app.tokens.verify(token)) {
                span.record("namespace", display(&attempt.namespace));
                span.record("run", display(&attempt.name));
                span.record("attempt", attempt.attempt.0);
            }
        }
        _ => {}
    }
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(trace) = text(TRACEPARENT).and_then(|parent| TraceContext::read(parent, text(TRACESTATE))) {
        span.record("trace", trace.trace_id());
    }
    span
}
