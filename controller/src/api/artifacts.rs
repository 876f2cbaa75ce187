//! Artifacts: the list, each file, and directories of them as one archive.

mod archive;

use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use runtimed_api::manifest::Manifest;
use runtimed_api::parse;
use runtimed_api::problem::{Code, Problem};
use runtimed_api::tokens::Role;
use serde::Deserialize;

use super::answer::{Answer, Failure, invalid, not_found};
use super::blobs::{attempt, send};
use super::patches::Which;
use super::{App, Shared, read};
use crate::core::{Blobs, RunKey};

/// The largest manifest that is read, in bytes.
const MAX_MANIFEST: u64 = 16 * 1024 * 1024;

/// Of which attempt, and in which form.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Form {
    /// Of this attempt; the newest that has artifacts without it.
    attempt: Option<u32>,
    /// `tar`: the files as one archive.
    format: Option<String>,
}

/// The manifest of a Run's artifacts, or all of them as an archive.
pub(super) async fn manifest(
    State(app): Shared,
    Path(path): Path<(String, String)>,
    form: Result<Query<Form>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Answer<Response> {
    let (form, tar) = read_form(form)?;
    let (manifest, place) = find(&app, &headers, path, &form).await?;
    if tar {
        Ok(archive::answer(&app.blobs, &place, &manifest.files))
    } else {
        Ok(axum::Json(manifest).into_response())
    }
}

/// One artifact, or those of a directory as an archive.
pub(super) async fn artifact(
    State(app): Shared,
    Path((namespace, name, file)): Path<(String, String, String)>,
    form: Result<Query<Form>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Answer<Response> {
    let (form, tar) = read_form(form)?;
    let (mut manifest, place) = find(&app, &headers, (namespace, name), &form).await?;
    let shown: String = file.chars().take(200).collect();
    if tar {
        let below = format!("{}/", file.trim_end_matches('/'));
        manifest.files.retain(|artifact| artifact.path.starts_with(&below));
        if manifest.files.is_empty() {
            return Err(not_found(format!("there are no artifacts below {shown:?}")));
        }
        return Ok(archive::answer(&app.blobs, &place, &manifest.files));
    }
    let found = manifest.files.iter().find(|artifact| artifact.path == file);
    let artifact = found.ok_or_else(|| not_found(format!("there is no artifact {shown:?}")))?;
    send(&app, &place, &artifact.digest, &artifact.content_type, &headers).await
}

fn read_form(form: Result<Query<Form>, axum::extract::rejection::QueryRejection>) -> Answer<(Which, bool)> {
    let Query(form) = form.map_err(|error| invalid(error.body_text()))?;
    let tar = match form.format.as_deref() {
        None => false,
        Some("tar") => true,
        Some(_) => return Err(invalid("format is `tar`, or is left out")),
    };
    Ok((Which { attempt: form.attempt }, tar))
}

/// The manifest of a Run whose artifacts the attempt that asks starts from or reads, with its lease token.
pub(super) async fn leased_manifest(
    State(app): Shared,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Answer<axum::Json<Manifest>> {
    let key = source_of(&app, &headers, &name).await?;
    let (manifest, _) = newest(&app, &key, &Which::default()).await?;
    Ok(axum::Json(manifest))
}

/// One file of it, by its digest.
pub(super) async fn leased_file(
    State(app): Shared,
    Path((name, digest)): Path<(String, String)>,
    headers: HeaderMap,
) -> Answer<Response> {
    let digest = read::digest(&digest)?;
    let key = source_of(&app, &headers, &name).await?;
    let place = read::place(&app.run(&key).await?)?;
    send(&app, &place, &digest, "application/octet-stream", &headers).await
}

/// The Run of this name, in the namespace of the attempt that asks, if that attempt's Run names it as its source or as an
/// input.
async fn source_of(app: &App, headers: &HeaderMap, name: &str) -> Answer<RunKey> {
    let asking = attempt(app, headers).await?;
    let name = name.parse()?;
    let source = asking.spec.source.as_ref().and_then(|source| source.artifacts.as_ref());
    let named = source.map(|artifacts| &artifacts.run);
    if !named.into_iter().chain(asking.spec.inputs.iter().map(|input| &input.run)).any(|run| *run == name) {
        let message = format!("the Run {} does not name the artifacts of {name}", asking.key);
        return Err(Failure(Problem::new(Code::Forbidden, message)));
    }
    Ok(RunKey { namespace: asking.key.namespace.clone(), name })
}

async fn find(
    app: &App,
    headers: &HeaderMap,
    path: (String, String),
    which: &Which,
) -> Answer<(Manifest, Blobs)> {
    let asked = app.asked(headers, path, Role::Observer)?;
    newest(app, &asked.key, which).await
}

async fn newest(app: &App, key: &RunKey, which: &Which) -> Answer<(Manifest, Blobs)> {
    let run = app.run(key).await?;
    let found = read::attempt(read::status(&run)?, which.attempt, |attempt| {
        attempt.result.as_ref().is_some_and(|result| result.artifacts.is_some())
    })?;
    let summary = found.and_then(|attempt| attempt.result.as_ref()?.artifacts.as_ref());
    let summary = summary.ok_or_else(|| not_found(format!("the Run {key} has no artifacts")))?;
    let place = read::place(&run)?;
    let text = app.blobs.read(&place.place(), &summary.manifest, MAX_MANIFEST).await?;
    let manifest = parse::json(&text).map_err(|error| {
        tracing::error!(run = %key, %error, "a manifest cannot be read");
        Failure(Problem::new(Code::Internal, "the list of artifacts cannot be read"))
    })?;
    Ok((manifest, place))
}
