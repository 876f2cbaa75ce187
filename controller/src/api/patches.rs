//! Patches: of a Run, and of a namespace by their digest.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use jiff::Timestamp;
use runtimed_api::ids::Namespace;
use runtimed_api::problem::Problem;
use runtimed_api::tokens::Role;
use serde::Deserialize;

use super::answer::{Answer, Failure, not_found};
use super::blobs::send;
use super::query::Query;
use super::{App, Shared, body, read, sources};
use crate::auth::allow;
use crate::core::Blobs;
use crate::store::{Key, Object, PatchRecord};

/// The largest patch that may be uploaded, in bytes.
const MAX_PATCH: u64 = 64 * 1024 * 1024;
const KIND: &str = "text/x-diff";

/// Of which attempt.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// The newest that has one, without it.
    pub(super) attempt: Option<u32>,
}

/// The Patch that a Run captured.
pub(super) async fn of_run(
    State(app): Shared,
    Path(path): Path<(String, String)>,
    Query(which): Query<Which>,
    headers: HeaderMap,
) -> Answer<Response> {
    let asked = app.asked(&headers, path, Role::Observer)?;
    let run = app.run(&asked.key).await?;
    let has_patch = |result: &Option<_>| {
        result.as_ref().is_some_and(|r: &runtimed_api::run::status::AttemptResult| r.patch.is_some())
    };
    let attempt = read::attempt(read::status(&run)?, which.attempt, |attempt| has_patch(&attempt.result))?;
    let patch = attempt.and_then(|attempt| attempt.result.as_ref()?.patch.as_ref());
    let patch = patch.ok_or_else(|| not_found(format!("the Run {} captured no patch", asked.key)))?;
    match (&patch.digest, &patch.withheld) {
        (Some(digest), _) => send(&app, &read::place(&run)?, digest, KIND, &headers).await,
        (None, Some(refusal)) => Err(Failure(Problem::refused(vec![refusal.clone()]))),
        (None, None) => Err(not_found(format!("the patch of {} was not kept", asked.key))),
    }
}

/// A patch of the namespace.
pub(super) async fn get(
    State(app): Shared,
    Path(path): Path<(String, String)>,
    headers: HeaderMap,
) -> Answer<Response> {
    let person = app.authority.person(&headers)?;
    let namespace: Namespace = path.0.parse()?;
    allow(&person, Role::Observer, &namespace)?;
    let digest = read::digest(&path.1)?;
    let stored = app.store.get(Key::patch(namespace.clone(), digest)).await?;
    match stored.map(|stored| stored.object) {
        Some(Object::Patch(patch)) => send(&app, &patch.place, &digest, KIND, &headers).await,
        _ => Err(not_found(format!("namespace {namespace} has no patch {digest}"))),
    }
}

/// Uploads a patch, to be named as a prior patch. Its bytes are checked when they are used.
pub(super) async fn upload(
    State(app): Shared,
    Path(path): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Answer<StatusCode> {
    let person = app.authority.person(&headers)?;
    let namespace: Namespace = path.0.parse()?;
    allow(&person, Role::Submitter, &namespace)?;
    let digest = read::digest(&path.1)?;
    let announced = body::announced(&body, MAX_PATCH)?;
    body::to_its_end(async move {
        let coming = app.uploads.begin(Key::patch(namespace.clone(), digest), announced).await?;
        let place = Blobs::Uploaded(namespace.clone());
        let size = app.blobs.put(&place.place(), &digest, MAX_PATCH, body::pieces(body)).await?;
        let created = Timestamp::now();
        let statement = app.signing.uploaded(digest, namespace.clone(), &person.subject, created);
        let (by, statement) = (person.subject, Some(statement));
        let patch =
            PatchRecord { namespace, digest, base: None, result: None, by, statement, place, size, created };
        let status = sources::record(&app, |found| {
            // What a Run captured goes with the Run; from now on it stays, with what is known and stated of its trees.
            let Some(Object::Patch(known)) = found else { return Object::Patch(Arc::new(patch.clone())) };
            let (base, result) = (known.base.clone(), known.result.clone());
            let statement = known.statement.clone().filter(|_| still_good(&app, known, created));
            let statement = statement.or(patch.statement.clone());
            Object::Patch(Arc::new(PatchRecord { base, result, statement, ..patch.clone() }))
        });
        let status = status.await?;
        coming.stored(size);
        Ok(status)
    })
    .await
}

/// Whether a daemon will believe what is stated of a patch: not once the key has expired that signed it.
fn still_good(app: &App, known: &PatchRecord, now: Timestamp) -> bool {
    known.statement.as_ref().is_some_and(|statement| statement.verify(app.signing.history(), now).is_ok())
}
