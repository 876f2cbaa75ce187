//! The log of an attempt that is over, from its segments: one in memory at a time.

use bytes::Bytes;
use runtimed_api::log::{self, Body, Record, Stream};
use runtimed_api::problem::{Code, Problem};
use runtimed_api::run::status::LogSegment;

use super::format::Format;
use super::{Answer, Failure, Pieces, Wanted, push};
use crate::blobs::BlobStore;
use crate::core::Blobs;

/// The largest segment that is read, in bytes. Daemons end one at 4 MiB.
const MAX_SEGMENT: u64 = 64 * 1024 * 1024;
/// Bytes after which what is written is sent on.
const PIECE: usize = 64 * 1024;

/// Sends what is wanted of these segments.
pub(super) async fn send(
    blobs: &BlobStore,
    place: &Blobs,
    attempt: u32,
    segments: &[LogSegment],
    wanted: &Wanted,
    format: &mut Format,
    pieces: &Pieces,
) -> Answer<()> {
    let mut from = wanted.offset.unwrap_or(0);
    if let Some(lines) = wanted.tail {
        from = from.max(start_of_tail(blobs, place, segments, wanted.stream, lines).await?);
    }
    for segment in segments {
        if segment.offset.saturating_add(segment.length) < from {
            continue;
        }
        let bytes = read(blobs, place, segment).await?;
        let mut out = Vec::with_capacity(PIECE);
        for (record, next) in records(&bytes)? {
            let Some(record) = cut(record, next, from).filter(|record| is_wanted(record, wanted.stream))
            else {
                continue;
            };
            format.write(&mut out, attempt, &record, next);
            if out.len() >= PIECE {
                push(pieces, Bytes::from(std::mem::take(&mut out))).await?;
            }
        }
        push(pieces, Bytes::from(out)).await?;
    }
    Ok(())
}

/// The offset at which the last `lines` lines begin, found from the end.
async fn start_of_tail(
    blobs: &BlobStore,
    place: &Blobs,
    segments: &[LogSegment],
    stream: Option<Stream>,
    lines: u64,
) -> Answer<u64> {
    let end = segments.last().map_or(0, |last| last.offset.saturating_add(last.length));
    if lines == 0 {
        return Ok(end);
    }
    let mut seen = 0;
    let mut last_byte = true;
    for segment in segments.iter().rev() {
        let bytes = read(blobs, place, segment).await?;
        for (record, next) in records(&bytes)?.into_iter().rev() {
            let Body::Text(_, text) = record.body else { continue };
            if !is_wanted(&record, stream) {
                continue;
            }
            for (back, byte) in text.iter().rev().enumerate() {
                // The line break that ends the last line begins no line of its own.
                if *byte == b'\n' && !std::mem::take(&mut last_byte) {
                    seen += 1;
                    if seen == lines {
                        return Ok(next.saturating_sub(u64::try_from(back).unwrap_or(u64::MAX)));
                    }
                }
                last_byte = false;
            }
        }
    }
    Ok(0)
}

async fn read(blobs: &BlobStore, place: &Blobs, segment: &LogSegment) -> Answer<Bytes> {
    Ok(blobs.read(place, &segment.digest, MAX_SEGMENT).await?)
}

/// The records of a segment, each with the offset after it.
fn records(segment: &[u8]) -> Answer<Vec<(Record<'_>, u64)>> {
    let (mut offset, _, records) = log::read(segment).map_err(|error| {
        tracing::error!(%error, "a log segment in the store cannot be read");
        Failure(Problem::new(Code::Internal, "a part of the log cannot be read"))
    })?;
    Ok(records
        .into_iter()
        .map(|record| {
            if let Body::Text(_, text) = record.body {
                offset = offset.saturating_add(u64::try_from(text.len()).unwrap_or(u64::MAX));
            }
            (record, offset)
        })
        .collect())
}

/// What of a record lies at or after `from`.
fn cut(record: Record<'_>, next: u64, from: u64) -> Option<Record<'_>> {
    match record.body {
        Body::Gap(_) => (next >= from).then_some(record),
        Body::Text(stream, text) => {
            let keep = usize::try_from(next.checked_sub(from)?).unwrap_or(usize::MAX).min(text.len());
            let text = &text[text.len() - keep..];
            (!text.is_empty()).then_some(Record { body: Body::Text(stream, text), ..record })
        }
    }
}

fn is_wanted(record: &Record<'_>, stream: Option<Stream>) -> bool {
    match (record.body, stream) {
        (Body::Text(of, _), Some(wanted)) => of == wanted,
        _ => true,
    }
}
