//! Artifacts: the list, and each file.

use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use runtimed_api::manifest::Manifest;
use runtimed_api::parse;
use runtimed_api::problem::{Code, Problem};
use runtimed_api::tokens::Role;

use super::answer::{Answer, Failure, not_found};
use super::blobs::bytes;
use super::patches::Which;
use super::{App, Shared, read};
use crate::blobs::Blob;
use crate::core::Blobs;

/// The largest manifest that is read, in bytes.
const MAX_MANIFEST: u64 = 16 * 1024 * 1024;

/// The manifest of a Run's artifacts.
pub(super) async fn manifest(
    State(app): Shared,
    Path(path): Path<(String, String)>,
    Query(which): Query<Which>,
    headers: HeaderMap,
) -> Answer<axum::Json<Manifest>> {
    let (manifest, _) = find(&app, &headers, path, &which).await?;
    Ok(axum::Json(manifest))
}

/// One artifact.
pub(super) async fn artifact(
    State(app): Shared,
    Path((namespace, name, file)): Path<(String, String, String)>,
    Query(which): Query<Which>,
    headers: HeaderMap,
) -> Answer<Response> {
    let (manifest, place) = find(&app, &headers, (namespace, name), &which).await?;
    let found = manifest.files.iter().find(|artifact| artifact.path == file);
    let shown: String = file.chars().take(200).collect();
    let artifact = found.ok_or_else(|| not_found(format!("there is no artifact {shown:?}")))?;
    let blob: Blob = app.blobs.get(&place, &artifact.digest).await?;
    Ok(bytes(blob, &artifact.content_type))
}

async fn find(
    app: &App,
    headers: &HeaderMap,
    path: (String, String),
    which: &Which,
) -> Answer<(Manifest, Blobs)> {
    let asked = app.asked(headers, path, Role::Observer)?;
    let run = app.run(&asked.key).await?;
    let attempt = read::attempt(read::status(&run)?, which.attempt, |attempt| {
        attempt.result.as_ref().is_some_and(|result| result.artifacts.is_some())
    })?;
    let summary = attempt.and_then(|attempt| attempt.result.as_ref()?.artifacts.as_ref());
    let summary = summary.ok_or_else(|| not_found(format!("the Run {} has no artifacts", asked.key)))?;
    let place = read::place(&run)?;
    let text = app.blobs.read(&place, &summary.manifest, MAX_MANIFEST).await?;
    let manifest = parse::json(&text).map_err(|error| {
        tracing::error!(run = %asked.key, %error, "a manifest cannot be read");
        Failure(Problem::new(Code::Internal, "the list of artifacts cannot be read"))
    })?;
    Ok((manifest, place))
}
