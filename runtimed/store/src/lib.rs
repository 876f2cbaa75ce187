//! Where results are kept: log segments, patches, artifacts and their manifests.
//!
//! The controller keeps them in one of these stores; a daemon can be told to write to the same one itself. Blobs are named
//! by their digest, segments of logs by attempt and offset, all below the prefix of their Run, which goes as one:
//!
//! ```text
//! runs/UID/HEX                     a blob of a Run
//! runs/UID/logs/ATTEMPT/OFFSET     a segment of the log of one of its attempts
//! patches/NAMESPACE/HEX            a patch that somebody uploaded
//! trees/NAMESPACE/HEX              a work tree that somebody uploaded
//! ```
#![forbid(unsafe_code)]

mod config;
mod credentials;
mod incoming;
mod logs;
mod resume;
mod sweep;
mod upload;

use std::fmt;
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt as _};
use runtimed_api::digest::Digest;
use runtimed_api::ids::RunUid;
use sweep::Bucket;

pub use config::{StoreConfig, StoreError};
pub use incoming::Incoming;
pub use logs::LogPart;
pub use resume::Begun;
pub use sweep::SweepError;
pub use upload::PART;

/// The largest blob, in bytes: what a daemon collects as one artifact, and what a controller takes.
pub const MAX_BLOB: u64 = 4 << 30;

/// Bytes of a disk that blobs leave free, or a twentieth of it if that is less.
const RESERVE: u64 = 64 << 20;

/// A store. Clones are the same one.
#[derive(Clone)]
pub struct BlobStore {
    store: Arc<dyn ObjectStore>,
    /// The same store, where its uploads can be gone on with by their id.
    parts: Option<Arc<dyn MultipartStore>>,
    /// The same store, where it is one of S3.
    bucket: Option<Bucket>,
    /// Below this in the bucket.
    prefix: Path,
    /// Where it is, if it is a directory that others write beside.
    directory: Option<PathBuf>,
    /// Held while a segment of a log is looked at and replaced: one lock for those whose names hash alike.
    segments: Arc<[tokio::sync::Mutex<()>; SEGMENTS]>,
}

/// Segments that are written at once, at most; more wait for each other.
const SEGMENTS: usize = 64;

impl fmt::Debug for BlobStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobStore({})", self.store)
    }
}

/// What lives and goes as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place(Path);

impl Place {
    /// What the attempts of a Run stored.
    #[must_use]
    pub fn of_run(uid: &RunUid) -> Self {
        Self(Path::from_iter(["runs", uid.as_str()]))
    }

    /// Patches that people uploaded to a namespace.
    #[must_use]
    pub fn patches(namespace: &str) -> Self {
        Self(Path::from_iter(["patches", namespace]))
    }

    /// Work trees that people uploaded to a namespace.
    #[must_use]
    pub fn trees(namespace: &str) -> Self {
        Self(Path::from_iter(["trees", namespace]))
    }
}

/// A blob that cannot be kept or had.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// It is not there.
    #[error("it is not kept here")]
    Missing,
    /// More bytes than allowed.
    #[error("it is larger than {0} bytes")]
    TooLarge(u64),
    /// Other bytes than named.
    #[error("its bytes have the digest {0}")]
    Digest(Digest),
    /// What is kept is not what was put there.
    #[error("what is kept as {0} has other bytes")]
    Altered(Digest),
    /// Whoever sent it stopped.
    #[error("it did not come whole: {0}")]
    Broken(String),
    /// The last of the disk is for what is written beside it, such as the controller's database.
    #[error("the disk is nearly full, and the rest of it is kept for what must be written")]
    Full,
    /// The file that is to be stored cannot be read.
    #[error("the file cannot be read: {0}")]
    File(std::io::Error),
    /// The store failed.
    #[error("the store of results failed: {0}")]
    Store(object_store::Error),
}

impl BlobError {
    /// Whether the same may work later. That a store refuses the key is no reason why not: another may be on its way.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Full | Self::Store(_))
    }
}

/// A blob's bytes.
pub struct Blob {
    /// How many the whole blob has.
    pub size: u64,
    /// The bytes that were asked for, as they come.
    pub bytes: BoxStream<'static, Result<Bytes, object_store::Error>>,
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob").field("size", &self.size).finish_non_exhaustive()
    }
}

