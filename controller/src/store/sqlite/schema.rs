//! The tables, and how older ones become newer ones.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::OpenError;

/// How long one who finds the database locked waits.
const BUSY: Duration = Duration::from_secs(2);

/// Each entry brings the schema from its index to the next version. Entries are only ever added.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE object (
        kind      TEXT    NOT NULL,
        namespace TEXT    NOT NULL,
        name      TEXT    NOT NULL,
        -- Never used again, not even by another object: a deleted and recreated name conflicts.
        version   INTEGER NOT NULL,
        -- UUIDv7: its order is the order of creation.
        uid       TEXT,
        phase     TEXT,
        body      BLOB    NOT NULL,
        PRIMARY KEY (kind, namespace, name)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX object_by_age ON object (kind, namespace, uid);
    CREATE INDEX object_by_age_anywhere ON object (kind, uid);
    CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    INSERT INTO counter VALUES ('version', 0);
",
    "
    -- A page of one phase must not read every Run of the others.
    CREATE INDEX object_by_phase ON object (kind, namespace, phase, uid);
",
];

/// Opens the connection that writes, and migrates.
pub(super) fn open(path: &Path) -> Result<Connection, OpenError> {
    let sqlite = |source| OpenError::Sqlite { path: path.to_owned(), source };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(sqlite)?;
    // The exclusive writer is this process: a second controller on one directory must fail, not corrupt.
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
             PRAGMA temp_store = MEMORY; PRAGMA secure_delete = ON;",
        )
        .map_err(sqlite)?;
    connection.busy_timeout(BUSY).map_err(sqlite)?;
    // What a killed controller had deleted may still be in the log. Nobody reads yet, so that this takes all of it.
    empty_log(&connection).map_err(sqlite)?;
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(sqlite)?;
    if found > known {
        return Err(OpenError::TooNew { path: path.to_owned(), found, known });
    }
    let transaction = connection.transaction().map_err(sqlite)?;
    for migration in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        transaction.execute_batch(migration).map_err(sqlite)?;
    }
    transaction.pragma_update(None, "user_version", known).map_err(sqlite)?;
    transaction.commit().map_err(sqlite)?;
    Ok(connection)
}

/// Takes the write-ahead log into the database and empties it: deleted pages, which are overwritten there, stay in the log
/// otherwise until it is begun anew. `false` while a reader still needs it
/// (<https://www.sqlite.org/pragma.html#pragma_wal_checkpoint>).
pub(super) fn empty_log(connection: &Connection) -> rusqlite::Result<bool> {
    // Writes wait for the thread that does this: it waits for nobody, and is asked again.
    connection.busy_timeout(Duration::ZERO)?;
    let busy: rusqlite::Result<i64> =
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
    connection.busy_timeout(BUSY)?;
    Ok(busy? == 0)
}

/// Opens the connection that reads.
pub(super) fn open_to_read(path: &Path) -> Result<Connection, OpenError> {
    let sqlite = |source| OpenError::Sqlite { path: path.to_owned(), source };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(sqlite)?;
    connection.execute_batch("PRAGMA query_only = ON; PRAGMA busy_timeout = 2000;").map_err(sqlite)?;
    Ok(connection)
}
