//! `/v1/blobs/{digest}`: what an attempt stores and fetches, with its lease token.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use runtimed_api::digest::Digest;
use runtimed_api::problem::{Code, Problem};
use runtimed_client::content::{self, Plan};
use runtimed_store::MAX_BLOB;

use super::answer::{Answer, Failure};
use super::read::digest;
use super::{App, Shared, body};
use crate::auth::{bearer, unknown};
use crate::core::{Blobs, Record};

pub(super) async fn put(
    State(app): Shared,
    Path(path): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer<StatusCode> {
    let digest = digest(&path)?;
    let run = attempt(&app, &headers).await?;
    let place = Blobs::Run(run.uid.clone());
    body::to_its_end(async move {
        let place = place.place();
        let size = app.blobs.put(&place, &digest, MAX_BLOB, body::pieces(body)).await?;
        // A try before this one may have left parts: its daemon, or the controller of then, did not live to its end.
        app.blobs.sweep_blob(&place, &digest, size).await;
        app.metrics.kept(size);
        Ok(StatusCode::CREATED)
    })
    .await
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
