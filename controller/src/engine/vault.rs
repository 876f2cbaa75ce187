//! The secrets that were submitted with Runs which are not over: open in memory, sealed in the store.
//!
//! They are stored before their Run is, and removed when it is over. What a crash leaves between the two is found at the
//! next start: secrets without such a Run are removed then.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::FutureExt as _;
use runtimed_api::digest::Digest;
use runtimed_api::ids::{Namespace, RunUid, SecretName};
use runtimed_api::problem::{Code, Problem};
use tokio::time::Instant;

use super::State;
use super::ops::{Done, REMOVE_AGAIN};
use super::timers::Timer;
use crate::seal::{Sealer, Secrets};
use crate::store::{Key, Kind, Object, SealedSecrets, Store, StoreError};

/// Submitted secrets in memory at most, in bytes over all Runs.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// Of those, what the Runs of one namespace may take.
const SHARE: usize = MAX_BYTES / 4;

/// The secrets of Runs that are not over.
#[derive(Debug)]
pub(super) struct Vault {
    sealer: Sealer,
    open: HashMap<RunUid, (Namespace, Secrets)>,
    /// Bytes of each namespace that has any.
    bytes: HashMap<Namespace, usize>,
    /// What was found at the start: the Runs are not known yet by then.
    found: Vec<(Namespace, RunUid)>,
}

impl Vault {
    /// Reads what is stored. What another key sealed is left out, and its Run ends as a fault that says so.
    pub(super) async fn read(store: &dyn Store, sealer: Sealer) -> Result<Self, StoreError> {
        let mut vault = Self { sealer, open: HashMap::new(), bytes: HashMap::new(), found: Vec::new() };
        for stored in store.all(Kind::Secrets).await? {
            let Object::Secrets(kept) = stored.object else { continue };
            vault.found.push((kept.namespace.clone(), kept.uid.clone()));
            match vault.sealer.open(&kept.uid, &kept.sealed) {
                Ok(secrets) => vault.keep(&kept.namespace, kept.uid.clone(), secrets),
                Err(error) => tracing::error!(uid = %kept.uid, %error, "submitted secrets are lost"),
            }
        }
        Ok(vault)
    }

    pub(super) fn get(&self, uid: &RunUid) -> Option<&Secrets> {
        self.open.get(uid).map(|(_, secrets)| secrets)
    }

    /// Whether a Run that goes on was `submitted` with other secrets than these. Of what cannot be opened nobody knows.
    pub(super) fn differs(&self, uid: &RunUid, submitted: bool, secrets: &Secrets) -> bool {
        match self.get(uid) {
            Some(kept) => digests(kept) != digests(secrets),
            None => !submitted && !secrets.is_empty(),
        }
    }

    /// Whether a namespace may keep these as well.
    pub(super) fn room_for(&self, namespace: &Namespace, secrets: &Secrets) -> bool {
        let more = bytes(secrets);
        let own = self.bytes.get(namespace).copied().unwrap_or(0);
        more == 0 || (own + more <= SHARE && self.bytes.values().sum::<usize>() + more <= MAX_BYTES)
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
        self.keep(namespace, uid.clone(), secrets);
        let (namespace, uid) = (namespace.clone(), uid.clone());
        Ok(Some(Object::Secrets(Arc::new(SealedSecrets { namespace, uid, sealed }))))
    }

    fn keep(&mut self, namespace: &Namespace, uid: RunUid, secrets: Secrets) {
        *self.bytes.entry(namespace.clone()).or_default() += bytes(&secrets);
        self.open.insert(uid, (namespace.clone(), secrets));
    }

    fn drop_open(&mut self, uid: &RunUid) {
        let Some((namespace, secrets)) = self.open.remove(uid) else { return };
        if let Some(own) = self.bytes.get_mut(&namespace) {
            *own -= bytes(&secrets);
            if *own == 0 {
                self.bytes.remove(&namespace);
            }
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

/// What two of them are compared by: how long that takes says nothing of the values.
fn digests(secrets: &Secrets) -> Vec<(&SecretName, Digest)> {
    secrets.iter().map(|(name, value)| (name, Digest::of(value.expose()))).collect()
}

fn bytes(secrets: &Secrets) -> usize {
    secrets.values().map(|value| value.expose().len()).sum()
}

#[cfg(test)]
mod tests {
    use runtimed_api::session::SecretValue;

    use super::*;

    #[test]
    fn a_namespace_has_its_share_and_leaves_the_others_theirs() {
        let dir = tempfile::tempdir().expect("a directory");
        let key = crate::key::Key::open(&dir.path().join("key")).expect("a key");
        let sealer = Sealer::under(&key).expect("seals");
        let mut vault = Vault { sealer, open: HashMap::new(), bytes: HashMap::new(), found: Vec::new() };
        let namespace = |name: &str| name.parse::<Namespace>().expect("a name");
        let uid = |number: usize| format!("u-{number}").parse::<RunUid>().expect("a uid");
        let large = || Secrets::from([("x".parse().expect("a name"), SecretValue::new(vec![0; 1 << 20]))]);
        let (one, other) = (namespace("one"), namespace("other"));
        for number in 0..16 {
            assert!(vault.room_for(&one, &large()), "{number}");
            vault.keep(&one, uid(number), large());
        }
        assert!(!vault.room_for(&one, &large()) && vault.room_for(&one, &Secrets::new()));
        assert!(vault.room_for(&other, &large()));
        vault.drop_open(&uid(3));
        assert!(vault.room_for(&one, &large()));
        (0..16).for_each(|number| vault.drop_open(&uid(number)));
        assert!(vault.bytes.is_empty());
    }
}
