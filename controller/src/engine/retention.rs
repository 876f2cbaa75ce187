//! What is kept, and for how long: finished Runs by number, uploads by time, and nothing that nobody knows of.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use jiff::{SignedDuration, Timestamp};
use runtimed_api::digest::Digest;
use runtimed_api::ids::{Namespace, RunName, RunUid};
use runtimed_store::{BlobStore, Place};

use super::ops::{Done, Op, REMOVE_AGAIN};
use super::timers::Timer;
use super::{Parts, State};
use crate::core::{Blobs, Record, RunKey};
use crate::store::{Key, Kind, Object, StoreError, Stored};

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
                if let Some(upload) = Upload::of(&stored.object) {
                    self.parts.uploads.keep(&stored.object.key(), upload.size);
                }
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
        let parts = self.parts.clone();
        let removal = async move {
            let result = remove(&parts, &key).await;
            Done::UploadGone { key, result }
        };
        self.under_way.push(removal.boxed());
    }

    /// It is removed, or is tried again later.
    pub(super) fn upload_gone(&mut self, key: Key, result: Result<Removal, StoreError>) {
        match result {
            Ok(Removal::Done) => return,
            Ok(Removal::Comes) => {}
            Err(error) => {
                tracing::warn!(upload = %key.name, %error, "an upload could not be removed; it is tried again");
            }
        }
        self.timers.at(tokio::time::Instant::now() + REMOVE_AGAIN, Timer::Upload(key));
    }
}

/// What somebody uploaded: a patch, or a work tree.
struct Upload {
    place: Blobs,
    digest: Digest,
    size: u64,
    created: Timestamp,
}

/// What became of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removal {
    /// It is gone, or is to stay.
    Done,
    /// It is just being uploaded once more, or another that has the same lock is.
    Comes,
}

impl Upload {
    fn of(object: &Object) -> Option<Self> {
        match object {
            Object::Patch(patch) if matches!(patch.place, Blobs::Uploaded(_)) => {
                let (digest, size, created) = (patch.digest, patch.size, patch.created);
                Some(Self { place: patch.place.clone(), digest, size, created })
            }
            Object::Tree(tree) => {
                let place = Blobs::Trees(tree.namespace.clone());
                Some(Self { place, digest: tree.digest, size: tree.size, created: tree.created })
            }
            Object::Patch(_) | Object::Run(_) | Object::Secrets(_) => None,
        }
    }

    fn end(&self, keep: Duration) -> Timestamp {
        let keep = SignedDuration::try_from(keep).unwrap_or(SignedDuration::MAX);
        self.created.checked_add(keep).unwrap_or(Timestamp::MAX)
    }
}

/// Its bytes first, so that what fails in between is found and tried again. Nobody brings it meanwhile: bytes that came once more
/// would go, and their record stay.
async fn remove(parts: &Parts, key: &Key) -> Result<Removal, StoreError> {
    let Some(_alone) = parts.uploads.removal(key) else { return Ok(Removal::Comes) };
    let Some(Stored { object, version }) = parts.store.get(key.clone()).await? else {
        return Ok(Removal::Done);
    };
    let over = |upload: &Upload| upload.end(parts.keep_uploads) <= Timestamp::now();
    let Some(upload) = Upload::of(&object).filter(over) else { return Ok(Removal::Done) };
    let removed = parts.blobs.remove_one(&upload.place.place(), &upload.digest).await;
    removed.map_err(|error| StoreError::Failed(Arc::from(error.to_string())))?;
    match parts.store.delete(key.clone(), version).await {
        Ok(()) | Err(StoreError::Missing) => {
            parts.uploads.forget(key);
            Ok(Removal::Done)
        }
        Err(error) => Err(error),
    }
}

/// Removes the results of Runs that are not there: a crash came between the removal of a Run and that of its results, or
/// the database was restored from an older copy. Nobody waits for it; what cannot be removed is tried again until it can.
pub(super) async fn remove_orphans(blobs: BlobStore, mut orphans: HashSet<RunUid>, again: Duration) {
    while !orphans.is_empty() {
        tracing::warn!(count = orphans.len(), "removing results of Runs that are not there");
        let mut left = HashSet::new();
        for uid in orphans {
            if let Err(error) = blobs.remove(&Place::of_run(&uid)).await {
                tracing::warn!(%uid, %error, "they could not be removed; it is tried again");
                left.insert(uid);
            }
        }
        orphans = left;
        if !orphans.is_empty() {
            tokio::time::sleep(again).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use runtimed_api::ids::AttemptNumber;

    use super::*;

    /// A tree that nobody can walk, not even root: a symbolic link in it leads back to its beginning.
    #[tokio::test]
    async fn results_that_could_not_be_removed_are_removed_later() {
        let dir = tempfile::tempdir().expect("a directory");
        let blobs = BlobStore::local(dir.path()).expect("a store");
        let run = dir.path().join("runs/0190-nobody");
        std::fs::create_dir_all(run.join("logs/1")).expect("made");
        std::fs::write(run.join("logs/1/00000000000000000000"), "a result").expect("written");
        let knot = run.join("logs/knot");
        std::os::unix::fs::symlink("..", &knot).expect("made");
        let uid: RunUid = "0190-nobody".parse().expect("a uid");
        let orphans = HashSet::from([uid.clone()]);
        let again = Duration::from_millis(10);
        let mut removal = tokio::spawn(remove_orphans(blobs.clone(), orphans, again));
        let early = tokio::time::timeout(10 * again, &mut removal).await;
        assert!(early.is_err(), "it goes on while anything is left");
        std::fs::remove_file(knot).expect("removed");
        removal.await.expect("it ends");
        assert!(blobs.log_parts(&Place::of_run(&uid), AttemptNumber(1)).await.expect("listed").is_empty());
    }
}
