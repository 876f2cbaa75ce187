//! The secrets that were submitted with Runs which are not over: open in memory, sealed in the store.
//!
//! They are stored before their Run is, and removed when it is over. What a crash leaves between the two is found at the
//! next start: secrets without such a Run are removed then.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::FutureExt as _;
use runtimed_api::ids::{Namespace, RunUid};
use runtimed_api::problem::{Code, Problem};
use tokio::time::Instant;

use super::State;
use super::ops::{Done, REMOVE_AGAIN};
use super::timers::Timer;
use crate::seal::{Sealer, Secrets};
use crate::store::{Key, Kind, Object, SealedSecrets, Store, StoreError};

/// Submitted secrets in memory at most, in bytes over all Runs.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// The secrets of Runs that are not over.
#[derive(Debug)]
pub(super) struct Vault {
    sealer: Sealer,
    open: HashMap<RunUid, Secrets>,
    bytes: usize,
    /// What was found at the start: the Runs are not known yet by then.
    found: Vec<(Namespace, RunUid)>,
}

impl Vault {
    /// Reads what is stored. What another key sealed is left out, and its Run ends as a fault that says so.
    pub(super) async fn read(store: &dyn Store, sealer: Sealer) -> Result<Self, StoreError> {
        let mut vault = Self { sealer, open: HashMap::new(), bytes: 0, found: Vec::new() };
        for stored in store.all(Kind::Secrets).await? {
            let Object::Secrets(kept) = stored.object else { continue };
            vault.found.push((kept.namespace.clone(), kept.uid.clone()));
            match vault.sealer.open(&kept.uid, &kept.sealed) {
                Ok(secrets) => vault.keep(kept.uid.clone(), secrets),
                Err(error) => tracing::error!(uid = %kept.uid, %error, "submitted secrets are lost"),
            }
        }
        Ok(vault)
    }

    pub(super) fn get(&self, uid: &RunUid) -> Option<&Secrets> {
        self.open.get(uid)
    }

    pub(super) fn room_for(&self, secrets: &Secrets) -> bool {
        secrets.is_empty() || self.bytes + bytes(secrets) <= MAX_BYTES
    }

    /// Keeps the secrets of a Run, and gives them sealed, to be stored before it.
    pub(super) fn take(
        &mut self,
        namespace: &Namespace,
        uid: &RunUid,
        secrets: Secrets,
    ) -> Result<Option<Object>, Problem> {
        if secrets.is_empty() {
            return Ok(None);
        }
        let sealed = self
            .sealer
            .seal(uid, &secrets)
            .map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
        self.keep(uid.clone(), secrets);
        let (namespace, uid) = (namespace.clone(), uid.clone());
        Ok(Some(Object::Secrets(Arc::new(SealedSecrets { namespace, uid, sealed }))))
    }

    fn keep(&mut self, uid: RunUid, secrets: Secrets) {
        self.bytes += bytes(&secrets);
        self.open.insert(uid, secrets);
    }

    fn drop_open(&mut self, uid: &RunUid) {
        if let Some(secrets) = self.open.remove(uid) {
            self.bytes -= bytes(&secrets);
        }
    }
}

impl State {
    /// Removes the secrets of a Run that is over, from memory and from the store.
    pub(super) fn forget_secrets(&mut self, namespace: Namespace, uid: RunUid) {
        self.vault.drop_open(&uid);
        let store = Arc::clone(&self.parts.store);
        let removal = async move {
            let result = remove(&*store, Key::secrets(namespace.clone(), &uid)).await;
            Done::Forgot { namespace, uid, result }
        };
        self.under_way.push(removal.boxed());
    }

    /// They are removed, or are tried again later.
    pub(super) fn forgot(&mut self, namespace: Namespace, uid: RunUid, result: Result<(), StoreError>) {
        if let Err(error) = result {
            tracing::warn!(%uid, %error, "secrets of a finished Run could not be removed; it is tried again");
            self.timers.at(Instant::now() + REMOVE_AGAIN, Timer::Forget(namespace, uid));
        }
    }

    /// After a start: what belongs to no Run that goes on is left from before a crash.
    pub(super) fn forget_left_over_secrets(&mut self) {
        for (namespace, uid) in std::mem::take(&mut self.vault.found) {
            if !self.index.has_uid(&uid) {
                self.forget_secrets(namespace, uid);
            }
        }
    }
}

async fn remove(store: &dyn Store, key: Key) -> Result<(), StoreError> {
    let Some(stored) = store.get(key.clone()).await? else { return Ok(()) };
    match store.delete(key, stored.version).await {
        Err(StoreError::Missing) => Ok(()),
        other => other,
    }
}

fn bytes(secrets: &Secrets) -> usize {
    secrets.values().map(|value| value.expose().len()).sum()
}
