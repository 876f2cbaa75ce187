//! `/v1/blobs/{digest}`: what an attempt stores and fetches, with its lease token.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use runtimed_api::problem::{Code, Problem};

use super::answer::{Answer, Failure};
use super::read::digest;
use super::{App, Shared};
use crate::auth::{bearer, unknown};
use crate::blobs::Blob;
use crate::core::{Blobs, Record};

/// The largest blob, in bytes.
const MAX_BLOB: u64 = 1 << 30;

pub(super) async fn put(
    State(app): Shared,
    Path(path): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer<StatusCode> {
    let digest = digest(&path)?;
    let run = attempt(&app, &headers).await?;
    let place = Blobs::Run(run.uid.clone());
    app.blobs.put(&place, &digest, MAX_BLOB, body.into_data_stream()).await?;
    Ok(StatusCode::CREATED)
}

/// Gives what attempts of this Run stored, and the prior patches of this attempt.
pub(super) async fn get(
    State(app): Shared,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Answer<Response> {
    let digest = digest(&path)?;
    let run = attempt(&app, &headers).await?;
    let patch = run.private.patches.iter().find(|grant| grant.patch.digest == digest);
    let place = patch.map_or_else(|| Blobs::Run(run.uid.clone()), |grant| grant.place.clone());
    Ok(bytes(app.blobs.get(&place, &digest).await?, "application/octet-stream"))
}

/// A blob as an answer. A browser must neither guess its type nor show it as a page of ours.
pub(super) fn bytes(blob: Blob, kind: &str) -> Response {
    let headers = [
        (CONTENT_TYPE.as_str(), kind.to_owned()),
        (CONTENT_LENGTH.as_str(), blob.size.to_string()),
        ("x-content-type-options", "nosniff".to_owned()),
        ("content-disposition", "attachment".to_owned()),
    ];
    // A type that a header cannot hold was made by a Run; then the answer goes without it.
    let valid = axum::http::HeaderValue::from_str(kind).is_ok();
    let body = Body::from_stream(blob.bytes);
    if valid { (headers, body).into_response() } else { body.into_response() }
}

/// The Run whose attempt has this lease token, while its daemon has it.
async fn attempt(app: &App, headers: &HeaderMap) -> Answer<Arc<Record>> {
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
