//! What is kept, and for how long: finished Runs by number, uploads by time, and nothing that nobody knows of.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use jiff::{SignedDuration, Timestamp};
use runtimed_api::digest::Digest;
use runtimed_api::ids::{Namespace, RunName, RunUid};
use runtimed_store::{BlobStore, Place};

use super::State;
use super::ops::{Done, Op, REMOVE_AGAIN};
use super::timers::Timer;
use crate::core::{Blobs, Record, RunKey};
use crate::store::{Key, Kind, Object, Store, StoreError, Stored};

/// The finished Runs of each namespace, those that ended first in front. Empty where none goes for its number.
#[derive(Debug, Default)]
pub(super) struct Finished {
    by_namespace: HashMap<Namespace, BTreeSet<(Timestamp, RunName, RunUid)>>,
}

impl State {
    /// A Run is over: the one that ended first goes if there are more than are kept.
    pub(super) fn note_finished_run(&mut self, record: &Record) {
        let (Some(most), Some(finished)) = (self.parts.quota.kept, record.status.finished_at) else { return };
        let RunKey { namespace, name } = record.key.clone();
        let of_namespace = self.finished.by_namespace.entry(namespace.clone()).or_default();
        of_namespace.insert((finished, name, record.uid.clone()));
        let mut surplus = Vec::new();
        while of_namespace.len() > most {
            surplus.extend(of_namespace.pop_first());
        }
        for (_, name, uid) in surplus {
            self.start(RunKey { namespace: namespace.clone(), name }, Op::Remove { uid });
        }
    }

    /// A finished Run was removed.
    pub(super) fn forget_finished_run(&mut self, record: &Record) {
        let Some(finished) = record.status.finished_at else { return };
        let RunKey { namespace, name } = record.key.clone();
        if let Some(of_namespace) = self.finished.by_namespace.get_mut(&namespace) {
            of_namespace.remove(&(finished, name, record.uid.clone()));
            if of_namespace.is_empty() {
                self.finished.by_namespace.remove(&namespace);
            }
        }
    }

    /// Sets a deadline for everything uploaded that is stored.
    pub(super) async fn expire_uploads(&mut self) -> Result<(), StoreError> {
        for kind in [Kind::Patch, Kind::Tree] {
            for stored in self.parts.store.all(kind).await? {
                self.note_upload(&stored.object);
            }
        }
        Ok(())
    }

    /// Something was stored, now or before: if somebody uploaded it, it goes by time.
    pub(super) fn note_upload(&mut self, object: &Object) {
        if let Some(upload) = Upload::of(object) {
            self.timers.at_time(upload.end(self.parts.keep_uploads), Timer::Upload(object.key()));
        }
    }

    /// Removes what was uploaded, unless it was uploaded once more.
    pub(super) fn remove_upload(&mut self, key: Key) {
        let (store, blobs) = (Arc::clone(&self.parts.store), self.parts.blobs.clone());
        let keep = self.parts.keep_uploads;
        let removal = async move {
            let result = remove(&*store, &blobs, &key, keep).await;
            Done::UploadGone { key, result }
        };
        self.under_way.push(removal.boxed());
    }

    /// It is removed, or is tried again later.
    pub(super) fn upload_gone(&mut self, key: Key, result: Result<(), StoreError>) {
        if let Err(error) = result {
            tracing::warn!(upload = %key.name, %error, "an upload could not be removed; it is tried again");
            self.timers.at(tokio::time::Instant::now() + REMOVE_AGAIN, Timer::Upload(key));
        }
    }
}

/// What somebody uploaded: a patch, or a work tree.
struct Upload {
    place: Blobs,
    digest: Digest,
    created: Timestamp,
}

impl Upload {
    fn of(object: &Object) -> Option<Self> {
        match object {
            Object::Patch(patch) if matches!(patch.place, Blobs::Uploaded(_)) => {
                Some(Self { place: patch.place.clone(), digest: patch.digest, created: patch.created })
            }
            Object::Tree(tree) => {
                let place = Blobs::Trees(tree.namespace.clone());
                Some(Self { place, digest: tree.digest, created: tree.created })
            }
            Object::Patch(_) | Object::Run(_) | Object::Secrets(_) => None,
        }
    }

    fn end(&self, keep: Duration) -> Timestamp {
        let keep = SignedDuration::try_from(keep).unwrap_or(SignedDuration::MAX);
        self.created.checked_add(keep).unwrap_or(Timestamp::MAX)
    }
}

/// Its bytes first, so that what fails in between is found and tried again.
async fn remove(store: &dyn Store, blobs: &BlobStore, key: &Key, keep: Duration) -> Result<(), StoreError> {
    let Some(Stored { object, version }) = store.get(key.clone()).await? else { return Ok(()) };
    let Some(upload) = Upload::of(&object).filter(|upload| upload.end(keep) <= Timestamp::now()) else {
        return Ok(());
    };
    let removed = blobs.remove_one(&upload.place.place(), &upload.digest).await;
    removed.map_err(|error| StoreError::Failed(Arc::from(error.to_string())))?;
    match store.delete(key.clone(), version).await {
        // Uploaded once more in this moment: its bytes are gone, and so is the record at the next try.
        Err(StoreError::Missing) => Ok(()),
        other => other,
    }
}

/// Removes the results of Runs that are not there: a crash came between the removal of a Run and that of its results, or
/// the database was restored from an older copy. Nobody waits for it.
pub(super) fn remove_orphans(blobs: BlobStore, orphans: HashSet<RunUid>) {
    if orphans.is_empty() {
        return;
    }
    tokio::spawn(async move {
        tracing::warn!(count = orphans.len(), "removing results of Runs that are not there");
        for uid in orphans {
            if let Err(error) = blobs.remove(&Place::of_run(&uid)).await {
                tracing::warn!(%uid, %error, "they are tried again at the next start");
            }
        }
    });
}
