//! Steps 5 to 11: what the daemon says to the worker and hears from it, in the one order that the link has.
//!
//! A frame that comes out of its turn ends the attempt as a fault: to the daemon the worker is hostile. A stop before
//! the command has started ends the worker at once; after that it is TERM, grace, KILL, by the worker, and two seconds
//! later by the daemon.

mod capture;
mod memory;
mod prepare;
mod wait;

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use runtimed_api::link::{Credential, Down, Hello, Up};
use runtimed_api::problem::{Code, Problem};
use runtimed_api::run::status::AttemptEnd;
use runtimed_api::run::step::Step;
use runtimed_sandbox::passing::Sealed;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::accept::Accepted;
use super::rotation::Rotation;
use super::workspace::Workspace;
use super::{Attempt, Ended, collect, sampler, storage};
use crate::link::LinkError;
use crate::live::Stop;
use crate::logs;
use crate::workers::{self, Worker};

/// How long a worker may take to say hello, and to end when it has nothing left to do.
const PROMPT: Duration = Duration::from_secs(10);
/// How long the pipes may stay open after the tree is empty: only a stray holds them.
const PIPES: Duration = Duration::from_secs(2);

/// A worker that has said hello.
pub(super) struct Conversation {
    worker: Worker,
    /// Until both pipes have ended.
    pump: Option<JoinHandle<()>>,
}

impl Conversation {
    /// Starts the worker.
    pub(super) async fn launch(attempt: &mut Attempt, accepted: &Accepted) -> Result<Self, Ended> {
        attempt.enter(Step::Launch);
        let failed =
            |why: String| Problem::new(Code::WorkerFailed, format!("the worker cannot be started: {why}"));
        let daemon = &attempt.daemon;
        let launched = workers::launch(&daemon.worker, &accepted.tree, daemon.isolation.tier, &daemon.hold);
        let (worker, pipes) = launched.map_err(|error| failed(error.to_string()))?;
        tokio::spawn(logs::diagnostics(pipes.diagnostics).in_current_span());
        let log = std::sync::Arc::clone(&attempt.live.log);
        let (daemon, redactor) = (std::sync::Arc::clone(&attempt.daemon), attempt.redactor.clone());
        let pump = tokio::spawn(async move {
            daemon.metrics.redacted(logs::pump(pipes.stdout, pipes.stderr, redactor, log).await);
        });
        let mut talk = Self { worker, pump: Some(pump) };
        let hello = Hello { build: attempt.daemon.build.clone() };
        let met = talk.meet(attempt, hello, accepted).await;
        match met {
            Ok(()) => {
                attempt.leave(Step::Launch);
                Ok(talk)
            }
            Err(ended) => {
                talk.end(attempt, Duration::ZERO).await;
                Err(ended)
            }
        }
    }

    async fn meet(&mut self, attempt: &Attempt, hello: Hello, accepted: &Accepted) -> Result<(), Ended> {
        self.send(&Down::Hello(hello), None).await?;
        let up = self.next(attempt, Instant::now() + PROMPT, "say hello").await?;
        let Up::Hello(theirs) = up else { return Err(out_of_turn(&up)) };
        if theirs.build != attempt.daemon.build {
            let why =
                format!("the worker is of build {}, the daemon of {}", theirs.build, attempt.daemon.build);
            let problem = Problem::new(Code::WorkerFailed, why).hint("install both from the same build");
            return Err(problem.into());
        }
        if let Some(credential) = &accepted.credential {
            let sealed = seal(credential.value.expose())?;
            let frame = Credential { kind: credential.kind, hosts: credential.hosts.clone() };
            self.send(&Down::Credential(frame), Some(&sealed)).await?;
        }
        Ok(())
    }

    /// Takes the attempt from its source to its capture. The worker is gone afterwards, however it went.
    pub(super) async fn hold(
        mut self,
        attempt: &mut Attempt,
        accepted: Accepted,
        workspace: &mut Workspace,
    ) -> Result<AttemptEnd, Ended> {
        let ended = self.talk(attempt, accepted, workspace).await;
        // After a failure there is nothing to wait for: the worker is killed with its tree.
        let patience = if ended.is_ok() { PROMPT } else { Duration::ZERO };
        self.end(attempt, patience).await;
        ended
    }

