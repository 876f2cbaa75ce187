//! The results of a Run beside its own record: its Patch by digest, and the removal of everything.

use std::sync::Arc;

use jiff::Timestamp;
use runtimed_api::ids::{Namespace, RunUid};
use runtimed_api::provenance::Envelope;
use runtimed_api::run::status::Patch;
use runtimed_api::session::ReportEvent;
use runtimed_store::{BlobError, BlobStore};

use crate::core::{Blobs, Record, RunKey};
use crate::store::{Key, Object, PatchRecord, Store, StoreError, Stored};

/// The Patch that a report tells of.
pub(super) fn captured(event: &ReportEvent) -> Option<&Patch> {
    match event {
        ReportEvent::Finished(result) => result.patch.as_ref().filter(|patch| patch.digest.is_some()),
        ReportEvent::Exited(_) | ReportEvent::Declined(_) => None,
    }
}

/// Makes a captured Patch known in its namespace by its digest. The newest Run that made it is where its bytes are, for
/// that one is kept longest; an uploaded one stays where it is.
pub(super) async fn note_patch(
    store: &dyn Store,
    run: &Record,
    patch: &Patch,
    statement: Envelope,
    now: Timestamp,
) -> Result<(), StoreError> {
    let Some(digest) = patch.digest else { return Ok(()) };
    let object = Object::Patch(Arc::new(PatchRecord {
        namespace: run.key.namespace.clone(),
        digest,
        base: Some(patch.base.clone()),
        result: Some(patch.result.clone()),
        by: format!("run {}", run.key.name),
        statement: Some(statement),
        place: Blobs::Run(run.uid.clone()),
        size: patch.size,
        created: now,
    }));
    match store.create(object.clone()).await {
        Ok(_) => Ok(()),
        Err(StoreError::Exists(found)) => match &found.object {
            Object::Patch(known) if matches!(known.place, Blobs::Uploaded(_)) => Ok(()),
            _ => store.replace(object, found.version).await.map(drop),
        },
        Err(error) => Err(error),
    }
}

/// Removes a Run and all that it left: its results first, so that what fails in between is found and tried again.
pub(super) async fn remove(
    store: &dyn Store,
    blobs: &BlobStore,
    key: &RunKey,
    uid: &RunUid,
) -> Result<(), StoreError> {
    let Some(stored) = store.get(Key::run(key)).await? else { return Ok(()) };
    let Some(record) = stored.object.run().filter(|record| record.uid == *uid) else { return Ok(()) };
    let place = Blobs::Run(uid.clone());
    for digest in record.status.attempts.iter().filter_map(|a| a.result.as_ref()?.patch.as_ref()?.digest) {
        let patch = Key::patch(Namespace::clone(&key.namespace), digest);
        if let Some(Stored { object: Object::Patch(known), version }) = store.get(patch.clone()).await?
            && known.place == place
        {
            store.delete(patch, version).await?;
        }
    }
    let failed = |error: BlobError| StoreError::Failed(Arc::from(error.to_string()));
    blobs.remove(&place.place()).await.map_err(failed)?;
    match store.delete(Key::run(key), stored.version).await {
        Err(StoreError::Missing) => Ok(()),
        other => other,
    }
}
