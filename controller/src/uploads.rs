//! What people have uploaded to each namespace: how much of it there may be, and that nothing is removed which is just coming
//! once more.
//!
//! It is reckoned in memory, from what is stored at the start and from what comes and goes since.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use runtimed_api::ids::Namespace;
use runtimed_api::problem::{Code, Problem};
use runtimed_api::quantity::Bytes;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::store::Key;

/// The smallest one counts as much, in bytes: it takes a record and a file as well.
const LEAST: u64 = 4096;
/// Locks, of which each upload has one by chance: two that share one are at worst removed a minute later.
const LOCKS: usize = 64;

/// The uploads of all namespaces.
#[derive(Debug)]
pub struct Uploads {
    most: u64,
    of: Mutex<HashMap<Namespace, Held>>,
    /// Held for reading by what comes, and for writing by what goes.
    locks: [RwLock<()>; LOCKS],
    hasher: RandomState,
}

/// What one namespace has.
#[derive(Debug, Default)]
struct Held {
    stored: HashMap<Key, u64>,
    /// The sum of those.
    bytes: u64,
    /// What is promised to uploads that are under way.
    coming: u64,
}

/// An upload that is under way. Its room is given back when it is dropped, and what it has come to is counted instead.
#[derive(Debug)]
pub struct Coming<'a> {
    uploads: &'a Uploads,
    key: Key,
    promised: u64,
    _present: RwLockReadGuard<'a, ()>,
}

impl Uploads {
    /// So many bytes for each namespace at most.
    #[must_use]
    pub fn new(most: Bytes) -> Self {
        let locks = std::array::from_fn(|_| RwLock::new(()));
        Self { most: most.0, of: Mutex::default(), locks, hasher: RandomState::new() }
    }

    /// Makes room for an upload of at most so many bytes, and waits for a removal of the same that is under way. What is there
    /// already and is brought once more needs no room.
    ///
    /// # Errors
    /// The namespace has as much as it may.
    pub async fn begin(&self, key: Key, bytes: u64) -> Result<Coming<'_>, Problem> {
        let present = self.lock(&key).read().await;
        let mut of = self.of();
        let held = of.entry(key.namespace.clone()).or_default();
        let promised = if held.stored.contains_key(&key) { 0 } else { bytes.max(LEAST) };
        let taken = held.bytes.saturating_add(held.coming);
        if taken.saturating_add(promised) > self.most {
            return Err(self.full(&key.namespace, taken, promised));
        }
        held.coming += promised;
        drop(of);
        Ok(Coming { uploads: self, key, promised, _present: present })
    }

    /// Counts what is stored.
    pub fn keep(&self, key: &Key, bytes: u64) {
        let mut of = self.of();
        let held = of.entry(key.namespace.clone()).or_default();
        let bytes = bytes.max(LEAST);
        let before = held.stored.insert(key.clone(), bytes).unwrap_or(0);
        held.bytes = held.bytes.saturating_sub(before).saturating_add(bytes);
    }

    /// It is removed.
    pub fn forget(&self, key: &Key) {
        let mut of = self.of();
        let Some(held) = of.get_mut(&key.namespace) else { return };
        held.bytes = held.bytes.saturating_sub(held.stored.remove(key).unwrap_or(0));
        if held.stored.is_empty() && held.coming == 0 {
            of.remove(&key.namespace);
        }
    }

    /// Keeps uploads of this away while it is removed; `None` if one is under way.
    #[must_use]
    pub fn removal(&self, key: &Key) -> Option<RwLockWriteGuard<'_, ()>> {
        self.lock(key).try_write().ok()
    }

    fn lock(&self, key: &Key) -> &RwLock<()> {
        let chance = usize::try_from(self.hasher.hash_one(key) % LOCKS as u64).unwrap_or(0);
        &self.locks[chance]
    }

    fn of(&self) -> MutexGuard<'_, HashMap<Namespace, Held>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn full(&self, namespace: &Namespace, taken: u64, wanted: u64) -> Problem {
        let most = Bytes(self.most);
        if wanted > self.most {
            let message =
                format!("an upload of {wanted} bytes is more than namespace {namespace} may have: {most}");
            return Problem::new(Code::TooLarge, message)
                .hint("send less: a git source, or a smaller archive");
        }
        let message = format!(
            "namespace {namespace} has {taken} bytes of uploaded patches and sources, and may have {most} (--max-uploads): {wanted} more is too much"
        );
        let hint = "each goes some time after it was last uploaded (--keep-uploads): wait, or have the operator raise the bound";
        Problem::new(Code::RateLimited, message).hint(hint)
    }
}

impl Coming<'_> {
    /// It is stored, with so many bytes.
    pub fn stored(self, bytes: u64) {
        self.uploads.keep(&self.key, bytes);
    }
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        let mut of = self.uploads.of();
        if let Some(held) = of.get_mut(&self.key.namespace) {
            held.coming = held.coming.saturating_sub(self.promised);
            if held.stored.is_empty() && held.coming == 0 {
                of.remove(&self.key.namespace);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtimed_api::digest::Digest;

    fn key(namespace: &str, text: &str) -> Key {
        Key::patch(namespace.parse().expect("a name"), Digest::of(text.as_bytes()))
    }

    #[tokio::test]
    async fn a_namespace_has_so_much_room_and_no_more() {
        let uploads = Uploads::new(Bytes(100_000));
        let code = |problem: Problem| problem.code;
        let first = uploads.begin(key("a", "1"), 60_000).await.expect("there is room");
        // What is under way counts, and what broke does not.
        let refused = uploads.begin(key("a", "2"), 50_000).await.map_err(code);
        assert_eq!(refused.err(), Some(Code::RateLimited));
        assert_eq!(uploads.begin(key("a", "2"), 100_001).await.map_err(code).err(), Some(Code::TooLarge));
        uploads.begin(key("b", "1"), 100_000).await.expect("another namespace is not concerned");
        first.stored(55_000);
        let second = uploads.begin(key("a", "2"), 45_000).await.expect("room was left");
        drop(second);
        uploads.begin(key("a", "3"), 1).await.expect("it was given back").stored(1);
        // The smallest one counts too; and once more is no more.
        assert!(uploads.begin(key("a", "2"), 41_000).await.is_err());
        uploads.begin(key("a", "1"), 55_000).await.expect("it is there").stored(55_000);
        uploads.forget(&key("a", "1"));
        uploads.begin(key("a", "2"), 95_000).await.expect("room was made").stored(95_000);
        for text in ["2", "3"] {
            uploads.forget(&key("a", text));
        }
        assert!(uploads.of().is_empty(), "nothing is kept of who has nothing");
    }

    #[tokio::test]
    async fn what_is_coming_is_not_removed_and_what_is_removed_is_waited_for() {
        let uploads = Uploads::new(Bytes(100_000));
        let coming = uploads.begin(key("a", "1"), 1).await.expect("there is room");
        assert!(uploads.removal(&key("a", "1")).is_none());
        drop(coming);
        let going = uploads.removal(&key("a", "1")).expect("nobody brings it");
        let mut again = std::pin::pin!(uploads.begin(key("a", "1"), 1));
        assert!(futures_util::poll!(&mut again).is_pending());
        drop(going);
        again.await.expect("it goes on").stored(1);
    }
}
