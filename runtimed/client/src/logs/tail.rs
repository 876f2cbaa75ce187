//! Where the last lines of a log begin, looked for from its last part on.

use std::collections::{BTreeSet, VecDeque};
use std::io;

use runtimed_api::log::{Body, Stream};

use super::reader::records;
use super::{Chunk, Source};

/// The offset where the last `lines` lines begin, of one stream or of both.
pub(super) async fn start<S: Source>(source: &mut S, lines: u64, stream: Option<Stream>) -> io::Result<u64> {
    let most = usize::try_from(lines).unwrap_or(usize::MAX);
    if most == 0 {
        return source.end().await;
    }
    let mut starts = BTreeSet::new();
    // Each stream has lines of its own: one may stop in the middle of a line and the other go on. Of the first byte that
    // a later part has of a stream, the part before it tells whether it begins a line.
    let mut first_later: [Option<u64>; 2] = [None; 2];
    let parts = source.parts();
    let mut until = u64::MAX;
    for begin in parts.into_iter().rev() {
        source.seek(begin);
        let mut part = Part::of(most);
        while let Some(chunk) = source.next().await? {
            if chunk.offset >= until {
                break;
            }
            part.look(&chunk, stream)?;
        }
        starts.extend(part.starts);
        for (index, later) in first_later.iter_mut().enumerate() {
            if part.ends_line[index] == Some(true) {
                starts.extend(later.take());
            }
            if part.first[index].is_some() {
                *later = part.first[index];
            }
        }
        while starts.len() > most {
            starts.pop_first();
        }
        // What is not decided yet matters only if it lies behind what would be chosen.
        if let Some(chosen) = starts.iter().rev().nth(most - 1)
            && first_later.iter().flatten().all(|open| open < chosen)
        {
            return Ok(*chosen);
        }
        until = begin;
    }
    // Those that nothing precedes.
    starts.extend(first_later.iter().flatten());
    Ok(starts.iter().rev().nth(most - 1).or(starts.first()).copied().unwrap_or(0))
}

/// What one part of a log says about lines.
#[derive(Default)]
pub(super) struct Part {
    /// How many lines are asked for.
    most: usize,
    /// Where the last so many of them begin, in their order, but for the first of each stream.
    starts: VecDeque<u64>,
    /// The first byte of each stream.
    first: [Option<u64>; 2],
    /// Whether the last byte of each stream ends a line.
    ends_line: [Option<bool>; 2],
}

impl Part {
    pub(super) fn of(most: usize) -> Self {
        Self { most, ..Self::default() }
    }

    fn begins(&mut self, offset: u64) {
        if self.starts.len() == self.most {
            self.starts.pop_front();
        }
        self.starts.push_back(offset);
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> Vec<u64> {
        self.starts.iter().copied().collect()
    }

    pub(super) fn look(&mut self, chunk: &Chunk, wanted: Option<Stream>) -> io::Result<()> {
        let mut offset = chunk.offset;
        for record in records(&chunk.bytes) {
            let Body::Text(stream, text) = record?.body else { continue };
            let begin = offset;
            offset += text.len() as u64;
            if wanted.is_some_and(|wanted| wanted != stream) {
                continue;
            }
            let index = usize::from(stream == Stream::Stderr);
            if self.ends_line[index] == Some(true) {
                self.begins(begin);
            }
            self.first[index].get_or_insert(begin);
            let inner = text.len().saturating_sub(1);
            let ends = text[..inner].iter().enumerate().filter(|(_, byte)| **byte == b'\n');
            ends.for_each(|(at, _)| self.begins(begin + at as u64 + 1));
            self.ends_line[index] = text.last().map(|byte| *byte == b'\n');
        }
        Ok(())
    }
}
