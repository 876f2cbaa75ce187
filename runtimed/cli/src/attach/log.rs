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

/// Shows the logs of one attempt after the other, until the Run is over.
pub(super) async fn follow(
    attached: &Attached,
    mut runs: watch::Receiver<Run>,
    mut query: LogQuery,
    sink: Sink,
    before: impl Fn(),
) -> Result<(), Failure> {
    // What is said of a place in one log holds for no other.
    let mut shown = query.attempt.map_or(0, |first| first.saturating_sub(1));
    loop {
        let next = |run: &Run| attempts(run).find(|number| *number > shown);
        // The sender lives until the Run is over.
        let attempt = match runs.wait_for(|run| next(run).is_some() || over(run)).await {
            Ok(run) => next(&run),
            Err(_closed) => None,
        };
        let Some(attempt) = attempt else { return Ok(()) };
        query = LogQuery { follow: true, attempt: Some(attempt), ..query };
        attached.show(&query, sink, &before, || over(&runs.borrow())).await?;
        query = LogQuery { offset: None, tail: None, ..query };
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
        asked: &LogQuery,
        sink: Sink,
        before: impl Fn(),
        over: impl Fn() -> bool,
    ) -> Result<(), Failure> {
        // Events have their time in any case.
        let mut query = LogQuery { timestamps: false, ..asked.clone() };
        let mut patience = Patience::default();
        let mut writer = Writer::new(sink, asked.timestamps);
        // A gap takes no offset: resumed right after one, the server tells it once more.
        let mut gap_at = None;
        loop {
            let lost = match self.controller.logs(&self.namespace, &self.name, &query).await {
                Ok(mut events) => loop {
                    match events.next().await {
                        Some(Ok(event)) => {
                            patience.renew();
                            before();
                            let again = event.dropped.is_some() && gap_at == Some(event.next);
                            gap_at = event.dropped.map(|_| event.next);
                            if !again {
                                writer.write(&event).await?;
                            }
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
            let early = lost.code() == Some(Code::NotFound) && asked.follow;
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

/// Writes events to where they belong.
struct Writer {
    sink: Sink,
    timestamps: bool,
    /// Somebody reads standard output.
    stdout: bool,
    /// The last thing written of stdout, and of stderr, did not end its line.
    within: [bool; 2],
}

impl Writer {
    fn new(sink: Sink, timestamps: bool) -> Self {
        Self { sink, timestamps, stdout: true, within: [false; 2] }
    }

    async fn write(&mut self, event: &LogEvent) -> Result<(), Failure> {
        let to_stdout = event.stream == Some(Stream::Stdout) && self.sink == Sink::Both;
        let bytes = self.text(event);
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

    fn text(&mut self, event: &LogEvent) -> Vec<u8> {
        if let Some(dropped) = event.dropped {
            return format!("[{} of the log are missing here]\n", size(dropped)).into_bytes();
        }
        let text = event.bytes();
        let within = &mut self.within[usize::from(event.stream == Some(Stream::Stderr))];
        if !self.timestamps || text.is_empty() {
            return text;
        }
        let time = format!("{:.6} ", event.at);
        let mut out = Vec::with_capacity(text.len() + time.len());
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            if !*within {
                out.extend_from_slice(time.as_bytes());
            }
            out.extend_from_slice(line);
            *within = !line.ends_with(b"\n");
        }
        out
    }
}

async fn put(mut to: impl AsyncWrite + Unpin, bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtimed_api::log::{Body, Record};

    #[test]
    fn each_line_begins_with_its_time_wherever_records_were_cut() {
        let mut writer = Writer::new(Sink::Both, true);
        let mut text = |micros, body| {
            let bytes = writer.text(&LogEvent::of(1, &Record { micros, body }, 0));
            String::from_utf8(bytes).expect("UTF-8")
        };
        let (out, err) = (Stream::Stdout, Stream::Stderr);
        assert_eq!(
            text(1, Body::Text(out, b"a\nb")),
            "1970-01-01T00:00:00.000001Z a\n1970-01-01T00:00:00.000001Z b"
        );
        assert_eq!(text(2, Body::Text(err, b"x\n")), "1970-01-01T00:00:00.000002Z x\n");
        assert_eq!(text(3, Body::Text(out, b"c\n")), "c\n");
        assert_eq!(text(4, Body::Gap(2048)), "[2.0 KiB of the log are missing here]\n");
        assert_eq!(text(5, Body::Text(out, b"d")), "1970-01-01T00:00:00.000005Z d");
    }
}