    async fn talk(
        &mut self,
        attempt: &mut Attempt,
        accepted: Accepted,
        workspace: &mut Workspace,
    ) -> Result<AttemptEnd, Ended> {
        self.prepare(attempt, &accepted.granted, workspace).await?;
        let staged = workspace.stage(attempt, &accepted.secrets).await?;
        let mut rotation = Rotation::begin(attempt, &accepted.secrets);
        drop(accepted.secrets);
        self.start(attempt, &accepted.granted, workspace, staged).await?;
        let sampler = sampler::start(attempt, &accepted.granted.limits, &self.worker, workspace)?;
        let end = self.wait(attempt, &accepted.granted, workspace, &mut rotation).await;
        attempt.result.warnings.extend(sampler.and_then(|sampler| sampler.why()));
        let end = end?;
        // The lease is another's by now, or will be soon: whatever is collected could not be delivered. Should the report be
        // taken after all, nobody must be told that a command succeeded of which nothing was kept.
        if attempt.live.is_lost() {
            let uncollected = "outputs, artifacts and patch were not collected: the lease could not be held";
            attempt.result.warnings.push(uncollected.to_owned());
            return Ok(if end == AttemptEnd::Completed { AttemptEnd::Lost } else { end });
        }
        attempt.enter(Step::Capture);
        workspace.mend(attempt);
        if let Err(problem) = self.capture(attempt, &accepted.granted, workspace).await {
            attempt.result.warnings.push(format!("the patch was not captured: {problem}"));
        }
        collect::collect(attempt, &accepted.granted.limits, workspace).await;
        attempt.leave(Step::Capture);
        Ok(end)
    }

    async fn send(&self, down: &Down, descriptor: Option<&OwnedFd>) -> Result<(), Ended> {
        match self.worker.link.send(down, descriptor.map(|fd| fd.as_fd())).await {
            Ok(()) => Ok(()),
            // It may have said why before it closed its end: the next frame tells.
            Err(LinkError::Io(_)) => Ok(()),
            Err(error) => Err(protocol(error)),
        }
    }

    /// The next frame of a worker that has no command yet: a stop ends the wait.
    async fn next(&mut self, attempt: &Attempt, deadline: Instant, what: &str) -> Result<Up, Ended> {
        tokio::select! {
            biased;
            up = self.worker.link.receive() => match up.map_err(protocol)? {
                Some(Up::Refused(_) | Up::Fault(_)) | None if attempt.live.is_lost() => {
                    Err(Ended::Stopped(Stop::LeaseLost))
                }
                Some(up @ (Up::Refused(_) | Up::Fault(_))) => Err(told(attempt, up)),
                Some(up) => Ok(up),
                None => Err(gone(attempt)),
            },
            stop = attempt.live.stopped() => Err(Ended::Stopped(stop)),
            () = tokio::time::sleep_until(deadline) => {
                let why = format!("the worker took too long to {what}");
                Err(Problem::new(Code::WorkerFailed, why).into())
            }
        }
    }

    async fn end(self, attempt: &Attempt, patience: Duration) {
        attempt.live.log.release();
        let Self { worker, mut pump } = self;
        worker.end(patience).await;
        if !ends(&mut pump).await
            && let Some(pump) = pump
        {
            pump.abort();
        }
    }
}

/// Whether both pipes end soon; asked again, those that have ended stay so.
async fn ends(pump: &mut Option<JoinHandle<()>>) -> bool {
    let Some(handle) = pump else { return true };
    let ended = tokio::time::timeout(PIPES, handle).await.is_ok();
    if ended {
        *pump = None;
    }
    ended
}

fn seal(bytes: &[u8]) -> Result<OwnedFd, Problem> {
    Sealed::new(bytes).map_err(|error| storage("a secret cannot be handed over", &error))
}

/// What a last frame says.
fn told(attempt: &Attempt, up: Up) -> Ended {
    match up {
        // It saw the lease run out, which this daemon was kept from seeing.
        Up::Fault(fault) if fault.problem.code == Code::LeaseLost => {
            attempt.live.stop(Stop::LeaseLost);
            Ended::Stopped(Stop::LeaseLost)
        }
        Up::Refused(refused) if !refused.refusals.is_empty() => Ended::Refused(refused.refusals),
        Up::Fault(fault) => Ended::Fault(fault.problem),
        other => out_of_turn(&other),
    }
}

fn out_of_turn(up: &Up) -> Ended {
    let name = up.name();
    Problem::new(Code::WorkerFailed, format!("the worker sent {name} out of turn")).into()
}

fn protocol(error: LinkError) -> Ended {
    Problem::new(Code::WorkerFailed, error.to_string()).into()
}

fn gone(attempt: &Attempt) -> Ended {
    match attempt.live.stopping() {
        Some(stop) => Ended::Stopped(stop),
        None => Problem::new(Code::WorkerFailed, "the worker ended before its work was done").into(),
    }
}
