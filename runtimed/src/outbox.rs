//! Delivery of reports: at least once, in order within each attempt.
//!
//! What the controller answers decides what follows: see [`Class`]. Nothing else is sent again but what may be delivered
//! by that.
//!
//! The outbox is the journal's unacknowledged reports and no second store: a report is journaled first, then handed
//! over, and its acknowledgement is noted in the journal.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use runtimed_api::ids::{AttemptKey, SessionId};
use runtimed_api::problem::Code;
use runtimed_api::session::{Report, ReportAnswer, Reports};
use runtimed_client::ClientError;
use tokio::sync::{Notify, watch};

use crate::daemon::Daemon;
use crate::journal::{JournalError, Known, Record};
use crate::session::{Current, pause};

/// Reports in one request.
const BATCH: usize = 64;
/// How long to wait at least for what only a person can mend.
const MENDING: Duration = Duration::from_secs(5);

/// What follows on a request that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// The controller will never take these bytes (400, 409, 413, 422): each report is sent alone, and one that is refused
    /// alone is given up. It must not hold up the others.
    GiveUp,
    /// An operator has to mend something first (401, 403, 404, an answer that is none of the protocol's): all is kept, and
    /// tried again in a new Session, or after [`MENDING`] at least.
    Mend,
    /// The Session is not known any more: the next one sends it.
    Session,
    /// It passes (no connection, 429, 5xx): tried again when the server says, or after a random part of a time that
    /// doubles.
    Wait,
}

impl Class {
    fn of(error: &ClientError) -> Self {
        let ClientError::Problem { problem, status, .. } = error else {
            return if error.is_retryable() { Self::Wait } else { Self::Mend };
        };
        match (problem.code, status) {
            (Code::SessionUnknown, _) => Self::Session,
            (_, 400 | 409 | 413 | 422) => Self::GiveUp,
            (_, 408 | 429 | 500..) => Self::Wait,
            _ => Self::Mend,
        }
    }
}

/// Reports that are not acknowledged.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: Mutex<VecDeque<Report>>,
    /// Something that began may have left no report, here or with the controller.
    lacking: AtomicBool,
    more: Notify,
    fewer: Notify,
}

impl Outbox {
    /// An outbox with what an earlier daemon could not deliver, as far as that is known.
    #[must_use]
    pub fn with(reports: Vec<Report>, known: Known) -> Self {
        let lacking = AtomicBool::new(known == Known::Beginning);
        Self { waiting: Mutex::new(reports.into()), lacking, ..Self::default() }
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

    /// The attempts whose reports are not acknowledged, and whether every other one that ever began here is over for the
    /// controller as well.
    #[must_use]
    pub fn attempts(&self) -> (BTreeSet<AttemptKey>, bool) {
        let attempts = self.lock().iter().map(|report| report.attempt.clone()).collect();
        (attempts, !self.lacking.load(Ordering::Acquire))
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
                    let pause = match Class::of(&error) {
                        Class::Mend => pause(&error, failures).max(MENDING),
                        Class::Session | Class::Wait | Class::GiveUp => pause(&error, failures),
                    };
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
            Err(ref error @ ClientError::Problem { ref problem, .. })
                if Class::of(error) == Class::GiveUp =>
            {
                if reports.reports.len() > 1 {
                    for report in reports.reports {
                        Box::pin(self.deliver_batch(daemon, session, vec![report])).await?;
                    }
                    return Ok(());
                }
                // Before it leaves the outbox: the controller has not heard of it.
                self.lacking.store(true, Ordering::Release);
                vec![ReportAnswer::Rejected((**problem).clone())]
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

#[cfg(test)]
mod tests {
    use super::*;
    use runtimed_api::problem::Problem;

    #[test]
    fn every_answer_has_its_consequence() {
        let problem = |code: Code| ClientError::Problem {
            status: code.row().status,
            problem: Box::new(Problem::new(code, "x")),
            retry_after: None,
        };
        let class = |code| Class::of(&problem(code));
        for code in [Code::InvalidRequest, Code::Conflict, Code::StaleFence, Code::TooLarge, Code::Refused] {
            assert_eq!(class(code), Class::GiveUp, "{code}");
        }
        for code in [Code::Unauthenticated, Code::Forbidden, Code::NotFound] {
            assert_eq!(class(code), Class::Mend, "{code}");
        }
        for code in [Code::RateLimited, Code::Internal, Code::Unavailable, Code::StorageFull] {
            assert_eq!(class(code), Class::Wait, "{code}");
        }
        assert_eq!(class(Code::SessionUnknown), Class::Session);
        let (url, why) = (String::new(), String::new());
        assert_eq!(Class::of(&ClientError::Unreachable { url: url.clone(), why: why.clone() }), Class::Wait);
        assert_eq!(Class::of(&ClientError::Protocol { url, why }), Class::Mend);
        assert_eq!(Class::of(&ClientError::Token), Class::Mend);
    }
}
