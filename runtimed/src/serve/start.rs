//! The start: the daemon's parts, in the order in which they need each other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use runtimed_api::ids::{AttemptKey, BuildId, DaemonName};
use runtimed_sandbox::spawn::Executable;
use runtimed_sandbox::tree::{Root, Tree};
use runtimed_store::StoreConfig;
use tokio::sync::watch;

use crate::admission::Admission;
use crate::args::Failure;
use crate::config::Config;
use crate::daemon::{Daemon, Roots};
use crate::hold::Hold;
use crate::isolation::Isolation;
use crate::journal::Journal;
use crate::live::Attempts;
use crate::logs::Pool;
use crate::metrics::Metrics;
use crate::mirrors::Mirrors;
use crate::notices::Notices;
use crate::outbox::Outbox;
use crate::readiness::Readiness;
use crate::state_dir::StateDir;
use crate::upstream::Upstream;
use crate::{exclusive, recovery};

/// What an earlier daemon has left, and what is done about it once this one is up.
pub(crate) struct Left {
    pub(super) quarantined: u32,
    pub(super) logs: Vec<(AttemptKey, PathBuf)>,
}

/// The daemon's parts, with what an earlier one left dealt with.
///
/// # Errors
/// A root, the state or the journal cannot be used.
pub(crate) async fn daemon(
    config: Config,
    build: BuildId,
    (worker, isolation): (Executable, Isolation),
    upstream: Upstream,
    port: u16,
) -> Result<(Arc<Daemon>, Left), Failure> {
    let found = roots(&config).map_err(Failure::usage)?;
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
        outbox: Outbox::with(recovered.reports, known),
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

/// The three directories, which must be there and writable.
fn roots(config: &Config) -> anyhow::Result<Roots> {
    let open = |path: &Path| {
        let hint = "the three roots must be directories that the daemon may write; set them under [roots]";
        Root::open(path).context(hint)
    };
    let found = Roots {
        tmp: open(&config.roots.tmp)?,
        home: open(&config.roots.home)?,
        workspace: open(&config.roots.workspace)?,
    };
    for root in found.all() {
        // Tried now, so that an unwritable root is the operator's error at start and not every Run's.
        root.create().and_then(Tree::remove).context("a root cannot be used")?;
    }
    Ok(found)
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
