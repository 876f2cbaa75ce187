//! Where results are kept: log segments, patches, artifacts and their manifests, each by its digest.
//!
//! What the attempts of one Run stored lies in one place and goes with the Run; what is alike in two Runs is kept twice, so
//! that nothing has to be counted to know what may be removed. Patches that people uploaded lie in a place of their
//! namespace.

use std::fmt;
use std::path::Path as FilePath;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{BoxStream, Stream, StreamExt as _, TryStreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt as _, PutPayload};
use runtimed_api::digest::Digest;
use sha2::{Digest as _, Sha256};

use crate::core::Blobs;

/// What is held in memory of an upload at most, in bytes; a store's smallest part is 5 MiB.
const PART: usize = 8 * 1024 * 1024;

/// Where results are kept. Clones are the same store.
#[derive(Clone)]
pub struct BlobStore {
    store: Arc<dyn ObjectStore>,
}

impl fmt::Debug for BlobStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobStore({})", self.store)
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
    /// Whoever sent it stopped.
    #[error("it did not come whole: {0}")]
    Broken(String),
    /// The store failed.
    #[error("the store of results failed: {0}")]
    Store(object_store::Error),
}

/// A blob's bytes.
pub struct Blob {
    /// How many.
    pub size: u64,
    /// The bytes, as they come.
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
        Ok(Self { store: Arc::new(store) })
    }

    /// Keeps a blob: at most `most` bytes, of this digest, or nothing.
    ///
    /// # Errors
    /// The bytes are more or others than named, did not come whole, or cannot be stored.
    pub async fn put<E: fmt::Display>(
        &self,
        place: &Blobs,
        digest: &Digest,
        most: u64,
        body: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<u64, BlobError> {
        let path = path(place, digest);
        let mut body = std::pin::pin!(body);
        let mut hasher = Sha256::new();
        let mut size = 0_u64;
        let mut part = BytesMut::new();
        let mut upload: Option<Box<dyn MultipartUpload>> = None;
        let received = async {
            while let Some(piece) = body.next().await {
                let piece = piece.map_err(|error| BlobError::Broken(error.to_string()))?;
                size = size.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
                if size > most {
                    return Err(BlobError::TooLarge(most));
                }
                hasher.update(&piece);
                part.extend_from_slice(&piece);
                if part.len() >= PART {
                    let full = PutPayload::from_bytes(part.split().freeze());
                    let begun = match &mut upload {
                        Some(begun) => begun,
                        None => {
                            upload.insert(self.store.put_multipart(&path).await.map_err(BlobError::Store)?)
                        }
                    };
                    begun.put_part(full).await.map_err(BlobError::Store)?;
                }
            }
            let found = Digest::from_bytes(hasher.finalize().into());
            if found == *digest { Ok(()) } else { Err(BlobError::Digest(found)) }
        }
        .await;
        let rest = PutPayload::from_bytes(part.freeze());
        match (upload, received) {
            (None, Ok(())) => {
                self.store.put(&path, rest).await.map_err(BlobError::Store)?;
                Ok(size)
            }
            (Some(mut upload), Ok(())) => {
                upload.put_part(rest).await.map_err(BlobError::Store)?;
                upload.complete().await.map_err(BlobError::Store)?;
                Ok(size)
            }
            (upload, Err(error)) => {
                if let Some(mut upload) = upload
                    && let Err(failed) = upload.abort().await
                {
                    tracing::warn!(error = %failed, "the beginning of a broken upload could not be removed");
                }
                Err(error)
            }
        }
    }

    /// A blob's bytes, as they come.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub async fn get(&self, place: &Blobs, digest: &Digest) -> Result<Blob, BlobError> {
        let found = self.store.get(&path(place, digest)).await.map_err(read_error)?;
        Ok(Blob { size: found.meta.size, bytes: found.into_stream() })
    }

    /// A blob of at most `most` bytes, in memory.
    ///
    /// # Errors
    /// It is not there, is larger, or cannot be read.
    pub async fn read(&self, place: &Blobs, digest: &Digest, most: u64) -> Result<Bytes, BlobError> {
        let found = self.store.get(&path(place, digest)).await.map_err(read_error)?;
        if found.meta.size > most {
            return Err(BlobError::TooLarge(most));
        }
        found.bytes().await.map_err(read_error)
    }

    /// Removes a place and all that is in it. One that is not there is removed already.
    ///
    /// # Errors
    /// Something in it cannot be removed; trying again goes on where this stopped.
    pub async fn remove(&self, place: &Blobs) -> Result<(), BlobError> {
        let found = self.store.list(Some(&prefix(place))).map_ok(|meta| meta.location).boxed();
        let mut removed = self.store.delete_stream(found);
        while let Some(one) = removed.next().await {
            match one {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(BlobError::Store(error)),
            }
        }
        Ok(())
    }
}

fn read_error(error: object_store::Error) -> BlobError {
    match error {
        object_store::Error::NotFound { .. } => BlobError::Missing,
        error => BlobError::Store(error),
    }
}

fn prefix(place: &Blobs) -> Path {
    match place {
        Blobs::Run(uid) => Path::from_iter(["runs", uid.as_str()]),
        Blobs::Uploaded(namespace) => Path::from_iter(["patches", namespace.as_str()]),
    }
}

fn path(place: &Blobs, digest: &Digest) -> Path {
    prefix(place).join(digest.hex())
}

#[cfg(test)]
mod tests;
