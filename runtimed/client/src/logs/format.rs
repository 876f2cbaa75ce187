//! Records as events, or as plain text.

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
    /// The text and nothing else, so that its bytes are those that offsets count.
    Bytes,
    /// The text for people: gaps are said.
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

    /// Appends a record whose last byte is before the offset `next`.
    pub(super) fn write(&mut self, out: &mut Vec<u8>, attempt: u32, record: &Record<'_>, next: u64) {
        match (self, record.body) {
            (Self::Events, body) => {
                let name = match body {
                    Body::Text(Stream::Stdout, _) => "stdout",
                    Body::Text(Stream::Stderr, _) => "stderr",
                    Body::Gap(_) => "gap",
                };
                event(out, Some(next), name, &LogEvent::of(attempt, record, next));
            }
            (Self::Bytes, Body::Gap(_)) => {}
            (Self::Bytes | Self::Text { timestamps: false, .. }, Body::Text(_, bytes)) => {
                out.extend_from_slice(bytes);
            }
            (Self::Text { fresh, .. }, Body::Text(stream, bytes)) => {
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
            (Self::Text { .. }, Body::Gap(dropped)) => {
                let said = format!("\n[{dropped} bytes of the log are missing here]\n");
                out.extend_from_slice(said.as_bytes());
            }
        }
    }

    /// Said at the end: whether the log is over, or only what there was of it.
    pub(super) fn end(&self, closed: bool) -> Bytes {
        let mut out = Vec::new();
        if matches!(self, Self::Events) {
            event(&mut out, None, "end", &serde_json::json!({ "closed": closed }));
        }
        out.into()
    }

    /// Said when there is nothing yet: a comment, where the format has one.
    pub(super) fn sign_of_life(&self) -> Bytes {
        match self {
            Self::Events => Bytes::from_static(b":\n\n"),
            Self::Bytes | Self::Text { .. } => Bytes::new(),
        }
    }
}

/// A problem as an event, for an answer that has begun.
#[must_use]
pub fn problem_event(problem: &Problem) -> Bytes {
    let mut out = Vec::new();
    event(&mut out, None, "problem", problem);
    out.into()
}

fn event(out: &mut Vec<u8>, id: Option<u64>, name: &str, data: &impl serde::Serialize) {
    let mut head = String::new();
    if let Some(id) = id {
        // Writing to a String cannot fail.
        let _infallible = writeln!(head, "id: {id}");
    }
    let _infallible = write!(head, "event: {name}\ndata: ");
    out.extend_from_slice(head.as_bytes());
    // JSON as serde writes it has no line breaks, so that one `data` line holds it; our own types cannot fail.
    if serde_json::to_writer(&mut *out, data).is_err() {
        out.extend_from_slice(b"{}");
    }
    out.extend_from_slice(b"\n\n");
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
        assert_eq!(&format.end(true)[..], b"event: end\ndata: {\"closed\":true}\n\n");
    }
}
