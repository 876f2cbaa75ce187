//! Stays with a Run until it is over: its log as it is written, its state as it changes, and a person's interrupts.

mod changes;
mod log;
mod progress;

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use runtimed_api::ids::{Namespace, RunName};
use runtimed_api::run::Run;
use runtimed_api::run::status::RunStatus;
use runtimed_client::controller::{Controller, LogQuery};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::failure::Failure;
use crate::output::{Format, Output};
use crate::signals::Interrupts;

pub use changes::until_over;
pub use log::Sink;
use progress::Progress;

/// How long the log of a Run that is over may be silent before its end is given up.
const SILENCE: Duration = Duration::from_secs(10);

/// One Run at one controller.
#[derive(Debug, Clone)]
pub struct Attached {
    /// Whom to ask.
    pub controller: Controller,
    /// The Run's namespace.
    pub namespace: Namespace,
    /// The Run's name.
    pub name: RunName,
}

/// How it came to an end.
#[derive(Debug)]
pub enum End {
    /// The Run is over; this is its last state.
    Over(Box<Run>),
    /// A second interrupt: the person does not want to wait for the end.
    Detached,
}

impl Attached {
    /// The Run that was submitted.
    ///
    /// # Errors
    /// The controller gave it no name.
    pub fn to(controller: &Controller, namespace: &Namespace, run: &Run) -> Result<Self, Failure> {
        let name = run.metadata.name.clone();
        let name = name.ok_or_else(|| Failure::fault("the controller gave the Run no name"))?;
        Ok(Self { controller: controller.clone(), namespace: namespace.clone(), name })
    }

    /// Shows the log while it is written and waits for the end. The first interrupt cancels the Run, a second one leaves
    /// it alone.
    ///
    /// # Errors
    /// The connection was lost for good: the hint is the command that goes on from there.
    pub async fn stay(&self, run: Run, output: &Output, interrupts: &mut Interrupts) -> Result<End, Failure> {
        let progress = Progress::new(output);
        // One object alone is on standard output when a program reads it.
        let sink = if output.format == Format::Table { Sink::Both } else { Sink::StderrAlone };
        let (told, runs) = watch::channel(run);
        let heard = Cell::new(Instant::now());
        let changes = until_over(self, &told, |run| progress.show(run));
        let log = log::follow(self, runs, LogQuery::default(), sink, || {
            heard.set(Instant::now());
            progress.hide();
        });
        let both = pin!(async {
            let (run, whole) = Box::pin(both(changes, log, &heard)).await?;
            if !whole {
                output.note("warning", &format!("the log is incomplete; to resume: {}", self.again()));
            }
            Ok(run)
        });
        let end = self.interruptible(both, output, interrupts).await;
        progress.end();
        end
    }

    async fn interruptible(
        &self,
        mut over: impl Future<Output = Result<Run, Failure>> + Unpin,
        output: &Output,
        interrupts: &mut Interrupts,
    ) -> Result<End, Failure> {
        tokio::select! {
            run = &mut over => return run.map(|run| End::Over(Box::new(run))),
            () = interrupts.next() => {}
        }
        output.note("cancelling", "interrupt again to leave the Run alone");
        let cancel = async {
            self.controller.cancel(&self.namespace, &self.name).await?;
            over.await
        };
        tokio::select! {
            run = cancel => run.map(|run| End::Over(Box::new(run))),
            () = interrupts.next() => Ok(End::Detached),
        }
    }

    /// The command that shows the log from there on.
    fn resume(&self, attempt: u32, offset: u64) -> String {
        let Self { namespace, name, .. } = self;
        format!("runtimectl logs -f {name} -n {namespace} --attempt {attempt} --offset {offset}")
    }

    /// The command that shows the whole log.
    fn again(&self) -> String {
        format!("runtimectl logs {} -n {}", self.name, self.namespace)
    }
}

/// Shows the log of a Run, attempt after attempt, until the Run is over.
///
/// # Errors
/// As for [`Attached::stay`].
pub async fn follow_log(
    attached: &Attached,
    told: &watch::Sender<Run>,
    runs: watch::Receiver<Run>,
    query: LogQuery,
) -> Result<(), Failure> {
    let heard = Cell::new(Instant::now());
    let changes = until_over(attached, told, |_| ());
    let log = log::follow(attached, runs, query, Sink::Both, || heard.set(Instant::now()));
    let (_, whole) = both(changes, log, &heard).await?;
    if whole {
        return Ok(());
    }
    let silence = SILENCE.as_secs();
    Err(Failure::fault(format!("the end of the log did not come within {silence} s of the Run's"))
        .hint(format!("try again with: {}", attached.again())))
}

/// Waits for both the Run and its log, and says whether the log came to its end: that of a Run that is over must, and is
/// not waited for without bound.
async fn both(
    changes: impl Future<Output = Result<Run, Failure>>,
    log: impl Future<Output = Result<(), Failure>>,
    heard: &Cell<Instant>,
) -> Result<(Run, bool), Failure> {
    let (mut changes, mut log) = (pin!(changes), pin!(log));
    let run = tokio::select! {
        run = &mut changes => run?,
        shown = &mut log => {
            shown?;
            return changes.await.map(|run| (run, true));
        }
    };
    heard.set(Instant::now());
    while heard.get().elapsed() < SILENCE {
        tokio::select! {
            shown = &mut log => return shown.map(|()| (run, true)),
            () = sleep_until(heard.get() + SILENCE) => {}
        }
    }
    Ok((run, false))
}

/// The status of a Run; one that has none yet is a controller's mistake.
fn status(run: &Run) -> Result<&RunStatus, Failure> {
    run.status.as_ref().ok_or_else(|| Failure::fault("the controller sent a Run without a status"))
}
