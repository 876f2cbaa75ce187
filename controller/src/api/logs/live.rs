//! The log of an attempt that goes on: its daemon's own answer, passed through.

use std::sync::PoisonError;
use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use axum::response::Response;
use runtimed_api::ids::AttemptNumber;
use runtimed_api::problem::{Code, Problem};
use runtimed_client::daemon::Daemon;
use runtimed_client::logs::{Asked, LogQuery};
use runtimed_client::{ClientError, Endpoint};

use super::super::App;
use crate::core::RunKey;
use crate::engine::Located;

/// How often a daemon is asked anew that did not answer, and the wait before the second time, doubled for each later
/// one: 2.5 s in all. A daemon that has just been given an attempt knows of it in a moment.
pub(super) const TRIES: u32 = 8;
pub(super) const BETWEEN: Duration = Duration::from_millis(10);
/// Connections to daemons that are kept at most.
const DAEMONS: usize = 1024;
/// What of a daemon's answer is passed on.
const HEADERS: [header::HeaderName; 5] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::ACCEPT_RANGES,
    header::CACHE_CONTROL,
];

/// The answer of the daemon that has the attempt, asked a few times.
pub(super) async fn answer(
    app: &App,
    key: &RunKey,
    attempt: AttemptNumber,
    asked: &Asked,
) -> Result<Response, Problem> {
    let mut tries = 0;
    loop {
        match ask(app, key, attempt, asked).await {
            Ok(passed) => {
                let mut response = Response::new(Body::from_stream(passed.body));
                *response.status_mut() = passed.status;
                for name in HEADERS {
                    if let Some(value) = passed.headers.get(&name) {
                        response.headers_mut().insert(name, value.clone());
                    }
                }
                return Ok(response);
            }
            // The daemon is there and says no.
            Err(problem) if problem.code == Code::InvalidRequest => return Err(problem),
            Err(problem) if tries == TRIES => return Err(problem),
            Err(_) => {
                tokio::time::sleep(BETWEEN * (1 << tries)).await;
                tries += 1;
                let over = super::find(app, key, &asked.query).await;
                if let Ok(super::At::Stored { .. }) = over {
                    return Err(away(key, "it has just ended"));
                }
            }
        }
    }
}

/// The daemon's answer to the same question.
pub(super) async fn ask(
    app: &App,
    key: &RunKey,
    attempt: AttemptNumber,
    asked: &Asked,
) -> Result<runtimed_client::daemon::Passed, Problem> {
    let located: Option<Located> = app.engine.locate(key.clone(), attempt).await?;
    let located = located.ok_or_else(|| away(key, "it is not connected, or has no address"))?;
    let query = LogQuery { attempt: Some(attempt.0), ..asked.query.clone() };
    let daemon = daemon(app, &located.address).map_err(|why| away(key, &why))?.with_token(located.token);
    let answered = daemon.logs(&key.namespace, &key.name, &query, asked.media_type(), asked.range.as_deref());
    answered.await.map_err(|error| match error {
        ClientError::Problem { problem, .. } if problem.code == Code::InvalidRequest => *problem,
        error => away(key, &error.to_string()),
    })
}

fn daemon(app: &App, address: &str) -> Result<Daemon, String> {
    let mut daemons = app.daemons.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(daemon) = daemons.get(address) {
        return Ok(daemon.clone());
    }
    let endpoint = Endpoint { url: address.to_owned(), ca_file: app.daemon_ca.clone() };
    let daemon = Daemon::new(&endpoint).map_err(|error| error.to_string())?;
    if daemons.len() >= DAEMONS {
        daemons.clear();
    }
    daemons.insert(address.to_owned(), daemon.clone());
    Ok(daemon)
}

pub(super) fn away(key: &RunKey, why: &str) -> Problem {
    Problem::new(Code::Unavailable, format!("the log of {key} cannot be had from its daemon: {why}"))
        .hint("try again; without following, the store has what has come of it so far")
}
