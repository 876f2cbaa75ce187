//! A Run's log, as it is written, over attempts and over lost connections.

use futures_util::StreamExt as _;
use runtimed_api::log::{LogEvent, Stream};
use runtimed_api::problem::Code;
use runtimed_api::run::Run;
use runtimed_client::ClientError;
use runtimed_client::controller::LogQuery;
use tokio::io::{AsyncWrite, AsyncWriteExt as _, stderr, stdout};
use tokio::sync::watch;
use tokio::time::sleep;

use super::Attached;
use crate::failure::Failure;
use crate::patience::Patience;
use crate::table::size;

/// Where the log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    /// Each stream to the one of its name.
    Both,
    /// All of it to standard error: standard output is for one object.
    StderrAlone,
}

/// Which part of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// This attempt, and with following all after it; the first without one.
    pub attempt: Option<u32>,
    /// From this offset on.
    pub offset: Option<u64>,
    /// One stream alone.
    pub stream: Option<Stream>,
    /// The last so many lines of what is there at the beginning.
    pub tail: Option<u64>,
    /// Begin each record with its time.
    pub timestamps: bool,
}

/// Shows the logs of one attempt after the other, until the Run is over.
pub(super) async fn follow(
    attached: &Attached,
    mut runs: watch::Receiver<Run>,
    selection: Selection,
    sink: Sink,
    before: impl Fn(),
) -> Result<(), Failure> {
    // What is said of a place in one log holds for no other.
    let mut selection = selection;
    let mut shown = selection.attempt.map_or(0, |first| first.saturating_sub(1));
    loop {
        let next = |run: &Run| attempts(run).find(|number| *number > shown);
        // The sender lives until the Run is over.
        let attempt = match runs.wait_for(|run| next(run).is_some() || over(run)).await {
            Ok(run) => next(&run),
            Err(_closed) => None,
        };
        let Some(attempt) = attempt else { return Ok(()) };
        selection.attempt = Some(attempt);
        attached.show(&selection, true, sink, &before, || over(&runs.borrow())).await?;
        selection = Selection { offset: None, tail: None, ..selection };
        shown = attempt;
    }
}

fn attempts(run: &Run) -> impl Iterator<Item = u32> {
    run.status.iter().flat_map(|status| &status.attempts).map(|attempt| attempt.number.0)
}

fn over(run: &Run) -> bool {
    run.status.as_ref().is_some_and(|status| status.phase.is_terminal())
}

impl Attached {
    /// Shows the log of one attempt to its end (or, without `follow`, what there is of it), going on after a broken
    /// connection where it broke. `over` says whether the Run is: a log that is not there then never will be.
    ///
    /// # Errors
    /// The connection was lost for good: the hint is the command that goes on from there.
    pub async fn show(
        &self,
        selection: &Selection,
        follow: bool,
        sink: Sink,
        before: impl Fn(),
        over: impl Fn() -> bool,
    ) -> Result<(), Failure> {
        let mut query = LogQuery {
            follow,
            attempt: selection.attempt,
            offset: selection.offset,
            stream: selection.stream,
            tail: selection.tail,
            timestamps: false,
        };
        let mut patience = Patience::default();
        let mut writer = Writer { sink, timestamps: selection.timestamps, stdout: true };
        loop {
            let lost = match self.controller.logs(&self.namespace, &self.name, &query).await {
                Ok(mut events) => loop {
                    match events.next().await {
                        Some(Ok(event)) => {
                            patience.renew();
                            before();
                            writer.write(&event).await?;
                            query.attempt = Some(event.attempt);
                            query.offset = Some(event.next);
                            query.tail = None;
                        }
                        Some(Err(error)) => break error,
                        None => return Ok(()),
                    }
                },
                Err(error) => error,
            };
            // A daemon that was just handed the attempt does not know it yet.
            let early = lost.code() == Some(Code::NotFound) && follow;
            if early && over() {
                return Ok(());
            }
            let wait =
                if early || lost.is_retryable() { patience.next_wait() } else { return Err(lost.into()) };
            let Some(wait) = wait else { return Err(self.cut(&query, &lost)) };
            sleep(wait).await;
        }
    }

    fn cut(&self, query: &LogQuery, error: &ClientError) -> Failure {
        let command = self.resume(query.attempt.unwrap_or(1), query.offset.unwrap_or(0));
        Failure::fault(format!("the log was cut off: {error}"))
            .hint(format!("go on from there with: {command}"))
    }
}

struct Writer {
    sink: Sink,
    timestamps: bool,
    /// Somebody reads standard output.
    stdout: bool,
}

impl Writer {
    async fn write(&mut self, event: &LogEvent) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        if self.timestamps {
            bytes.extend_from_slice(format!("{:.6} ", event.at).as_bytes());
        }
        let to_stdout = match (event.stream, event.dropped) {
            (_, Some(dropped)) => {
                bytes.extend_from_slice(
                    format!("[{} of the log are missing here]\n", size(dropped)).as_bytes(),
                );
                false
            }
            (stream, None) => {
                bytes.extend_from_slice(&event.bytes());
                stream == Some(Stream::Stdout) && self.sink == Sink::Both
            }
        };
        if !to_stdout {
            return Ok(put(stderr(), &bytes).await?);
        }
        if self.stdout {
            match put(stdout(), &bytes).await {
                // The Run goes on when nobody reads it any more, and so does the wait for its exit code.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => self.stdout = false,
                written => written?,
            }
        }
        Ok(())
    }
}

async fn put(mut to: impl AsyncWrite + Unpin, bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}
