//! Where Runs and patches are kept: what the Kubernetes API can do, and no more.
//!
//! A reader may rely on three things. A write that was answered is durable. Versions are opaque: they are compared for
//! equality alone. A change is in the watch before the write that made it is answered, and changes are in the watch in the
//! order in which they were made.

mod sqlite;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use runtimed_api::digest::Digest;
use runtimed_api::ids::{Namespace, RunUid, TreeId};
use runtimed_api::provenance::Envelope;
use runtimed_api::run::status::Phase;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::core::{Blobs, Record};

pub use sqlite::{OpenError, SqliteStore};

/// The kind of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A Run.
    Run,
    /// A patch that was uploaded to a namespace or captured in it.
    Patch,
    /// A work tree that was uploaded to a namespace.
    Tree,
    /// The secrets that were submitted with a Run.
    Secrets,
}

/// Names one object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Of which kind.
    pub kind: Kind,
    /// Whose.
    pub namespace: Namespace,
    /// Unique in kind and namespace.
    pub name: String,
}

/// An object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// A Run.
    Run(Arc<Record>),
    /// A patch.
    Patch(Arc<PatchRecord>),
    /// A work tree.
    Tree(Arc<TreeRecord>),
    /// Secrets.
    Secrets(Arc<SealedSecrets>),
}

/// The secrets that were submitted with a Run, under the Run's uid. They are stored before the Run is, and removed when
/// it is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSecrets {
    /// The Run's.
    pub namespace: Namespace,
    /// The Run.
    pub uid: RunUid,
    /// As [`crate::seal`] makes them.
    pub sealed: Vec<u8>,
}

/// A patch of a namespace, by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PatchRecord {
    /// Whose.
    pub namespace: Namespace,
    /// Of its bytes.
    pub digest: Digest,
    /// The tree it was made for, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<TreeId>,
    /// The tree it yields, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<TreeId>,
    /// Who uploaded it, or the Run that made it.
    pub by: String,
    /// The controller's statement about it; absent on those that were stored before there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement: Option<Envelope>,
    /// Where the bytes are.
    pub place: Blobs,
    /// How many; 0 on those that were stored before they were counted.
    #[serde(default)]
    pub size: u64,
    /// When it was stored.
    pub created: Timestamp,
}

/// An uploaded work tree of a namespace, by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TreeRecord {
    /// Whose.
    pub namespace: Namespace,
    /// Of its bytes.
    pub digest: Digest,
    /// How many; 0 on those that were stored before they were counted.
    #[serde(default)]
    pub size: u64,
    /// Who uploaded it last.
    pub by: String,
    /// When that was.
    pub created: Timestamp,
}

/// An object as it is stored.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The object.
    pub object: Object,
    /// Which of its states this is.
    pub version: Version,
}

/// Names one state of an object; good for nothing but comparing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version(pub(crate) u64);

/// What was changed.
#[derive(Debug, Clone)]
pub enum Change {
    /// An object is there, new or in a new state.
    Put(Stored),
    /// An object is gone; this was its last state.
    Deleted(Object),
}

/// Which Runs to list.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Of this namespace alone.
    pub namespace: Option<Namespace>,
    /// In this phase alone.
    pub phase: Option<Phase>,
    /// With all these labels.
    pub labels: BTreeMap<String, String>,
    /// At most so many.
    pub limit: usize,
    /// Those submitted before the one of this uid.
    pub before: Option<RunUid>,
}

/// A page of Runs, newest first.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The Runs.
    pub runs: Vec<(Arc<Record>, Version)>,
    /// There may be more before this one.
    pub next: Option<RunUid>,
}

/// A store that failed, or would not.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The object was changed since.
    #[error("the object was changed by another since it was read")]
    Conflict,
    /// An object of this name is there already.
    #[error("an object of this name is there already")]
    Exists(Box<Stored>),
    /// There is no such object.
    #[error("there is no such object")]
    Missing,
    /// There is no room for it.
    #[error("the store's file system is full")]
    Full,
    /// The store itself failed.
    #[error("the store failed: {0}")]
    Failed(Arc<str>),
}

/// What keeps objects. Each write is one durable change.
pub trait Store: Send + Sync + std::fmt::Debug {
    /// One object.
    fn get(&self, key: Key) -> BoxFuture<'_, Result<Option<Stored>, StoreError>>;

    /// Stores a new object; [`StoreError::Exists`] when the name is taken. The answer is the object as it was stored, for
    /// the store may be the one that gives a uid.
    fn create(&self, object: Object) -> BoxFuture<'_, Result<Stored, StoreError>>;

    /// Stores another state of an object; [`StoreError::Conflict`] when it is not at `version` any more, and
    /// [`StoreError::Missing`] when it is gone.
    fn replace(&self, object: Object, version: Version) -> BoxFuture<'_, Result<Stored, StoreError>>;

    /// Removes an object; errors as for [`Store::replace`].
    fn delete(&self, key: Key, version: Version) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Everything of a kind that is not many: all but Runs, in no order.
    fn all(&self, kind: Kind) -> BoxFuture<'_, Result<Vec<Stored>, StoreError>>;

    /// A page of Runs.
    fn list(&self, query: Query) -> BoxFuture<'_, Result<Page, StoreError>>;

    /// Every change from now on. There is one watcher, the engine, which never keeps it waiting.
    fn watch(&self) -> mpsc::UnboundedReceiver<Change>;
}

impl Object {
    /// The key it is stored under.
    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Self::Run(record) => Key::run(&record.key),
            Self::Patch(patch) => Key::patch(patch.namespace.clone(), patch.digest),
            Self::Tree(tree) => Key::tree(tree.namespace.clone(), tree.digest),
            Self::Secrets(secrets) => Key::secrets(secrets.namespace.clone(), &secrets.uid),
        }
    }

    /// The Run, if it is one.
    #[must_use]
    pub fn run(&self) -> Option<&Arc<Record>> {
        match self {
            Self::Run(record) => Some(record),
            Self::Patch(_) | Self::Tree(_) | Self::Secrets(_) => None,
        }
    }
}

impl Key {
    /// The key of a Run.
    #[must_use]
    pub fn run(key: &crate::core::RunKey) -> Self {
        Self { kind: Kind::Run, namespace: key.namespace.clone(), name: key.name.to_string() }
    }

    /// The key of a patch.
    #[must_use]
    pub fn patch(namespace: Namespace, digest: Digest) -> Self {
        Self { kind: Kind::Patch, namespace, name: digest.hex() }
    }

    /// The key of an uploaded work tree.
    #[must_use]
    pub fn tree(namespace: Namespace, digest: Digest) -> Self {
        Self { kind: Kind::Tree, namespace, name: digest.hex() }
    }

    /// The key of a Run's secrets.
    #[must_use]
    pub fn secrets(namespace: Namespace, uid: &RunUid) -> Self {
        Self { kind: Kind::Secrets, namespace, name: uid.to_string() }
    }
}

#[cfg(test)]
mod tests;
