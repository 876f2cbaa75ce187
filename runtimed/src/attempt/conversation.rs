//! Steps 5 to 11: what the daemon says to the worker and hears from it, in the one order that the link has.
//!
//! A frame that comes out of its turn ends the attempt as a fault: to the daemon the worker is hostile. A stop before
//! the command has started ends the worker at once; after that it is TERM, grace, KILL, by the worker, and two seconds
//! later by the daemon.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use runtimed_api::link::{Assign, Credential, Down, Hello, Start, Up};
use runtimed_api::policy::Granted;
use runtimed_api::problem::{Code, Problem};
use runtimed_api::quantity::Bytes;
use runtimed_api::run::outcome::Outcome;
use runtimed_api::run::status::AttemptEnd;
use runtimed_api::run::step::Step;
use runtimed_api::session::{Report, ReportEvent};
use runtimed_sandbox::passing::Sealed;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::accept::Accepted;
use super::given::{self, Given};
use super::intent::confinement;
use super::prior::prior_patches;
use super::rotation::Rotation;
use super::sampler;
use super::source::{Sourced, source};
use super::verdict::outcome;
use super::workspace::{StagedEnv, Workspace};
use super::{Attempt, Ended, collect, end_of, storage};
use crate::daemon::Stop;
use crate::journal::Record;
use crate::link::LinkError;
use crate::workers::{self, Worker};
use crate::{environ, logs};

