//! The bytes of an answer, as they come, within bounds.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, Stream, StreamExt as _, TryStreamExt as _};
use reqwest::Response;
use reqwest::header::CONTENT_TYPE;

use crate::error::ClientError;

/// The bytes of an answer, as they come. It ends with an error when there are more of them than allowed, or when none
/// came for too long.
pub struct Download {
    size: Option<u64>,
    content_type: Option<String>,
    chunks: BoxStream<'static, Result<Bytes, ClientError>>,
}

impl Download {
    /// The body of `response`: at most `most` bytes, with at most `stall` between two pieces.
    pub(crate) fn of(response: Response, most: u64, stall: Option<Duration>) -> Result<Self, ClientError> {
        let url = response.url().clone();
        let size = response.content_length();
        if size.is_some_and(|size| size > most) {
            return Err(ClientError::too_long(&url, most));
        }
        let content_type =
            response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let chunks = stream::try_unfold((response, 0_u64), move |(mut response, seen)| {
            let url = url.clone();
            async move {
                let next = response.chunk();
                let chunk = match stall {
                    Some(stall) => {
                        tokio::time::timeout(stall, next).await.map_err(|_| ClientError::late(&url, stall))?
                    }
                    None => next.await,
                };
                let Some(chunk) = chunk.map_err(|error| ClientError::unreachable(&url, &error))? else {
                    return Ok(None);
                };
                let seen = seen.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
                if seen > most {
                    Err(ClientError::too_long(&url, most))
                } else {
                    Ok(Some((chunk, (response, seen))))
                }
            }
        });
        Ok(Self { size, content_type, chunks: chunks.boxed() })
    }

    /// Bytes that are here already, for an answer that needs no server.
    #[must_use]
    pub fn ready(bytes: Bytes) -> Self {
        let size = u64::try_from(bytes.len()).ok();
        Self { size, content_type: None, chunks: stream::once(async { Ok(bytes) }).boxed() }
    }

    /// How many bytes the server announced.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// The media type that the server announced.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref()
    }

    /// All of it, in memory.
    ///
    /// # Errors
    /// The connection broke, stalled, or brought more than the bound.
    pub async fn bytes(mut self) -> Result<Bytes, ClientError> {
        let Some(first) = self.chunks.try_next().await? else { return Ok(Bytes::new()) };
        let Some(second) = self.chunks.try_next().await? else { return Ok(first) };
        let mut all = BytesMut::from(first);
        all.extend_from_slice(&second);
        while let Some(chunk) = self.chunks.try_next().await? {
            all.extend_from_slice(&chunk);
        }
        Ok(all.freeze())
    }
}

impl Stream for Download {
    type Item = Result<Bytes, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.chunks.poll_next_unpin(cx)
    }
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Download")
            .field("size", &self.size)
            .field("content_type", &self.content_type)
            .finish_non_exhaustive()
    }
}
