use std::collections::BTreeMap;
use std::path::Path;

use runtimed_api::duration::Span;
use tempfile::TempDir;

use super::*;
use crate::core::{RunKey, Submitted};

fn open(dir: &Path) -> SqliteStore {
    SqliteStore::open(&dir.join("controller.db")).expect("opens")
}

fn store() -> (TempDir, SqliteStore) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    (dir, store)
}

fn record(name: &str, uid: &str) -> Record {
    let spec = serde_json::json!({ "runtime": "bash", "command": ["true"] });
    let submitted = Submitted {
        key: RunKey { namespace: "default".parse().expect("a name"), name: name.parse().expect("a name") },
        uid: uid.parse().expect("a uid"),
        generate_name: None,
        labels: BTreeMap::from([("parity".to_owned(), (name.len() % 2).to_string())]),
        spec: serde_json::from_value(spec).expect("a spec"),
        requested_by: "alice".to_owned(),
        trace: None,
        queue: Span::from_secs(60),
        submitted_secrets: false,
    };
    Record::submitted(submitted, Timestamp::UNIX_EPOCH)
}

fn run(name: &str, uid: &str) -> Object {
    Object::Run(Arc::new(record(name, uid)))
}

pub(super) fn reasoned(name: &str, uid: &str, reason: &str) -> Object {
    let mut record = record(name, uid);
    record.status.reason = Some(reason.to_owned());
    Object::Run(Arc::new(record))
}

#[tokio::test]
async fn an_object_is_found_as_it_was_stored() {
    let (_dir, store) = store();
    let object = run("a", "u1");
    let stored = store.create(object.clone()).await.expect("created");
    assert_eq!(stored.object, object);
    let found = store.get(object.key()).await.expect("read").expect("there");
    assert_eq!((found.object, found.version), (object.clone(), stored.version));
    let elsewhere = Key { namespace: "other".parse().expect("a name"), ..object.key() };
    assert!(store.get(elsewhere).await.expect("read").is_none());
    let Err(StoreError::Exists(existing)) = store.create(run("a", "u2")).await else { panic!("it exists") };
    assert_eq!(existing.object, object);
}

#[tokio::test]
async fn of_two_writers_of_one_state_one_wins() {
    let (_dir, store) = store();
    let first = store.create(run("a", "u1")).await.expect("created");
    let one = store.replace(reasoned("a", "u1", "one"), first.version);
    let two = store.replace(reasoned("a", "u1", "two"), first.version);
    let (one, two) = tokio::join!(one, two);
    let (won, lost) = if one.is_ok() { (one, two) } else { (two, one) };
    assert!(matches!(lost, Err(StoreError::Conflict)));
    let won = won.expect("stored");
    let found = store.get(won.object.key()).await.expect("read").expect("there");
    assert_eq!(found.object, won.object);
    let key = won.object.key();
    assert!(matches!(store.delete(key.clone(), first.version).await, Err(StoreError::Conflict)));
    store.delete(key.clone(), won.version).await.expect("deleted");
    assert!(matches!(store.delete(key, won.version).await, Err(StoreError::Missing)));
    assert!(matches!(store.replace(run("a", "u1"), won.version).await, Err(StoreError::Missing)));
}

