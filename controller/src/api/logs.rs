//! `GET …/logs`: of an attempt that goes on, from its daemon; of one that is over or whose daemon is away, from the store,
//! which has all but the last seconds of it. And `PUT /v1/logs/{offset}`, by which the segments come.
//!
//! A followed log may have to wait for its Run: then the answer begins at once and is written by a task of its own. What
//! goes wrong after an answer has begun is an event named `problem`, and a broken connection in plain text.

mod follow;
mod keep;
mod live;
mod stored;

use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use runtimed_api::ids::AttemptNumber;
use runtimed_api::problem::Problem;
use runtimed_api::run::status::{AttemptEnd, AttemptStatus};
use runtimed_api::tokens::Role;
use runtimed_client::logs::{Asked, LogQuery, answer};

use super::answer::{Answer, Failure};
use super::{App, Shared, read};
use crate::core::{Blobs, RunKey};
pub(super) use keep::put;
use stored::Stored;

pub(super) async fn logs(
    State(app): Shared,
    Path(path): Path<(String, String)>,
    query: Result<Query<LogQuery>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Answer<Response> {
    let key = app.asked(&headers, path, Role::Observer)?.key;
    let asked = Asked::read(query, &headers)?;
    // What can be refused is refused before the answer begins.
    let at = find(&app, &key, &asked.query).await?;
    if asked.query.follow {
        return Ok(follow::answer(app, key, asked));
    }
    let stored = match at {
        At::Live { attempt, place } => match live::answer(&app, &key, attempt, &asked).await {
            Ok(response) => return Ok(response),
            Err(problem) => {
                let stored = Stored::of(&app.blobs, &place, attempt, None).await?;
                // A daemon that has just begun may not be known yet, and has sent nothing.
                if stored.is_empty() {
                    return Err(Failure(problem));
                }
                stored
            }
        },
        At::Stored { attempt, place, whole } => Stored::of(&app.blobs, &place, attempt, whole).await?,
        At::Waits | At::Nowhere => Stored::nothing(&app.blobs),
    };
    answer(asked, stored).await.map_err(|error| unreadable(&key, &error))
}

/// Where the wanted log is, as things stand.
enum At {
    /// Nowhere yet.
    Waits,
    /// A daemon writes it.
    Live { attempt: AttemptNumber, place: Blobs },
    /// It is as whole as it will be; so many bytes, where that is known.
    Stored { attempt: AttemptNumber, place: Blobs, whole: Option<u64> },
    /// There is none and will be none.
    Nowhere,
}

async fn find(app: &App, key: &RunKey, query: &LogQuery) -> Answer<At> {
    let run = app.run(key).await?;
    let status = read::status(&run)?;
    let found = read::attempt(status, query.attempt, |_| true)?;
    let over = status.phase.is_terminal();
    let place = read::place(&run)?;
    let stored = |attempt: &AttemptStatus| {
        let result = attempt.result.as_ref();
        // Of a log that was lost with its daemon nobody knows how long it was.
        let known = result.filter(|result| result.end != AttemptEnd::Lost);
        At::Stored {
            attempt: attempt.number,
            place: place.clone(),
            whole: known.map(|known| known.log.bytes),
        }
    };
    Ok(match found {
        // A new attempt follows: a follower without a number wants that one.
        Some(attempt) if attempt.result.is_some() && !over && query.follow && query.attempt.is_none() => {
            At::Waits
        }
        Some(attempt) if attempt.result.is_some() || over => stored(attempt),
        Some(attempt) => At::Live { attempt: attempt.number, place },
        None if over => At::Nowhere,
        None => At::Waits,
    })
}

fn unreadable(key: &RunKey, error: &std::io::Error) -> Failure {
    tracing::error!(run = %key, %error, "a log in the store cannot be read");
    Failure(Problem::new(runtimed_api::problem::Code::Internal, "a part of the log cannot be read"))
}
