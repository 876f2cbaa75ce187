use proptest::prelude::*;

use super::super::LogQuery;
use super::*;

/// A log in memory, cut into parts.
struct Memory {
    parts: Vec<Chunk>,
    at: usize,
}

impl Source for Memory {
    fn attempt(&self) -> u32 {
        1
    }

    fn closed(&self) -> bool {
        true
    }

    async fn end(&mut self) -> io::Result<u64> {
        let text = |part: &Chunk| -> u64 {
            records(&part.bytes).map(|record| length(&record.expect("a record"))).sum()
        };
        Ok(self.parts.last().map_or(0, |last| last.offset + text(last)))
    }

    fn parts(&self) -> Vec<u64> {
        self.parts.iter().map(|part| part.offset).collect()
    }

    fn seek(&mut self, offset: u64) {
        self.at = self.parts.partition_point(|part| part.offset <= offset).saturating_sub(1);
    }

    async fn next(&mut self) -> io::Result<Option<Chunk>> {
        let chunk = self.parts.get(self.at).cloned();
        self.at += usize::from(chunk.is_some());
        Ok(chunk)
    }

    async fn more(&mut self) -> More {
        More::Closed
    }
}

fn length(record: &Record<'_>) -> u64 {
    if let Body::Text(_, text) = record.body { text.len() as u64 } else { 0 }
}

/// A log of these records, `per_part` in each part; the time of each is its index in seconds.
fn memory(written: &[(Stream, String)], per_part: usize) -> Memory {
    let (mut parts, mut offset, mut micros) = (Vec::new(), 0, 0);
    for part in written.chunks(per_part) {
        let (begin, mut bytes) = (offset, Vec::new());
        for (stream, text) in part {
            log::append(&mut bytes, Record { micros, body: Body::Text(*stream, text.as_bytes()) });
            offset += text.len() as u64;
            micros += 1_000_000;
        }
        parts.push(Chunk { offset: begin, bytes: bytes.into() });
    }
    Memory { parts, at: 0 }
}

async fn shown(query: LogQuery, events: bool, source: Memory) -> String {
    let mut reader = Reader::new(Asked { query, events, range: None }, source).await.expect("a reader");
    let mut all = Vec::new();
    while let Some(piece) = reader.next().await.expect("it reads") {
        all.extend_from_slice(&piece);
    }
    String::from_utf8(all).expect("text")
}

fn now<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(future)
}

/// Where lines begin, as one reads it off the whole log.
fn starts(written: &[(Stream, String)], wanted: Option<Stream>) -> Vec<u64> {
    let (mut offset, mut fresh, mut starts) = (0, [true; 2], Vec::new());
    for (stream, text) in written {
        let fresh = &mut fresh[usize::from(*stream == Stream::Stderr)];
        for byte in text.bytes() {
            if std::mem::replace(fresh, byte == b'\n') && wanted.is_none_or(|wanted| wanted == *stream) {
                starts.push(offset);
            }
            offset += 1;
        }
    }
    starts
}

fn records_of_a_log() -> impl Strategy<Value = Vec<(Stream, String)>> {
    let stream = prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)];
    prop::collection::vec((stream, "[ab\n]{1,6}"), 0..12)
}

proptest! {
    #[test]
    fn the_last_lines_begin_where_a_look_at_the_whole_says(
        written in records_of_a_log(), per_part in 1_usize..5, lines in 0_u64..8, of in 0_u8..3,
    ) {
        let stream = [None, Some(Stream::Stdout), Some(Stream::Stderr)][usize::from(of)];
        let found = now(async { tail::start(&mut memory(&written, per_part), lines, stream).await });
        let starts = starts(&written, stream);
        let end: u64 = written.iter().map(|(_, text)| text.len() as u64).sum();
        let lines = usize::try_from(lines).expect("small");
        let expected = match (lines, starts.len()) {
            (0, _) => end,
            (_, 0) => 0,
            (lines, all) => starts[all.saturating_sub(lines)],
        };
        prop_assert_eq!(found.expect("it reads"), expected);
    }

    #[test]
    fn every_offset_is_a_place_to_resume_at(written in records_of_a_log(), per_part in 1_usize..5, from in 0_usize..40) {
        let whole: String = written.iter().map(|(_, text)| text.as_str()).collect();
        let query = LogQuery { offset: Some(from as u64), ..LogQuery::default() };
        let seen = now(shown(query, false, memory(&written, per_part)));
        prop_assert_eq!(seen.as_str(), whole.get(from..).unwrap_or_default());
    }
}

