//! The log of an attempt: as plain text, or followed as server-sent events whose ids are offsets.

mod range;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream};
use jiff::Timestamp;
use runtimed_api::log::{LogEvent, Stream as Output};
use runtimed_api::problem::{Code, Problem};
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Refused, Shared, auth};
use crate::daemon::Live;
use crate::logs::{End, Position};

/// Lines that `tail` counts at most.
const MAX_TAIL: u64 = 100_000;

/// What a reader asks for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogQuery {
    /// Go on until the log ends.
    #[serde(default)]
    follow: bool,
    /// From this offset.
    offset: Option<u64>,
    /// The last so many lines, at most 100000.
    tail: Option<u64>,
    /// What was written at this time or later.
    since: Option<Timestamp>,
    /// Of this stream alone.
    stream: Option<Output>,
    /// In plain text, each line with its time.
    #[serde(default)]
    timestamps: bool,
    /// Of this attempt; another than the newest is not here.
    attempt: Option<u32>,
}

pub(super) async fn logs(
    State(shared): State<Shared>,
    Path((namespace, name)): Path<(String, String)>,
    query: Result<Query<LogQuery>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let live = auth::attempt(&shared.daemon, &headers, &namespace, &name)?;
    let Query(query) = query
        .map_err(|error| Problem::new(Code::InvalidRequest, format!("the query cannot be read: {error}")))?;
    if query.attempt.is_some_and(|attempt| attempt != live.key.attempt.0) {
        return Err(Problem::new(Code::NotFound, "that attempt is not on this daemon").into());
    }
    let last_seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let mut from = last_seen.or(query.offset).unwrap_or(0);
    if let Some(lines) = query.tail {
        let (log, stream) = (Arc::clone(&live.log), query.stream);
        let found = tokio::task::spawn_blocking(move || log.tail(lines.min(MAX_TAIL), stream)).await;
        let start = found.map_err(std::io::Error::other).flatten();
        from = from.max(start.map_err(|error| unreadable(&live, &error))?);
    }
    let events = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/event-stream"));
    // A range is of the plain bytes as they are now; of anything else it would mean nothing.
    let whole = !events && !query.follow && from == 0 && query.stream.is_none() && query.since.is_none();
    let total = live.log.facts().bytes;
    let range = headers.get(header::RANGE).filter(|_| whole && !query.timestamps);
    let range = range.and_then(|range| range::parse(range.to_str().ok()?, total));
    if let Some(range) = &range {
        from = range.start;
    }
    let left = range.as_ref().map(|range| range.end - range.start);
    let reader = Reader {
        position: live.log.position(from),
        ends: live.log.ends(),
        waiting: VecDeque::new(),
        live,
        query,
        events,
        closing: shared.closing.clone(),
        left,
        over: false,
    };
    let content_type = if events { "text/event-stream" } else { "text/plain; charset=utf-8" };
    let body = Body::from_stream(reader.stream());
    let headers = [(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-store")];
    let mut response = (headers, body).into_response();
    if let Some(range) = range {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let last = range.end.saturating_sub(1);
        if let Ok(value) = HeaderValue::from_str(&format!("bytes {}-{last}/{total}", range.start)) {
            response.headers_mut().insert(header::CONTENT_RANGE, value);
        }
    }
    Ok(response)
}

fn unreadable(live: &Live, error: &std::io::Error) -> Problem {
    tracing::error!(attempt = %live.key, %error, "a log cannot be read");
    Problem::new(Code::Internal, "the log cannot be read")
}

/// One reader. It reads at its own pace, and the writer never waits for it.
struct Reader {
    live: Arc<Live>,
    position: Position,
    ends: watch::Receiver<End>,
    waiting: VecDeque<Vec<u8>>,
    query: LogQuery,
    events: bool,
    closing: CancellationToken,
    /// Bytes that are still wanted, of a range.
    left: Option<u64>,
    over: bool,
}

impl Reader {
    fn stream(self) -> impl Stream<Item = Result<Vec<u8>, Infallible>> + Send {
        stream::unfold(self, |mut reader| async move {
            let piece = reader.next().await?;
            Some((Ok(piece), reader))
        })
    }

    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(piece) = self.waiting.pop_front() {
                return Some(piece);
            }
            if self.over {
                return None;
            }
            // Taken before the look: what comes after it changes it again.
            let end = *self.ends.borrow_and_update();
            let attempt = self.live.key.attempt.0;
            let events = match self.live.log.read(&mut self.position, attempt) {
                Ok(events) => events,
                Err(error) => {
                    tracing::error!(attempt = %self.live.key, %error, "a log cannot be read");
                    return None;
                }
            };
            if !events.is_empty() {
                let mut bytes = Vec::new();
                events.iter().for_each(|event| self.show(event, &mut bytes));
                if let Some(left) = &mut self.left {
                    bytes.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= bytes.len() as u64;
                    self.over = *left == 0;
                }
                self.waiting.push_back(bytes);
            } else if end.closed || !self.query.follow {
                self.over = true;
                // Only a log that is closed has an end: a reader who did not follow may ask again.
                if self.events && end.closed {
                    self.waiting.push_back(b"event: end\ndata: {}\n\n".to_vec());
                }
            } else {
                tokio::select! {
                    changed = self.ends.changed() => changed.ok()?,
                    () = self.closing.cancelled() => return None,
                }
            }
        }
    }

    fn show(&self, event: &LogEvent, out: &mut Vec<u8>) {
        if self.query.stream.is_some() && event.stream.is_some() && event.stream != self.query.stream {
            return;
        }
        if self.query.since.is_some_and(|since| event.at < since) {
            return;
        }
        if self.events {
            let name = match event.stream {
                Some(Output::Stdout) => "stdout",
                Some(Output::Stderr) => "stderr",
                None => "gap",
            };
            out.extend_from_slice(format!("id: {}\nevent: {name}\ndata: ", event.next).as_bytes());
            // JSON of our own type has no line breaks and cannot fail.
            out.extend_from_slice(&serde_json::to_vec(event).unwrap_or_default());
            out.extend_from_slice(b"\n\n");
        } else if let Some(dropped) = event.dropped {
            out.extend_from_slice(format!("\n[runtimed: {dropped} bytes are missing here]\n").as_bytes());
        } else if self.query.timestamps {
            for line in event.bytes().split_inclusive(|byte| *byte == b'\n') {
                out.extend_from_slice(format!("{} ", event.at).as_bytes());
                out.extend_from_slice(line);
            }
        } else {
            out.extend_from_slice(&event.bytes());
        }
    }
}
