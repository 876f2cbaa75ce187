//! The thread that reads.

use std::fmt::Write as _;
use std::sync::Arc;

use runtimed_api::ids::{InvalidId, Namespace};
use rusqlite::{Connection, OptionalExtension as _, Row, ToSql, params};
use tokio::sync::{mpsc, oneshot};

use super::writer::{kind, opaque};
use super::{Key, Object, Page, Query, StoreError, Stored, Version, failed};
use crate::core::Record;
use crate::store::{Kind, PatchRecord, SealedSecrets, TreeRecord};

/// Runs looked at for one page. A page may hold fewer than asked for, and still say that there are more: a rare label
/// must not make one request read the whole table.
const LOOKED_AT: usize = 10_000;

/// A read that somebody waits for.
#[derive(Debug)]
pub(super) enum Read {
    Get { key: Key, answer: oneshot::Sender<Result<Option<Stored>, StoreError>> },
    All { kind: Kind, answer: oneshot::Sender<Result<Vec<Stored>, StoreError>> },
    List { query: Box<Query>, answer: oneshot::Sender<Result<Page, StoreError>> },
}

pub(super) fn run(connection: &Connection, mut reads: mpsc::Receiver<Read>) {
    while let Some(read) = reads.blocking_recv() {
        // Whoever does not wait any more does not need the answer.
        match read {
            Read::Get { key, answer } => drop(answer.send(get(connection, &key))),
            Read::All { kind, answer } => drop(answer.send(all(connection, kind))),
            Read::List { query, answer } => drop(answer.send(list(connection, &query))),
        }
    }
}

/// One object, as this connection sees it.
pub(super) fn get(connection: &Connection, key: &Key) -> Result<Option<Stored>, StoreError> {
    let found: Option<(i64, Vec<u8>)> = connection
        .prepare_cached("SELECT version, body FROM object WHERE kind = ?1 AND namespace = ?2 AND name = ?3")
        .and_then(|mut statement| {
            statement
                .query_row(params![kind(key.kind), key.namespace.as_str(), key.name], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
                .optional()
        })
        .map_err(|error| failed(&error))?;
    let Some((version, body)) = found else { return Ok(None) };
    let object = object(key.kind, &key.namespace, &key.name, body)?;
    Ok(Some(Stored { object, version: opaque(version) }))
}

fn all(connection: &Connection, of: Kind) -> Result<Vec<Stored>, StoreError> {
    let mut statement = connection
        .prepare_cached("SELECT namespace, name, version, body FROM object WHERE kind = ?1")
        .map_err(|error| failed(&error))?;
    let rows = statement
        .query_map([kind(of)], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?, row.get(3)?))
        })
        .map_err(|error| failed(&error))?;
    let mut found = Vec::new();
    for row in rows {
        let (namespace, name, version, body) = row.map_err(|error| failed(&error))?;
        let namespace = namespace.parse().map_err(|error| misnamed(&error))?;
        found.push(Stored { object: object(of, &namespace, &name, body)?, version: opaque(version) });
    }
    Ok(found)
}

fn object(kind: Kind, namespace: &Namespace, name: &str, body: Vec<u8>) -> Result<Object, StoreError> {
    Ok(match kind {
        Kind::Run => Object::Run(Arc::new(run_of(&body)?)),
        Kind::Patch => Object::Patch(Arc::new(
            serde_json::from_slice::<PatchRecord>(&body).map_err(|error| unreadable(&error))?,
        )),
        Kind::Tree => Object::Tree(Arc::new(
            serde_json::from_slice::<TreeRecord>(&body).map_err(|error| unreadable(&error))?,
        )),
        Kind::Secrets => Object::Secrets(Arc::new(SealedSecrets {
            namespace: namespace.clone(),
            uid: name.parse().map_err(|error| misnamed(&error))?,
            sealed: body,
        })),
    })
}

fn list(connection: &Connection, query: &Query) -> Result<Page, StoreError> {
    let mut sql = "SELECT version, body FROM object WHERE kind = 'run'".to_owned();
    let namespace = query.namespace.as_ref().map(ToString::to_string);
    let phase = query.phase.map(|phase| phase.to_string());
    let before = query.before.as_ref().map(ToString::to_string);
    let mut values: Vec<&dyn ToSql> = Vec::new();
    for (condition, value) in [("namespace =", &namespace), ("phase =", &phase), ("uid <", &before)] {
        if let Some(value) = value {
            values.push(value);
            // Writing to a String cannot fail.
            let _infallible = write!(sql, " AND {condition} ?{}", values.len());
        }
    }
    let _infallible = write!(sql, " ORDER BY uid DESC LIMIT {}", LOOKED_AT + 1);

    let mut page = Page::default();
    let mut statement = connection.prepare_cached(&sql).map_err(|error| failed(&error))?;
    let mut rows = statement.query(values.as_slice()).map_err(|error| failed(&error))?;
    let mut last = None;
    let mut looked_at = 0;
    while let Some(row) = rows.next().map_err(|error| failed(&error))? {
        if page.runs.len() == query.limit || looked_at == LOOKED_AT {
            page.next = last;
            break;
        }
        looked_at += 1;
        let (record, version) = read_row(row)?;
        last = Some(record.uid.clone());
        if query.labels.iter().all(|(key, value)| record.labels.get(key) == Some(value)) {
            page.runs.push((Arc::new(record), version));
        }
    }
    Ok(page)
}

fn read_row(row: &Row<'_>) -> Result<(Record, Version), StoreError> {
    let read = || Ok((row.get::<_, i64>(0)?, row.get_ref(1)?.as_blob()?));
    let (version, body) = read().map_err(|error: rusqlite::Error| failed(&error))?;
    Ok((run_of(body)?, opaque(version)))
}

fn run_of(body: &[u8]) -> Result<Record, StoreError> {
    serde_json::from_slice(body).map_err(|error| unreadable(&error))
}

fn unreadable(error: &serde_json::Error) -> StoreError {
    StoreError::Failed(Arc::from(format!("an object in it cannot be read: {error}")))
}

fn misnamed(error: &InvalidId) -> StoreError {
    StoreError::Failed(Arc::from(format!("an object in it cannot be read: {error}")))
}
