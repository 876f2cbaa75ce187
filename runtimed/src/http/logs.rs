//! The log of an attempt: as plain text, or followed as server-sent events whose ids are offsets.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream};
use runtimed_api::log::{LogEvent, Stream as Output};
use runtimed_api::problem::{Code, Problem};
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Refused, Shared, auth};
use crate::daemon::Live;
use crate::logs::{End, Position};

/// What a reader asks for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogQuery {
    /// Go on until the log ends.
    #[serde(default)]
    follow: bool,
    /// From this offset.
    offset: Option<u64>,
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
    let from = last_seen.or(query.offset).unwrap_or(0);
    let events = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/event-stream"));
    let reader = Reader {
        position: live.log.position(from),
        ends: live.log.ends(),
        waiting: VecDeque::new(),
        live,
        query,
        events,
        closing: shared.closing.clone(),
        over: false,
    };
    let content_type = if events { "text/event-stream" } else { "text/plain; charset=utf-8" };
    let body = Body::from_stream(reader.stream());
    let headers = [(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, body).into_response())
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
