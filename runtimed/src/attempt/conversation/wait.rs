//! Step 10: the command runs, until it ends or is ended.

use std::time::Duration;

use runtimed_api::link::{self, Down, Up};
use runtimed_api::policy::Granted;
use runtimed_api::run::outcome::Outcome;
use runtimed_api::run::status::AttemptEnd;
use runtimed_api::run::step::Step;
use runtimed_api::session::{Report, ReportEvent};
use tokio::time::Instant;

use super::{Conversation, ends, gone, protocol, told};
use crate::attempt::rotation::Rotation;
use crate::attempt::verdict::outcome;
use crate::attempt::workspace::Workspace;
use crate::attempt::{Attempt, Ended, end_of, storage};
use crate::journal::Record;
use crate::live::Stop;
use crate::workers;

/// How much longer than the grace the daemon waits before it kills the tree itself.
const SECOND_KILL: Duration = Duration::from_secs(2);
/// The same when the lease is lost: the Run is handed on soon, and a worker that is stopped does not end it.
const LOST_KILL: Duration = Duration::from_millis(20);

impl Conversation {
    /// Step 10: until the tree is empty and the Outcome is journaled.
    pub(super) async fn wait(
        &mut self,
        attempt: &mut Attempt,
        granted: &Granted,
        workspace: &mut Workspace,
        rotation: &mut Rotation,
    ) -> Result<AttemptEnd, Ended> {
        let grace = granted.limits.grace.map_or(Duration::ZERO, runtimed_api::duration::Span::get);
        let timeout = granted.limits.timeout.map(|timeout| Instant::now() + timeout.get());
        // For what it is ended, for what it was hurried last, and when the daemon kills its tree.
        let mut stopped: Option<(Stop, Stop, Instant)> = None;
        let exited = loop {
            let due = stopped.map(|(_, _, second_kill)| second_kill).or(timeout);
            let stop = tokio::select! {
                biased;
                up = self.worker.link.receive() => match up.map_err(protocol)? {
                    Some(Up::Exited(exited)) => break Some(exited),
                    Some(up) => return Err(told(attempt, up)),
                    None => return Err(gone(attempt)),
                },
                stop = attempt.live.hastier(stopped.map(|(_, last, _)| last)) => stop,
                () = rotation.due() => {
                    // A few small files, and an automaton; only this attempt waits for it.
                    tokio::task::block_in_place(|| rotation.apply(attempt, workspace));
                    continue;
                }
                () = sleep_until(due), if due.is_some() => {
                    if stopped.is_some() {
                        break None;
                    }
                    attempt.live.stop(Stop::TimedOut);
                    Stop::TimedOut
                }
            };
            let second_kill = self.order(attempt, stop, grace).await?;
            stopped = Some(match stopped {
                Some((first, _, earlier)) => (first, stop, earlier.min(second_kill)),
                None => (attempt.live.stopping().unwrap_or(stop), stop, second_kill),
            });
        };
        let stop = stopped.map(|(first, _, _)| first);
        // What is still in the pipes does not wait for room any more.
        attempt.live.log.release();
        attempt.leave(Step::Run);
        let Some(exited) = exited else {
            // The worker does not answer: the daemon kills the tree, and nobody saw how the command ended.
            attempt
                .result
                .warnings
                .push("the worker did not end the command in time, so the daemon did".to_owned());
            return Err(Ended::Stopped(stop.unwrap_or(Stop::Drain)));
        };
        attempt.result.kill_micros = exited.kill_micros;
        let end = stop.map_or(AttemptEnd::Completed, end_of);
        self.conclude(attempt, outcome(&exited, stop, granted), end).await?;
        Ok(end)
    }

    /// Orders the worker to end the command's tree, and says when the daemon does it itself. A second order can only shorten
    /// the grace.
    async fn order(&self, attempt: &Attempt, stop: Stop, grace: Duration) -> Result<Instant, Ended> {
        let (grace, second_kill) = match stop {
            Stop::LeaseLost => (Duration::ZERO, LOST_KILL),
            // Capture, scrub and reports have to fit in as well.
            Stop::Drain => (grace.min(attempt.daemon.config.drain.finish.get() / 3), SECOND_KILL),
            _ => (grace, SECOND_KILL),
        };
        let second_kill = Instant::now() + grace + second_kill;
        let limit = if let Stop::Limit(limit) = stop { Some(limit) } else { None };
        let grace_millis = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.send(&Down::Stop(link::Stop { grace_millis, limit }), None).await?;
        Ok(second_kill)
    }

    /// Journals the Outcome and reports it; from here it is fixed.
    async fn conclude(
        &mut self,
        attempt: &mut Attempt,
        outcome: Outcome,
        end: AttemptEnd,
    ) -> Result<(), Ended> {
        tracing::info!(?end, "the command has ended");
        let key = attempt.key().clone();
        let report = Report {
            attempt: key.clone(),
            sequence: 1,
            at: jiff::Timestamp::now(),
            event: ReportEvent::Exited(outcome.clone()),
        };
        let facts = vec![Record::Exited { attempt: key, outcome: outcome.clone(), end }];
        let sent = attempt.daemon.outbox.send(&attempt.daemon, facts, report).await;
        sent.map_err(|error| storage("the outcome cannot be journaled", &error))?;
        attempt.result.outcome = Some(outcome);
        // The tree is empty, so both pipes end; only a stray could hold them open.
        if !ends(&mut self.pump).await {
            workers::reap_strays().await;
            if !ends(&mut self.pump).await {
                let held = "something outside the Run holds its pipes: the log may be cut";
                attempt.result.warnings.push(held.to_owned());
            }
        }
        Ok(())
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
