//! The thread that writes: group commit.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use tokio::sync::{mpsc, oneshot};

use super::{Change, Key, Object, StoreError, Stored, Version, failed, reader, schema};
use crate::store::Kind;

/// Writes in one transaction at most: bounds how long the first of them waits.
const GROUP: usize = 256;

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// A write that somebody waits for.
#[derive(Debug)]
pub(super) enum Write {
    Create { row: Row, answer: Answer<Stored> },
    Replace { row: Row, version: Version, answer: Answer<Stored> },
    Delete { key: Key, version: Version, answer: Answer<()> },
}

/// What is asked of the thread.
#[derive(Debug)]
pub(super) enum Request {
    Write(Write),
    /// Leave nothing that was deleted in the write-ahead log; answered with `false` while a reader still needs it.
    EmptyLog(Answer<bool>),
}

/// An object, serialised by who writes it and not by the one thread that all writes go through.
#[derive(Debug)]
pub(super) struct Row {
    object: Object,
    key: Key,
    uid: Option<String>,
    phase: Option<String>,
    body: Vec<u8>,
}

impl Row {
    pub(super) fn of(object: Object) -> Result<Self, StoreError> {
        let (uid, phase, body) = match &object {
            Object::Run(record) => (
                Some(record.uid.to_string()),
                Some(record.status.phase.to_string()),
                serde_json::to_vec(record.as_ref()),
            ),
            Object::Patch(patch) => (None, None, serde_json::to_vec(patch.as_ref())),
            Object::Tree(tree) => (None, None, serde_json::to_vec(tree.as_ref())),
            Object::Secrets(secrets) => (None, None, Ok(secrets.sealed.clone())),
        };
        let body = body.map_err(|error| StoreError::Failed(Arc::from(error.to_string())))?;
        Ok(Self { key: object.key(), object, uid, phase, body })
    }
}

/// What was done within a transaction, to be told when it is committed.
enum Done {
    Put(Result<Stored, StoreError>, Answer<Stored>),
    Deleted(Result<Object, StoreError>, Answer<()>),
}

impl Done {
    fn error(&self) -> Option<StoreError> {
        match self {
            Self::Put(result, _) => result.as_ref().err().cloned(),
            Self::Deleted(result, _) => result.as_ref().err().cloned(),
        }
    }
}

pub(super) fn run(
    mut connection: Connection,
    mut requests: mpsc::Receiver<Request>,
    mut watchers: mpsc::UnboundedReceiver<mpsc::UnboundedSender<Change>>,
) {
    let mut watching: Vec<mpsc::UnboundedSender<Change>> = Vec::new();
    let mut group = Vec::with_capacity(GROUP);
    while requests.blocking_recv_many(&mut group, GROUP) > 0 {
        while let Ok(watcher) = watchers.try_recv() {
            watching.push(watcher);
        }
        let mut asked = Vec::new();
        let mut writes = Vec::with_capacity(group.len());
        for request in group.drain(..) {
            match request {
                Request::Write(write) => writes.push(write),
                Request::EmptyLog(answer) => asked.push(answer),
            }
        }
        if !writes.is_empty() {
            let mut done = Vec::with_capacity(writes.len());
            let committed = commit(&mut connection, writes.into_iter(), &mut done);
            tell(done, committed, &mut watching);
        }
        for answer in asked {
            drop(answer.send(schema::empty_log(&connection).map_err(|error| failed(&error))));
        }
    }
}

/// Applies a group in one transaction. `Err` means that nothing of it is stored.
///
/// A write that finds the disk full, or failing, can make SQLite roll back all of the transaction by itself
/// (<https://www.sqlite.org/lang_transaction.html>, "Response To Errors Within A Transaction"): what came after it would be
/// committed alone, write by write.
fn commit(
    connection: &mut Connection,
    group: impl Iterator<Item = Write>,
    done: &mut Vec<Done>,
) -> Result<(), StoreError> {
    // The group is drained even when the transaction cannot begin: each of its writes gets an answer.
    let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate);
    let transaction = match begun {
        Ok(transaction) => transaction,
        Err(error) => {
            let error = failed(&error);
            done.extend(group.map(|write| refused(write, &error)));
            return Err(error);
        }
    };
    let mut next = transaction
        .query_row("SELECT value FROM counter WHERE name = 'version'", [], |row| row.get::<_, i64>(0))
        .map_err(|error| failed(&error));
    for write in group {
        let one = match &mut next {
            Ok(next) => apply(&transaction, next, write),
            Err(error) => refused(write, error),
        };
        if next.is_ok() && transaction.is_autocommit() {
            next = Err(one
                .error()
                .unwrap_or_else(|| StoreError::Failed(Arc::from("SQLite took the transaction back"))));
        }
        done.push(one);
    }
    let next = next?;
    transaction
        .prepare_cached("UPDATE counter SET value = ?1 WHERE name = 'version'")
        .and_then(|mut statement| statement.execute([next]))
        .and_then(|_| transaction.commit())
        .map_err(|error| failed(&error))
}

