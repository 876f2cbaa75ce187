//! `/v1/blobs/{digest}`: what an attempt stores and fetches, with its lease token.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use runtimed_api::digest::Digest;
use runtimed_api::problem::{Code, Problem};
use runtimed_api::session::Arrived;
use runtimed_client::content::{self, Plan};
use runtimed_store::{MAX_BLOB, PART};
use serde::Deserialize;

use super::answer::{Answer, Failure};
use super::query::Query;
use super::read::digest;
use super::{App, Shared, body};
use crate::auth::{bearer, unknown};
use crate::core::{Blobs, Record};

/// Which part of a blob.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    /// What comes after so many bytes of it.
    #[serde(default)]
    from: u64,
}

pub(super) async fn put(
    State(app): Shared,
    Path(path): Path<String>,
    Query(part): Query<Part>,
    headers: HeaderMap,
    body: Body,
) -> Answer<StatusCode> {
    let digest = digest(&path)?;
    let run = attempt(&app, &headers).await?;
    let is_small = part.from == 0 && body::announced(&body, MAX_BLOB)? <= PART as u64;
    body::to_its_end(async move {
        let place = Blobs::Run(run.uid.clone()).place();
        let body = body::pieces(body);
        let size = if is_small {
            app.blobs.put(&place, &digest, MAX_BLOB, body).await?
        } else {
            app.arrivals.take(&app.blobs, &run.uid, &digest, part.from, body).await?
        };
        // A try before this one may have left parts: its daemon, or the controller of then, did not live to its end.
        app.blobs.sweep_blob(&place, &digest, size).await;
        app.metrics.kept(size);
        Ok(StatusCode::CREATED)
    })
    .await
}

/// How much of a large blob has arrived, so that its daemon sends only the rest after its connection broke.
pub(super) async fn arrived(
    State(app): Shared,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Answer<Json<Arrived>> {
    let digest = digest(&path)?;
    let run = attempt(&app, &headers).await?;
    Ok(Json(Arrived { bytes: app.arrivals.arrived(&run.uid, &digest).await }))
}

/// Gives what attempts of this Run stored, the prior patches of this attempt, and the work tree it starts from.
pub(super) async fn get(
    State(app): Shared,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Answer<Response> {
    let digest = digest(&path)?;
    let run = attempt(&app, &headers).await?;
    let patch = run.private.patches.iter().find(|grant| grant.patch.digest == digest);
    let place = match patch {
        Some(grant) => grant.place.clone(),
        None if run.uploaded() == Some(&digest) => Blobs::Trees(run.key.namespace.clone()),
        None => Blobs::Run(run.uid.clone()),
    };
    send(&app, &place, &digest, "application/octet-stream", &headers).await
}

/// A blob as an answer, or the part of it that is asked for.
pub(super) async fn send(
    app: &App,
    place: &Blobs,
    digest: &Digest,
    kind: &str,
    headers: &HeaderMap,
) -> Answer<Response> {
    let place = place.place();
    let size = app.blobs.size(&place, digest).await?;
    let plan = content::plan(headers, digest, size);
    let body = match &plan {
        Plan::Whole => Body::from_stream(app.blobs.get(&place, digest, None).await?.bytes),
        Plan::Part(part) => Body::from_stream(app.blobs.get(&place, digest, Some(part.clone())).await?.bytes),
        Plan::Unchanged | Plan::Beyond => Body::empty(),
    };
    Ok(content::answer(&plan, digest, size, kind, body))
}

/// The Run whose attempt has this lease token, while its daemon has it.
pub(super) async fn attempt(app: &App, headers: &HeaderMap) -> Answer<Arc<Record>> {
    let token = bearer(headers)?;
    let Some(attempt) = app.tokens.verify(token) else {
        if app.authority.daemon(headers).is_ok() {
            let problem =
                Problem::new(Code::Forbidden, "blobs take the token of a lease, not the daemon's own");
            return Err(Failure(problem));
        }
        return Err(Failure(unknown()));
    };
    Ok(app.engine.attempt(attempt).await?)
}
