//! The one task that owns change.
//!
//! ```text
//!   requests ──► Command ─┐                                   ┌─► oneshot answers
//!   deadlines ──► Timer ──┼─► Op on one Run ─► core::decide ──┤
//!                         │        ▲                          └─► Store::replace ──► watch ──► Index, waiting slots,
//!                         │        └─ one at a time per Run                                   watchers, deadlines
//! ```
//!
//! An [`ops::Op`] on a Run is decided by the pure core and stored as one write; until that is durable, further ones on the
//! same Run wait in a short queue, while those on other Runs go on: the store commits them together. All that is in memory
//! (queues, deadlines, who watches) is made from the store's watch alone, so that a restarted controller, which lists and
//! then watches, is in the same state as one that never stopped. Nothing is polled: the task sleeps until the next
//! deadline.
//!
//! Leases run by the monotonic clock of this process. They are counted from the start of the process for those that are
//! found in the store: a restarted controller expires nothing before one lease period has gone by.

mod census;
mod command;
mod handout;
mod index;
mod observe;
mod ops;
mod quota;
mod retention;
mod sessions;
mod slots;
mod timers;
mod vault;
mod views;

use std::collections::{HashMap, HashSet, VecDeque};
use std::future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use runtimed_api::ids::{RunUid, RuntimeName};
use runtimed_store::BlobStore;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

pub use command::{Created, Engine, Located};
pub(crate) use ops::failed as store_failed;
pub use quota::{Denied, Quota};

use crate::auth::AttemptTokens;
use crate::core::RunKey;
use crate::metrics::Metrics;
use crate::seal::Sealer;
use crate::signing::Signing;
use crate::store::{Change, Query, Store, StoreError};
use crate::uploads::Uploads;
use command::Command;
use index::Index;
use ops::{Done, Op};
use quota::Pace;
use retention::Finished;
use sessions::Sessions;
use slots::Slots;
use timers::{Timer, Timers};
use vault::Vault;

/// Runs read at once at start.
const PAGE: usize = 1000;
/// Requests that wait for the engine at most.
const COMMANDS: usize = 1024;
/// After a failure of the store, what has no asker who would try again is tried again so much later.
const AGAIN: Duration = Duration::from_secs(1);

/// What the engine is made of.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Where Runs are kept.
    pub store: Arc<dyn Store>,
    /// Where their results are kept.
    pub blobs: BlobStore,
    /// Makes the tokens of attempts.
    pub tokens: AttemptTokens,
    /// Seals submitted secrets.
    pub sealer: Sealer,
    /// Vouches for the Patches that they report.
    pub signing: Arc<Signing>,
    /// What is counted.
    pub metrics: Metrics,
    /// How long a lease holds without a renewal.
    pub lease: Duration,
    /// What daemons measure the age of a lease by.
    pub clock: Clock,
    /// What one namespace may ask for.
    pub quota: Quota,
    /// How long an uploaded patch or work tree is kept.
    pub keep_uploads: Duration,
    /// How much of that there is, and what is coming.
    pub uploads: Arc<Uploads>,
}

/// The monotonic clock of this process, as daemons are told of it.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that begins now.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Milliseconds since it began.
    #[must_use]
    pub fn millis(self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// The state of the one task.
struct State {
    parts: Parts,
    index: Index,
    sessions: Sessions,
    slots: Slots,
    timers: Timers,
    vault: Vault,
    pace: Pace,
    finished: Finished,
    /// Runs that a write is under way for, and what waits for it.
    busy: HashMap<RunKey, VecDeque<Op>>,
    under_way: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Runtimes whose queue or slots changed.
    dirty: HashSet<RuntimeName>,
    /// The listener is being closed: nobody may begin to wait.
    draining: bool,
}

/// Reads what is stored and starts the task. It ends when the last [`Engine`] is dropped and what is under way is done.
///
/// # Errors
/// The store cannot be read.
pub async fn start(parts: Parts) -> Result<(Engine, tokio::task::JoinHandle<()>), StoreError> {
    let (commands, incoming) = mpsc::channel(COMMANDS);
    // Watching begins before listing: what changes in between is seen twice rather than not at all.
    let changes = parts.store.watch();
    let mut state = State {
        index: Index::default(),
        sessions: Sessions::default(),
        slots: Slots::default(),
        timers: Timers::default(),
        pace: Pace::default(),
        finished: Finished::default(),
        vault: Vault::read(&*parts.store, parts.sealer.clone()).await?,
        busy: HashMap::new(),
        under_way: FuturesUnordered::new(),
        dirty: HashSet::new(),
        draining: false,
        parts,
    };
    // Before the Runs are: what has no Run by then never will have one.
    let places =
        state.parts.blobs.runs().await.map_err(|error| StoreError::Failed(Arc::from(error.to_string())))?;
    let mut orphans: HashSet<RunUid> = places.into_iter().collect();
    let mut query = Query { limit: PAGE, ..Query::default() };
    loop {
        let page = state.parts.store.list(query.clone()).await?;
        for (record, version) in page.runs {
            orphans.remove(&record.uid);
            state.put(record, version);
        }
        match page.next {
            Some(next) => query.before = Some(next),
            None => break,
        }
    }
    state.index.hear_of_all_anew();
    state.forget_left_over_secrets();
    state.expire_uploads().await?;
    // Nobody brings anything yet: what was begun has lost whoever began it.
    if let Err(error) = state.parts.blobs.sweep_uploaded().await {
        tracing::warn!(%error, "parts of broken uploads may be left in the store");
    }
    tokio::spawn(retention::remove_orphans(state.parts.blobs.clone(), orphans, ops::REMOVE_AGAIN));
    let task = tokio::spawn(state.run(incoming, changes));
    Ok((Engine::new(commands), task))
}

impl State {
    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut changes: mpsc::UnboundedReceiver<Change>,
    ) {
        let mut open = true;
        while open || !self.under_way.is_empty() {
            let deadline = self.timers.next();
            let due = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(change) = changes.recv() => self.observe(change),
                Some(done) = self.under_way.next(), if !self.under_way.is_empty() => {
                    // The store announces before it answers: what this write changed is known before it is concluded.
                    while let Ok(change) = changes.try_recv() {
                        self.observe(change);
                    }
                    self.conclude(done);
                }
                command = commands.recv(), if open => match command {
                    Some(command) => self.obey(command),
                    None => open = false,
                },
                () = due => self.fire(),
            }
            self.dispatch();
        }
    }

    fn fire(&mut self) {
        while let Some(timer) = self.timers.due(Instant::now()) {
            match timer {
                Timer::Ready(key) => self.make_ready(&key),
                Timer::GiveUp(key, since) => self.give_up(key, since),
                Timer::Lease(key) => self.check_lease(key),
                Timer::Remove(key, uid) => self.start(key, Op::Remove { uid }),
                Timer::Session(id) => self.check_session(&id),
                Timer::Upload(key) => self.remove_upload(key),
                Timer::Forget(namespace, uid) => self.forget_secrets(namespace, uid),
            }
        }
    }
}
