//! Append-only segments of one attempt, with any number of readers that never slow the writer.
//!
//! A record is written to its file before readers are told of it, so that a daemon that is killed loses no byte that a
//! reader has seen. The format is that of [`runtimed_api::log`].

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use runtimed_api::log::{self, Body, HEADER_BYTES, MAX_RECORD_BYTES, RECORD_HEADER_BYTES, Record, Stream};
use runtimed_client::logs::Chunk;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::pool::{Pool, Share};
use crate::room;

/// Past this many bytes a new segment is begun.
const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;

/// What is written at once: a segment is no longer than a store takes, however much text is let go at once.
const WRITE_BYTES: usize = 1024 * 1024;

/// What stands before the text of a record, and what a gap takes, in bytes.
const HEAD: u64 = RECORD_HEADER_BYTES as u64;
const GAP_BYTES: u64 = HEAD + 8;

/// Bytes of a page.
const PAGE: usize = 4096;

/// What a reader takes at a time.
const READ_BYTES: usize = 256 * 1024;

/// The log of one attempt.
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    limit: u64,
    overflow: Overflow,
    pool: Arc<Pool>,
    inner: Mutex<Inner>,
    end: watch::Sender<End>,
}

/// What a log may take, and what happens beyond it.
#[derive(Debug)]
pub struct Bounds {
    /// Bytes of text that are kept of it.
    pub limit: u64,
    /// What it takes of what all logs of the pod may.
    pub share: Share,
    /// What happens beyond either.
    pub overflow: Overflow,
}

/// What happens to text for which there is no room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overflow {
    /// It is dropped, and a gap record says how much.
    #[default]
    Drop,
    /// It waits in its pipe, and so does the command, until there is room or the command is ended.
    Block,
}

/// How far a log goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct End {
    /// The offset after the last byte.
    pub offset: u64,
    /// Bytes on disk, all segments together: this changes with every record, a gap included.
    pub stored: u64,
    /// Nothing more comes.
    pub closed: bool,
}

#[derive(Debug, Default)]
struct Inner {
    share: Option<Share>,
    segments: Vec<Segment>,
    file: Option<File>,
    offset: u64,
    /// Bytes of all files.
    stored: u64,
    records: u64,
    dropped: u64,
    gaps: u64,
    /// Of what was dropped: what no gap record has told yet.
    untold: u64,
    /// Nothing waits any more for room: the command is over.
    released: bool,
    failure: Option<String>,
    /// Where records are put together.
    buffer: Vec<u8>,
    last_output: Option<Timestamp>,
}

/// One file of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Where.
    pub path: PathBuf,
    /// The offset of its first byte of text.
    pub offset: u64,
    /// Bytes of text in it.
    pub length: u64,
    /// Bytes of the file.
    pub stored: u64,
}

/// What is known of a whole log.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Its files.
    pub segments: Vec<Segment>,
    /// Bytes of text.
    pub bytes: u64,
    /// Records.
    pub records: u64,
    /// Bytes that were dropped.
    pub dropped: u64,
    /// Places where they were.
    pub gaps: u64,
    /// Why bytes were dropped, if not for the limit.
    pub failure: Option<String>,
}

/// Where a reader is: before a record.
#[derive(Debug, Clone, Copy, Default)]
pub struct Position {
    segment: usize,
    /// Bytes of the segment's file before it; 0 is the segment's beginning.
    within: u64,
    offset: u64,
}

impl Log {
    /// A log whose segments will be in `dir`, which is made when the first byte comes.
    #[must_use]
    pub fn new(dir: PathBuf, bounds: Bounds) -> Self {
        let pool = Arc::clone(bounds.share.pool());
        let inner = Mutex::new(Inner { share: Some(bounds.share), ..Inner::default() });
        let (limit, overflow) = (bounds.limit, bounds.overflow);
        Self { dir, limit, overflow, pool, inner, end: watch::Sender::default() }
    }

    /// Appends text of a stream, as it comes: what there is no room for is dropped and told in a gap record, or waited
    /// with.
    pub async fn write(&self, stream: Stream, mut text: &[u8]) {
        while !text.is_empty() {
            let mut freed = std::pin::pin!(self.pool.freed());
            // Registered before the look, so that no room is missed.
            freed.as_mut().enable();
            let mut ends = self.end.subscribe();
            let taken = self.put(stream, &text[..text.len().min(WRITE_BYTES)]);
            let waits = taken < text.len().min(WRITE_BYTES);
            text = &text[taken..];
            if waits {
                tokio::select! {
                    () = freed => {}
                    // Released, or closed.
                    _changed = ends.changed() => {}
                }
            }
        }
    }

