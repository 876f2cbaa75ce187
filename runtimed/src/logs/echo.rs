//! `[logs] stdout = "json"`: each line of every log once more on the daemon's standard output, which is the container's,
//! for the log stack of the cluster.

use std::io::{self, Write as _};

use jiff::Timestamp;
use runtimed_api::ids::AttemptKey;
use runtimed_api::log::{self, Body, Stream};
use runtimed_client::logs::{Chunk, More, Source as _};
use serde::Serialize;
use tokio::sync::Mutex;

use super::LiveSource;

/// A longer line is written in pieces: log stacks cut or refuse them at some size.
const MAX_LINE: usize = 16 * 1024;

/// One line, as it is written.
#[derive(Serialize)]
struct Line<'a> {
    time: Timestamp,
    namespace: &'a str,
    run: &'a str,
    attempt: u32,
    stream: Stream,
    /// Bytes that are no UTF-8 are replaced.
    message: &'a str,
    /// It goes on in the next of its stream.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    partial: bool,
}

/// Follows a log to its end. It reads like any other reader: a container whose output nobody takes slows no Run.
pub async fn echo(mut source: LiveSource, key: AttemptKey) {
    let mut lines = Lines { key, waiting: Default::default() };
    loop {
        let out = match source.next().await {
            Ok(Some(chunk)) => lines.take(&chunk),
            Ok(None) => match source.more().await {
                More::Yes => continue,
                More::Closed | More::Stopping => break,
            },
            Err(error) => {
                tracing::error!(%error, "a log cannot be read for standard output");
                return;
            }
        };
        if !put(out).await {
            return;
        }
    }
    put(lines.rest()).await;
}

/// Held while somebody writes: where nobody takes what is written one thread is stuck in that, and not one for each Run.
static TURN: Mutex<()> = Mutex::const_new(());

/// Writes whole lines, which are not mixed with those of others. Says whether somebody takes them.
async fn put(out: Vec<u8>) -> bool {
    if out.is_empty() {
        return true;
    }
    let _turn = TURN.lock().await;
    let written = tokio::task::spawn_blocking(move || {
        let mut stdout = io::stdout().lock();
        stdout.write_all(&out).and_then(|()| stdout.flush())
    });
    matches!(written.await, Ok(Ok(())))
}

struct Lines {
    key: AttemptKey,
    /// The line that each stream has begun, and when.
    waiting: [(Vec<u8>, u64); 2],
}

impl Lines {
    fn take(&mut self, chunk: &Chunk) -> Vec<u8> {
        let (mut out, mut rest) = (Vec::new(), &chunk.bytes[..]);
        while let Ok(Some((record, after))) = log::split_record(rest) {
            rest = after;
            let Body::Text(stream, text) = record.body else { continue };
            for piece in text.split_inclusive(|byte| *byte == b'\n') {
                self.piece(stream, record.micros, piece, &mut out);
            }
        }
        out
    }

    fn piece(&mut self, stream: Stream, micros: u64, mut piece: &[u8], out: &mut Vec<u8>) {
        let index = usize::from(stream == Stream::Stderr);
        while !piece.is_empty() {
            let (line, since) = &mut self.waiting[index];
            if line.is_empty() {
                *since = micros;
            }
            let count = (MAX_LINE - line.len()).min(piece.len());
            line.extend_from_slice(&piece[..count]);
            piece = &piece[count..];
            let whole = line.last() == Some(&b'\n');
            if whole || line.len() == MAX_LINE {
                let (line, since) = std::mem::take(&mut self.waiting[index]);
                self.write(stream, since, line.strip_suffix(b"\n").unwrap_or(&line), !whole, out);
            }
        }
    }

    /// The lines that have no end.
    fn rest(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        for (index, stream) in [Stream::Stdout, Stream::Stderr].into_iter().enumerate() {
            let (line, since) = std::mem::take(&mut self.waiting[index]);
            if !line.is_empty() {
                self.write(stream, since, &line, false, &mut out);
            }
        }
        out
    }

    fn write(&self, stream: Stream, micros: u64, line: &[u8], partial: bool, out: &mut Vec<u8>) {
        let micros = i64::try_from(micros).unwrap_or(i64::MAX);
        let line = Line {
            time: Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH),
            namespace: self.key.namespace.as_str(),
            run: self.key.name.as_str(),
            attempt: self.key.attempt.0,
            stream,
            message: &String::from_utf8_lossy(line),
            partial,
        };
        // Our own type is always JSON.
        if serde_json::to_writer(&mut *out, &line).is_ok() {
            out.push(b'\n');
        }
    }
}
