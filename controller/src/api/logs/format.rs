//! A log as events, or as plain text.

use std::fmt::Write as _;

use bytes::Bytes;
use jiff::Timestamp;
use runtimed_api::log::{Body, LogEvent, Record, Stream};
use runtimed_api::problem::Problem;

/// How a log is written.
#[derive(Debug)]
pub(super) enum Format {
    /// Events whose id is the offset after them.
    Events,
    /// The text alone.
    Text {
        /// Each line begins with its time.
        timestamps: bool,
        /// The next byte of each stream begins a line.
        fresh: [bool; 2],
    },
}

impl Format {
    pub(super) fn new(events: bool, timestamps: bool) -> Self {
        if events { Self::Events } else { Self::Text { timestamps, fresh: [true; 2] } }
    }

    pub(super) fn media_type(&self) -> &'static str {
        match self {
            Self::Events => "text/event-stream",
            Self::Text { .. } => "text/plain",
        }
    }

    /// Appends a record whose last byte is before the offset `next`.
    pub(super) fn write(&mut self, out: &mut Vec<u8>, attempt: u32, record: &Record<'_>, next: u64) {
        match self {
            Self::Events => {
                let name = match record.body {
                    Body::Text(Stream::Stdout, _) => "stdout",
                    Body::Text(Stream::Stderr, _) => "stderr",
                    Body::Gap(_) => "gap",
                };
                out.extend_from_slice(&event(Some(next), name, &LogEvent::of(attempt, record, next)));
            }
            Self::Text { timestamps, fresh } => match record.body {
                Body::Text(_, bytes) if !*timestamps => out.extend_from_slice(bytes),
                Body::Text(stream, bytes) => {
                    let fresh = &mut fresh[usize::from(stream == Stream::Stderr)];
                    let time = time(record.micros);
                    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
                        if *fresh {
                            out.extend_from_slice(time.as_bytes());
                        }
                        out.extend_from_slice(line);
                        *fresh = line.ends_with(b"\n");
                    }
                }
                Body::Gap(dropped) => {
                    out.extend_from_slice(
                        format!("\n[{dropped} bytes of log were dropped here]\n").as_bytes(),
                    );
                }
            },
        }
    }

    /// Said when there is nothing more.
    pub(super) fn end(&self) -> Bytes {
        match self {
            Self::Events => event(None, "end", &serde_json::json!({})).into(),
            Self::Text { .. } => Bytes::new(),
        }
    }

    /// Said when there is nothing yet: a comment, where the format has one.
    pub(super) fn sign_of_life(&self) -> Bytes {
        match self {
            Self::Events => Bytes::from_static(b":\n\n"),
            Self::Text { .. } => Bytes::new(),
        }
    }
}

/// A problem as an event.
pub(super) fn problem(problem: &Problem) -> Bytes {
    event(None, "problem", problem).into()
}

fn event(id: Option<u64>, name: &str, data: &impl serde::Serialize) -> Vec<u8> {
    let mut text = String::new();
    if let Some(id) = id {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "id: {id}");
    }
    // JSON as serde writes it has no line breaks, so that one `data` line holds it.
    let data = serde_json::to_string(data).unwrap_or_else(|_| "{}".to_owned());
    let _infallible = write!(text, "event: {name}\ndata: {data}\n\n");
    text.into_bytes()
}

fn time(micros: u64) -> String {
    let micros = i64::try_from(micros).unwrap_or(i64::MAX);
    let time = Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{time:.6} ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(stream: Stream, bytes: &[u8]) -> Record<'_> {
        Record { micros: 1_500_000, body: Body::Text(stream, bytes) }
    }

    #[test]
    fn each_line_of_each_stream_has_its_time_once() {
        let mut format = Format::new(false, true);
        let mut out = Vec::new();
        format.write(&mut out, 1, &text(Stream::Stdout, b"a"), 1);
        format.write(&mut out, 1, &text(Stream::Stderr, b"e\n"), 3);
        format.write(&mut out, 1, &text(Stream::Stdout, b"b\nc\n"), 7);
        let time = "1970-01-01T00:00:01.500000Z ";
        assert_eq!(String::from_utf8_lossy(&out), format!("{time}a{time}e\nb\n{time}c\n"));
    }

    #[test]
    fn an_event_has_the_offset_after_it() {
        let mut format = Format::new(true, false);
        let mut out = Vec::new();
        format.write(&mut out, 2, &text(Stream::Stdout, b"hi\n"), 3);
        let out = String::from_utf8_lossy(&out);
        assert!(out.starts_with("id: 3\nevent: stdout\ndata: {\"attempt\":2,\"next\":3,"), "{out}");
        assert!(out.ends_with("\n\n"), "{out}");
        assert_eq!(&format.end()[..], b"event: end\ndata: {}\n\n");
    }
}
