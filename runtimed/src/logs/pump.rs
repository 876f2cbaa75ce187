//! From the command's two pipes into its log.

use std::io;
use std::sync::Arc;

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

async fn one(pipe: Receiver, stream: Stream, mut masker: Masker, log: &Log) -> u64 {
    // Taken only once there is something to read: many commands never write to one of the two.
    let mut buffer = Vec::new();
    let mut shown = Vec::new();
    let (mut room, mut full) = (PIPE_BYTES, 0_u32);
    loop {
        if pipe.readable().await.is_err() {
            break;
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
