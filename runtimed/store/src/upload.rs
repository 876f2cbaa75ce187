//! Putting blobs into a store: small ones at once, large ones in parts of which several are under way.
//!
//! Each request of a cloud store is tried again by itself, so that a part that fails costs a part; what has begun and does
//! not come to its end is aborted, so that no parts are left that nobody sees and somebody pays.

use std::fmt;
use std::path::Path as FilePath;

use bytes::{Bytes, BytesMut};
use futures_util::stream::Stream;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt as _, PutPayload};
use runtimed_api::digest::Digest;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;

use super::incoming::Incoming;
use super::resume::{self, Begun};
use super::{BlobError, BlobStore, Place};

/// Bytes of a part; a store's smallest is 5 MiB, and it takes 10,000 of them.
pub const PART: usize = 8 * 1024 * 1024;
/// Parts of one blob that are under way at once. Each is in memory.
pub(super) const PARALLEL: usize = 4;

impl BlobStore {
    /// Keeps a blob that comes from somewhere: at most `most` bytes, of this digest, or nothing.
    ///
    /// # Errors
    /// The bytes are more or others than named, did not come whole, or cannot be stored.
    pub async fn put<E: fmt::Display>(
        &self,
        place: &Place,
        digest: &Digest,
        most: u64,
        body: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<u64, BlobError> {
        let (put, begun) = self.incoming(place, digest).take(most, body).await;
        if let Some(begun) = begun {
            begun.abort().await;
        }
        put
    }

    /// A blob of this digest that is to come from somebody whose connection may break.
    #[must_use]
    pub fn incoming(&self, place: &Place, digest: &Digest) -> Incoming {
        Incoming::new(Parts::new(self, self.blob(place, digest)), *digest)
    }

    /// Keeps a file of the daemon's own, whose digest is known. One that is there already is not sent again where that is
    /// worth the question. What of it has arrived by an earlier try is in `begun`, and is not sent again.
    ///
    /// # Errors
    /// It cannot be read, has other bytes, or cannot be stored.
    pub async fn put_file(
        &self,
        place: &Place,
        digest: &Digest,
        size: u64,
        file: &FilePath,
        begun: &mut Begun,
    ) -> Result<(), BlobError> {
        let path = self.blob(place, digest);
        if size > PART as u64
            && let Ok(there) = self.store.head(&path).await
            && there.size == size
        {
            return Ok(());
        }
        let file = tokio::fs::File::open(file).await.map_err(BlobError::File)?;
        if size > PART as u64
            && let Some(store) = &self.parts
        {
            resume::put(store, &path, digest, file, begun).await?;
            self.sweep_file(&path).await;
            return Ok(());
        }
        let mut parts = Parts::new(self, path);
        let taken = take_file(&mut parts, digest, size, file).await;
        parts.end(taken).await.map(drop)
    }
}

async fn take_file(
    parts: &mut Parts,
    digest: &Digest,
    size: u64,
    file: tokio::fs::File,
) -> Result<u64, BlobError> {
    let mut file = file.take(size);
    let (mut hasher, mut read) = (Sha256::new(), 0);
    loop {
        parts.waiting.reserve(PART.min(usize::try_from(size - read).unwrap_or(PART)).max(1));
        let before = parts.waiting.len();
        let count = file.read_buf(&mut parts.waiting).await.map_err(BlobError::File)?;
        if count == 0 {
            break;
        }
        hasher.update(&parts.waiting[before..]);
        read += count as u64;
        while parts.waiting.len() >= PART {
            let part = parts.waiting.split_to(PART).freeze();
            parts.send(part).await?;
        }
    }
    // It is not sent as what it was: a disk that loses bytes must not be believed.
    same(hasher, digest)?;
    Ok(read)
}

pub(super) fn same(hasher: Sha256, digest: &Digest) -> Result<(), BlobError> {
    let found = Digest::from_bytes(hasher.finalize().into());
    if found == *digest { Ok(()) } else { Err(BlobError::Digest(found)) }
}

/// A blob that is being sent.
pub(super) struct Parts {
    store: BlobStore,
    path: Path,
    /// What is not sent yet.
    pub(super) waiting: BytesMut,
    upload: Option<Box<dyn MultipartUpload>>,
    flying: JoinSet<Result<(), object_store::Error>>,
}

impl Parts {
    fn new(store: &BlobStore, path: Path) -> Self {
        Self { store: store.clone(), path, waiting: BytesMut::new(), upload: None, flying: JoinSet::new() }
    }

    /// Sends a part as soon as there are few enough under way.
    pub(super) async fn send(&mut self, part: Bytes) -> Result<(), BlobError> {
        self.store.room()?;
        while self.flying.len() >= PARALLEL {
            self.land().await?;
        }
        let upload = match &mut self.upload {
            Some(upload) => upload,
            None => {
                let begun = self.store.store.put_multipart(&self.path).await;
                self.upload.insert(begun.map_err(BlobError::Store)?)
            }
        };
        self.flying.spawn(upload.put_part(PutPayload::from_bytes(part)));
        Ok(())
    }

    /// Waits for all that was sent.
    pub(super) async fn settle(&mut self) -> Result<(), BlobError> {
        while !self.flying.is_empty() {
            self.land().await?;
        }
        Ok(())
    }

    /// Waits for one of the parts that are under way.
    async fn land(&mut self) -> Result<(), BlobError> {
        match self.flying.join_next().await {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(error))) => Err(BlobError::Store(error)),
            Some(Err(error)) => Err(BlobError::Broken(error.to_string())),
        }
    }

    /// Brings it to its end: kept whole, or gone.
    pub(super) async fn end(mut self, taken: Result<u64, BlobError>) -> Result<u64, BlobError> {
        let kept = match taken {
            Ok(size) => self.finish().await.map(|()| size),
            Err(error) => Err(error),
        };
        if kept.is_err() {
            self.abort().await;
        }
        kept
    }

    /// Takes back what was sent.
    pub(super) async fn abort(mut self) {
        self.flying.shutdown().await;
        if let Some(upload) = &mut self.upload
            && let Err(failed) = upload.abort().await
        {
            tracing::warn!(error = %failed, "the beginning of a broken upload could not be removed");
        }
    }

    async fn finish(&mut self) -> Result<(), BlobError> {
        let rest = self.waiting.split().freeze();
        if self.upload.is_none() {
            self.store.room()?;
            let rest = PutPayload::from_bytes(rest);
            return self.store.store.put(&self.path, rest).await.map(drop).map_err(BlobError::Store);
        }
        if !rest.is_empty() {
            self.send(rest).await?;
        }
        self.settle().await?;
        if let Some(upload) = &mut self.upload {
            upload.complete().await.map_err(BlobError::Store)?;
        }
        Ok(())
    }
}
