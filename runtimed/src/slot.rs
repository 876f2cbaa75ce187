//! One slot: asks for a Run, runs it, asks again.

use std::sync::Arc;
use std::time::Duration;

use runtimed_api::problem::Code;
use runtimed_api::session::Lease;
use runtimed_client::ClientError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::LOOK_AGAIN;
use crate::attempt::{self, Slot};
use crate::daemon::Daemon;
use crate::session::{Current, backoff, pause};

/// How long a request for a Run waits at the controller.
const WAIT: Duration = Duration::from_secs(20);

/// How long a slot waits for the controller's last word when the daemon ends.
const LAST_WORD: Duration = Duration::from_secs(2);

/// Runs that may wait for their uploads and reports before no other is taken.
const BACKLOG: usize = 512;

/// Too many Runs wait for their store, or reports for the controller: in a sentence.
fn backlog(held: usize, reports: usize, slots: u32) -> Option<String> {
    let most = BACKLOG + usize::try_from(slots).unwrap_or(usize::MAX);
    if held >= most {
        Some(format!("{held} Runs wait for their uploads"))
    } else {
        (reports >= 2 * most).then(|| format!("{reports} reports wait for the controller"))
    }
}

/// Whether something is too full for another Run, and for readiness to say so: in a sentence. Asked for when it matters, for
/// nothing tells when a disk fills.
pub fn full(daemon: &Daemon) -> Option<String> {
    let (held, (reports, _)) = (daemon.attempts.count(), daemon.outbox.waiting());
    let full = daemon.admission.full().or_else(|| backlog(held, reports, daemon.config.slots));
    daemon.readiness.set_full(full.clone());
    full
}

/// Takes one slot out of use: something that was staged in it may still be there.
pub fn quarantine(daemon: &Daemon) {
    daemon.readiness.quarantine();
    tracing::error!("a slot is out of use: what was staged in it could not be removed");
}

/// Returns when the journal takes something again.
async fn mended(daemon: &Daemon) {
    for failures in 0.. {
        tokio::time::sleep(backoff(failures).max(LOOK_AGAIN)).await;
        if daemon.journal.append(Vec::new()).await.is_ok() {
            return;
        }
    }
}

/// Serves one slot until `draining`, or for a single Run if `once`. What goes on after a Run has left the slot, uploads
/// and reports, is in `tails`.
pub async fn run(
    daemon: Arc<Daemon>,
    mut sessions: watch::Receiver<Option<Current>>,
    draining: CancellationToken,
    tails: TaskTracker,
    once: bool,
) {
    let mut failures = 0;
    let mut free = Some(daemon.readiness.free());
    loop {
        let session = tokio::select! {
            biased;
            () = draining.cancelled() => break,
            found = sessions.wait_for(Option::is_some) => match found {
                Ok(session) => session.clone(),
                Err(_closed) => break,
            },
        };
        let Some(session) = session else { continue };
        if full(&daemon).is_some() {
            tokio::select! {
                () = tokio::time::sleep(LOOK_AGAIN) => continue,
                () = draining.cancelled() => break,
            }
        }
        let mut asking = std::pin::pin!(daemon.controller.lease(&session.id, WAIT));
        let leased = tokio::select! {
            biased;
            leased = &mut asking => leased,
            () = draining.cancelled() => {
                // A Run may be on its way: the controller, told of the end, answers at once. If it does not, the lease
                // runs out there.
                match tokio::time::timeout(LAST_WORD, asking).await {
                    Ok(leased) => leased,
                    Err(_elapsed) => break,
                }
            }
        };
        if matches!(leased, Ok(Some(_))) {
            // After a third of the period it is too late in any case.
            let _in_time = tokio::time::timeout(session.lease / 3, daemon.hold.begins()).await;
        }
        let why_not = match &leased {
            Ok(Some(lease)) if session.is_too_late(lease) => Some("the lease came too late".to_owned()),
            // Another daemon may have room; where there is no other, it waits.
            Ok(Some(_)) if !once => full(&daemon),
            Ok(_) | Err(_) => None,
        };
        match leased {
            Ok(None) => failures = 0,
            Ok(Some(Lease { attempt, .. })) if let Some(why) = why_not => {
                tracing::warn!(%attempt, why, "a lease is declined");
                daemon.outbox.deliver(attempt::declined(attempt, why));
            }
            Ok(Some(lease)) => {
                failures = 0;
                drop(free.take());
                daemon.metrics.leases.inc();
                let slot = attempt::run(Arc::clone(&daemon), lease, &session, &tails).await;
                if once && slot != Slot::Unused {
                    return;
                }
                if slot == Slot::Broken {
                    // No other Run could be accepted either: none is asked for, and `/readyz` says so.
                    let _broken = daemon.readiness.broken();
                    tokio::select! {
                        () = mended(&daemon) => {}
                        () = draining.cancelled() => {}
                    }
                }
                if slot == Slot::Quarantined {
                    quarantine(&daemon);
                    return;
                }
                free = Some(daemon.readiness.free());
            }
            Err(error) => {
                let unknown = matches!(
                    &error,
                    ClientError::Problem { problem, .. } if problem.code == Code::SessionUnknown
                );
                let pause = pause(&error, failures);
                failures += 1;
                if !unknown {
                    tracing::warn!(%error, ?pause, "lease request failed");
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    // A new session ends the pause.
                    _changed = sessions.changed() => {}
                    () = draining.cancelled() => break,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_taken_beyond_the_bounds_of_what_waits() {
        assert_eq!(backlog(519, 1039, 8), None);
        assert_eq!(backlog(520, 0, 8).as_deref(), Some("520 Runs wait for their uploads"));
        assert_eq!(backlog(0, 1040, 8).as_deref(), Some("1040 reports wait for the controller"));
    }
}
