//! The log of an attempt: as bytes in segments, and as events on the wire.
//!
//! A log is a sequence of records of two streams. Its *offset* counts bytes of text over both streams, so that an offset
//! names the same place in a segment, in a plain-text answer and in an event stream, whoever serves it.
//!
//! A segment is a header and records, little-endian:
//!
//! ```text
//! header   "RTDLOG1\n"  offset:u64  sequence:u64           of the first record
//! record   kind:u8  micros:u64  length:u32  bytes          kind 1 stdout, 2 stderr; micros since the Unix epoch
//! gap      kind:u8  micros:u64  length:u32  dropped:u64    kind 3, length 8; takes no offset
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The first bytes of a segment; the digit is the format's version.
pub const MAGIC: [u8; 8] = *b"RTDLOG1\n";
/// Bytes of a segment's header.
pub const HEADER_BYTES: usize = 24;
/// Bytes of a record before its text.
pub const RECORD_HEADER_BYTES: usize = 13;
/// The longest text of one record; a longer write becomes several records.
pub const MAX_RECORD_BYTES: usize = 64 * 1024;

/// One of the command's two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// One record, borrowed from a segment's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// When it was read, in microseconds since the Unix epoch.
    pub micros: u64,
    /// What it is.
    pub body: Body<'a>,
}

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body<'a> {
    /// Text of a stream.
    Text(Stream, &'a [u8]),
    /// So many bytes are missing here.
    Gap(u64),
}

/// Bytes that are no segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a log segment: {0}")]
pub struct BadSegment(&'static str);

/// The header of a segment whose first record has this offset and sequence.
#[must_use]
pub fn header(offset: u64, sequence: u64) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&offset.to_le_bytes());
    bytes[16..].copy_from_slice(&sequence.to_le_bytes());
    bytes
}

/// Appends a record to `out`. Text longer than [`MAX_RECORD_BYTES`] is the caller's to split.
pub fn append(out: &mut Vec<u8>, record: Record<'_>) {
    let gap;
    let (kind, bytes) = match record.body {
        Body::Text(Stream::Stdout, bytes) => (1, bytes),
        Body::Text(Stream::Stderr, bytes) => (2, bytes),
        Body::Gap(dropped) => {
            gap = dropped.to_le_bytes();
            (3, gap.as_slice())
        }
    };
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.reserve(RECORD_HEADER_BYTES + bytes.len());
    out.push(kind);
    out.extend_from_slice(&record.micros.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Reads a segment: its first offset and sequence, and its records. A record that is cut off at the end is left out:
/// what was being written when a daemon died is not there yet.
///
/// # Errors
/// The bytes are no segment, or a record in them is not well formed.
pub fn read(segment: &[u8]) -> Result<(u64, u64, Vec<Record<'_>>), BadSegment> {
    let (magic, rest) = segment.split_first_chunk::<8>().ok_or(BadSegment("shorter than its header"))?;
    let (offset, rest) = rest.split_first_chunk::<8>().ok_or(BadSegment("shorter than its header"))?;
    let (sequence, mut rest) = rest.split_first_chunk::<8>().ok_or(BadSegment("shorter than its header"))?;
    if *magic != MAGIC {
        return Err(BadSegment("another first line"));
    }
    let mut records = Vec::new();
    while let Some((record, after)) = split_record(rest)? {
        records.push(record);
        rest = after;
    }
    Ok((u64::from_le_bytes(*offset), u64::from_le_bytes(*sequence), records))
}

/// The first record of `bytes` and what follows it; `None` when it is not whole.
///
/// # Errors
/// The record is not well formed.
pub fn split_record(bytes: &[u8]) -> Result<Option<(Record<'_>, &[u8])>, BadSegment> {
    let Some((&kind, rest)) = bytes.split_first() else { return Ok(None) };
    let Some((micros, rest)) = rest.split_first_chunk::<8>() else { return Ok(None) };
    let Some((length, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if length > MAX_RECORD_BYTES {
        return Err(BadSegment("a record longer than its bound"));
    }
    let Some((text, rest)) = rest.split_at_checked(length) else { return Ok(None) };
    let body = match kind {
        1 => Body::Text(Stream::Stdout, text),
        2 => Body::Text(Stream::Stderr, text),
        3 => Body::Gap(u64::from_le_bytes(
            *text.first_chunk::<8>().filter(|_| length == 8).ok_or(BadSegment("a gap of another length"))?,
        )),
        _ => return Err(BadSegment("a record of an unknown kind")),
    };
    Ok(Some((Record { micros: u64::from_le_bytes(*micros), body }, rest)))
}

/// One event of a followed log: the data of a server-sent event, whose id is [`LogEvent::next`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogEvent {
    /// The attempt whose log it is.
    pub attempt: u32,
    /// The offset after it: where to resume.
    pub next: u64,
    /// When it was read from the command.
    pub at: Timestamp,
    /// Which stream; absent for a gap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<Stream>,
    /// Its text, where that is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Its bytes, where they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// So many bytes are missing here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<u64>,
}

impl LogEvent {
    /// The event for `record` of `attempt`, with the offset after it.
    #[must_use]
    pub fn of(attempt: u32, record: &Record<'_>, next: u64) -> Self {
        let micros = i64::try_from(record.micros).unwrap_or(i64::MAX);
        let at = Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH);
        let blank = Self { attempt, next, at, stream: None, text: None, base64: None, dropped: None };
        match record.body {
            Body::Gap(dropped) => Self { dropped: Some(dropped), ..blank },
            Body::Text(stream, bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Self { stream: Some(stream), text: Some(text.to_owned()), ..blank },
                Err(_) => Self { stream: Some(stream), base64: Some(BASE64.encode(bytes)), ..blank },
            },
        }
    }

    /// The bytes of its text.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        match (&self.text, &self.base64) {
            (Some(text), _) => text.as_bytes().to_vec(),
            (None, Some(base64)) => BASE64.decode(base64).unwrap_or_default(),
            (None, None) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_what_it_writes(texts in prop::collection::vec((any::<bool>(), any::<u64>(), any::<Vec<u8>>()), 0..8), cut in 0_usize..64) {
            let mut bytes = header(5, 7).to_vec();
            let mut written = Vec::new();
            for (out, micros, text) in &texts {
                let stream = if *out { Stream::Stdout } else { Stream::Stderr };
                let record = Record { micros: *micros, body: Body::Text(stream, text) };
                append(&mut bytes, record);
                written.push(record);
            }
            prop_assert_eq!(read(&bytes), Ok((5, 7, written.clone())));
            // Whatever is cut off the end, the whole records before it are still there.
            let cut = bytes.len().saturating_sub(cut).max(HEADER_BYTES);
            let (_, _, records) = read(&bytes[..cut]).expect("reads");
            prop_assert_eq!(&records[..], &written[..records.len()]);
        }

        #[test]
        fn garbage_is_refused(bytes: Vec<u8>) {
            prop_assert!(read(&bytes).is_err() || bytes.starts_with(&MAGIC));
        }
    }

    #[test]
    fn an_event_keeps_bytes_that_are_no_text() {
        let record = Record { micros: 1, body: Body::Text(Stream::Stdout, b"\xff\x00") };
        let event = LogEvent::of(1, &record, 2);
        assert_eq!(event.text, None);
        assert_eq!(event.bytes(), b"\xff\x00");
    }
}
