use runtimed_api::log::LogEvent;

use super::*;

fn log(dir: &tempfile::TempDir, limit: u64, pool: &Arc<Pool>, overflow: Overflow) -> Arc<Log> {
    let name = format!("log-{}", pool.used());
    Arc::new(Log::new(dir.path().join(name), Bounds { limit, share: pool.share(), overflow }))
}

fn unbounded(dir: &tempfile::TempDir) -> Arc<Log> {
    log(dir, u64::MAX, &Pool::new(u64::MAX), Overflow::Drop)
}

fn events(log: &Log) -> Vec<LogEvent> {
    let (mut position, mut all) = (log.position(0), Vec::new());
    while let Some(chunk) = log.read(&mut position).expect("reads") {
        let (mut offset, mut rest) = (chunk.offset, &chunk.bytes[..]);
        while let Some((record, after)) = log::split_record(rest).expect("a record") {
            if let Body::Text(_, text) = record.body {
                offset += text.len() as u64;
            }
            all.push(LogEvent::of(1, &record, offset));
            rest = after;
        }
        assert!(rest.is_empty(), "a chunk holds whole records");
    }
    all
}

fn text(log: &Log) -> Vec<u8> {
    events(log).iter().flat_map(LogEvent::bytes).collect()
}

#[tokio::test]
async fn a_long_log_has_several_segments_and_reads_as_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = unbounded(&dir);
    let piece: Vec<u8> = (0..100_000_u32).map(|i| u8::try_from(i % 251).expect("small")).collect();
    for index in 0..100 {
        log.write(Stream::Stdout, &piece).await;
        if index == 50 {
            log.seal(1);
        }
    }
    assert!(log.parts().len() >= 4);
    assert_eq!(text(&log), piece.repeat(100));
    let middle = log.parts()[1];
    let mut position = log.position(middle + 7);
    assert_eq!(log.read(&mut position).expect("reads").expect("a chunk").offset, middle);
}

#[tokio::test]
async fn what_is_over_the_limit_is_counted_in_a_gap() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = log(&dir, 5, &Pool::new(u64::MAX), Overflow::Drop);
    log.write(Stream::Stdout, b"abc").await;
    log.write(Stream::Stdout, b"defgh").await;
    log.write(Stream::Stderr, b"ij").await;
    log.close();
    let events = events(&log);
    assert_eq!(text(&log), b"abcde");
    assert_eq!(events.last().and_then(|event| event.dropped), Some(5));
    assert_eq!(log.facts().dropped, 5);
}

#[tokio::test]
async fn logs_share_the_bound_of_the_pod_and_a_gap_is_told_where_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let pool = Pool::new(32 + 2 * HEAD);
    let (one, two) = (log(&dir, 99, &pool, Overflow::Drop), log(&dir, 99, &pool, Overflow::Drop));
    one.write(Stream::Stdout, &[b'1'; 30]).await;
    let two = {
        drop(two);
        log(&dir, 99, &pool, Overflow::Drop)
    };
    two.write(Stream::Stdout, b"abcdef").await;
    one.forget();
    two.write(Stream::Stdout, b"gh").await;
    two.close();
    let seen: Vec<_> = events(&two).iter().map(|event| (event.bytes(), event.dropped)).collect();
    assert_eq!(seen, [(b"ab".to_vec(), None), (Vec::new(), Some(4)), (b"gh".to_vec(), None)]);
    two.forget();
    assert_eq!(pool.used(), 0);
}

#[tokio::test]
async fn a_full_log_that_blocks_waits_for_room_and_for_the_end_of_the_command() {
    let dir = tempfile::tempdir().expect("a directory");
    let pool = Pool::new(8 + 2 * HEAD);
    let one = log(&dir, 99, &pool, Overflow::Block);
    one.write(Stream::Stdout, b"12345").await;
    let two = log(&dir, 4, &pool, Overflow::Block);
    let writer = tokio::spawn({
        let two = Arc::clone(&two);
        async move { two.write(Stream::Stdout, b"abcdefg").await }
    });
    let mut ends = two.ends();
    ends.wait_for(|end| end.offset == 3).await.expect("it writes what there is room for");
    one.forget();
    ends.wait_for(|end| end.offset == 4).await.expect("it goes on when there is room");
    assert!(!writer.is_finished());
    two.release();
    writer.await.expect("it ends");
    two.close();
    assert_eq!(text(&two), b"abcd");
    assert_eq!(two.facts().dropped, 3);
}

