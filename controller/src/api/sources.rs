//! Work trees and archives that people upload, for Runs that start from them.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use runtimed_api::ids::Namespace;
use runtimed_api::problem::Problem;
use runtimed_api::rule::{Refusal, Rule};
use runtimed_api::run::Run;
use runtimed_api::tokens::Role;
use runtimed_store::BlobError;

use super::answer::{Answer, Failure};
use super::{App, Shared, body, read};
use crate::auth::allow;
use crate::core::Blobs;
use crate::store::{Key, Object, StoreError, TreeRecord};

/// The largest source that may be uploaded, in bytes.
const MAX_PACK: u64 = 64 * 1024 * 1024;
/// How often a record may change between the look at it and the write.
const RACES: usize = 16;

/// Uploads a work tree or an archive. Its bytes are read where they are used, by a confined process.
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
    let announced = body::announced(&body, MAX_PACK)?;
    body::to_its_end(async move {
        let coming = app.uploads.begin(Key::tree(namespace.clone(), digest), announced).await?;
        let place = Blobs::Trees(namespace.clone()).place();
        let size = app.blobs.put(&place, &digest, MAX_PACK, body::pieces(body)).await?;
        let tree = TreeRecord { namespace, digest, size, by: person.subject, created: Timestamp::now() };
        let tree = Object::Tree(Arc::new(tree));
        let status = record(&app, |_| tree.clone()).await?;
        coming.stored(size);
        Ok(status)
    })
    .await
}

/// Stores the record of an upload, made from the one that is there: what is uploaded once more is kept for as long again.
pub(super) async fn record(app: &App, made: impl Fn(Option<&Object>) -> Object) -> Answer<StatusCode> {
    let mut answer = app.store.create(made(None)).await;
    for _ in 0..RACES {
        answer = match answer {
            Ok(_) => return Ok(StatusCode::CREATED),
            Err(StoreError::Exists(found)) => {
                match app.store.replace(made(Some(&found.object)), found.version).await {
                    Ok(_) => return Ok(StatusCode::OK),
                    // Somebody else brought the same, or it went with a Run, in this moment.
                    Err(StoreError::Conflict | StoreError::Missing) => app.store.create(made(None)).await,
                    Err(error) => Err(error),
                }
            }
            Err(error) => return Err(error.into()),
        };
    }
    answer.map(|_| StatusCode::OK).map_err(Failure::from)
}

/// Refuses a Run whose uploaded source is not there.
pub(super) async fn check(app: &App, namespace: &Namespace, run: &Run) -> Answer<()> {
    let uploaded = run.spec.source.as_ref().and_then(|source| source.uploaded());
    let Some(digest) = uploaded else { return Ok(()) };
    match app.blobs.size(&Blobs::Trees(namespace.clone()).place(), digest).await {
        Ok(_) => Ok(()),
        Err(BlobError::Missing) => {
            let message = format!("namespace {namespace} has no upload {digest}");
            let refusal = Refusal::new(Rule::SOURCE_UNKNOWN, "spec.source", message);
            let refusal = refusal.hint("send it again: `runtimectl run` does with --here and --archive");
            Err(Failure(Problem::refused(vec![refusal])))
        }
        Err(error) => Err(error.into()),
    }
}