impl BlobStore {
    /// A store in this directory, which is there. What was answered as kept is on the disk.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn local(directory: &FilePath) -> Result<Self, BlobError> {
        let store = LocalFileSystem::new_with_prefix(directory)
            .map_err(BlobError::Store)?
            .with_fsync(true)
            .with_automatic_cleanup(true);
        let directory = Some(directory.to_owned());
        let (prefix, segments) = (Path::default(), segments());
        Ok(Self { store: Arc::new(store), parts: None, bucket: None, prefix, directory, segments })
    }

    /// Whether there is room for more, before some bytes are written.
    fn room(&self) -> Result<(), BlobError> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let disk = rustix::fs::statvfs(directory).map_err(|errno| BlobError::File(errno.into()))?;
        let (free, all) = (disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize);
        if free < RESERVE.min(all / 20) { Err(BlobError::Full) } else { Ok(()) }
    }

    /// A blob's bytes, or a range of them, as they come.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub async fn get(
        &self,
        place: &Place,
        digest: &Digest,
        range: Option<Range<u64>>,
    ) -> Result<Blob, BlobError> {
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let found = self.store.get_opts(&self.blob(place, digest), options).await.map_err(read_error)?;
        Ok(Blob { size: found.meta.size, bytes: found.into_stream() })
    }

    /// The size of a blob.
    ///
    /// # Errors
    /// It is not there, or cannot be asked for.
    pub async fn size(&self, place: &Place, digest: &Digest) -> Result<u64, BlobError> {
        Ok(self.store.head(&self.blob(place, digest)).await.map_err(read_error)?.size)
    }

    /// A blob of at most `most` bytes, in memory, held to its digest.
    ///
    /// # Errors
    /// It is not there, is larger, is not what was put there, or cannot be read.
    pub async fn read(&self, place: &Place, digest: &Digest, most: u64) -> Result<Bytes, BlobError> {
        let bytes = self.read_path(&self.blob(place, digest), most).await?;
        if Digest::of(&bytes) == *digest { Ok(bytes) } else { Err(BlobError::Altered(*digest)) }
    }

    async fn read_path(&self, path: &Path, most: u64) -> Result<Bytes, BlobError> {
        let found = self.store.get_opts(path, GetOptions::default()).await.map_err(read_error)?;
        if found.meta.size > most {
            return Err(BlobError::TooLarge(most));
        }
        found.bytes().await.map_err(read_error)
    }

    /// The Runs of which something is kept.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub async fn runs(&self) -> Result<Vec<RunUid>, BlobError> {
        let all = self.within(&Place(Path::from("runs")));
        let listed = self.store.list_with_delimiter(Some(&all)).await.map_err(BlobError::Store)?;
        let uid = |place: &Path| place.filename().and_then(|name| name.parse().ok());
        Ok(listed.common_prefixes.iter().filter_map(uid).collect())
    }

    /// Removes one blob. One that is not there is removed already.
    ///
    /// # Errors
    /// It cannot be removed.
    pub async fn remove_one(&self, place: &Place, digest: &Digest) -> Result<(), BlobError> {
        match self.store.delete(&self.blob(place, digest)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(BlobError::Store(error)),
        }
    }

    /// Removes a place and all that is in it. One that is not there is removed already.
    ///
    /// # Errors
    /// Something in it cannot be removed; trying again goes on where this stopped.
    pub async fn remove(&self, place: &Place) -> Result<(), BlobError> {
        let found = self.store.list(Some(&self.within(place))).map_ok(|meta| meta.location).boxed();
        let mut removed = self.store.delete_stream(found);
        while let Some(one) = removed.next().await {
            match one {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(BlobError::Store(error)),
            }
        }
        if let Err(error) = self.sweep(place).await {
            tracing::warn!(%error, "parts may be left in the store");
        }
        Ok(())
    }

    fn within(&self, place: &Place) -> Path {
        self.prefix.parts().chain(place.0.parts()).collect()
    }

    fn blob(&self, place: &Place, digest: &Digest) -> Path {
        self.within(place).join(digest.hex())
    }
}

fn segments() -> Arc<[tokio::sync::Mutex<()>; SEGMENTS]> {
    Arc::new(std::array::from_fn(|_| tokio::sync::Mutex::new(())))
}

fn read_error(error: object_store::Error) -> BlobError {
    match error {
        object_store::Error::NotFound { .. } => BlobError::Missing,
        error => BlobError::Store(error),
    }
}

#[cfg(test)]
mod tests;
