//! A blob that comes over a connection, which may break: what has arrived by then stays, in whole parts, so that only the rest
//! is sent again.

use std::fmt;

use bytes::Bytes;
use futures_util::stream::{Stream, StreamExt as _};
use runtimed_api::digest::Digest;
use sha2::{Digest as _, Sha256};

use super::BlobError;
use super::upload::{PART, Parts, same};

/// A blob that has arrived in part, or not at all.
pub struct Incoming {
    parts: Parts,
    digest: Digest,
    /// Of the parts that were sent on.
    hasher: Sha256,
    arrived: u64,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Incoming({} bytes of {})", self.arrived, self.digest)
    }
}

impl Incoming {
    pub(super) fn new(parts: Parts, digest: Digest) -> Self {
        Self { parts, digest, hasher: Sha256::new(), arrived: 0 }
    }

    /// Bytes that have arrived: where the next body has to begin. A multiple of [`PART`].
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Takes the rest. Gives how many bytes the whole blob has, which are at most `most` and kept now, or why it is not kept; and
    /// where nothing but the connection broke, what can be gone on with.
    pub async fn take<E: fmt::Display>(
        mut self,
        most: u64,
        body: impl Stream<Item = Result<Bytes, E>>,
    ) -> (Result<u64, BlobError>, Option<Self>) {
        let taken = self.read(most, body).await;
        match taken {
            Err(BlobError::Broken(why)) if self.arrived > 0 => {
                self.parts.waiting.clear();
                match self.parts.settle().await {
                    Ok(()) => (Err(BlobError::Broken(why)), Some(self)),
                    Err(error) => (self.parts.end(Err(error)).await, None),
                }
            }
            taken => (self.parts.end(taken).await, None),
        }
    }

    /// Gives it up, and takes back what has arrived.
    pub async fn abort(self) {
        self.parts.abort().await;
    }

    async fn read<E: fmt::Display>(
        &mut self,
        most: u64,
        body: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<u64, BlobError> {
        let mut body = std::pin::pin!(body);
        let (mut hasher, mut size) = (self.hasher.clone(), self.arrived);
        while let Some(piece) = body.next().await {
            let mut piece = piece.map_err(|error| BlobError::Broken(error.to_string()))?;
            size = size.saturating_add(piece.len() as u64);
            if size > most {
                return Err(BlobError::TooLarge(most));
            }
            while !piece.is_empty() {
                let some = piece.split_to(piece.len().min(PART - self.parts.waiting.len()));
                hasher.update(&some);
                self.parts.waiting.extend_from_slice(&some);
                if self.parts.waiting.len() == PART {
                    let part = self.parts.waiting.split().freeze();
                    self.parts.send(part).await?;
                    self.hasher.clone_from(&hasher);
                    self.arrived += PART as u64;
                }
            }
        }
        same(hasher, &self.digest)?;
        Ok(size)
    }
}
