//! The store in one SQLite file.
//!
//! One thread owns the connection that writes. It takes whatever waits, applies it in one transaction, commits (WAL with
//! `synchronous=FULL`: one fsync), and only then answers: under load one fsync serves many writes, and a lone write waits
//! for nobody. A second connection, on a thread of its own, reads: a long list never delays a write.
//!
//! What is deleted is overwritten with zeros, and after secrets were the log is emptied soon: of them no copy stays.

mod reader;
mod schema;
mod writer;

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::{Change, Key, Kind, Object, Page, Query, Store, StoreError, Stored, Version};

/// Requests that wait at most; more make the askers wait.
const QUEUE: usize = 1024;
/// After secrets were deleted, the write-ahead log is emptied: once for all that follow within this.
const EMPTIED_AFTER: Duration = Duration::from_secs(1);

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be made or opened.
    #[error("the database {} cannot be opened: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// SQLite refused it.
    #[error("the database {} cannot be used: {source}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// A newer controller wrote it.
    #[error("the database {} has schema {found}, and this controller knows {known}: use the newer controller", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
}

/// The store in one SQLite file.
pub struct SqliteStore {
    writes: mpsc::Sender<writer::Request>,
    /// Somebody waits to empty the log.
    emptying: Arc<AtomicBool>,
    reads: mpsc::Sender<reader::Read>,
    watch: mpsc::UnboundedSender<mpsc::UnboundedSender<Change>>,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SqliteStore")
    }
}

impl SqliteStore {
    /// Opens the database, making it (mode 0600) when it is not there, and brings its schema up to date. The threads end
    /// when the store is dropped.
    ///
    /// # Errors
    /// The file cannot be made or opened, is no database of ours, or was written by a newer controller.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let file = |source| OpenError::File { path: path.to_owned(), source };
        // SQLite gives its WAL files the mode of the database, so this one decides for all.
        let handle = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(file)?;
        handle.set_permissions(fs::Permissions::from_mode(0o600)).map_err(file)?;
        drop(handle);

        let writing = schema::open(path)?;
        let reading = schema::open_to_read(path)?;
        let (writes, incoming_writes) = mpsc::channel(QUEUE);
        let (reads, incoming_reads) = mpsc::channel(QUEUE);
        let (watch, watchers) = mpsc::unbounded_channel();
        thread::Builder::new()
            .name("store-write".to_owned())
            .spawn(move || writer::run(writing, incoming_writes, watchers))
            .map_err(file)?;
        thread::Builder::new()
            .name("store-read".to_owned())
            .spawn(move || reader::run(&reading, incoming_reads))
            .map_err(file)?;
        Ok(Self { writes, emptying: Arc::default(), reads, watch })
    }

    async fn write<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> writer::Request,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.writes.send(make(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// Leaves nothing that was deleted in the write-ahead log. `false` while a reader still needs it.
    ///
    /// # Errors
    /// The store failed.
    pub async fn empty_log(&self) -> Result<bool, StoreError> {
        self.write(writer::Request::EmptyLog).await
    }

    /// Does so within a second or two, once for all that is deleted until then: beside the log lies the key that opens what
    /// is in it.
    fn empty_log_soon(&self) {
        if self.emptying.swap(true, Ordering::AcqRel) {
            return;
        }
        let (writes, emptying) = (self.writes.downgrade(), Arc::clone(&self.emptying));
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(EMPTIED_AFTER).await;
                // What is deleted from here on asks for itself.
                emptying.store(false, Ordering::Release);
                // A store that is dropped ends without it; the next one begins with it.
                let Some(writes) = writes.upgrade() else { return };
                let (answer, answered) = oneshot::channel();
                if writes.send(writer::Request::EmptyLog(answer)).await.is_err() {
                    return;
                }
                match answered.await {
                    Ok(Ok(true)) | Err(_) => return,
                    Ok(Ok(false)) => {}
                    Ok(Err(error)) => tracing::warn!(%error, "the database's log could not be emptied"),
                }
                if emptying.swap(true, Ordering::AcqRel) {
                    return;
                }
            }
        });
    }

    async fn read<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> reader::Read,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.reads.send(make(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl Store for SqliteStore {
    fn get(&self, key: Key) -> BoxFuture<'_, Result<Option<Stored>, StoreError>> {
        Box::pin(self.read(|answer| reader::Read::Get { key, answer }))
    }

    fn create(&self, object: Object) -> BoxFuture<'_, Result<Stored, StoreError>> {
        Box::pin(async move {
            let row = writer::Row::of(object)?;
            self.write(|answer| writer::Request::Write(writer::Write::Create { row, answer })).await
        })
    }

    fn replace(&self, object: Object, version: Version) -> BoxFuture<'_, Result<Stored, StoreError>> {
        Box::pin(async move {
            let row = writer::Row::of(object)?;
            let replace = |answer| writer::Write::Replace { row, version, answer };
            self.write(|answer| writer::Request::Write(replace(answer))).await
        })
    }

    fn delete(&self, key: Key, version: Version) -> BoxFuture<'_, Result<(), StoreError>> {
        let secret = key.kind == Kind::Secrets;
        let delete = move |answer| writer::Request::Write(writer::Write::Delete { key, version, answer });
        Box::pin(async move {
            self.write(delete).await?;
            if secret {
                self.empty_log_soon();
            }
            Ok(())
        })
    }

    fn all(&self, kind: Kind) -> BoxFuture<'_, Result<Vec<Stored>, StoreError>> {
        Box::pin(self.read(move |answer| reader::Read::All { kind, answer }))
    }

    fn list(&self, query: Query) -> BoxFuture<'_, Result<Page, StoreError>> {
        Box::pin(self.read(|answer| reader::Read::List { query: Box::new(query), answer }))
    }

    fn watch(&self) -> mpsc::UnboundedReceiver<Change> {
        let (changes, watching) = mpsc::unbounded_channel();
        // A writer that is gone drops the sender, and the watcher sees the end.
        drop(self.watch.send(changes));
        watching
    }
}

fn gone() -> StoreError {
    StoreError::Failed(Arc::from("its thread has ended"))
}

fn failed(error: &rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => StoreError::Full,
        _ => StoreError::Failed(Arc::from(error.to_string())),
    }
}
