//! Append-only segments of one attempt, with any number of readers that never slow the writer.
//!
//! A record is written to its file before readers are told of it, so that a daemon that is killed loses no byte that a
//! reader has seen. The format is that of [`runtimed_api::log`].

use std::collections::VecDeque;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use runtimed_api::log::{self, Body, HEADER_BYTES, LogEvent, MAX_RECORD_BYTES, Record, Stream};
use tokio::sync::watch;

use crate::room;

/// Past this many bytes a new segment is begun.
const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;

/// What a reader takes at a time.
const READ_BYTES: usize = 256 * 1024;

/// The log of one attempt.
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    /// Bytes of text that are kept; what comes after is counted and dropped.
    limit: u64,
    inner: Mutex<Inner>,
    end: watch::Sender<End>,
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
    segments: Vec<Segment>,
    file: Option<File>,
    offset: u64,
    records: u64,
    dropped: u64,
    failure: Option<String>,
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
    /// Why bytes were dropped, if not for the limit.
    pub failure: Option<String>,
}

/// Where a reader is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Position {
    segment: usize,
    within: u64,
    offset: u64,
}

impl Log {
    /// A log whose segments will be in `dir`, which is made when the first byte comes.
    #[must_use]
    pub fn new(dir: PathBuf, limit: u64) -> Self {
        Self { dir, limit, inner: Mutex::default(), end: watch::Sender::default() }
    }

    /// Appends text of a stream. What cannot be kept is counted, and a gap record says so at the end.
    pub fn write(&self, stream: Stream, mut text: &[u8]) {
        if text.is_empty() {
            return;
        }
        let now = Timestamp::now();
        let micros = u64::try_from(now.as_microsecond()).unwrap_or(0);
        let mut inner = self.lock();
        inner.last_output = Some(now);
        let room = usize::try_from(self.limit.saturating_sub(inner.offset)).unwrap_or(usize::MAX);
        // After the first drop nothing more is kept: a hole in the middle would be taken for the whole.
        let keep = if inner.dropped > 0 { 0 } else { room.min(text.len()) };
        inner.dropped += (text.len() - keep) as u64;
        text = &text[..keep];
        let mut bytes = Vec::with_capacity(text.len() + 64);
        for piece in text.chunks(MAX_RECORD_BYTES) {
            bytes.clear();
            log::append(&mut bytes, Record { micros, body: Body::Text(stream, piece) });
            if let Err(error) = inner.append(&self.dir, &bytes, piece.len() as u64) {
                inner.failure = Some(error.to_string());
                inner.dropped += piece.len() as u64;
            }
        }
        self.tell(&inner, false);
    }

