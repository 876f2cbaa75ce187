use std::io::{self, Write as _};
use std::sync::Arc;

use runtimed_api::log::{LogEvent, Stream};
use tokio_util::sync::CancellationToken;

use crate::daemon::{Daemon, Live};

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
    if let Err(error) = follow(live).await {
        tracing::warn!(%error, "the log is not shown any further; it is kept all the same");
    }
}

async fn follow(live: Arc<Live>) -> io::Result<()> {
    let mut ends = live.log.ends();
    let mut position = live.log.position(0);
    loop {
        let end = *ends.borrow_and_update();
        let log = Arc::clone(&live);
        let attempt = live.key.attempt.0;
        // Whoever reads the container's log may be slow, and a pipe that is full must hold up nothing else.
        let wrote = tokio::task::spawn_blocking(move || {
            let mut position = position;
            let events = log.log.read(&mut position, attempt)?;
            show(&events)?;
            Ok::<_, io::Error>((position, events.is_empty()))
        });
        let (next, nothing) = wrote.await.map_err(io::Error::other)??;
        position = next;
        if !nothing {
            continue;
        }
        if end.closed {
            return Ok(());
        }
        if ends.changed().await.is_err() {
            return Ok(());
        }
    }
}

fn show(events: &[LogEvent]) -> io::Result<()> {
    let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
    for event in events {
        match event.stream {
            Some(Stream::Stdout) => out.write_all(&event.bytes())?,
            Some(Stream::Stderr) => err.write_all(&event.bytes())?,
            None => {
                let dropped = event.dropped.unwrap_or_default();
                writeln!(err, "runtimed: {dropped} bytes of the log were dropped")?;
            }
        }
    }
    out.flush()?;
    err.flush()
}
