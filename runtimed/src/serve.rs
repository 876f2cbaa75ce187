//! `runtimed serve`: the wiring, and the end.
//!
//! First signal drains, second aborts. Draining leases nothing more; running Runs may go on for the drain's grace and are
//! then ended as `Drained`; scrub, upload and reports are waited for.

mod drain;
mod log;
mod start;

use std::net::{Ipv6Addr, SocketAddrV6};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use runtimed_api::ids::BuildId;
use runtimed_api::run::status::AttemptResult;
use runtimed_api::session::SecretText;
use runtimed_client::Endpoint;
use runtimed_client::controller::Controller;
use runtimed_client::listen::{self, Listener, Signals, TlsFiles};
use runtimed_sandbox::process;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::args::Failure;
use crate::attempt::{self, leftover};
use crate::config::Config;
use crate::daemon::Daemon;
use crate::isolation::Isolation;
use crate::upstream::{Given, Upstream};
use crate::{http, job, selftest, session, slot, workers};

use drain::{When, drain};
pub(crate) use log::start_log;
pub(crate) use start::daemon;

/// How long answers may take that are under way when everything is delivered.
const ANSWERS: Duration = Duration::from_secs(1);

/// What the command line says beside the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Drain when standard input closes.
    pub until_stdin_closes: bool,
    /// Whom to become when started as root.
    pub user: u32,
}

/// What the daemon is for.
#[derive(Debug)]
pub enum Work {
    /// Leasing Runs until it is told to stop.
    Pool,
    /// One Run, and then the end. It is leased from the controller unless it was given.
    One(Option<Box<Given>>),
}

/// Runs the daemon until it has drained.
///
/// # Errors
/// The configuration cannot be used, or an essential part failed.
pub fn serve(
    config: Config,
    build: BuildId,
    options: Options,
    work: Work,
) -> Result<Option<Arc<AttemptResult>>, Failure> {
    let once = matches!(work, Work::One(_));
    // A job's stderr is its Run's: only what went wrong goes between.
    start_log(if once { "warn" } else { "info" });
    // In this order: what only root may open, then the drop, and threads only after that.
    let worker = workers::find(config.worker.path.as_deref()).map_err(Failure::usage)?;
    let upstream = upstream(&config, work).map_err(Failure::usage)?;
    let tls = tls_files(&config);
    let listener = Listener::bind(config.http.listen, tls.as_ref()).map_err(Failure::usage)?;
    // A Run with the whole network reaches it; those who ask whether the pod is well must still get through.
    let listener = listener.with_room_for_others();
    let twin = other_family(&listener, tls.as_ref()).map_err(Failure::usage)?;
    let (runtime, isolation) = become_daemon(options.user, &config)?;
    let parts = Parts { config, build, worker, isolation, upstream, listener, twin, once };
    let result = runtime.block_on(parts.run(options.until_stdin_closes));
    // A task that hangs must not hold up the exit of a daemon that has drained.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Gives root up, finds out how Runs can be set apart, closes the process to its neighbours, and starts threads: in this
/// order.
///
/// # Errors
/// A step failed; the process must not go on.
pub(crate) fn become_daemon(
    user: u32,
    config: &Config,
) -> Result<(tokio::runtime::Runtime, Isolation), Failure> {
    if rustix::process::geteuid().is_root() {
        process::drop_to(user, user).map_err(Failure::fault)?;
    }
    let isolation = Isolation::choose(config).map_err(Failure::usage)?;
    process::harden_self().context("cannot harden the daemon's own process").map_err(Failure::fault)?;
    process::become_subreaper().context("cannot become a subreaper").map_err(Failure::fault)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime's threads").map_err(Failure::fault)?;
    Ok((runtime, isolation))
}

struct Parts {
    config: Config,
    build: BuildId,
    worker: runtimed_sandbox::spawn::Executable,
    isolation: Isolation,
    upstream: Upstream,
    listener: Listener,
    twin: Option<Listener>,
    once: bool,
}

impl Parts {
    async fn run(self, until_stdin_closes: bool) -> Result<Option<Arc<AttemptResult>>, Failure> {
        // Before anything that takes time: a process without a handler dies of SIGTERM, or as PID 1 does not hear it.
        let signals = Signals::new().context("cannot wait for signals").map_err(Failure::fault)?;
        let address = self.config.http.address.clone().unwrap_or_else(|| self.listener.url());
        let (listener, twin, once) = (self.listener, self.twin, self.once);
        let port = listener.local_addr().port();
        let (daemon, recovered) =
            daemon(self.config, self.build, (self.worker, self.isolation), self.upstream, port).await?;
        tracing::info!(daemon = %daemon.name, runtime = %daemon.config.runtime, address, "ready to lease");
        let (draining, closing) = (CancellationToken::new(), CancellationToken::new());
        let (current, sessions) = watch::channel(None);
        let (slots, tails) = (TaskTracker::new(), TaskTracker::new());
        for (attempt, spool) in recovered.logs {
            let span = attempt::span(&attempt, None);
            tails.spawn(leftover(Arc::clone(&daemon), attempt, spool).instrument(span));
        }
        let quarantined = recovered.quarantined.min(daemon.config.slots);
        (0..quarantined).for_each(|_| slot::quarantine(&daemon));
        if once && quarantined > 0 {
            return Err(Failure::fault(anyhow!(
                "what an earlier Run staged here cannot be removed: replace the pod"
            )));
        }
        let serving = if self_tested(&daemon).await { daemon.config.slots - quarantined } else { 0 };
        for _ in 0..serving {
            let (sessions, draining, tails) = (sessions.clone(), draining.clone(), tails.clone());
            slots.spawn(slot::run(Arc::clone(&daemon), sessions, draining, tails, once));
        }
        if once {
            tails.spawn(job::mirror(Arc::clone(&daemon), draining.clone()));
        }
        slots.close();
        let closed = closing.clone();
        let router = http::router(Arc::clone(&daemon), closing.clone());
        let mut essential = tokio::task::JoinSet::new();
        let kept = Arc::clone(&daemon);
        essential.spawn(async move { session::keep(&kept, address, &current).await });
        let sent = Arc::clone(&daemon);
        let told = Arc::clone(&daemon);
        essential.spawn(async move { told.notices.run(&told.metrics).await });
        let outbox_sessions = sessions.clone();
        essential.spawn(async move { sent.outbox.run(&sent, outbox_sessions).await });
        if rustix::process::getpid() == process::Pid::INIT {
            essential.spawn(reap());
        }
        let mut servers = tokio::task::JoinSet::new();
        for listener in std::iter::once(listener).chain(twin) {
            servers.spawn(listen::serve(listener, router.clone(), closed.clone().cancelled_owned()));
        }
        let drained =
            drain(&daemon, &sessions, &draining, &slots, &tails, When { signals, until_stdin_closes, once });
        let result = tokio::select! {
            drained = drained => match drained {
                Ok(()) => Ok(daemon.ended.borrow().clone()),
                // Of a job the exit code is the Run's, so that these must not be taken for its own.
                Err(failure) if once => Err(Failure::fault(failure.error)),
                Err(failure) => Err(failure),
            },
            Some(ended) = essential.join_next() => {
                Err(Failure::fault(anyhow!("an essential task of the daemon ended: {ended:?}")))
            }
            Some(ended) = servers.join_next() => {
                Err(Failure::fault(anyhow!("the daemon's endpoints ended: {ended:?}")))
            }
        };
        closing.cancel();
        // A client that is slow, or says nothing, has no claim on the pod's grace period, and none at all on an abort.
        let patience = if result.is_ok() { ANSWERS } else { Duration::ZERO };
        let answered = async { while servers.join_next().await.is_some() {} };
        if tokio::time::timeout(patience, answered).await.is_err() {
            tracing::debug!("connections were cut at the end");
        }
        result
    }
}

/// Whether Runs may be taken: a daemon that has to test itself first takes none if something did not hold, and stays up,
/// not ready, for whoever looks why.
async fn self_tested(daemon: &Daemon) -> bool {
    if !daemon.config.selftest.required {
        return true;
    }
    let tested =
        Box::pin(selftest::test(&daemon.config, daemon.build.clone(), daemon.isolation.beside())).await;
    let held = match &tested {
        Ok(report) if report.held => true,
        Ok(report) => {
            tracing::error!(broken = ?report.broken(), "the selftest failed: no Run is taken");
            false
        }
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the selftest could not be made: no Run is taken");
            false
        }
    };
    daemon.readiness.untested.store(!held, Ordering::Release);
    held
}

