//! The end: the order to drain, and what is waited for.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::anyhow;
use runtimed_api::exit::Exit;
use runtimed_client::listen::{self, Signals};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::args::Failure;
use crate::daemon::Daemon;
use crate::live::Stop;
use crate::session;

/// What the daemon ends by.
pub(super) struct When {
    pub(super) signals: Signals,
    pub(super) until_stdin_closes: bool,
    /// When its one Run is over.
    pub(super) once: bool,
}

/// What of the time to finish is kept for the reports: a store that does not answer takes none of that.
const REPORTING: Duration = Duration::from_secs(3);

/// Waits for the order to end, and carries it out.
pub(super) async fn drain(
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
        std::future::pending::<Infallible>().await
    };
    let finish = async {
        if tokio::time::timeout(grace, slots.wait()).await.is_err() {
            daemon.attempts.stop(Stop::Drain);
        }
        let finish = daemon.config.drain.finish.get();
        daemon.attempts.upload_until(Instant::now() + finish - (finish / 4).min(REPORTING));
        let rest = async {
            slots.wait().await;
            daemon.outbox.emptied().await;
            tails.close();
            tails.wait().await;
        };
        tokio::time::timeout(finish, rest).await.is_ok()
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
        never = told => match never {},
        () = signals.next() => Err(aborted()),
    }
}
