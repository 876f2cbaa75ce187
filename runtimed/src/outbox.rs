//! Delivery of reports: at least once, in order within each attempt.
//!
//! The outbox is the journal's unacknowledged reports and no second store: a report is journaled first, then handed
//! over, and its acknowledgement is noted in the journal.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use runtimed_api::ids::{AttemptKey, SessionId};
use runtimed_api::problem::Code;
use runtimed_api::session::{Report, ReportAnswer, Reports};
use runtimed_client::ClientError;
use tokio::sync::{Notify, watch};

use crate::daemon::Daemon;
use crate::journal::{JournalError, Record};
use crate::session::{Current, backoff};

/// Reports in one request.
const BATCH: usize = 64;

/// Reports that are not acknowledged.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: Mutex<VecDeque<Report>>,
    more: Notify,
    fewer: Notify,
}

impl Outbox {
    /// An outbox with what an earlier daemon could not deliver.
    #[must_use]
    pub fn with(reports: Vec<Report>) -> Self {
        Self { waiting: Mutex::new(reports.into()), ..Self::default() }
    }

    /// Journals a report, with further facts that must be as durable, and then delivers it some time.
    ///
    /// # Errors
    /// The journal failed: the report does not exist.
    pub async fn send(
        &self,
        daemon: &Daemon,
        mut facts: Vec<Record>,
        report: Report,
    ) -> Result<(), JournalError> {
        facts.push(Record::Report(Box::new(report.clone())));
        daemon.journal.append(facts).await?;
        self.deliver(report);
        Ok(())
    }

    /// Delivers a report that is journaled already.
    pub fn deliver(&self, report: Report) {
        self.lock().push_back(report);
        self.more.notify_one();
    }

    /// Returns when everything is acknowledged.
    pub async fn emptied(&self) {
        self.until(VecDeque::is_empty).await;
    }

    /// Returns when everything of this attempt is acknowledged.
    pub async fn acknowledged(&self, attempt: &AttemptKey) {
        self.until(|waiting| !waiting.iter().any(|report| report.attempt == *attempt)).await;
    }

    /// How many reports are not acknowledged, and when the first of them was made.
    #[must_use]
    pub fn waiting(&self) -> (usize, Option<jiff::Timestamp>) {
        let waiting = self.lock();
        (waiting.len(), waiting.front().map(|report| report.at))
    }

    async fn until(&self, enough: impl Fn(&VecDeque<Report>) -> bool) {
        loop {
            let mut fewer = std::pin::pin!(self.fewer.notified());
            // Registered before the look, so that no change falls between the two.
            fewer.as_mut().enable();
            if enough(&self.lock()) {
                return;
            }
            fewer.await;
        }
    }

    /// Delivers for ever.
    pub async fn run(&self, daemon: &Daemon, mut sessions: watch::Receiver<Option<Current>>) {
        let mut failures = 0;
        loop {
            let batch: Vec<Report> = self.lock().iter().take(BATCH).cloned().collect();
            if batch.is_empty() {
                self.more.notified().await;
                continue;
            }
            let Ok(session) = sessions.wait_for(Option::is_some).await.map(|current| current.clone()) else {
                return;
            };
            let Some(session) = session else { continue };
            match self.deliver_batch(daemon, &session.id, batch).await {
                Ok(()) => failures = 0,
                Err(error) => {
                    let pause = error.retry_after().unwrap_or_else(|| backoff(failures));
                    failures += 1;
                    tracing::warn!(%error, ?pause, "reports are not delivered yet");
                    // A new session may be all that it takes.
                    let _elapsed = tokio::time::timeout(pause, sessions.changed()).await;
                }
            }
        }
    }

    async fn deliver_batch(
        &self,
        daemon: &Daemon,
        session: &SessionId,
        batch: Vec<Report>,
    ) -> Result<(), ClientError> {
        let reports = Reports { reports: batch };
        let answers = match daemon.controller.report(session, &reports).await {
            Ok(reported) => reported.answers,
            // What the controller will never take is not sent for ever: one bad report must not hold up the others.
            Err(ClientError::Problem { problem, .. })
                if matches!(problem.code, Code::TooLarge | Code::InvalidRequest | Code::Refused) =>
            {
                if reports.reports.len() > 1 {
                    for report in reports.reports {
                        Box::pin(self.deliver_batch(daemon, session, vec![report])).await?;
                    }
                    return Ok(());
                }
                vec![ReportAnswer::Rejected(*problem)]
            }
            Err(error) => return Err(error),
        };
        if answers.len() != reports.reports.len() {
            let why = "the controller answered another number of reports".to_owned();
            return Err(ClientError::Protocol { url: daemon.controller.url().to_owned(), why });
        }
        for (report, answer) in reports.reports.iter().zip(answers) {
            if let ReportAnswer::Rejected(problem) = answer {
                tracing::warn!(attempt = %report.attempt, code = %problem.code, %problem, "a report was rejected");
            }
            self.lock().retain(|waiting| waiting != report);
            let (attempt, sequence) = (report.attempt.clone(), report.sequence);
            daemon.journal.note(Record::Acknowledged { attempt, sequence });
        }
        self.fewer.notify_waiters();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Report>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