fn tell(
    done: Vec<Done>,
    committed: Result<(), StoreError>,
    watching: &mut Vec<mpsc::UnboundedSender<Change>>,
) {
    let mut announce = |change: Change| watching.retain(|watcher| watcher.send(change.clone()).is_ok());
    // Every change is announced before any of them is answered: see the promise of `Store`.
    if committed.is_ok() {
        for one in &done {
            match one {
                Done::Put(Ok(stored), _) => announce(Change::Put(stored.clone())),
                Done::Deleted(Ok(object), _) => announce(Change::Deleted(object.clone())),
                Done::Put(Err(_), _) | Done::Deleted(Err(_), _) => {}
            }
        }
    }
    for one in done {
        // Whoever does not wait any more does not need the answer.
        match one {
            Done::Put(result, answer) => {
                drop(answer.send(committed.clone().and(result)));
            }
            Done::Deleted(result, answer) => {
                drop(answer.send(committed.clone().and(result.map(|_| ()))));
            }
        }
    }
}

fn refused(write: Write, error: &StoreError) -> Done {
    match write {
        Write::Create { answer, .. } | Write::Replace { answer, .. } => Done::Put(Err(error.clone()), answer),
        Write::Delete { answer, .. } => Done::Deleted(Err(error.clone()), answer),
    }
}

fn apply(transaction: &Transaction<'_>, next: &mut i64, write: Write) -> Done {
    match write {
        Write::Create { row, answer } => Done::Put(create(transaction, next, row), answer),
        Write::Replace { row, version, answer } => {
            Done::Put(replace(transaction, next, row, version), answer)
        }
        Write::Delete { key, version, answer } => Done::Deleted(delete(transaction, &key, version), answer),
    }
}

fn create(transaction: &Transaction<'_>, next: &mut i64, row: Row) -> Result<Stored, StoreError> {
    if let Some(existing) = reader::get(transaction, &row.key)? {
        return Err(StoreError::Exists(Box::new(existing)));
    }
    let version = raise(next);
    transaction
        .prepare_cached(
            "INSERT INTO object (kind, namespace, name, version, uid, phase, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                kind(row.key.kind),
                row.key.namespace.as_str(),
                row.key.name,
                version,
                row.uid,
                row.phase,
                row.body
            ])
        })
        .map_err(|error| failed(&error))?;
    Ok(Stored { object: row.object, version: opaque(version) })
}

fn replace(
    transaction: &Transaction<'_>,
    next: &mut i64,
    row: Row,
    expected: Version,
) -> Result<Stored, StoreError> {
    check(transaction, &row.key, expected)?;
    let version = raise(next);
    transaction
        .prepare_cached(
            "UPDATE object SET version = ?4, phase = ?5, body = ?6
             WHERE kind = ?1 AND namespace = ?2 AND name = ?3",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                kind(row.key.kind),
                row.key.namespace.as_str(),
                row.key.name,
                version,
                row.phase,
                row.body
            ])
        })
        .map_err(|error| failed(&error))?;
    Ok(Stored { object: row.object, version: opaque(version) })
}

fn delete(transaction: &Transaction<'_>, key: &Key, expected: Version) -> Result<Object, StoreError> {
    let stored = reader::get(transaction, key)?.ok_or(StoreError::Missing)?;
    if stored.version != expected {
        return Err(StoreError::Conflict);
    }
    transaction
        .prepare_cached("DELETE FROM object WHERE kind = ?1 AND namespace = ?2 AND name = ?3")
        .and_then(|mut statement| {
            statement.execute(params![kind(key.kind), key.namespace.as_str(), key.name])
        })
        .map_err(|error| failed(&error))?;
    Ok(stored.object)
}

fn check(transaction: &Transaction<'_>, key: &Key, expected: Version) -> Result<(), StoreError> {
    let found = transaction
        .prepare_cached("SELECT version FROM object WHERE kind = ?1 AND namespace = ?2 AND name = ?3")
        .and_then(|mut statement| {
            statement
                .query_row(params![kind(key.kind), key.namespace.as_str(), key.name], |row| {
                    row.get::<_, i64>(0)
                })
                .optional()
        })
        .map_err(|error| failed(&error))?;
    match found.map(opaque) {
        None => Err(StoreError::Missing),
        Some(found) if found != expected => Err(StoreError::Conflict),
        Some(_) => Ok(()),
    }
}

fn raise(next: &mut i64) -> i64 {
    *next = next.saturating_add(1);
    *next
}

pub(super) fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Run => "run",
        Kind::Patch => "patch",
        Kind::Tree => "tree",
        Kind::Secrets => "secrets",
    }
}

pub(super) fn opaque(version: i64) -> Version {
    Version(u64::try_from(version).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::reasoned;

    fn create(name: &str, bytes: usize) -> Write {
        let row = Row::of(reasoned(name, name, &"x".repeat(bytes))).expect("a row");
        Write::Create { row, answer: oneshot::channel().0 }
    }

    #[test]
    fn of_a_group_that_does_not_fit_nothing_is_stored() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("controller.db");
        std::fs::File::create_new(&path).expect("made");
        let mut connection = schema::open(&path).expect("opens");
        connection.pragma_update(None, "max_page_count", 64).expect("set");
        let group = || [create("a", 10), create("b", 1 << 20), create("c", 10)].into_iter();
        let mut done = Vec::new();
        assert!(matches!(commit(&mut connection, group(), &mut done), Err(StoreError::Full)));
        assert_eq!(done.len(), 3);
        let rows = |connection: &Connection| {
            connection
                .query_row("SELECT count(*) FROM object", [], |row| row.get::<_, i64>(0))
                .expect("counted")
        };
        assert_eq!(rows(&connection), 0);
        connection.pragma_update(None, "max_page_count", 100_000).expect("set");
        commit(&mut connection, group(), &mut done).expect("stored");
        assert_eq!(rows(&connection), 3);
    }
}
