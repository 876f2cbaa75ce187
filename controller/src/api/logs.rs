//! `GET …/logs`: of an attempt that goes on, from its daemon; of one that is over, from the store.
//!
//! The answer begins at once and is written by a task of its own, which may have to wait for the Run to start. What goes
//! wrong after the answer has begun is an event named `problem` in an event stream, and a broken connection in plain text.

mod format;
mod stored;

use std::sync::PoisonError;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::StreamExt as _;
use runtimed_api::ids::AttemptNumber;
use runtimed_api::log::Stream;
use runtimed_api::problem::{Code, Problem};
use runtimed_api::run::status::{AttemptStatus, LogSegment};
use runtimed_api::tokens::Role;
use runtimed_client::controller::LogQuery;
use runtimed_client::daemon::Daemon;
use runtimed_client::{ClientError, Endpoint};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::answer::{Answer, Failure, invalid};
use super::{App, Shared, read};
use crate::core::{Blobs, RunKey};
use crate::engine::Located;
use format::Format;

/// Pieces that wait for a slow reader at most.
const PIECES: usize = 8;
/// How often a daemon is asked anew that did not answer, and the wait before the second time, doubled for each later
/// one: 2.5 s in all. A daemon that has just been given an attempt knows of it in a moment.
const TRIES: u32 = 8;
const BETWEEN: Duration = Duration::from_millis(10);
/// Connections to daemons that are kept at most.
const DAEMONS: usize = 1024;
/// Where a stream is resumed.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Which part of which log.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Wanted {
    /// Go on until the log ends; of a Run that waits, wait for it.
    follow: bool,
    /// Of this attempt; the newest without it.
    attempt: Option<u32>,
    /// From this offset on.
    offset: Option<u64>,
    /// This stream alone.
    stream: Option<Stream>,
    /// The last so many lines.
    tail: Option<u64>,
    /// With the time of each line, in plain text.
    timestamps: bool,
}

type Pieces = mpsc::Sender<Result<Bytes, Problem>>;

