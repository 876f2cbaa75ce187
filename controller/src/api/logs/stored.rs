//! A log from its segments in the store: one in memory at a time.

use std::io;

use bytes::Bytes;
use runtimed_api::ids::AttemptNumber;
use runtimed_api::log::{self, Body, HEADER_BYTES, Record};
use runtimed_client::logs::{Chunk, More, Source};
use runtimed_store::{BlobError, BlobStore, LogPart, Place};

use crate::core::Blobs;

/// The segments of one attempt, and a place in them.
pub(super) struct Stored {
    blobs: BlobStore,
    place: Place,
    attempt: AttemptNumber,
    parts: Vec<LogPart>,
    /// How many bytes the log had, if that is known.
    whole: Option<u64>,
    at: usize,
    /// Where the next segment should begin, if the one before it was read.
    next: Option<u64>,
    /// What was read and waits for a gap to be told first.
    waiting: Option<Chunk>,
}

impl Stored {
    /// What is there of this attempt.
    pub(super) async fn of(
        blobs: &BlobStore,
        place: &Blobs,
        attempt: AttemptNumber,
        whole: Option<u64>,
    ) -> Result<Self, BlobError> {
        let place = place.place();
        let parts = blobs.log_parts(&place, attempt).await?;
        let blobs = blobs.clone();
        Ok(Self { blobs, place, attempt, parts, whole, at: 0, next: Some(0), waiting: None })
    }

    /// A log that there is not.
    pub(super) fn nothing(blobs: &BlobStore) -> Self {
        let (blobs, place, attempt) = (blobs.clone(), Place::patches("none"), AttemptNumber(0));
        Self { blobs, place, attempt, parts: Vec::new(), whole: None, at: 0, next: None, waiting: None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    async fn read(&self, part: LogPart) -> io::Result<Chunk> {
        let bytes = self.blobs.read_log(&self.place, self.attempt, part).await.map_err(io::Error::other)?;
        let bytes = bytes.get(HEADER_BYTES..).map_or_else(Bytes::new, |rest| bytes.slice_ref(rest));
        Ok(Chunk { offset: part.offset, bytes })
    }
}

impl Source for Stored {
    fn attempt(&self) -> u32 {
        self.attempt.0
    }

    fn closed(&self) -> bool {
        true
    }

    async fn end(&mut self) -> io::Result<u64> {
        let Some(last) = self.parts.last().copied() else { return Ok(0) };
        after(&self.read(last).await?)
    }

    fn parts(&self) -> Vec<u64> {
        self.parts.iter().map(|part| part.offset).collect()
    }

    fn seek(&mut self, offset: u64) {
        self.at = self.parts.partition_point(|part| part.offset <= offset).saturating_sub(1);
        // What is missing before the first segment is told to whoever begins at the beginning.
        self.next = (offset == 0).then_some(0);
        self.waiting = None;
    }

    async fn next(&mut self) -> io::Result<Option<Chunk>> {
        if let Some(chunk) = self.waiting.take() {
            return Ok(Some(chunk));
        }
        let Some(part) = self.parts.get(self.at).copied() else {
            let missing = self.next.take().zip(self.whole).filter(|(next, whole)| next < whole);
            return Ok(missing.map(|(next, whole)| gap(whole, 0, whole - next)));
        };
        let chunk = self.read(part).await?;
        self.at += 1;
        let missing = self.next.map_or(0, |next| part.offset.saturating_sub(next));
        self.next = Some(after(&chunk)?.max(self.next.unwrap_or(0)));
        if missing > 0 {
            let hole = gap(part.offset, begun(&chunk), missing);
            self.waiting = Some(chunk);
            return Ok(Some(hole));
        }
        Ok(Some(chunk))
    }

    async fn more(&mut self) -> More {
        More::Closed
    }
}

/// So many bytes are missing before `offset`, and what comes after them is of this time; 0 if nothing does.
fn gap(offset: u64, micros: u64, missing: u64) -> Chunk {
    let mut bytes = Vec::new();
    log::append(&mut bytes, Record { micros, body: Body::Gap(missing) });
    Chunk { offset, bytes: bytes.into() }
}

/// The time of its first record.
fn begun(chunk: &Chunk) -> u64 {
    log::split_record(&chunk.bytes).ok().flatten().map_or(0, |(record, _)| record.micros)
}

/// The offset after a chunk.
fn after(chunk: &Chunk) -> io::Result<u64> {
    let (mut offset, mut rest) = (chunk.offset, &chunk.bytes[..]);
    while let Some((record, after)) = log::split_record(rest).map_err(io::Error::other)? {
        if let Body::Text(_, text) = record.body {
            offset = offset.saturating_add(text.len() as u64);
        }
        rest = after;
    }
    Ok(offset)
}