/// How long source and patches may take together.
const PREPARE: Duration = Duration::from_secs(900);
/// How long a worker may take to say hello, and to end when it has nothing left to do.
const PROMPT: Duration = Duration::from_secs(10);
/// How long the capture may take.
const CAPTURE: Duration = Duration::from_secs(600);
/// Memory that a phase may use whatever the Run's limit, in bytes.
const LEAST_PHASE_MEMORY: u64 = 128 << 20;
/// New content that a capture takes in at most, in bytes.
const MAX_CHANGED: u64 = 256 << 20;
/// How much longer than the grace the daemon waits before it kills the tree itself.
const SECOND_KILL: Duration = Duration::from_secs(2);
/// The same when the lease is lost: the Run is handed on soon, and a worker that is stopped does not end it.
const LOST_KILL: Duration = Duration::from_millis(20);
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
        attempt.live.set(|now| now.step = Some(Step::Launch));
        let failed =
            |why: String| Problem::new(Code::WorkerFailed, format!("the worker cannot be started: {why}"));
        let (worker, pipes) =
            workers::launch(&attempt.daemon.worker, attempt.daemon.isolation.tier, &attempt.daemon.hold)
                .map_err(|error| failed(error.to_string()))?;
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
                let lap = attempt.clock.lap(Step::Launch);
                attempt.result.steps.push(lap);
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
        // The lease is another's by now: whatever is collected could not be delivered.
        if attempt.live.stopping() != Some(Stop::LeaseLost) {
            attempt.live.set(|now| now.step = Some(Step::Capture));
            workspace.mend(attempt);
            if let Err(problem) = self.capture(attempt, &accepted.granted, workspace).await {
                attempt.result.warnings.push(format!("the patch was not captured: {problem}"));
            }
            collect::collect(attempt, &accepted.granted.limits, workspace).await;
            let lap = attempt.clock.lap(Step::Capture);
            attempt.result.steps.push(lap);
        }
        Ok(end)
    }

    /// Steps 6 and 7.
    async fn prepare(
        &mut self,
        attempt: &mut Attempt,
        granted: &Granted,
        workspace: &Workspace,
    ) -> Result<(), Ended> {
        attempt.live.set(|now| now.step = Some(Step::Source));
        let patches = prior_patches(attempt, workspace).await?;
        let config = &attempt.daemon.config;
        let Sourced { source, proxy, mirror } = source(attempt, workspace).await?;
        let Given { any, inputs } = given::give(attempt, granted, workspace).await?;
        let mirrored = mirror.is_some();
        let ca_file = config.ca_file().map(|path| path.to_string_lossy().into_owned());
        let assign = Assign {
            attempt: attempt.key().clone(),
            trees: workspace.trees(),
            guard_pid: std::process::id(),
            source,
            patches,
            patch_policy: config.patches.clone(),
            inputs,
            confinement: confinement(attempt, granted, any),
            ca_file,
            proxy,
            mirror,
            memory: phase_memory(granted.limits.memory),
        };
        self.send(&Down::Assign(Box::new(assign)), None).await?;
        let up = self.next(attempt, Instant::now() + PREPARE, "prepare the workspace").await;
        if mirrored {
            // Whatever became of the fetch, it may have filled its mirror. Nobody waits for this.
            let daemon = std::sync::Arc::clone(&attempt.daemon);
            tokio::task::spawn_blocking(move || daemon.mirrors.trim());
        }
        let up = up?;
        let Up::Baseline(baseline) = up else { return Err(out_of_turn(&up)) };
        let result = &mut attempt.result;
        result.baseline = baseline.tree;
        result.commit = baseline.commit;
        result.steps.extend(
            baseline
                .steps
                .into_iter()
                .filter(|time| matches!(time.step, Step::Source | Step::Patches))
                .take(2),
        );
        result.warnings.extend(baseline.notes.into_iter().take(100));
        // What the worker has timed is not counted again.
        attempt.clock.lap(Step::Source);
        Ok(())
    }

    /// Step 9.
    async fn start(
        &mut self,
        attempt: &mut Attempt,
        granted: &Granted,
        workspace: &Workspace,
        staged: StagedEnv,
    ) -> Result<(), Ended> {
        attempt.live.set(|now| now.step = Some(Step::Run));
        let spec = &attempt.lease.run.spec;
        let daemon = &attempt.daemon;
        let places = workspace.places(daemon.isolation.tier);
        let mut env = environ::environment(
            attempt.key(),
            &places,
            &daemon.config.run,
            &granted.network,
            given::variables(attempt, granted, &places),
            &daemon.environment,
            &spec.env,
        );
        env.extend(staged.plain);
        environ::add_aliases(&mut env, daemon.config.aliases.iter().chain(&attempt.runtime.spec.aliases));
        let sealed = if staged.secret.is_empty() {
            None
        } else {
            let plain: std::collections::BTreeMap<&str, &str> =
                staged.secret.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let json = serde_json::to_vec(&plain).map(zeroize::Zeroizing::new);
            let json =
                json.map_err(|_| Problem::new(Code::Internal, "the variables cannot be written as JSON"))?;
            Some(seal(&json)?)
        };
        let directory = spec.source.as_ref().and_then(|source| source.sub_path().map(str::to_owned));
        let start = Start {
            command: spec.command.clone(),
            directory: directory.unwrap_or_default(),
            env,
            secret_env: sealed.is_some(),
            staged: staged.any,
        };
        self.send(&Down::Start(start), sealed.as_ref()).await?;
        let deadline = Instant::now() + PROMPT;
        let up = self.next(attempt, deadline, "confine the command").await?;
        let Up::Enforced(enforced) = up else { return Err(out_of_turn(&up)) };
        attempt.result.enforcement = Some(enforced.enforcement);
        let up = self.next(attempt, deadline, "start the command").await?;
        let Up::Started(_) = up else { return Err(out_of_turn(&up)) };
        Ok(())
    }

    /// Step 10: until the tree is empty and the Outcome is journaled.
    async fn wait(
        &mut self,
        attempt: &mut Attempt,
        granted: &Granted,
        workspace: &mut Workspace,
        rotation: &mut Rotation,
    ) -> Result<AttemptEnd, Ended> {
        let grace = granted.limits.grace.map_or(Duration::ZERO, runtimed_api::duration::Span::get);
        let timeout = granted.limits.timeout.map(|timeout| Instant::now() + timeout.get());
        let mut stops = attempt.live.stops();
        let mut stopped: Option<(Stop, Instant)> = None;
        let exited = loop {
            let due = match (&stopped, timeout) {
                (Some((_, second_kill)), _) => Some(*second_kill),
                (None, timeout) => timeout,
            };
            let stop = tokio::select! {
                biased;
                up = self.worker.link.receive() => match up.map_err(protocol)? {
                    Some(Up::Exited(exited)) => break Some(exited),
                    Some(up) => return Err(told(attempt, up)),
                    None => return Err(gone(attempt)),
                },
                stop = stops.wait_for(Option::is_some), if stopped.is_none() => {
                    let stop = stop.ok().and_then(|stop| *stop);
                    stop.unwrap_or(Stop::Drain)
                }
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
                    attempt.live.stopping().unwrap_or(Stop::TimedOut)
                }
            };
            let (grace, second_kill) = match stop {
                Stop::LeaseLost => (Duration::ZERO, LOST_KILL),
                // Capture, scrub and reports have to fit in as well.
                Stop::Drain => (grace.min(attempt.daemon.config.drain.finish.get() / 3), SECOND_KILL),
                _ => (grace, SECOND_KILL),
            };
            stopped = Some((stop, Instant::now() + grace + second_kill));
            let limit = if let Stop::Limit(limit) = stop { Some(limit) } else { None };
            let grace_millis = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
            self.send(&Down::Stop(runtimed_api::link::Stop { grace_millis, limit }), None).await?;
        };
        // What is still in the pipes does not wait for room any more.
        attempt.live.log.release();
        let lap = attempt.clock.lap(Step::Run);
        attempt.result.steps.push(lap);
        let Some(exited) = exited else {
            // The worker does not answer: the daemon kills the tree, and nobody saw how the command ended.
            let stop = stopped.map_or(Stop::Drain, |(stop, _)| stop);
            attempt
                .result
                .warnings
                .push("the worker did not end the command in time, so the daemon did".to_owned());
            return Err(Ended::Stopped(stop));
        };
        let stop = stopped.map(|(stop, _)| stop);
        attempt.result.kill_micros = exited.kill_micros;
        let end = stop.map_or(AttemptEnd::Completed, end_of);
        self.conclude(attempt, outcome(&exited, stop, granted), end).await?;
        Ok(end)
    }

    /// Journals the Outcome and reports it; from here it is fixed.
    async fn conclude(
        &mut self,
        attempt: &mut Attempt,
        outcome: Outcome,
        end: AttemptEnd,
    ) -> Result<(), Ended> {
        attempt.result.outcome = Some(outcome.clone());
        tracing::info!(?end, "the command has ended");
        let key = attempt.key().clone();
        let report = Report {
            attempt: key.clone(),
            sequence: 1,
            at: jiff::Timestamp::now(),
            event: ReportEvent::Exited(outcome.clone()),
        };
        let facts = vec![Record::Exited { attempt: key, outcome, end }];
        let sent = attempt.daemon.outbox.send(&attempt.daemon, facts, report).await;
        sent.map_err(|error| storage("the outcome cannot be journaled", &error))?;
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

    /// The patch of step 11.
    async fn capture(
        &mut self,
        attempt: &mut Attempt,
        granted: &Granted,
        workspace: &Workspace,
    ) -> Result<(), Problem> {
        let file = collect::patch_file(attempt, workspace)?;
        let patches = &attempt.daemon.config.patches;
        let capture = runtimed_api::link::Capture {
            max_bytes: patches.max_bytes.0,
            max_files: patches.max_files,
            max_changed_bytes: max_changed_bytes(granted.limits.memory),
            memory: phase_memory(granted.limits.memory),
            reveal: attempt.redactor.needles().is_some(),
        };
        let failed = |why: String| Problem::new(Code::CaptureFailed, why);
        let frame = Down::Capture(capture);
        self.worker.link.send(&frame, Some(file.as_fd())).await.map_err(|error| failed(error.to_string()))?;
        let up = tokio::select! {
            up = tokio::time::timeout(CAPTURE, self.worker.link.receive()) => up,
            () = attempt.live.hurried() => return Err(failed("the daemon was shut down".to_owned())),
        };
        let up = up.map_err(|_| failed(format!("it took longer than {} s", CAPTURE.as_secs())))?;
        match up.map_err(|error| failed(error.to_string()))? {
            Some(Up::Captured(captured)) => {
                attempt.result.warnings.extend(captured.notes.into_iter().take(100));
                tokio::task::block_in_place(|| collect::patch(attempt, file, captured.patch))
            }
            Some(Up::Refused(refused)) => {
                let first = refused.refusals.first().map(ToString::to_string);
                Err(failed(first.unwrap_or_else(|| "it was refused".to_owned())))
            }
            Some(Up::Fault(fault)) => Err(fault.problem),
            Some(_) => Err(failed("the worker spoke out of turn".to_owned())),
            None => Err(failed("the worker ended".to_owned())),
        }
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
        let mut stops = attempt.live.stops();
        tokio::select! {
            biased;
            up = self.worker.link.receive() => match up.map_err(protocol)? {
                Some(Up::Refused(_) | Up::Fault(_)) | None if attempt.live.stopping() == Some(Stop::LeaseLost) => {
                    Err(Ended::Stopped(Stop::LeaseLost))
                }
                Some(up @ (Up::Refused(_) | Up::Fault(_))) => Err(told(attempt, up)),
                Some(up) => Ok(up),
                None => Err(gone(attempt)),
            },
            stop = stops.wait_for(Option::is_some) => {
                Err(Ended::Stopped(stop.ok().and_then(|stop| *stop).unwrap_or(Stop::Drain)))
            }
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

/// What a phase may use of memory: as much as the command, whose tree is dead or not yet there; but with a small limit
/// enough for a repository of ordinary size.
fn phase_memory(limit: Option<Bytes>) -> Option<u64> {
    limit.map(|limit| limit.0.max(LEAST_PHASE_MEMORY))
}

/// New content that a capture may hold: three times as much is in memory together with the objects and the patch made of it.
fn max_changed_bytes(limit: Option<Bytes>) -> u64 {
    limit.map_or(MAX_CHANGED, |limit| (limit.0 / 4).clamp(LEAST_PHASE_MEMORY / 16, MAX_CHANGED))
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

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
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
    let name = match up {
        Up::Hello(_) => "Hello",
        Up::Baseline(_) => "Baseline",
        Up::Enforced(_) => "Enforced",
        Up::Started(_) => "Started",
        Up::Exited(_) => "Exited",
        Up::Captured(_) => "Captured",
        Up::Refused(_) => "Refused",
        Up::Fault(_) => "Fault",
    };
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
