//! `runtimed serve`: the wiring, and the end.
//!
//! First signal drains, second aborts. Draining leases nothing more; running Runs may go on for the drain's grace and are
//! then ended as `Drained`; scrub, upload and reports are waited for.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use runtimed_api::exit::Exit;
use runtimed_api::ids::{AttemptKey, BuildId, DaemonName};
use runtimed_api::run::status::AttemptResult;
use runtimed_api::session::SecretText;
use runtimed_client::Endpoint;
use runtimed_client::controller::Controller;
use runtimed_client::listen::{self, Listener, TlsFiles};
use runtimed_sandbox::process;
use runtimed_sandbox::tree::Root;
use runtimed_store::StoreConfig;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::admission::Admission;
use crate::args::Failure;
use crate::attempt::{self, leftover};
use crate::config::Config;
use crate::daemon::{Attempts, Daemon, Readiness, Roots, Stop};
use crate::hold::Hold;
use crate::isolation::Isolation;
use crate::journal::Journal;
use crate::logs::Pool;
use crate::metrics::Metrics;
use crate::mirrors::Mirrors;
use crate::notices::Notices;
use crate::outbox::Outbox;
use crate::state_dir::StateDir;
use crate::upstream::{Given, Upstream};
use crate::{exclusive, http, job, recovery, selftest, session, slot, workers};

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
        let signals = Signals::new().map_err(Failure::fault)?;
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
        while servers.join_next().await.is_some() {}
        result
    }
}

/// Waits for the order to end, and carries it out.
async fn drain(
    daemon: &Daemon,
    sessions: &watch::Receiver<Option<session::Current>>,
    draining: &CancellationToken,
    slots: &TaskTracker,
    tails: &TaskTracker,
    when: When,
) -> Result<(), Failure> {
    let When { mut signals, until_stdin_closes, once } = when;
    let over = async {
        slots.wait().await;
        tails.close();
        tails.wait().await;
        daemon.outbox.emptied().await;
    };
    let grace = tokio::select! {
        () = signals.next() => daemon.config.drain.grace.get(),
        // Whoever started the daemon is gone: nobody waits for its Runs.
        () = listen::stdin_closed(), if until_stdin_closes => Duration::ZERO,
        // Everything is delivered: what follows only says good-bye.
        () = over, if once => Duration::ZERO,
    };
    tracing::info!(?grace, "draining");
    daemon.readiness.draining.store(true, Ordering::Release);
    draining.cancel();
    // Beside the rest: a controller that does not answer takes none of the time.
    let told = async {
        let session = sessions.borrow().clone();
        if let Some(session) = session
            && let Err(error) = daemon.controller.drain(&session.id).await
        {
            tracing::warn!(%error, "could not tell the controller that this daemon is draining");
        }
        std::future::pending::<()>().await;
    };
    let finish = async {
        if tokio::time::timeout(grace, slots.wait()).await.is_err() {
            daemon.attempts.stop(Stop::Drain);
        }
        let rest = async {
            slots.wait().await;
            daemon.outbox.emptied().await;
            tails.close();
            tails.wait().await;
        };
        tokio::time::timeout(daemon.config.drain.finish.get(), rest).await.is_ok()
    };
    let aborted = || Failure {
        error: anyhow!("aborted by a second signal: the next start cleans up, and delivers what is left"),
        exit: Exit::Cancelled,
    };
    tokio::select! {
        delivered = finish => if delivered { Ok(()) } else { Err(Failure {
            error: anyhow!("the time to drain ran out: the journal has what is left for the next start"),
            exit: Exit::TimedOut,
        }) },
        () = told => Ok(()),
        () = signals.next() => Err(aborted()),
    }
}

/// What the daemon ends by.
struct When {
    signals: Signals,
    until_stdin_closes: bool,
    /// When its one Run is over.
    once: bool,
}

/// The signals that end the daemon. One that comes before it is waited for is not lost.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
        Ok(Self { terminate, interrupt })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
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

/// What an earlier daemon has left, and what is done about it once this one is up.
pub(crate) struct Left {
    quarantined: u32,
    logs: Vec<(AttemptKey, PathBuf)>,
}

