//! From the command's two pipes into its log.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use runtimed_api::log::Stream;
use rustix::pipe::fcntl_setpipe_size;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;

use super::Log;
use crate::redact::{Masker, Redactor};

/// As much as a pipe holds by default.
const PIPE_BYTES: usize = 64 * 1024;

/// Reads both pipes until their ends, and closes the log. Returns how many secrets were masked.
pub async fn pump(stdout: Receiver, stderr: Receiver, redactor: Redactor, log: Arc<Log>) -> u64 {
    let (out, err) = tokio::join!(
        one(stdout, Stream::Stdout, Masker::new(redactor.clone()), &log),
        one(stderr, Stream::Stderr, Masker::new(redactor), &log),
    );
    log.close();
    out + err
}

/// What a pipe is given whose command writes faster than it is read: then both go on at once, and wake each other less often. Not
/// more, and not to every pipe: those of all processes of a uid are counted together (pipe(7)).
const LARGE_PIPE_BYTES: usize = 256 * 1024;
/// So many full pipes in a row tell such a command.
const FULL: u32 = 8;

/// A pipe in which nothing comes for so long has what waits for more shown.
const IDLE: Duration = Duration::from_millis(50);

async fn one(pipe: Receiver, stream: Stream, mut masker: Masker, log: &Log) -> u64 {
    // Taken only once there is something to read: many commands never write to one of the two.
    let mut buffer = Vec::new();
    let mut shown = Vec::new();
    let (mut room, mut full) = (PIPE_BYTES, 0_u32);
    loop {
        tokio::select! {
            ready = pipe.readable() => if ready.is_err() { break },
            () = tokio::time::sleep(IDLE), if masker.waits() => {
                shown.clear();
                masker.settle(&mut shown);
                log.write(stream, &shown).await;
                continue;
            }
        }
        buffer.resize(room, 0);
        match pipe.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                full = if count == room { full.saturating_add(1) } else { 0 };
                // Where the uid has as much as it may, it stays as it is.
                if full == FULL && fcntl_setpipe_size(&pipe, LARGE_PIPE_BYTES).is_ok() {
                    room = LARGE_PIPE_BYTES;
                }
                shown.clear();
                masker.push(&buffer[..count], &mut shown);
                log.write(stream, &shown).await;
                if count == room {
                    // There is more at once: others are let go on first.
                    tokio::task::yield_now().await;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    shown.clear();
    masker.finish(&mut shown);
    log.write(stream, &shown).await;
    masker.hits()
}

/// Reads the worker's own diagnostics, bounded, into the daemon's log.
pub async fn diagnostics(mut pipe: Receiver) {
    let mut text = Vec::new();
    // More than this is no diagnosis; the rest is read and dropped so that the worker never blocks.
    const MOST: usize = 16 * 1024;
    let mut buffer = vec![0; 4096];
    while let Ok(count) = pipe.read(&mut buffer).await {
        if count == 0 {
            break;
        }
        let room = MOST.saturating_sub(text.len()).min(count);
        text.extend_from_slice(&buffer[..room]);
    }
    for line in String::from_utf8_lossy(&text).lines().take(100) {
        tracing::warn!(worker = line.escape_debug().to_string(), "the worker said");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::logs::{Bounds, Overflow, Pool};

    /// What may be shown is, though nothing comes after it and the pipe stays open: also where the masker puts it off.
    #[tokio::test]
    async fn nothing_waits_in_an_idle_pipe_that_cannot_be_a_secret() {
        let dir = tempfile::tempdir().expect("a directory");
        let pool = Pool::new(u64::MAX);
        let bounds = Bounds { limit: u64::MAX, share: pool.share(), overflow: Overflow::Drop };
        let log = Arc::new(Log::new(dir.path().to_owned(), bounds));
        let secret: Vec<u8> = (0..20_000_u32).flat_map(|i| format!("{i} ").into_bytes()).collect();
        let redactor = Redactor::default();
        redactor.register(&[("x", &secret[..60_000])]).expect("registers");
        let (receive, mut send) = std::io::pipe().expect("a pipe");
        let (other, _) = std::io::pipe().expect("a pipe");
        let receiver = |end: std::io::PipeReader| Receiver::from_owned_fd(end.into()).expect("a receiver");
        let pumping = tokio::spawn(pump(receiver(receive), receiver(other), redactor, Arc::clone(&log)));
        let mut ends = log.ends();
        send.write_all(&[b"name? ", &secret[..30_000]].concat()).expect("writes");
        ends.wait_for(|end| end.offset == 6).await.expect("the question is shown");
        // A little that ends the likeness, but of which the masker does not look for that at once.
        send.write_all(b"and then? ").expect("writes");
        let shown = ends.wait_for(|end| end.offset == 30_016);
        tokio::time::timeout(Duration::from_secs(10), shown).await.expect("in time").expect("all of it");
        drop(send);
        assert_eq!(pumping.await.expect("ends"), 0);
    }
}
