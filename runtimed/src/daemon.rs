//! What every part of the daemon shares.

use std::collections::BTreeMap;
use std::sync::Arc;

use runtimed_api::ids::{BuildId, DaemonName};
use runtimed_api::run::status::AttemptResult;
use runtimed_sandbox::spawn::Executable;
use runtimed_sandbox::tree::Root;
use runtimed_store::BlobStore;
use tokio::sync::watch;

use crate::admission::Admission;
use crate::config::Config;
use crate::hold::Hold;
use crate::isolation::Isolation;
use crate::journal::Journal;
use crate::live::Attempts;
use crate::logs::Pool;
use crate::metrics::{Metrics, Present};
use crate::mirrors::Mirrors;
use crate::notices::Notices;
use crate::outbox::Outbox;
use crate::readiness::Readiness;
use crate::state_dir::StateDir;
use crate::upstream::Upstream;

/// What every part of the daemon shares.
#[derive(Debug)]
pub struct Daemon {
    /// The configuration.
    pub config: Config,
    /// Its build, which its workers must share.
    pub build: BuildId,
    /// Its name.
    pub name: DaemonName,
    /// Its environment, of which some is handed on.
    pub environment: BTreeMap<String, String>,
    /// The three directories in which trees are made.
    pub roots: Roots,
    /// With the exclusive tier, the three that a Run has whole.
    pub whole: Option<Arc<Roots>>,
    /// Its own directory.
    pub state: StateDir,
    /// What fetches keep for later ones.
    pub mirrors: Mirrors,
    /// What outlives it.
    pub journal: Journal,
    /// Reports under way.
    pub outbox: Outbox,
    /// Who gives it work.
    pub controller: Upstream,
    /// Where results go, if not through the controller.
    pub store: Option<BlobStore>,
    /// What all logs may take.
    pub log_pool: Arc<Pool>,
    /// Until when the commands of Runs may go on.
    pub hold: Hold,
    /// The worker's executable.
    pub worker: Executable,
    /// How it sets Runs apart.
    pub isolation: Isolation,
    /// Ports that no Run may name.
    pub own_ports: Vec<u16>,
    /// The attempts that it holds.
    pub attempts: Attempts,
    /// What may begin.
    pub admission: Arc<Admission>,
    /// What the kernel tells of files.
    pub notices: Notices,
    /// Numbers.
    pub metrics: Metrics,
    /// Why it takes no work, if it does not.
    pub readiness: Readiness,
    /// The result of the attempt that ended last.
    pub ended: watch::Sender<Option<Arc<AttemptResult>>>,
}

impl Daemon {
    /// Its numbers, as text.
    #[must_use]
    pub fn numbers(&self) -> String {
        let (outbox, oldest) = self.outbox.waiting();
        let age = oldest.map_or(0, |at| at.duration_until(jiff::Timestamp::now()).as_secs());
        let (free_slots, quarantined) = self.readiness.counts();
        self.metrics.text(Present {
            ready: self.readiness.is_ready(),
            slots: self.config.slots,
            free_slots,
            quarantined,
            log_pool: self.log_pool.used(),
            outbox,
            outbox_age: u64::try_from(age).unwrap_or(0),
        })
    }
}

/// Three directories.
#[derive(Debug)]
pub struct Roots {
    /// `/tmp`.
    pub tmp: Root,
    /// `/home/worker`.
    pub home: Root,
    /// `/workspace`.
    pub workspace: Root,
}

impl Roots {
    /// All three.
    #[must_use]
    pub fn all(&self) -> [&Root; 3] {
        [&self.tmp, &self.home, &self.workspace]
    }
}