#[test]
fn one_stream_and_a_time_select() {
    let written = [(Stream::Stdout, "a\n"), (Stream::Stderr, "b\n"), (Stream::Stdout, "c\n")];
    let written = written.map(|(stream, text)| (stream, text.to_owned()));
    let stream = LogQuery { stream: Some(Stream::Stderr), ..LogQuery::default() };
    assert_eq!(now(shown(stream, false, memory(&written, 2))), "b\n");
    let since = Some(Timestamp::from_second(1).expect("a time"));
    assert_eq!(now(shown(LogQuery { since, ..LogQuery::default() }, false, memory(&written, 2))), "b\nc\n");
    let events = now(shown(LogQuery::default(), true, memory(&written, 1)));
    assert!(events.ends_with("event: end\ndata: {\"closed\":true}\n\n"), "{events}");
}

/// What is missing at the end of a log has no time, and is told to whoever asks for what was written since some time.
#[test]
fn a_gap_without_a_time_is_told_whatever_the_time() {
    let mut source = memory(&[(Stream::Stdout, "a\n".to_owned())], 1);
    for (micros, count) in [(0, 7), (5, 8)] {
        let mut bytes = Vec::new();
        log::append(&mut bytes, Record { micros, body: Body::Gap(count) });
        source.parts.push(Chunk { offset: 2, bytes: bytes.into() });
    }
    let since = Some(Timestamp::from_second(1).expect("a time"));
    let seen = now(shown(LogQuery { since, ..LogQuery::default() }, false, source));
    assert_eq!(seen, "\n[7 bytes of the log are missing here]\n");
}

/// However many lines there are, no more places are remembered than are asked for.
#[test]
fn a_part_remembers_no_more_lines_than_are_asked_for() {
    let written = [(Stream::Stdout, "\n".repeat(60_000)), (Stream::Stderr, "a\nb\n".to_owned())];
    let source = memory(&written, 2);
    let mut part = tail::Part::of(3);
    part.look(&source.parts[0], None).expect("it reads");
    assert_eq!(part.remembered(), [59_998, 59_999, 60_002]);
}

/// A layer that compresses bodies does that, and a daemon that panics is dead.
#[test]
fn a_body_may_be_asked_once_more_after_its_end() {
    let written = [(Stream::Stdout, "a\n".to_owned())];
    let asked = Asked { query: LogQuery::default(), events: false, range: None };
    now(async {
        let mut body =
            answer(asked, memory(&written, 1)).await.expect("an answer").into_body().into_data_stream();
        let mut seen = Vec::new();
        while let Some(piece) = body.next().await {
            seen.extend_from_slice(&piece.expect("a piece"));
        }
        assert_eq!(seen, b"a\n");
        assert!(body.next().await.is_none());
    });
}

/// Nothing is shown in the place of what is missing: a range breaks off before it.
#[test]
fn a_range_with_a_hole_in_it_breaks_off() {
    let written = ["ab", "cd", "ef"].map(|text| (Stream::Stdout, text.to_owned()));
    for (missing, range, expected) in [
        (0, "bytes=0-5", ""),
        (1, "bytes=0-5", "ab"),
        (1, "bytes=3-5", ""),
        (1, "bytes=4-5", "ef"),
        (1, "bytes=0-1", "ab"),
    ] {
        let mut source = memory(&written, 1);
        source.parts.remove(missing);
        let range = Some(range.to_owned());
        let asked = Asked { query: LogQuery::default(), events: false, range: range.clone() };
        let (seen, broken) = now(async {
            let mut body = answer(asked, source).await.expect("an answer").into_body().into_data_stream();
            let mut seen = Vec::new();
            loop {
                match body.next().await {
                    Some(Ok(piece)) => seen.extend_from_slice(&piece),
                    Some(Err(_)) => break (seen, true),
                    None => break (seen, false),
                }
            }
        });
        assert_eq!(String::from_utf8_lossy(&seen), expected, "{range:?} without {missing}");
        assert_eq!(
            broken,
            expected.len() < 2 || range.as_deref() == Some("bytes=0-5"),
            "{range:?} without {missing}"
        );
    }
}
