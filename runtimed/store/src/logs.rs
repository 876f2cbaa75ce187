//! Logs: segments that are named by where they begin, so that the names are the index, and a segment that has grown takes
//! the place of what it was.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use bytes::Bytes;
use futures_util::stream::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutPayload};
use runtimed_api::ids::AttemptNumber;

use super::{BlobError, BlobStore, Place};

/// The largest segment, in bytes. A daemon begins another at 4 MiB, and its last record may go beyond that.
const MAX_SEGMENT: u64 = 8 * 1024 * 1024;

/// A segment that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPart {
    /// The offset of its first byte of text.
    pub offset: u64,
}

impl BlobStore {
    /// Keeps a segment, in the place of a shorter one that begins there. A segment only ever grows, so that one that is not
    /// longer is an older state of what is there: it was long on its way, or is what a crash of a machine left. It is answered
    /// as kept. Two that come through one store at once are told apart as well; those of two stores over one bucket are not,
    /// and are the same daemon's, which sends one after the other.
    ///
    /// # Errors
    /// It cannot be stored.
    pub async fn put_log(
        &self,
        place: &Place,
        attempt: AttemptNumber,
        offset: u64,
        segment: Bytes,
    ) -> Result<(), BlobError> {
        if segment.len() as u64 > MAX_SEGMENT {
            return Err(BlobError::TooLarge(MAX_SEGMENT));
        }
        self.room()?;
        let path = self.log(place, attempt).join(format!("{offset:020}"));
        let _alone = self.alone(&path).await;
        match self.store.head(&path).await {
            Ok(there) if there.size >= segment.len() as u64 => return Ok(()),
            Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(BlobError::Store(error)),
        }
        self.store.put(&path, PutPayload::from_bytes(segment)).await.map(drop).map_err(BlobError::Store)
    }

    /// The segments that are there, in order.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub async fn log_parts(&self, place: &Place, attempt: AttemptNumber) -> Result<Vec<LogPart>, BlobError> {
        let prefix = self.log(place, attempt);
        let found: Vec<_> = self.store.list(Some(&prefix)).try_collect().await.map_err(BlobError::Store)?;
        let offset = |path: &Path| path.filename().and_then(|name| name.parse().ok());
        let mut parts: Vec<_> =
            found.iter().filter_map(|meta| Some(LogPart { offset: offset(&meta.location)? })).collect();
        parts.sort_by_key(|part| part.offset);
        Ok(parts)
    }

    /// The bytes of a segment.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub async fn read_log(
        &self,
        place: &Place,
        attempt: AttemptNumber,
        part: LogPart,
    ) -> Result<Bytes, BlobError> {
        let path = self.log(place, attempt).join(format!("{:020}", part.offset));
        self.read_path(&path, MAX_SEGMENT).await
    }

    async fn alone(&self, path: &Path) -> tokio::sync::MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        path.hash(&mut hasher);
        let among = self.segments.len() as u64;
        self.segments[usize::try_from(hasher.finish() % among).unwrap_or(0)].lock().await
    }

    fn log(&self, place: &Place, attempt: AttemptNumber) -> Path {
        self.within(place).join("logs").join(attempt.0.to_string())
    }
}