    /// Appends what there is room for, and returns how much of `text` needs nothing more to be done.
    fn put(&self, stream: Stream, text: &[u8]) -> usize {
        let now = Timestamp::now();
        let micros = u64::try_from(now.as_microsecond()).unwrap_or(0);
        let mut inner = self.lock();
        inner.last_output = Some(now);
        let room = self.limit.saturating_sub(inner.offset).min(text.len() as u64);
        let keep = usize::try_from(inner.take(room)).unwrap_or(text.len());
        if let Err(error) = inner.text(&self.dir, micros, stream, &text[..keep]) {
            inner.failure = Some(error.to_string());
            inner.free(keep as u64);
            inner.drop_bytes(keep as u64);
        }
        let waits = self.overflow == Overflow::Block && !inner.released;
        if keep < text.len() && !waits {
            inner.drop_bytes((text.len() - keep) as u64);
        }
        self.tell(&inner, false);
        if waits { keep } else { text.len() }
    }

    /// The command is over: nobody waits for room any more.
    pub fn release(&self) {
        let mut inner = self.lock();
        inner.released = true;
        self.tell(&inner, false);
    }

    /// Nothing more comes.
    pub fn close(&self) {
        let micros = u64::try_from(Timestamp::now().as_microsecond()).unwrap_or(0);
        let mut inner = self.lock();
        inner.released = true;
        if let Err(error) = inner.gap(&self.dir, micros) {
            inner.failure = Some(error.to_string());
        }
        inner.file = None;
        self.tell(&inner, true);
    }

    /// Gives back what it has taken of the pool: its files are gone.
    pub fn forget(&self) {
        self.lock().share = None;
    }

    /// What is known of the log now.
    #[must_use]
    pub fn facts(&self) -> Facts {
        let inner = self.lock();
        Facts {
            segments: inner.segments.clone(),
            bytes: inner.offset,
            records: inner.records,
            dropped: inner.dropped,
            gaps: inner.gaps,
            failure: inner.failure.clone(),
        }
    }

    /// When the command last wrote something.
    #[must_use]
    pub fn last_output(&self) -> Option<Timestamp> {
        self.lock().last_output
    }

    /// Tells of every change of the end.
    #[must_use]
    pub fn ends(&self) -> watch::Receiver<End> {
        self.end.subscribe()
    }

    /// The position of the segment that holds this offset.
    #[must_use]
    pub fn position(&self, offset: u64) -> Position {
        let inner = self.lock();
        let segment = inner.segments.partition_point(|segment| segment.offset <= offset).saturating_sub(1);
        Position { segment, ..Position::default() }
    }

    /// How far it goes now.
    #[must_use]
    pub fn end(&self) -> End {
        *self.end.borrow()
    }

    /// Ends the segment that is written, if it holds as much as this: the next record begins another.
    pub fn seal(&self, least: u64) {
        let mut inner = self.lock();
        if inner.segments.last().is_some_and(|segment| segment.stored >= least) {
            inner.file = None;
        }
    }

    /// The offsets where its segments begin.
    #[must_use]
    pub fn parts(&self) -> Vec<u64> {
        self.lock().segments.iter().map(|segment| segment.offset).collect()
    }

    /// Reads on from `position`: whole records, at most a few hundred KiB; `None` at the end.
    ///
    /// # Errors
    /// A segment cannot be read.
    pub fn read(&self, position: &mut Position) -> io::Result<Option<Chunk>> {
        loop {
            let (segment, last) = {
                let inner = self.lock();
                let Some(segment) = inner.segments.get(position.segment) else { return Ok(None) };
                (segment.clone(), position.segment + 1 == inner.segments.len())
            };
            if position.within == 0 {
                *position = Position { within: HEADER_BYTES as u64, offset: segment.offset, ..*position };
            }
            if position.within >= segment.stored {
                if last {
                    return Ok(None);
                }
                *position = Position { segment: position.segment + 1, within: 0, offset: 0 };
                continue;
            }
            let left = segment.stored - position.within;
            let wanted = usize::try_from(left).unwrap_or(READ_BYTES).min(READ_BYTES);
            let mut bytes = vec![0; wanted];
            File::open(&segment.path)?.read_exact_at(&mut bytes, position.within)?;
            let (mut text, mut rest) = (0, bytes.as_slice());
            while let Some((record, after)) = log::split_record(rest).map_err(io::Error::other)? {
                rest = after;
                if let Body::Text(_, piece) = record.body {
                    text += piece.len() as u64;
                }
            }
            let taken = bytes.len() - rest.len();
            if taken == 0 {
                return Err(io::Error::other("a record is longer than what is read at a time"));
            }
            bytes.truncate(taken);
            let offset = position.offset;
            *position =
                Position { within: position.within + taken as u64, offset: offset + text, ..*position };
            return Ok(Some(Chunk { offset, bytes: bytes.into() }));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, inner: &Inner, closed: bool) {
        self.end.send_replace(End { offset: inner.offset, stored: inner.stored, closed });
    }
}

impl Inner {
    /// Takes room for so many bytes of text out of the pool, and says for how many there was: what stands beside them on the disk
    /// is charged as well, for a command that writes byte by byte would take fourteen times what it writes.
    fn take(&mut self, text: u64) -> u64 {
        let gap = self.gap_bytes();
        let Some(share) = self.share.as_mut().filter(|_| text > 0) else { return 0 };
        let all = with_heads(text) + gap;
        let got = share.take(all);
        if got == all {
            return text;
        }
        let keep = got.saturating_sub(with_heads(got) + gap - got);
        let used = if keep > 0 { with_heads(keep) + gap } else { 0 };
        share.put_back(got - used);
        keep
    }

