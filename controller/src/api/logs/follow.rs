//! A log that is followed: it may wait for its Run to begin, and goes on until the attempt is over.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream::StreamExt as _;
use runtimed_api::ids::AttemptNumber;
use runtimed_api::problem::{Code, Problem};
use runtimed_api::run::Run;
use runtimed_api::run::status::Phase;
use runtimed_client::logs::{Asked, Reader, problem_event};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::super::App;
use super::super::answer::{Answer, Failure};
use super::stored::Stored;
use super::{At, find, live, unreadable};
use crate::core::RunKey;

/// Pieces that wait for a slow reader at most.
const PIECES: usize = 8;
/// How long a daemon may be silent before the last of its log, when its attempt is over.
const LAST_WORDS: Duration = Duration::from_secs(2);

type Pieces = mpsc::Sender<Result<Bytes, Problem>>;

/// The answer, which a task of its own writes.
pub(super) fn answer(app: Arc<App>, key: RunKey, asked: Asked) -> Response {
    let (pieces, body) = mpsc::channel(PIECES);
    let headers = [(CONTENT_TYPE, asked.media_type()), (CACHE_CONTROL, "no-store")];
    tokio::spawn(async move {
        let ended = tokio::select! {
            ended = send(&app, &key, &asked, &pieces) => ended,
            () = pieces.closed() => return,
        };
        if let Err(Failure(problem)) = ended {
            let piece = if asked.events { Ok(problem_event(&problem)) } else { Err(problem) };
            // Whoever has gone needs no reason.
            drop(pieces.send(piece).await);
        }
    });
    (headers, Body::from_stream(ReceiverStream::new(body))).into_response()
}

async fn send(app: &App, key: &RunKey, asked: &Asked, pieces: &Pieces) -> Answer<()> {
    let mut tries = 0;
    loop {
        match find(app, key, &asked.query).await? {
            At::Nowhere => return stored(key, asked, Stored::nothing(&app.blobs), pieces).await,
            At::Stored { attempt, place, whole } => {
                return stored(key, asked, Stored::of(&app.blobs, &place, attempt, whole).await?, pieces)
                    .await;
            }
            At::Live { attempt, .. } => match proxy(app, key, attempt, asked, pieces).await {
                Ok(()) => return Ok(()),
                // The attempt may just be beginning; or ending, and then the store has its log; or its daemon is
                // coming back.
                Err(problem) if tries == live::TRIES => return Err(Failure(problem)),
                Err(_) => {
                    tokio::time::sleep(live::BETWEEN * (1 << tries)).await;
                    tries += 1;
                }
            },
            At::Waits => wait(app, key, asked, pieces).await?,
        }
    }
}

async fn stored(key: &RunKey, asked: &Asked, stored: Stored, pieces: &Pieces) -> Answer<()> {
    let unreadable = |error| unreadable(key, &error);
    let mut reader = Reader::new(asked.clone(), stored).await.map_err(unreadable)?;
    while let Some(piece) = reader.next().await.map_err(unreadable)? {
        push(pieces, piece).await?;
    }
    Ok(())
}

/// Waits until the Run changes, with signs of life to whoever reads.
async fn wait(app: &App, key: &RunKey, asked: &Asked, pieces: &Pieces) -> Answer<()> {
    let Some(mut states) = app.engine.watch(key.clone()).await? else { return Ok(()) };
    let waits = |run: &Run| run.status.as_ref().is_some_and(|s| s.phase == Phase::Pending);
    while waits(&states.borrow_and_update()) {
        tokio::select! {
            changed = states.changed() => if changed.is_err() { break },
            () = app.stopping.cancelled() => return Err(Failure(stopping())),
            () = tokio::time::sleep(super::super::events::KEEP_ALIVE) => {
                let comment = if asked.events { Bytes::from_static(b":\n\n") } else { Bytes::new() };
                push(pieces, comment).await?;
            }
        }
    }
    Ok(())
}

/// Passes the daemon's own answer through. A daemon that hangs is not waited for once its attempt is over: what came of the log is
/// in the store.
async fn proxy(
    app: &App,
    key: &RunKey,
    attempt: AttemptNumber,
    asked: &Asked,
    pieces: &Pieces,
) -> Result<(), Problem> {
    let hangs = || live::away(key, "its attempt is over, and it says nothing more");
    let mut ended = pin!(ended(app, key, attempt));
    let mut answer = tokio::select! {
        answer = live::ask(app, key, attempt, asked) => answer?.body,
        () = &mut ended => return Err(hangs()),
    };
    let mut patience = Duration::MAX;
    loop {
        let next = tokio::select! {
            next = tokio::time::timeout(patience, answer.next()) => next,
            () = &mut ended, if patience == Duration::MAX => {
                patience = LAST_WORDS;
                continue;
            }
            () = app.stopping.cancelled() => return Err(stopping()),
        };
        let piece = match next {
            Ok(None) => return Ok(()),
            Ok(Some(piece)) => piece.map_err(|error| live::away(key, &error.to_string())),
            Err(_elapsed) => Err(hangs()),
        };
        let broken = piece.is_err();
        // What was passed on cannot be taken back: a break here is the reader's to see, and to resume from its offset.
        if pieces.send(piece).await.is_err() || broken {
            return Ok(());
        }
    }
}

/// Returns when the controller knows that this attempt is over.
async fn ended(app: &App, key: &RunKey, attempt: AttemptNumber) {
    let over = |run: &Arc<Run>| {
        run.status.as_ref().is_none_or(|status| {
            let of_attempt = status.attempts.iter().find(|known| known.number == attempt);
            status.phase.is_terminal() || of_attempt.is_some_and(|known| known.result.is_some())
        })
    };
    // A Run that is not there to be watched, or is not watched any more, is over.
    if let Ok(Some(mut states)) = app.engine.watch(key.clone()).await {
        drop(states.wait_for(over).await);
    }
}

fn stopping() -> Problem {
    Problem::new(Code::Unavailable, "the controller is stopping")
}

/// Sends a piece on; a reader that is gone ends the sending.
async fn push(pieces: &Pieces, piece: Bytes) -> Answer<()> {
    if piece.is_empty() {
        return Ok(());
    }
    let gone = |_| Failure(Problem::new(Code::Unavailable, "the reader is gone"));
    pieces.send(Ok(piece)).await.map_err(gone)
}
