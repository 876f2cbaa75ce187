//! One reader of a log. It reads at its own pace, and no writer waits for it.

use std::io;
use std::time::Duration;

use axum::Json;
use axum::body::Body as HttpBody;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use jiff::Timestamp;
use runtimed_api::log::{self, Body, Record, Stream};
use runtimed_api::problem::{Code, Problem};
use tokio::time::timeout;

use super::format::Format;
use super::range::{self, Wanted};
use super::{Asked, Chunk, More, Source, tail};

/// Between two signs of life on a stream that has nothing to tell.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What is shown of a log, piece by piece.
pub struct Reader<S> {
    source: S,
    format: Format,
    follow: bool,
    stream: Option<Stream>,
    since: Option<u64>,
    /// Nothing before this offset is shown.
    from: u64,
    /// Bytes that are still wanted, of a range.
    left: Option<u64>,
    over: bool,
}

impl<S> std::fmt::Debug for Reader<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("from", &self.from).finish_non_exhaustive()
    }
}

/// The answer to a request for the log that `source` has.
///
/// # Errors
/// The log cannot be read. What fails later breaks the connection off, or is an event named `problem`.
pub async fn answer<S: Source>(asked: Asked, source: S) -> io::Result<Response> {
    let (range, media_type, events) = (asked.range.clone(), asked.media_type(), asked.events);
    let ranged = asked.query == super::LogQuery { attempt: asked.query.attempt, ..Default::default() };
    let mut reader = Reader::new(asked, source).await?;
    let mut part = None;
    if let Some(range) = range {
        let total = reader.source.end().await?;
        match range::parse(&range, total) {
            Wanted::Whole => {}
            Wanted::Part(wanted) => {
                let shown = format!("bytes {}-{}/{total}", wanted.start, wanted.end.saturating_sub(1));
                part = Some((wanted.end - wanted.start, shown));
                reader.narrow(wanted.start, wanted.end - wanted.start);
            }
            Wanted::Beyond => return Ok(beyond(total)),
        }
    }
    let pieces = stream::unfold(Some(reader), move |reader| async move {
        let mut reader = reader?;
        match reader.next().await {
            Ok(Some(piece)) => Some((Ok(piece), Some(reader))),
            Ok(None) => None,
            Err(error) if events => {
                let problem = Problem::new(Code::Internal, format!("the log cannot be read: {error}"));
                Some((Ok(super::problem_event(&problem)), None))
            }
            Err(error) => Some((Err(error), None)),
        }
    });
    // Whoever compresses a body may ask once more after its end.
    let body = HttpBody::from_stream(pieces.fuse());
    let mut response =
        ([(header::CONTENT_TYPE, media_type), (header::CACHE_CONTROL, "no-store")], body).into_response();
    let headers = response.headers_mut();
    if !events && ranged {
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    if let Some((length, shown)) = part {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        if let Ok(shown) = HeaderValue::from_str(&shown) {
            headers.insert(header::CONTENT_RANGE, shown);
        }
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// A range that begins after the last byte.
fn beyond(total: u64) -> Response {
    let why = format!("the range begins after the log's {total} bytes");
    let problem = Problem::new(Code::InvalidRequest, why).hint("a log that goes on may have them later");
    let mut response = (StatusCode::RANGE_NOT_SATISFIABLE, Json(problem)).into_response();
    if let Ok(shown) = HeaderValue::from_str(&format!("bytes */{total}")) {
        response.headers_mut().insert(header::CONTENT_RANGE, shown);
    }
    response
}

impl<S: Source> Reader<S> {
    /// A reader at the beginning of what is asked for.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn new(asked: Asked, mut source: S) -> io::Result<Self> {
        let Asked { query, events, .. } = asked;
        let mut from = query.offset.unwrap_or(0);
        if let Some(lines) = query.tail {
            from = from.max(tail::start(&mut source, lines, query.stream).await?);
        }
        source.seek(from);
        let since = query.since.map(|since: Timestamp| u64::try_from(since.as_microsecond()).unwrap_or(0));
        let format = Format::new(events, query.timestamps);
        let (follow, stream) = (query.follow, query.stream);
        Ok(Self { source, format, follow, stream, since, from, left: None, over: false })
    }

    fn narrow(&mut self, from: u64, length: u64) {
        self.source.seek(from);
        self.from = from;
        self.left = Some(length);
        self.format = Format::Bytes;
    }

    /// The next piece of the answer; `None` at its end.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        while !self.over {
            if let Some(chunk) = self.source.next().await? {
                let mut out = Vec::with_capacity(chunk.bytes.len() + 64);
                self.show(&chunk, &mut out)?;
                if let Some(left) = &mut self.left {
                    out.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= out.len() as u64;
                    self.over = *left == 0;
                }
                if !out.is_empty() {
                    return Ok(Some(out.into()));
                }
                continue;
            }
            let more = if self.follow {
                timeout(KEEP_ALIVE, self.source.more()).await
            } else {
                Ok(if self.source.closed() { More::Closed } else { More::Stopping })
            };
            let piece = match more {
                Ok(More::Yes) => continue,
                Err(_elapsed) => self.format.sign_of_life(),
                Ok(ended) => {
                    self.over = true;
                    // Whoever follows a log that goes on is told nothing, and asks again.
                    let told = ended == More::Closed || !self.follow;
                    if told { self.format.end(ended == More::Closed) } else { Bytes::new() }
                }
            };
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    fn show(&mut self, chunk: &Chunk, out: &mut Vec<u8>) -> io::Result<()> {
        let attempt = self.source.attempt();
        let mut offset = chunk.offset;
        if self.left.is_some() && offset > self.from {
            // What comes after it would stand in its place: a range has no way to say so but to break off.
            return Err(io::Error::other("bytes of the range are missing"));
        }
        for record in records(&chunk.bytes) {
            let record = record?;
            let body = match record.body {
                Body::Gap(_) if offset < self.from => continue,
                Body::Gap(dropped) => Body::Gap(dropped),
                Body::Text(stream, text) => {
                    let skipped = self.from.saturating_sub(offset);
                    let skipped = usize::try_from(skipped).unwrap_or(usize::MAX).min(text.len());
                    offset += text.len() as u64;
                    if skipped == text.len() || self.stream.is_some_and(|wanted| wanted != stream) {
                        continue;
                    }
                    Body::Text(stream, &text[skipped..])
                }
            };
            // Nobody knows when that was written of which there is nothing: it may have been since.
            let undated = record.micros == 0 && matches!(body, Body::Gap(_));
            if undated || self.since.is_none_or(|since| record.micros >= since) {
                self.format.write(out, attempt, &Record { body, ..record }, offset);
            }
        }
        // What was shown is not shown again, even where parts overlap.
        self.from = self.from.max(offset);
        Ok(())
    }
}

/// The records of a chunk.
pub(super) fn records(bytes: &[u8]) -> impl Iterator<Item = io::Result<Record<'_>>> {
    let mut rest = bytes;
    std::iter::from_fn(move || match log::split_record(rest) {
        Ok(Some((record, after))) => {
            rest = after;
            Some(Ok(record))
        }
        Ok(None) => None,
        Err(error) => {
            rest = &[];
            Some(Err(io::Error::other(error)))
        }
    })
}

#[cfg(test)]
mod tests;
