//! The audit: each change that somebody asks for, and each refusal, is written down when it is answered.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use jiff::Timestamp;
use runtimed_api::ids::RunName;
use runtimed_api::problem::{Code, Problem};
use runtimed_api::session::ReportAnswer;
use runtimed_api::tokens::Role;
use serde::{Deserialize, Serialize};
use tracing::Instrument as _;

use super::answer::{Answer, Failure};
use super::query::Query;
use super::{App, Shared, span};
use crate::audit::Entry;

/// Entries of an answer at most.
const MOST: usize = 1000;

/// The Run that a submission made or found, for the audit.
#[derive(Debug, Clone)]
pub(super) struct Submitted(pub(super) RunName);

/// The reports of a batch that were rejected within an answer that is good otherwise: of each code the first Run.
#[derive(Debug, Clone, Default)]
pub(super) struct Rejected(Vec<(Code, RunName)>);

impl Rejected {
    /// Those of these answers, to reports about these Runs.
    pub(super) fn of(answers: &[ReportAnswer], runs: &[RunName]) -> Self {
        let mut rejected: Vec<(Code, RunName)> = Vec::new();
        for (answer, run) in answers.iter().zip(runs) {
            if let ReportAnswer::Rejected(problem) = answer
                && rejected.iter().all(|(code, _)| *code != problem.code)
            {
                rejected.push((problem.code, run.clone()));
            }
        }
        Self(rejected)
    }
}

/// How many entries.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// 100 without it; 1000 at most.
    limit: Option<usize>,
}

/// The newest entries.
#[derive(Debug, Serialize)]
pub(super) struct Entries {
    /// Newest first.
    items: Vec<Entry>,
}

/// The newest entries, over all namespaces: for an admin of all.
pub(super) async fn read(
    State(app): Shared,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Answer<Json<Entries>> {
    let person = app.authority.person(&headers)?;
    if person.role < Role::Admin || !person.namespaces.iter().any(|namespace| namespace == "*") {
        let message = format!("{} is not an admin of every namespace", person.subject);
        return Err(Failure(Problem::new(Code::Forbidden, message)));
    }
    let limit = wanted.limit.unwrap_or(100).min(MOST);
    let audit = app.audit.clone();
    let read = tokio::task::spawn_blocking(move || audit.newest(limit)).await;
    let items = read.map_err(std::io::Error::other).and_then(|read| read).map_err(|error| {
        tracing::error!(%error, "the audit cannot be read");
        Failure(Problem::new(Code::StorageFailed, "the audit cannot be read"))
    })?;
    Ok(Json(Entries { items }))
}

/// Writes down what is worth it, once it is answered.
pub(super) async fn record(State(app): Shared, request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let subject = subject(&app, request.headers());
    let span = span::of(&app, &request);
    let response = next.run(request).instrument(span).await;
    let status = response.status();
    let said = response.extensions();
    let entry = |run: Option<&RunName>, status: u16, code: Option<Code>| Entry {
        at: Timestamp::now(),
        subject: subject.clone(),
        method: method.to_string(),
        path: path.chars().take(500).collect(),
        run: run.map(ToString::to_string),
        status,
        code,
        suppressed: 0,
    };
    let mut entries = Vec::new();
    if is_worth_it(&method, &path, status) {
        let run = said.get::<Submitted>().map(|submitted| &submitted.0);
        entries.push(entry(run, status.as_u16(), said.get::<Code>().copied()));
    }
    if let Some(Rejected(rejected)) = said.get::<Rejected>() {
        entries.extend(rejected.iter().map(|(code, run)| entry(Some(run), code.row().status, Some(*code))));
    }
    for entry in entries {
        app.audit.write(entry).await;
    }
    response
}

/// Changes that people ask for, the coming and going of daemons, and whatever was refused.
fn is_worth_it(method: &Method, path: &str, status: StatusCode) -> bool {
    let refused = [
        StatusCode::UNAUTHORIZED,
        StatusCode::FORBIDDEN,
        StatusCode::UNPROCESSABLE_ENTITY,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    let daemons = path == "/v1/sessions" || path.ends_with("/drain");
    refused.contains(&status) || (method != Method::GET && (path.starts_with("/v1/namespaces/") || daemons))
}

/// Who asks, by the token alone. A token of an attempt names the attempt.
fn subject(app: &App, headers: &HeaderMap) -> Option<String> {
    if let Ok(person) = app.authority.person(headers) {
        return Some(person.subject);
    }
    if let Ok(daemon) = app.authority.daemon(headers) {
        return Some(format!("daemon of {}", daemon.runtime));
    }
    let attempt = app.tokens.verify(crate::auth::bearer(headers).ok()?)?;
    Some(attempt.to_string())
}