    /// Nothing more comes.
    pub fn close(&self) {
        let mut inner = self.lock();
        if inner.dropped > 0 {
            let micros = u64::try_from(Timestamp::now().as_microsecond()).unwrap_or(0);
            let mut bytes = Vec::new();
            log::append(&mut bytes, Record { micros, body: Body::Gap(inner.dropped) });
            if let Err(error) = inner.append(&self.dir, &bytes, 0) {
                inner.failure = Some(error.to_string());
            }
        }
        inner.file = None;
        self.tell(&inner, true);
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

    /// The position of an offset: nothing before it is read again.
    #[must_use]
    pub fn position(&self, offset: u64) -> Position {
        let inner = self.lock();
        let segment = inner.segments.partition_point(|segment| segment.offset <= offset).saturating_sub(1);
        Position { segment, within: 0, offset }
    }

    /// Reads on from `position`, as events of `attempt`: at most a few hundred KiB, and nothing at the end.
    ///
    /// # Errors
    /// A segment cannot be read.
    pub fn read(&self, position: &mut Position, attempt: u32) -> io::Result<Vec<LogEvent>> {
        loop {
            let (segment, last) = {
                let inner = self.lock();
                let Some(segment) = inner.segments.get(position.segment) else { return Ok(Vec::new()) };
                (segment.clone(), position.segment + 1 == inner.segments.len())
            };
            let start = position.within.max(HEADER_BYTES as u64);
            if start >= segment.stored {
                if last {
                    return Ok(Vec::new());
                }
                *position = Position { segment: position.segment + 1, within: 0, ..*position };
                continue;
            }
            let wanted = usize::try_from(segment.stored - start).unwrap_or(READ_BYTES).min(READ_BYTES);
            let mut bytes = vec![0; wanted];
            File::open(&segment.path)?.read_exact_at(&mut bytes, start)?;
            let mut events = Vec::new();
            let mut rest = bytes.as_slice();
            // The offset of a record is the sum of those before it; a fresh position starts at the segment's own.
            let mut offset = if position.within == 0 { segment.offset } else { position.offset };
            let wanted_from = position.offset;
            while let Some((record, after)) = log::split_record(rest).map_err(io::Error::other)? {
                rest = after;
                if let Some(event) = event_after(attempt, &record, &mut offset, wanted_from) {
                    events.push(event);
                }
            }
            let taken = (bytes.len() - rest.len()) as u64;
            position.within = start + taken;
            position.offset = offset.max(wanted_from);
            if !events.is_empty() {
                return Ok(events);
            }
            if taken == 0 {
                return Err(io::Error::other("a record is longer than what is read at a time"));
            }
        }
    }

    /// The offset where the last `lines` lines begin, of one stream or of both. It reads the whole log.
    ///
    /// # Errors
    /// A segment cannot be read.
    pub fn tail(&self, lines: u64, stream: Option<Stream>) -> io::Result<u64> {
        let most = usize::try_from(lines).unwrap_or(usize::MAX);
        let (mut position, mut end) = (Position::default(), 0);
        let mut starts = VecDeque::new();
        // Each stream has lines of its own: one may stop in the middle of a line and the other go on.
        let mut begins = [true, true];
        loop {
            let events = self.read(&mut position, 0)?;
            if events.is_empty() {
                return Ok(if most == 0 { end } else { starts.front().copied().unwrap_or(0) });
            }
            for event in events {
                let Some(of) = event.stream.filter(|of| stream.is_none_or(|wanted| wanted == *of)) else {
                    continue;
                };
                let bytes = event.bytes();
                let begin = event.next - bytes.len() as u64;
                let fresh = &mut begins[usize::from(of == Stream::Stderr)];
                for (at, byte) in (begin..).zip(&bytes) {
                    if std::mem::replace(fresh, *byte == b'\n') {
                        starts.push_back(at);
                    }
                }
                let excess = starts.len().saturating_sub(most);
                starts.drain(..excess);
                end = event.next;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, inner: &Inner, closed: bool) {
        let stored = inner.segments.iter().map(|segment| segment.stored).sum();
        self.end.send_replace(End { offset: inner.offset, stored, closed });
    }
}

/// The event for a record, without what lies before `from`; moves `offset` past it.
fn event_after(attempt: u32, record: &Record<'_>, offset: &mut u64, from: u64) -> Option<LogEvent> {
    match record.body {
        Body::Gap(_) => Some(LogEvent::of(attempt, record, *offset)),
        Body::Text(stream, text) => {
            let skipped = usize::try_from(from.saturating_sub(*offset)).unwrap_or(usize::MAX).min(text.len());
            *offset += text.len() as u64;
            let rest = &text[skipped..];
            let rest = Record { body: Body::Text(stream, rest), ..*record };
            (skipped < text.len()).then(|| LogEvent::of(attempt, &rest, *offset))
        }
    }
}

impl Inner {
    fn append(&mut self, dir: &Path, bytes: &[u8], text: u64) -> io::Result<()> {
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
            self.segments.push(Segment { path, offset: self.offset, length: 0, stored });
        }
        if let (Some(file), Some(segment)) = (&mut self.file, self.segments.last_mut()) {
            // At its place and not at the end: after a failed write the next one covers what it left.
            file.write_all_at(bytes, segment.stored)?;
            segment.stored += bytes.len() as u64;
            segment.length += text;
        }
        self.offset += text;
        self.records += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(events: &[LogEvent]) -> Vec<u8> {
        events.iter().flat_map(LogEvent::bytes).collect()
    }

    fn read_all(log: &Log, from: u64) -> Vec<LogEvent> {
        let mut position = log.position(from);
        let mut all = Vec::new();
        loop {
            let events = log.read(&mut position, 1).expect("reads");
            if events.is_empty() {
                return all;
            }
            all.extend(events);
        }
    }

    #[test]
    fn every_offset_is_a_place_to_resume_at() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = Log::new(dir.path().join("log"), u64::MAX);
        log.write(Stream::Stdout, b"one\ntwo");
        log.write(Stream::Stderr, b"\xff\xfe!");
        log.write(Stream::Stdout, b"end\n");
        log.close();
        let whole = b"one\ntwo\xff\xfe!end\n";
        for from in 0..=whole.len() {
            let events = read_all(&log, from as u64);
            assert_eq!(text(&events), whole[from..], "from {from}");
            assert!(events.last().is_none_or(|event| event.next == whole.len() as u64));
        }
    }

    #[test]
    fn a_long_log_has_several_segments_and_reads_as_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = Log::new(dir.path().join("log"), u64::MAX);
        let piece: Vec<u8> = (0..100_000_u32).map(|i| u8::try_from(i % 251).expect("small")).collect();
        for _ in 0..100 {
            log.write(Stream::Stdout, &piece);
        }
        let facts = log.facts();
        assert!(facts.segments.len() >= 3);
        assert_eq!(text(&read_all(&log, 0)), piece.repeat(100));
        let middle = facts.segments[1].offset;
        assert_eq!(text(&read_all(&log, middle)).len() as u64, facts.bytes - middle);
    }

    #[test]
    fn a_tail_begins_at_a_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = Log::new(dir.path().join("log"), u64::MAX);
        log.write(Stream::Stdout, b"one\ntw");
        log.write(Stream::Stderr, b"err\n");
        log.write(Stream::Stdout, b"o\nthree\n");
        let tail = |lines, stream| text(&read_all(&log, log.tail(lines, stream).expect("reads")));
        assert_eq!(tail(1, None), b"three\n");
        assert_eq!(tail(2, None), b"err\no\nthree\n");
        assert_eq!(tail(2, Some(Stream::Stdout)), b"twerr\no\nthree\n");
        assert_eq!(tail(99, None), b"one\ntwerr\no\nthree\n");
        assert_eq!(tail(0, None), b"");
    }

    #[test]
    fn what_is_over_the_limit_is_counted_in_a_gap() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = Log::new(dir.path().join("log"), 5);
        log.write(Stream::Stdout, b"abc");
        log.write(Stream::Stdout, b"defgh");
        log.write(Stream::Stderr, b"ij");
        log.close();
        let events = read_all(&log, 0);
        assert_eq!(text(&events), b"abcde");
        assert_eq!(events.last().and_then(|event| event.dropped), Some(5));
        assert_eq!(log.facts().dropped, 5);
    }
}