/// Collects whatever ends as an orphan in the container, for nobody else is PID 1 there.
async fn reap() {
    match signal(SignalKind::child()) {
        Ok(mut ended) => loop {
            ended.recv().await;
            if tokio::task::spawn_blocking(process::collect_ended_strays).await.is_err() {
                return;
            }
        },
        Err(error) => tracing::error!(%error, "cannot wait for SIGCHLD"),
    }
}

/// The same port of the other loopback, so that no Run can take it and be mistaken for the daemon.
fn other_family(listener: &Listener, tls: Option<&TlsFiles>) -> anyhow::Result<Option<Listener>> {
    let bound = listener.local_addr();
    if !bound.is_ipv4() {
        return Ok(None);
    }
    let address = if bound.ip().is_loopback() { Ipv6Addr::LOCALHOST } else { Ipv6Addr::UNSPECIFIED };
    let wanted = SocketAddrV6::new(address, bound.port(), 0, 0);
    match Listener::bind_ipv6_alone(wanted, tls) {
        Ok(listener) => Ok(Some(listener.with_room_for_others())),
        Err(error @ listen::ListenError::Occupied(_)) => Err(error.into()),
        // A pod without IPv6: nobody can take the port there either.
        Err(error) => {
            tracing::debug!(%error, "the port is not bound on IPv6");
            Ok(None)
        }
    }
}

fn tls_files(config: &Config) -> Option<TlsFiles> {
    let (cert, key) = (config.http.tls_cert.clone()?, config.http.tls_key.clone()?);
    Some(TlsFiles { cert, key })
}

/// Where Runs come from. The token is read here, for only root may be able to.
fn upstream(config: &Config, work: Work) -> anyhow::Result<Upstream> {
    if let Work::One(Some(given)) = work {
        return Ok(Upstream::Given(given));
    }
    let controller = config.controller.as_ref().context(
        "no controller is configured: set [controller] url and token_file, or RUNTIMED_CONTROLLER_URL and \
         RUNTIMED_CONTROLLER_TOKEN_FILE",
    )?;
    let token = read_token(&controller.token_file)?;
    let endpoint = Endpoint {
        url: controller.url.clone(),
        ca_file: controller.ca_file.clone().or_else(|| config.tls.ca_file.clone()),
    };
    Ok(Upstream::Controller(Controller::new(&endpoint)?.with_token(token)))
}

/// The token in a file, without the newline that editors add.
fn read_token(path: &Path) -> anyhow::Result<SecretText> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the controller's token {}", path.display()))?;
    let token = text.trim();
    if token.is_empty() {
        return Err(anyhow!("the controller's token {} is empty", path.display()));
    }
    Ok(SecretText::new(token.to_owned()))
}