/// The daemon's parts, with what an earlier one left dealt with.
///
/// # Errors
/// A root, the state or the journal cannot be used.
pub(crate) async fn daemon(
    config: Config,
    build: BuildId,
    (worker, isolation): (runtimed_sandbox::spawn::Executable, Isolation),
    upstream: Upstream,
    port: u16,
) -> Result<(Arc<Daemon>, Left), Failure> {
    let open = |path: &Path| {
        let hint = "the three roots must be directories that the daemon may write; set them under [roots]";
        Root::open(path).map_err(|error| Failure::usage(anyhow!(error).context(hint)))
    };
    let found = Roots {
        tmp: open(&config.roots.tmp)?,
        home: open(&config.roots.home)?,
        workspace: open(&config.roots.workspace)?,
    };
    for root in found.all() {
        // Tried now, so that an unwritable root is the operator's error at start and not every Run's.
        let tried = root.create().and_then(runtimed_sandbox::tree::Tree::remove);
        tried.map_err(|error| Failure::usage(anyhow!(error).context("a root cannot be used")))?;
    }
    let state = StateDir::take(config.state.dir.as_deref(), &found.workspace).map_err(Failure::usage)?;
    let (journal, left, known) = Journal::open(state.path()).map_err(Failure::fault)?;
    let (roots, whole) = exclusive::arrange(found, &state, isolation.tier, &left).map_err(Failure::usage)?;
    let notices = Notices::default();
    // What a Run may know by path. In a pod these belong to root, and nobody here can take their modes away.
    let shared = whole.iter().flat_map(|whole| whole.all());
    for path in roots.all().into_iter().chain(shared).map(Root::path).chain([state.place()]) {
        if let Err(error) = notices.keep_mode(path) {
            tracing::warn!(path = %path.display(), %error, "a directory's mode cannot be kept");
        }
    }
    let recovered = recovery::recover((&left, known), &journal, (&roots, whole.as_deref()), &state).await;
    let recovered = recovered.map_err(Failure::fault)?;
    let mirrors = Mirrors::open(state.path(), config.mirror.max.0);
    let mirrors = mirrors.context("cannot keep mirrors in the state directory").map_err(Failure::fault)?;
    let disks = vec![
        ("workspaces", config.roots.workspace.clone()),
        ("homes", config.roots.home.clone()),
        ("temporary files", config.roots.tmp.clone()),
        ("the daemon's state", state.path().to_owned()),
    ];
    let admission = Arc::new(Admission::new(&config, disks));
    let name = match &config.name {
        Some(name) => name.clone(),
        None => host_name().map_err(Failure::usage)?,
    };
    let hold = Hold::new().context("cannot make a timer").map_err(Failure::fault)?;
    let store = config.store.as_ref().map(StoreConfig::open).transpose().map_err(Failure::usage)?;
    let daemon = Arc::new(Daemon {
        store,
        log_pool: Pool::new(config.logs.pod.0),
        build,
        name,
        environment: environment(),
        roots,
        whole,
        state,
        mirrors,
        journal,
        outbox: Outbox::with(recovered.reports),
        controller: upstream,
        hold,
        worker,
        isolation,
        own_ports: vec![port],
        attempts: Attempts::default(),
        admission,
        notices,
        metrics: Metrics::default(),
        readiness: Readiness::new(config.slots),
        ended: watch::Sender::default(),
        config,
    });
    Ok((daemon, Left { quarantined: recovered.quarantined, logs: recovered.logs }))
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
        Ok(listener) => Ok(Some(listener)),
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

fn host_name() -> anyhow::Result<DaemonName> {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    DaemonName::try_from(name)
        .context("the host's name cannot be a daemon's; set `name` in the configuration")
}

/// The daemon's environment as far as it is text.
fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Logs to stderr: as JSON lines for the cluster's log stack, or as text on a terminal.
pub(crate) fn start_log(otherwise: &str) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("RUNTIMED_LOG").unwrap_or_else(|_| EnvFilter::new(otherwise));
    // A stderr that nobody reads, or that is full, must not end the daemon: what cannot be written is lost.
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    let started = if rustix::termios::isatty(rustix::stdio::stderr()) {
        log.compact().try_init()
    } else {
        log.json().flatten_event(true).with_span_list(false).try_init()
    };
    // A test that drives several daemons in one process has started it already.
    if let Err(error) = started {
        tracing::debug!(%error, "the log was started before");
    }
}