pub(super) async fn logs(
    State(app): Shared,
    Path(path): Path<(String, String)>,
    query: Result<Query<Wanted>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Answer<Response> {
    let asked = app.asked(&headers, path, Role::Observer)?;
    let Query(mut wanted) = query.map_err(|error| invalid(error.body_text()))?;
    let events =
        headers.get(ACCEPT).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains("text/event-stream"));
    if let Some(id) = headers.get(&LAST_EVENT_ID) {
        let offset = id.to_str().ok().and_then(|id| id.parse().ok());
        wanted.offset = Some(offset.ok_or_else(|| invalid("Last-Event-ID is an offset, a number"))?);
    }
    // What can be refused is refused before the answer begins.
    let run = app.run(&asked.key).await?;
    read::attempt(read::status(&run)?, wanted.attempt, |_| true)?;

    let (pieces, body) = mpsc::channel(PIECES);
    let format = Format::new(events, wanted.timestamps);
    let kind = if events { "text/event-stream" } else { "text/plain; charset=utf-8" };
    tokio::spawn(async move {
        let ended = tokio::select! {
            ended = send(&app, &asked.key, wanted, format, &pieces) => ended,
            () = pieces.closed() => return,
        };
        if let Err(Failure(problem)) = ended {
            let piece = if events { Ok(format::problem(&problem)) } else { Err(problem) };
            // Whoever has gone needs no reason.
            drop(pieces.send(piece).await);
        }
    });
    let headers = [(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")];
    Ok((headers, Body::from_stream(ReceiverStream::new(body))).into_response())
}

/// Where the wanted log is, as things stand.
enum At {
    /// Nowhere yet.
    Waits,
    /// A daemon writes it.
    Live(u32),
    /// It is whole.
    Stored { attempt: u32, place: Blobs, segments: Vec<LogSegment> },
    /// There is none and will be none.
    Nowhere,
}

async fn send(app: &App, key: &RunKey, wanted: Wanted, mut format: Format, pieces: &Pieces) -> Answer<()> {
    let mut tries = 0;
    loop {
        match find(app, key, &wanted).await? {
            At::Nowhere => return end(&format, pieces).await,
            At::Stored { attempt, place, segments } => {
                stored::send(&app.blobs, &place, attempt, &segments, &wanted, &mut format, pieces).await?;
                return end(&format, pieces).await;
            }
            At::Live(attempt) => {
                let located = app.engine.locate(key.clone(), AttemptNumber(attempt)).await?;
                let problem = match located {
                    Some(located) => {
                        match proxy(app, key, attempt, &wanted, located, &format, pieces).await {
                            Ok(()) => return Ok(()),
                            Err(problem) => problem,
                        }
                    }
                    None => away(key, "it is not connected, or has no address"),
                };
                // The attempt may just be beginning; or ending, and then the store has its log; or its daemon is
                // coming back.
                if tries == TRIES {
                    return Err(Failure(problem));
                }
                tokio::time::sleep(BETWEEN * (1 << tries)).await;
                tries += 1;
            }
            At::Waits => {
                if !wanted.follow {
                    return end(&format, pieces).await;
                }
                wait(app, key, &format, pieces).await?;
            }
        }
    }
}

async fn find(app: &App, key: &RunKey, wanted: &Wanted) -> Answer<At> {
    let run = app.run(key).await?;
    let status = read::status(&run)?;
    let attempt = read::attempt(status, wanted.attempt, |_| true)?;
    let over = status.phase.is_terminal();
    let stored = |attempt: &AttemptStatus| {
        let log = attempt.result.as_ref().map(|result| result.log.segments.clone());
        Answer::Ok(At::Stored {
            attempt: attempt.number.0,
            place: read::place(&run)?,
            segments: log.unwrap_or_default(),
        })
    };
    match attempt {
        // A new attempt follows: a follower without a number wants that one.
        Some(attempt) if attempt.result.is_some() && !over && wanted.follow && wanted.attempt.is_none() => {
            Ok(At::Waits)
        }
        Some(attempt) if attempt.result.is_some() => stored(attempt),
        Some(attempt) if !over => Ok(At::Live(attempt.number.0)),
        Some(_) | None if over => Ok(At::Nowhere),
        Some(_) | None => Ok(At::Waits),
    }
}

/// Waits until the Run changes, with signs of life to whoever reads.
async fn wait(app: &App, key: &RunKey, format: &Format, pieces: &Pieces) -> Answer<()> {
    let Some(mut states) = app.engine.watch(key.clone()).await? else { return Ok(()) };
    let waits = |run: &runtimed_api::run::Run| {
        run.status.as_ref().is_some_and(|s| s.phase == runtimed_api::run::status::Phase::Pending)
    };
    while waits(&states.borrow_and_update()) {
        tokio::select! {
            changed = states.changed() => if changed.is_err() { break },
            () = app.stopping.cancelled() => {
                return Err(Failure(Problem::new(Code::Unavailable, "the controller is stopping")));
            }
            () = tokio::time::sleep(super::events::KEEP_ALIVE) => push(pieces, format.sign_of_life()).await?,
        }
    }
    Ok(())
}

/// Passes the daemon's own answer through.
async fn proxy(
    app: &App,
    key: &RunKey,
    attempt: u32,
    wanted: &Wanted,
    located: Located,
    format: &Format,
    pieces: &Pieces,
) -> Result<(), Problem> {
    let query = LogQuery {
        follow: wanted.follow,
        attempt: Some(attempt),
        offset: wanted.offset,
        stream: wanted.stream,
        tail: wanted.tail,
        timestamps: wanted.timestamps,
    };
    let daemon = daemon(app, &located.address).map_err(|why| away(key, &why))?.with_token(located.token);
    let asked = daemon.logs(&key.namespace, &key.name, &query, format.media_type());
    let mut answer = asked.await.map_err(|error| match error {
        ClientError::Problem { problem, .. } if problem.code != Code::Unauthenticated => *problem,
        error => away(key, &error.to_string()),
    })?;
    loop {
        let next = tokio::select! {
            next = answer.next() => next,
            () = app.stopping.cancelled() => {
                return Err(Problem::new(Code::Unavailable, "the controller is stopping"));
            }
        };
        let piece = match next {
            None => return Ok(()),
            Some(piece) => piece.map_err(|error| away(key, &error.to_string())),
        };
        let broken = piece.is_err();
        // What was passed on cannot be taken back: a break here is the reader's to see, and to resume from its offset.
        if pieces.send(piece).await.is_err() || broken {
            return Ok(());
        }
    }
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

fn away(key: &RunKey, why: &str) -> Problem {
    Problem::new(Code::Unavailable, format!("the log of {key} cannot be had from its daemon: {why}"))
        .hint("try again; when the attempt is over, the log is in the store")
}

async fn end(format: &Format, pieces: &Pieces) -> Answer<()> {
    push(pieces, format.end()).await
}

/// Sends a piece on; a reader that is gone ends the sending.
async fn push(pieces: &Pieces, piece: Bytes) -> Answer<()> {
    if piece.is_empty() {
        return Ok(());
    }
    let gone = |_| Failure(Problem::new(Code::Unavailable, "the reader is gone"));
    pieces.send(Ok(piece)).await.map_err(gone)
}
