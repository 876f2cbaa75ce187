//! A job's log on its own standard output and error, as it comes.

use std::io::{self, Write as _};
use std::sync::Arc;

use runtimed_api::log::{self, Body, Stream};
use runtimed_client::logs::{Chunk, More, Source as _};
use tokio_util::sync::CancellationToken;

use crate::daemon::Daemon;
use crate::live::Live;
use crate::logs::LiveSource;

/// Writes the log of the one attempt to the container's stdout and stderr as it comes: masked, as whoever follows it sees
/// it. Returns when the log is closed, or when the end comes before any attempt.
pub(crate) async fn mirror(daemon: Arc<Daemon>, draining: CancellationToken) {
    let live = tokio::select! {
        biased;
        live = daemon.attempts.first() => live,
        () = draining.cancelled() => match daemon.attempts.all().into_iter().next() {
            Some(live) => live,
            None => return,
        },
    };
    if let Err(error) = follow(live, show).await {
        tracing::warn!(%error, "the log is not shown any further; it is kept all the same");
    }
}

/// Hands the log of an attempt to `write` as it comes, until it is closed.
///
/// # Errors
/// The log cannot be read, or `write` failed.
pub(crate) async fn follow(
    live: Arc<Live>,
    write: impl Fn(Body<'_>) -> io::Result<()> + Clone + Send + 'static,
) -> io::Result<()> {
    let log = Arc::clone(&live.log);
    let mut source = LiveSource::new(log, live.key.attempt.0, CancellationToken::new());
    loop {
        if let Some(chunk) = source.next().await? {
            let write = write.clone();
            // Whoever reads the container's log may be slow, and a pipe that is full must hold up nothing else.
            let written = tokio::task::spawn_blocking(move || each(&chunk, write));
            written.await.map_err(io::Error::other)??;
        } else if source.more().await != More::Yes {
            return Ok(());
        }
    }
}

fn each(chunk: &Chunk, write: impl Fn(Body<'_>) -> io::Result<()>) -> io::Result<()> {
    let mut rest = &chunk.bytes[..];
    while let Some((record, after)) = log::split_record(rest).map_err(io::Error::other)? {
        rest = after;
        write(record.body)?;
    }
    Ok(())
}

fn show(body: Body<'_>) -> io::Result<()> {
    let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
    match body {
        Body::Text(Stream::Stdout, text) => out.write_all(text)?,
        Body::Text(Stream::Stderr, text) => err.write_all(text)?,
        Body::Gap(dropped) => writeln!(err, "runtimed: {dropped} bytes of the log were dropped")?,
    }
    out.flush()?;
    err.flush()
}
