//! What a reader of a log asks for.

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderMap, header};
use jiff::Timestamp;
use reqwest::Url;
use runtimed_api::log::Stream;
use runtimed_api::problem::{Code, Problem};
use serde::Deserialize;

/// Lines that `tail` counts at most.
const MAX_TAIL: u64 = 100_000;

/// Which part of which log: the query of `GET …/logs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogQuery {
    /// Go on until the log ends; of a Run that waits, wait for it.
    pub follow: bool,
    /// Of this attempt; the newest without it.
    pub attempt: Option<u32>,
    /// From this offset on.
    pub offset: Option<u64>,
    /// This stream alone.
    pub stream: Option<Stream>,
    /// The last so many lines of what is there, at most 100000.
    pub tail: Option<u64>,
    /// What was written at this time or later.
    pub since: Option<Timestamp>,
    /// With the time of each line; for plain text alone, events have it anyhow.
    pub timestamps: bool,
}

/// A request for a log, as its query and its headers say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Which part of which log.
    pub query: LogQuery,
    /// As server-sent events rather than as text.
    pub events: bool,
    /// The `Range` header, where it means something: of the plain text as a whole.
    pub range: Option<String>,
}

impl LogQuery {
    /// Writes it behind a URL's path.
    pub(crate) fn write(&self, url: &mut Url) {
        let stream = self.stream.map(|stream| match stream {
            Stream::Stdout => "stdout".to_owned(),
            Stream::Stderr => "stderr".to_owned(),
        });
        let pairs = [
            ("follow", self.follow.then(|| "true".to_owned())),
            ("attempt", self.attempt.map(|attempt| attempt.to_string())),
            ("offset", self.offset.map(|offset| offset.to_string())),
            ("stream", stream),
            ("tail", self.tail.map(|tail| tail.to_string())),
            ("since", self.since.map(|since| since.to_string())),
            ("timestamps", self.timestamps.then(|| "true".to_owned())),
        ];
        for (key, value) in pairs {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(key, &value);
            }
        }
    }
}

impl Asked {
    /// Reads a request. `Last-Event-ID` is where a reader of events has come to, and goes before `offset`.
    ///
    /// # Errors
    /// `InvalidRequest`: a word of the query is unknown or has no such value, or the id is no offset.
    pub fn read(
        query: Result<Query<LogQuery>, QueryRejection>,
        headers: &HeaderMap,
    ) -> Result<Self, Problem> {
        let invalid = |why: String| Problem::new(Code::InvalidRequest, why);
        let Query(mut query) = query.map_err(|error| invalid(error.body_text()))?;
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let events = text(header::ACCEPT.as_str()).is_some_and(|accept| accept.contains("text/event-stream"));
        if let Some(id) = headers.get("last-event-id") {
            let offset = id.to_str().ok().and_then(|id| id.parse().ok());
            query.offset =
                Some(offset.ok_or_else(|| invalid("Last-Event-ID is an offset, a number".to_owned()))?);
            // The lines that were asked for at first have been sent.
            query.tail = None;
        }
        query.tail = query.tail.map(|lines| lines.min(MAX_TAIL));
        let whole = LogQuery { attempt: query.attempt, ..LogQuery::default() } == query;
        let range = text(header::RANGE.as_str()).filter(|_| whole && !events).map(str::to_owned);
        Ok(Self { query, events, range })
    }

    /// The media type of the answer.
    #[must_use]
    pub fn media_type(&self) -> &'static str {
        if self.events { "text/event-stream" } else { "text/plain; charset=utf-8" }
    }
}
