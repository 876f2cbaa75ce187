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
    /// Of no stream is what says that bytes are missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<Stream>,
    /// Bytes that are no UTF-8 are replaced.
    message: &'a str,
    /// It goes on in the next of its stream.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    partial: bool,
    /// So many bytes of the log are missing here, of either stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped: Option<u64>,
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
    let mut out = Vec::new();
    lines.rest(false, &mut out);
    put(out).await;
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
            match record.body {
                Body::Text(stream, text) => {
                    for piece in text.split_inclusive(|byte| *byte == b'\n') {
                        self.piece(stream, record.micros, piece, &mut out);
                    }
                }
                Body::Gap(dropped) => {
                    // A line that is begun may go on in what is missing.
                    self.rest(true, &mut out);
                    let message = format!("{dropped} bytes of the log are missing here");
                    let (message, dropped) = (message.as_str(), Some(dropped));
                    Line { dropped, message, ..self.line(record.micros) }.write(&mut out);
                }
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
                self.text(stream, since, line.strip_suffix(b"\n").unwrap_or(&line), !whole, out);
            }
        }
    }

    /// The lines that have no end.
    fn rest(&mut self, partial: bool, out: &mut Vec<u8>) {
        for (index, stream) in [Stream::Stdout, Stream::Stderr].into_iter().enumerate() {
            let (line, since) = std::mem::take(&mut self.waiting[index]);
            if !line.is_empty() {
                self.text(stream, since, &line, partial, out);
            }
        }
    }

    fn text(&self, stream: Stream, micros: u64, line: &[u8], partial: bool, out: &mut Vec<u8>) {
        let message = String::from_utf8_lossy(line);
        Line { stream: Some(stream), message: &message, partial, ..self.line(micros) }.write(out);
    }

    /// A line of nothing.
    fn line(&self, micros: u64) -> Line<'_> {
        let micros = i64::try_from(micros).unwrap_or(i64::MAX);
        Line {
            time: Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH),
            namespace: self.key.namespace.as_str(),
            run: self.key.name.as_str(),
            attempt: self.key.attempt.0,
            stream: None,
            message: "",
            partial: false,
            dropped: None,
        }
    }
}

impl Line<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        // Our own type is always JSON.
        if serde_json::to_writer(&mut *out, self).is_ok() {
            out.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use runtimed_api::ids::{AttemptNumber, Fence};
    use runtimed_api::log::Record;

    use super::*;

    #[test]
    fn what_is_missing_is_told_between_the_lines() {
        let key = AttemptKey {
            namespace: "default".parse().expect("a name"),
            name: "told".parse().expect("a name"),
            uid: "u".parse().expect("a uid"),
            attempt: AttemptNumber(2),
            fence: Fence(1),
        };
        let mut bytes = Vec::new();
        for body in [
            Body::Text(Stream::Stdout, b"one\ntw"),
            Body::Text(Stream::Stderr, b"err\n"),
            Body::Gap(9),
            Body::Text(Stream::Stdout, b"o\nthree"),
        ] {
            log::append(&mut bytes, Record { micros: 1_000_000, body });
        }
        let mut lines = Lines { key, waiting: Default::default() };
        let mut out = lines.take(&Chunk { offset: 0, bytes: bytes.into() });
        lines.rest(false, &mut out);
        let head =
            "{\"time\":\"1970-01-01T00:00:01Z\",\"namespace\":\"default\",\"run\":\"told\",\"attempt\":2";
        let expected: String = [
            "\"stream\":\"stdout\",\"message\":\"one\"",
            "\"stream\":\"stderr\",\"message\":\"err\"",
            "\"stream\":\"stdout\",\"message\":\"tw\",\"partial\":true",
            "\"message\":\"9 bytes of the log are missing here\",\"dropped\":9",
            "\"stream\":\"stdout\",\"message\":\"o\"",
            "\"stream\":\"stdout\",\"message\":\"three\"",
        ]
        .map(|line| format!("{head},{line}}}\n"))
        .concat();
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}
