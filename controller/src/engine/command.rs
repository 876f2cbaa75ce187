//! How the rest of the controller speaks to the engine.

use std::collections::BTreeMap;
use std::sync::Arc;

use runtimed_api::ids::{AttemptKey, AttemptNumber, RuntimeName, SecretName, SessionId};
use runtimed_api::problem::{Code, Problem};
use runtimed_api::run::Run;
use runtimed_api::session::{
    Lease, OpenSession, Renew, Renewed, Report, ReportAnswer, SecretText, SecretValue,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::State;
use super::ops::{Op, Reply, Submitter, answer};
use super::quota::{Denied, too_many_active};
use super::sessions::run_key;
use crate::core::{Event, Record, RunKey};
use crate::metrics::Census;

/// Runs that are not over at most.
const MAX_ACTIVE: usize = 100_000;

/// A Run that was submitted.
#[derive(Debug)]
pub struct Created {
    /// The Run.
    pub run: Run,
    /// It was not there before.
    pub new: bool,
}

/// Where the log of an attempt that goes on is.
#[derive(Debug)]
pub struct Located {
    /// The daemon's endpoints.
    pub address: String,
    /// Opens them for this attempt.
    pub token: SecretText,
}

pub(super) enum Command {
    Submit {
        record: Box<Record>,
        secrets: BTreeMap<SecretName, SecretValue>,
        reply: Submitter,
    },
    Ask {
        key: RunKey,
        event: Event,
        reply: Reply<Run>,
    },
    View {
        key: RunKey,
        reply: oneshot::Sender<Option<Run>>,
    },
    Refresh {
        records: Vec<Arc<Record>>,
        reply: oneshot::Sender<Vec<Run>>,
    },
    Watch {
        key: RunKey,
        reply: oneshot::Sender<Option<watch::Receiver<Arc<Run>>>>,
    },
    Open {
        open: Box<OpenSession>,
        reply: Reply<SessionId>,
    },
    Wait {
        session: SessionId,
        runtime: RuntimeName,
        slot: oneshot::Sender<Box<Lease>>,
        reply: Reply<()>,
    },
    Renew {
        session: SessionId,
        runtime: RuntimeName,
        renew: Renew,
        reply: Reply<Renewed>,
    },
    Report {
        session: SessionId,
        runtime: RuntimeName,
        key: RunKey,
        reports: Vec<Report>,
        reply: Reply<Vec<ReportAnswer>>,
    },
    Attempt {
        attempt: AttemptKey,
        reply: Reply<Arc<Record>>,
    },
    Locate {
        key: RunKey,
        attempt: AttemptNumber,
        reply: oneshot::Sender<Option<Located>>,
    },
    Census {
        reply: oneshot::Sender<Census>,
    },
    Drain,
    DrainSession {
        session: SessionId,
        runtime: RuntimeName,
        reply: Reply<()>,
    },
}

/// Speaks to the engine. Clones speak to the same one.
#[derive(Debug, Clone)]
pub struct Engine {
    commands: mpsc::Sender<Command>,
}

impl Engine {
    pub(super) fn new(commands: mpsc::Sender<Command>) -> Self {
        Self { commands }
    }

    /// Stores a Run that was judged and found good, and offers it to daemons.
    ///
    /// # Errors
    /// The name is taken by a Run with another spec; there is no room, or the namespace has as much as it may; the store
    /// failed.
    pub async fn submit(
        &self,
        record: Record,
        secrets: BTreeMap<SecretName, SecretValue>,
    ) -> Result<Created, Denied> {
        let record = Box::new(record);
        self.ask(|reply| Command::Submit { record, secrets, reply }).await?
    }

    /// Ends a Run. One that is over stays as it is.
    ///
    /// # Errors
    /// There is no such Run; the store failed.
    pub async fn cancel(&self, key: RunKey, by: String) -> Result<Run, Problem> {
        self.ask(|reply| Command::Ask { key, event: Event::Cancel { by }, reply }).await?
    }

    /// Removes a Run and its results as soon as it is over; one that is not is cancelled.
    ///
    /// # Errors
    /// As for [`Engine::cancel`].
    pub async fn delete(&self, key: RunKey, by: String) -> Result<Run, Problem> {
        self.ask(|reply| Command::Ask { key, event: Event::Delete { by }, reply }).await?
    }

    /// A Run that is not over, as it is now; `None` for any other.
    ///
    /// # Errors
    /// The controller stops.
    pub async fn view(&self, key: RunKey) -> Result<Option<Run>, Problem> {
        self.ask(|reply| Command::View { key, reply }).await
    }

    /// These stored Runs as people see them, with what the engine alone knows.
    ///
    /// # Errors
    /// The controller stops.
    pub async fn refresh(&self, records: Vec<Arc<Record>>) -> Result<Vec<Run>, Problem> {
        self.ask(|reply| Command::Refresh { records, reply }).await
    }

    /// Watches a Run that is not over; `None` for any other. The last state seen is a terminal one, unless the Run is
    /// removed or the controller stops.
    ///
    /// # Errors
    /// The controller stops.
    pub async fn watch(&self, key: RunKey) -> Result<Option<watch::Receiver<Arc<Run>>>, Problem> {
        self.ask(|reply| Command::Watch { key, reply }).await
    }

    /// Opens the Session of a daemon.
    ///
    /// # Errors
    /// A number of slots out of bounds.
    pub async fn open_session(&self, open: OpenSession) -> Result<SessionId, Problem> {
        let open = Box::new(open);
        self.ask(|reply| Command::Open { open, reply }).await?
    }

    /// Lets a free slot wait for a Run. Dropping the receiver ends the wait.
    ///
    /// # Errors
    /// The Session is unknown, or has no free slot left.
    pub async fn wait_for_run(
        &self,
        session: SessionId,
        runtime: RuntimeName,
    ) -> Result<oneshot::Receiver<Box<Lease>>, Problem> {
        let (slot, lease) = oneshot::channel();
        self.ask(|reply| Command::Wait { session, runtime, slot, reply }).await??;
        Ok(lease)
    }

    /// Renews the leases of a daemon, and waits for something to do. A wait that is given up loses nothing.
    ///
    /// # Errors
    /// The Session is unknown.
    pub async fn renew(
        &self,
        session: SessionId,
        runtime: RuntimeName,
        renew: Renew,
    ) -> Result<oneshot::Receiver<Result<Renewed, Problem>>, Problem> {
        let (reply, renewed) = oneshot::channel();
        self.send(Command::Renew { session, runtime, renew, reply }).await?;
        Ok(renewed)
    }

    /// Hands nothing more to a daemon: its waiting slots are told that there is nothing.
    ///
    /// # Errors
    /// The Session is unknown.
    pub async fn drain_session(&self, session: SessionId, runtime: RuntimeName) -> Result<(), Problem> {
        self.ask(|reply| Command::DrainSession { session, runtime, reply }).await?
    }

    /// Applies what a daemon says of one Run, oldest first.
    ///
    /// # Errors
    /// The Session is unknown; the store failed. Nothing is acknowledged then.
    pub async fn report(
        &self,
        session: SessionId,
        runtime: RuntimeName,
        key: RunKey,
        reports: Vec<Report>,
    ) -> Result<Vec<ReportAnswer>, Problem> {
        self.ask(|reply| Command::Report { session, runtime, key, reports, reply }).await?
    }

    /// The Run of an attempt, if the attempt's daemon still has it.
    ///
    /// # Errors
    /// The attempt is over, or was handed out again.
    pub async fn attempt(&self, attempt: AttemptKey) -> Result<Arc<Record>, Problem> {
        self.ask(|reply| Command::Attempt { attempt, reply }).await?
    }

    /// Where the log of an attempt that goes on is; `None` when its daemon is not connected or gave no address.
    ///
    /// # Errors
    /// The controller stops.
    pub async fn locate(&self, key: RunKey, attempt: AttemptNumber) -> Result<Option<Located>, Problem> {
        self.ask(|reply| Command::Locate { key, attempt, reply }).await
    }

    /// Runs, daemons and slots as they are now.
    ///
    /// # Errors
    /// The controller stops.
    pub(crate) async fn census(&self) -> Result<Census, Problem> {
        self.ask(|reply| Command::Census { reply }).await
    }

    /// Ends every wait: those who wait are told that there is nothing.
    pub async fn drain(&self) {
        // An engine that is gone has ended every wait.
        drop(self.send(Command::Drain).await);
    }

    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Problem> {
        let (reply, replied) = oneshot::channel();
        self.send(make(reply)).await?;
        replied.await.map_err(|_| stopping())
    }

    async fn send(&self, command: Command) -> Result<(), Problem> {
        self.commands.send(command).await.map_err(|_| stopping())
    }
}

/// What is said when the controller stops.
pub(super) fn stopping() -> Problem {
    Problem::new(Code::Unavailable, "the controller is stopping").hint("try again in a moment")
}

impl State {
    pub(super) fn obey(&mut self, command: Command) {
        match command {
            Command::Submit { record, secrets, reply } => match self.room_for(&record.key, &secrets) {
                Ok(()) => self.start(record.key.clone(), Op::Submit { record, secrets, reply }),
                Err(denied) => answer(reply, Err(denied)),
            },
            Command::Ask { key, event, reply } => self.start(key, Op::Ask { event, reply }),
            Command::View { key, reply } => answer(reply, self.view(&key)),
            Command::Refresh { records, reply } => {
                let runs = records.iter().map(|record| self.view_of(record)).collect();
                answer(reply, runs);
            }
            Command::Watch { key, reply } => answer(reply, self.watch(&key)),
            Command::Open { open, reply } => answer(reply, self.open_session(*open)),
            Command::Wait { session, runtime, slot, reply } => {
                answer(reply, self.wait_for_run(&session, &runtime, slot));
            }
            Command::Renew { session, runtime, renew, reply } => self.renew(&session, &runtime, renew, reply),
            Command::Report { session, runtime, key, reports, reply } => {
                self.report(&session, &runtime, key, reports, reply);
            }
            Command::Attempt { attempt, reply } => answer(reply, self.attempt(&attempt)),
            Command::Locate { key, attempt, reply } => answer(reply, self.locate(&key, attempt)),
            Command::Census { reply } => answer(reply, self.census()),
            Command::Drain => self.drain(),
            Command::DrainSession { session, runtime, reply } => {
                answer(reply, self.drain_session(&session, &runtime));
            }
        }
    }

    fn room_for(&mut self, key: &RunKey, secrets: &BTreeMap<SecretName, SecretValue>) -> Result<(), Denied> {
        let full = |what: &str| {
            Err(Problem::new(Code::Unavailable, format!("the controller holds as many {what} as it may"))
                .hint("try again when Runs have ended")
                .into())
        };
        let quota = self.parts.quota;
        if let Some(a_minute) = quota.submissions {
            self.pace.take(&key.namespace, a_minute, Instant::now())?;
        }
        // One that is there already takes no more room when it is submitted again.
        if self.index.is_counted(key) {
            return Ok(());
        }
        if self.index.of_namespace(&key.namespace) >= quota.active {
            return Err(too_many_active(&key.namespace, quota.active));
        }
        if self.index.len() >= MAX_ACTIVE {
            return full("Runs");
        }
        if !self.vault.room_for(&key.namespace, secrets) {
            return full("submitted secrets of this namespace, or of all,");
        }
        Ok(())
    }

    fn attempt(&self, attempt: &AttemptKey) -> Result<Arc<Record>, Problem> {
        let active = self.index.get(&run_key(attempt));
        active
            .filter(|a| a.record.held().is_some_and(|held| a.record.attempt_key(&held) == *attempt))
            .map(|active| Arc::clone(&active.record))
            .ok_or_else(|| Problem::new(Code::StaleFence, format!("{attempt} is over or was given up")))
    }

    fn locate(&self, key: &RunKey, attempt: AttemptNumber) -> Option<Located> {
        let record = &self.index.get(key)?.record;
        let held = record.held().filter(|held| held.number == attempt)?;
        let address = self.sessions.address(record.runtime(), &held)?;
        Some(Located { address, token: self.parts.tokens.read(&record.attempt_key(&held)) })
    }
}