#[tokio::test]
async fn a_name_that_was_deleted_and_made_anew_conflicts_with_what_was() {
    let (dir, store) = store();
    let first = store.create(run("a", "u1")).await.expect("created");
    store.delete(first.object.key(), first.version).await.expect("deleted");
    drop(store);
    let store = open(dir.path());
    store.create(run("a", "u2")).await.expect("created");
    assert!(matches!(store.replace(run("a", "u1"), first.version).await, Err(StoreError::Conflict)));
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_restart() {
    let (dir, store) = store();
    let created = store.create(run("a", "u1")).await.expect("created");
    let replaced = store.replace(reasoned("a", "u1", "changed"), created.version).await.expect("stored");
    drop(store);
    let store = open(dir.path());
    let found = store.get(replaced.object.key()).await.expect("read").expect("there");
    assert_eq!((found.object, found.version), (replaced.object, replaced.version));
}

#[tokio::test]
async fn the_watch_tells_every_change_in_order_and_before_its_answer() {
    let (_dir, store) = store();
    let mut watch = store.watch();
    let created = store.create(run("a", "u1")).await.expect("created");
    let Ok(Change::Put(seen)) = watch.try_recv() else { panic!("it is announced") };
    assert_eq!(seen.version, created.version);
    let many = (0..50).map(|index| store.create(run(&format!("r{index}"), &format!("u-{index}"))));
    futures_util::future::try_join_all(many).await.expect("created");
    let conflict = store.replace(run("a", "u1"), Version(999)).await;
    assert!(matches!(conflict, Err(StoreError::Conflict)));
    store.delete(created.object.key(), created.version).await.expect("deleted");
    let mut names = Vec::new();
    while let Ok(change) = watch.try_recv() {
        match change {
            Change::Put(stored) => names.push(stored.object.key().name),
            Change::Deleted(object) => names.push(format!("-{}", object.key().name)),
        }
    }
    let expected: Vec<_> = (0..50).map(|index| format!("r{index}")).chain(["-a".to_owned()]).collect();
    assert_eq!(names, expected);
}

#[tokio::test]
async fn pages_are_newest_first_and_filtered() {
    let (_dir, store) = store();
    for index in 0..7 {
        let name = "x".repeat(index + 1);
        store.create(run(&name, &format!("u{index}"))).await.expect("created");
    }
    let mut query = Query { limit: 3, ..Query::default() };
    let mut uids = Vec::new();
    loop {
        let page = store.list(query.clone()).await.expect("listed");
        assert!(page.runs.len() <= 3);
        uids.extend(page.runs.iter().map(|(record, _)| record.uid.to_string()));
        query.before = page.next;
        if query.before.is_none() {
            break;
        }
    }
    assert_eq!(uids, ["u6", "u5", "u4", "u3", "u2", "u1", "u0"]);
    let labels = BTreeMap::from([("parity".to_owned(), "1".to_owned())]);
    let odd = store.list(Query { limit: 2, labels, ..Query::default() }).await.expect("listed");
    let uids: Vec<_> = odd.runs.iter().map(|(record, _)| record.uid.as_str()).collect();
    assert_eq!(uids, ["u6", "u4"]);
    assert!(odd.next.is_some());
    let running = Query { limit: 9, phase: Some(Phase::Running), ..Query::default() };
    assert!(store.list(running).await.expect("listed").runs.is_empty());
    let namespace = Some("other".parse().expect("a name"));
    assert!(
        store.list(Query { limit: 9, namespace, ..Query::default() }).await.expect("listed").runs.is_empty()
    );
}

#[tokio::test]
async fn a_patch_is_kept_by_its_digest() {
    let (_dir, store) = store();
    let namespace: Namespace = "default".parse().expect("a name");
    let digest = Digest::of(b"patch");
    let object = Object::Patch(Arc::new(PatchRecord {
        namespace: namespace.clone(),
        digest,
        base: None,
        result: None,
        by: "alice".to_owned(),
        statement: None,
        place: Blobs::Uploaded(namespace.clone()),
        size: 0,
        created: Timestamp::UNIX_EPOCH,
    }));
    store.create(object.clone()).await.expect("created");
    let found = store.get(Key::patch(namespace, digest)).await.expect("read").expect("there");
    assert_eq!(found.object, object);
    assert!(store.list(Query { limit: 9, ..Query::default() }).await.expect("listed").runs.is_empty());
}

#[test]
fn a_newer_schema_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("controller.db");
    let connection = rusqlite::Connection::open(&path).expect("opens");
    connection.pragma_update(None, "user_version", 99).expect("set");
    drop(connection);
    let error = SqliteStore::open(&path).expect_err("refused");
    assert!(matches!(error, OpenError::TooNew { found: 99, .. }), "{error}");
}

/// As the first controllers made it; never to be changed.
const SCHEMA_1: &str = "
    CREATE TABLE object (kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL,
        uid TEXT, phase TEXT, body BLOB NOT NULL, PRIMARY KEY (kind, namespace, name)) STRICT, WITHOUT ROWID;
    CREATE INDEX object_by_age ON object (kind, namespace, uid);
    CREATE INDEX object_by_age_anywhere ON object (kind, uid);
    CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    INSERT INTO counter VALUES ('version', 7);
    PRAGMA user_version = 1;
";

/// A Run as it was stored then.
const RUN_1: &str = r#"{"key":{"namespace":"default","name":"old"},"uid":"u0","created":"2026-01-01T00:00:00Z",
    "spec":{"runtime":"bash","command":["true"]},
    "status":{"phase":"Pending","since":"2026-01-01T00:00:00Z","reason":"waits for a daemon","requestedBy":"alice","fence":0},
    "private":{"queue":"1m"}}"#;

#[tokio::test]
async fn an_older_database_is_brought_up_to_date_with_all_that_is_in_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let connection = rusqlite::Connection::open(dir.path().join("controller.db")).expect("opens");
    connection.execute_batch(SCHEMA_1).expect("made");
    let insert = "INSERT INTO object VALUES ('run', 'default', 'old', 7, 'u0', 'Pending', ?1)";
    connection.execute(insert, [RUN_1.as_bytes()]).expect("stored");
    drop(connection);
    for _ in 0..2 {
        let store = open(dir.path());
        let query = Query { limit: 9, phase: Some(Phase::Pending), ..Query::default() };
        let page = store.list(query).await.expect("listed");
        let [(record, version)] = page.runs.as_slice() else { panic!("{:?}", page.runs) };
        assert_eq!((record.key.name.as_str(), *version), ("old", Version(7)));
    }
    let store = open(dir.path());
    let found = store.get(Key::run(&record("old", "u0").key)).await.expect("read").expect("there");
    let next = store.replace(found.object, found.version).await.expect("stored");
    assert_eq!(next.version, Version(8));
    let connection = rusqlite::Connection::open(dir.path().join("controller.db")).expect("opens");
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).expect("read");
    assert_eq!(version, 2);
}