    /// Gives back what was taken for text that could not be written, and for the gap before it if that could not be either.
    fn free(&mut self, text: u64) {
        let gap = self.gap_bytes();
        if let Some(share) = self.share.as_mut().filter(|_| text > 0) {
            share.free(with_heads(text) + gap);
        }
    }

    /// Bytes of the gap that is to be told next.
    fn gap_bytes(&self) -> u64 {
        if self.untold > 0 { GAP_BYTES } else { 0 }
    }

    /// Appends text, and before it what is missing there.
    fn text(&mut self, dir: &Path, micros: u64, stream: Stream, text: &[u8]) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.gap(dir, micros)?;
        let mut bytes = std::mem::take(&mut self.buffer);
        let pieces = text.chunks(MAX_RECORD_BYTES);
        let records = pieces.len();
        bytes.clear();
        bytes.reserve(PAGE + text.len() + records * RECORD_HEADER_BYTES);
        // In memory it begins at the same place of a page as in the file: some processors copy several times as slowly
        // between places that differ in that.
        let place = self.segments.last().map_or(HEADER_BYTES as u64, |segment| segment.stored);
        let begin = usize::try_from(place).unwrap_or(0).wrapping_sub(bytes.as_ptr().addr()) % PAGE;
        bytes.resize(begin, 0);
        for piece in pieces {
            log::append(&mut bytes, Record { micros, body: Body::Text(stream, piece) });
        }
        let appended = self.append(dir, &bytes[begin..], text.len() as u64, records as u64);
        self.buffer = bytes;
        appended
    }

    /// Tells what was dropped since the last record.
    fn gap(&mut self, dir: &Path, micros: u64) -> io::Result<()> {
        if self.untold == 0 {
            return Ok(());
        }
        let mut bytes = Vec::new();
        log::append(&mut bytes, Record { micros, body: Body::Gap(self.untold) });
        self.append(dir, &bytes, 0, 1)?;
        self.untold = 0;
        self.gaps += 1;
        Ok(())
    }

    fn drop_bytes(&mut self, count: u64) {
        self.dropped += count;
        self.untold += count;
    }

    /// Writes records to the disk, all of them or none.
    fn append(&mut self, dir: &Path, bytes: &[u8], text: u64, records: u64) -> io::Result<()> {
        let full = self.segments.last().is_none_or(|segment| segment.stored >= SEGMENT_BYTES);
        if full || self.file.is_none() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            room::check(dir, SEGMENT_BYTES)?;
            let path = dir.join(format!("{:020}", self.offset));
            let mut file =
                OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path)?;
            file.write_all(&log::header(self.offset, self.records))?;
            self.file = Some(file);
            let stored = HEADER_BYTES as u64;
            self.stored += stored;
            self.segments.push(Segment { path, offset: self.offset, length: 0, stored });
        }
        if let (Some(file), Some(segment)) = (&mut self.file, self.segments.last_mut()) {
            // At its place and not at the end: after a failed write the next one covers what it left.
            file.write_all_at(bytes, segment.stored)?;
            segment.stored += bytes.len() as u64;
            segment.length += text;
            self.stored += bytes.len() as u64;
        }
        self.offset += text;
        self.records += records;
        Ok(())
    }
}

/// So many bytes of text with what stands before them.
fn with_heads(text: u64) -> u64 {
    text + text.div_ceil(MAX_RECORD_BYTES as u64) * HEAD
}

#[cfg(test)]
mod tests;
