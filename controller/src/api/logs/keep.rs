//! `PUT /v1/logs/{offset}`: a segment of an attempt's log, sent while the attempt goes on. One that has grown since takes
//! the place of what it was; one that is shorter is an older state, and is answered as kept.

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use runtimed_api::digest::Digest;
use runtimed_api::ids::AttemptKey;
use runtimed_api::log;
use runtimed_api::problem::{Code, Problem};
use runtimed_api::run::status::{AttemptEnd, AttemptResult};
use runtimed_api::session::INSTANCE;
use runtimed_client::logs::Source as _;

use super::super::answer::{Answer, Failure, invalid};
use super::super::{App, Shared, body};
use super::stored::Stored;
use super::unreadable;
use crate::auth::{bearer, unknown};
use crate::core::{Blobs, RunKey};
use crate::store::Key;

/// The largest segment, in bytes: daemons begin another at 4 MiB.
const MAX_SEGMENT: usize = 8 * 1024 * 1024;

pub(in crate::api) async fn put(
    State(app): Shared,
    Path(offset): Path<u64>,
    query: Result<Query<AttemptKey>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Answer<StatusCode> {
    let (key, place) = match app.tokens.verify(bearer(&headers)?) {
        Some(attempt) => {
            let record = app.engine.attempt(attempt.clone()).await?;
            (attempt, Blobs::Run(record.uid.clone()))
        }
        None => {
            let Query(key) = query.map_err(|error| invalid(error.body_text()))?;
            let place = late(&app, &headers, &key).await?;
            (key, place)
        }
    };
    let segment = body::bytes(body, MAX_SEGMENT).await?;
    match log::read(&segment) {
        Ok((first, _, _)) if first == offset => {}
        Ok((first, _, _)) => return Err(invalid(format!("the segment begins at {first}, not at {offset}"))),
        Err(error) => return Err(invalid(error.to_string())),
    }
    app.blobs.put_log(&place.place(), key.attempt, offset, segment).await?;
    Ok(StatusCode::CREATED)
}

/// What a daemon has left of an attempt that it lost, because it died or could not hold the lease: by its own token and its own
/// secret, for the lease's token is nowhere any more, or good for nothing. Only the log of the attempt that was handed to this
/// very daemon, and only until all is here that its result counts: the result may come before the log.
async fn late(app: &App, headers: &HeaderMap, key: &AttemptKey) -> Answer<Blobs> {
    let token = app.authority.daemon(headers).map_err(|_| Failure(unknown()))?;
    let closed = || Failure(Problem::new(Code::StaleFence, format!("the log of {key} is closed")));
    let run = RunKey { namespace: key.namespace.clone(), name: key.name.clone() };
    let stored = app.store.get(Key::run(&run)).await?.ok_or_else(closed)?;
    let record = stored.object.run().filter(|record| record.uid == key.uid).ok_or_else(closed)?;
    let mut attempts = record.status.attempts.iter();
    let of_fence = attempts.find(|attempt| attempt.number == key.attempt && attempt.fence == key.fence);
    let attempt = of_fence.filter(|_| *record.runtime() == token.runtime).ok_or_else(closed)?;
    let shown = headers.get(INSTANCE).map(|secret| Digest::of(secret.as_bytes()));
    if shown.is_none() || record.hold(attempt).instance != shown {
        return Err(Failure(Problem::new(Code::Forbidden, format!("{key} was handed to another daemon"))));
    }
    let place = Blobs::Run(record.uid.clone());
    let counted = |result: &AttemptResult| result.end != AttemptEnd::Lost && result.log.bytes > 0;
    if let Some(result) = attempt.result.as_ref().filter(|result| counted(result)) {
        // Segments come in order, so that what the last of them reaches is all here.
        let mut stored = Stored::of(&app.blobs, &place, key.attempt, None).await?;
        if stored.end().await.map_err(|error| unreadable(&run, &error))? >= result.log.bytes {
            return Err(closed());
        }
    }
    Ok(place)
}