/// A command that writes byte by byte takes no more of the disk than the pod gives to logs.
#[tokio::test]
async fn what_stands_beside_the_text_counts_as_well() {
    let dir = tempfile::tempdir().expect("a directory");
    let pool = Pool::new(10_000);
    let log = log(&dir, u64::MAX, &pool, Overflow::Drop);
    for _ in 0..5000 {
        log.write(Stream::Stdout, b"x").await;
    }
    log.close();
    let facts = log.facts();
    let disk: u64 =
        facts.segments.iter().map(|segment| std::fs::metadata(&segment.path).expect("there").len()).sum();
    assert!((9_000..=10_100).contains(&disk), "{disk} bytes on the disk");
    assert_eq!(facts.bytes + facts.dropped, 5000);
    assert_eq!(facts.segments.iter().map(|segment| segment.stored).sum::<u64>(), log.end().stored);
}

/// The masker may let go of much at once, and a store takes segments of 8 MiB at most.
#[tokio::test]
async fn a_segment_is_bounded_whatever_is_written_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = unbounded(&dir);
    let all: Vec<u8> = (0..20_000_000_u32).map(|i| i.to_le_bytes()[i as usize % 3]).collect();
    log.write(Stream::Stdout, b"a little before it").await;
    log.write(Stream::Stdout, &all).await;
    log.close();
    let facts = log.facts();
    assert_eq!(facts.bytes, 18 + 20_000_000);
    let longest = facts.segments.iter().map(|segment| segment.stored).max();
    assert!(longest < Some(6 * 1024 * 1024), "{longest:?} bytes in one");
    assert!(text(&log)[18..] == all, "other bytes");
}

/// A disk that takes nothing for a while: what is dropped then does not count against what the pod's logs may take.
#[tokio::test]
async fn what_could_not_be_written_takes_nothing_of_the_pods_bound() {
    let dir = tempfile::tempdir().expect("a directory");
    let pool = Pool::new(100_000);
    let (one, waiting) =
        (log(&dir, u64::MAX, &pool, Overflow::Drop), log(&dir, u64::MAX, &pool, Overflow::Block));
    let place = dir.path().join("log-0");
    std::fs::write(&place, "no directory").expect("writes");
    for _ in 0..10 {
        one.write(Stream::Stdout, &[b'1'; 50_000]).await;
    }
    let facts = one.facts();
    assert_eq!((facts.bytes, facts.dropped, pool.used()), (0, 500_000, 0));
    assert!(facts.failure.is_some());
    std::fs::remove_file(&place).expect("removes");
    one.write(Stream::Stdout, &[b'2'; 90_000]).await;
    one.close();
    assert_eq!((one.facts().bytes, one.facts().gaps), (90_000, 1));
    // Who waits for room is woken by what is given back.
    let writer = tokio::spawn({
        let waiting = Arc::clone(&waiting);
        async move { waiting.write(Stream::Stdout, &[b'3'; 50_000]).await }
    });
    let mut ends = waiting.ends();
    ends.wait_for(|end| end.offset > 0).await.expect("it writes what there is room for");
    one.lock().share.as_mut().expect("not forgotten").free(60_000);
    ends.wait_for(|end| end.offset == 50_000).await.expect("it goes on");
    writer.await.expect("it ends");
}

/// Whatever the pieces, and whatever is in them: what is read is what was written, with its stream and place.
#[tokio::test]
async fn every_byte_is_kept_as_it_was_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = unbounded(&dir);
    let all: Vec<u8> = (0..=255).collect();
    let (mut written, mut streams) = (Vec::new(), Vec::new());
    for (index, length) in [1, 2, 255, 65_535, 65_536, 65_537, 200_000, 3].into_iter().enumerate() {
        let piece: Vec<u8> = all.iter().copied().cycle().skip(index).take(length).collect();
        let stream = if index % 2 == 0 { Stream::Stdout } else { Stream::Stderr };
        log.write(stream, &piece).await;
        written.extend_from_slice(&piece);
        streams.extend(std::iter::repeat_n(stream, length.div_ceil(MAX_RECORD_BYTES)));
    }
    log.close();
    assert!(text(&log) == written, "other bytes");
    let events = events(&log);
    assert_eq!(events.iter().filter_map(|event| event.stream).collect::<Vec<_>>(), streams);
    assert_eq!(events.last().map(|event| event.next), Some(written.len() as u64));
    assert_eq!(log.facts().records, streams.len() as u64);
}
