//! The daemon's Session with the controller: opened, kept by renewals, opened again.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use runtimed_api::ids::{AttemptKey, SessionId};
use runtimed_api::problem::Code;
use runtimed_api::provenance::KeyHistory;
use runtimed_api::runtime::Runtime;
use runtimed_api::session::{Held, Lease, OpenSession, OrderKind, Renew, begins_within};
use runtimed_client::ClientError;
use tokio::sync::watch;

use crate::daemon::Daemon;
use crate::hold::Moment;
use crate::live::Stop;
use crate::slot;
use crate::upstream::Upstream;

/// The longest pause between two tries to open a Session: well below the shortest lease that is of use in a cluster, and
/// long enough that a thousand daemons are no load.
const LONGEST_AWAY: Duration = Duration::from_secs(2);

/// The Session as it is now.
#[derive(Debug, Clone)]
pub struct Current {
    /// Its id.
    pub id: SessionId,
    /// How long leases hold after a renewal was sent.
    pub lease: Duration,
    /// The Runtime as the controller knows it.
    pub runtime: Arc<Runtime>,
    /// The keys that it signs statements with.
    pub keys: KeyHistory,
    /// When things happen at the controller.
    pub clock: Arc<RemoteClock>,
}

impl Current {
    /// Whether a lease that came just now was given so long ago that it could be another daemon's before a renewal names
    /// it: an answer may be stuck on its way for any time.
    ///
    /// The controller lets a hand-out hold for four thirds of the period. The renewal that waits just now does not name it
    /// and is given up after two thirds at most; with a third for the way, a sixth is left, as in [`safe_for`].
    ///
    /// It hands the Run on earlier where a renewal says by [`Renew::as_of_millis`] that this daemon does not have it. So no
    /// lease is begun either that such a renewal has given up, and none of a Session that is over: asked after the attempt is
    /// among those that renewals name, this holds however slow that was.
    #[must_use]
    pub fn is_too_late(&self, lease: &Lease) -> bool {
        let Some(given) = lease.given_millis else { return false };
        let within = begins_within(u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX));
        let given_up = self.clock.newest().is_some_and(|newest| newest > given.saturating_add(within));
        let earliest = self.clock.earliest(given);
        given_up || earliest.is_some_and(|given| Instant::now() > given + Duration::from_millis(within))
    }
}

/// Where the controller's clock stands, as far as it is known: for a time on it, the earliest moment here that it can have
/// been. Both clocks are monotonic, and run alike over a lease.
#[derive(Debug)]
pub struct RemoteClock {
    begun: Instant,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// The largest difference, in milliseconds: ours when something was sent, less theirs when it arrived.
    ahead: Option<i64>,
    /// The newest time that they have told.
    newest: Option<u64>,
}

impl RemoteClock {
    fn new(begun: Instant) -> Self {
        Self { begun, seen: Mutex::default() }
    }

    /// The newest time of theirs that is known; later than any when the Session is over.
    fn newest(&self) -> Option<u64> {
        self.lock().newest
    }

    /// The Session is over: what was given in it is not begun any more.
    fn end(&self) {
        self.lock().newest = Some(u64::MAX);
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something that was sent then arrived at this time of theirs, or of a controller that does not say.
    fn learn(&self, sent: Instant, at_millis: Option<u64>) {
        let ours = i64::try_from(sent.saturating_duration_since(self.begun).as_millis()).ok();
        let theirs = at_millis.and_then(|millis| i64::try_from(millis).ok());
        let (Some(ours), Some(theirs)) = (ours, theirs) else { return };
        let mut seen = self.lock();
        seen.ahead = seen.ahead.max(Some(ours - theirs));
        seen.newest = seen.newest.max(at_millis);
    }

    fn earliest(&self, millis: u64) -> Option<Instant> {
        let ahead = self.lock().ahead?;
        let ours = u64::try_from(i64::try_from(millis).ok()?.checked_add(ahead)?).unwrap_or(0);
        self.begun.checked_add(Duration::from_millis(ours))
    }
}

/// Keeps a Session for ever. `address` is where the daemon's endpoints are.
pub async fn keep(daemon: &Daemon, address: String, current: &watch::Sender<Option<Current>>) {
    let mut failures = 0;
    // Until when attempts may go on without another renewal, whatever happens to Sessions.
    let mut safe_until: Option<Instant> = None;
    let mut lease = None;
    loop {
        let opened = open(daemon, &address).await;
        let error = match opened {
            Ok(session) => {
                failures = 0;
                lease = Some(session.lease);
                let error = renew(daemon, &session, &mut safe_until, current).await;
                // Before another is opened, whose renewals will not name what still comes of this one.
                session.clock.end();
                daemon.readiness.connected.store(false, Ordering::Release);
                current.send_replace(None);
                error
            }
            Err(error) => error,
        };
        let pause = pause_before_opening(&error, failures, lease);
        failures += 1;
        tracing::warn!(%error, ?pause, "no session with the controller");
        give_up_if_due(daemon, safe_until, pause).await;
    }
}

async fn open(daemon: &Daemon, address: &str) -> Result<Current, ClientError> {
    let request = OpenSession {
        daemon: daemon.name.clone(),
        instance: Some(daemon.state.instance().clone()),
        runtime: daemon.config.runtime.clone(),
        slots: daemon.config.slots,
        address: Some(address.to_owned()),
        build: daemon.build.clone(),
        capacity: daemon.admission.capacity().clone(),
    };
    let sent = Instant::now();
    let session = daemon.controller.open_session(&request).await?;
    let clock = RemoteClock::new(sent);
    clock.learn(sent, session.at_millis);
    let lease = Duration::from_millis(session.lease_millis.clamp(50, 3_600_000));
    let (runtime, clock) = (Arc::new(session.runtime), Arc::new(clock));
    Ok(Current { id: session.id, lease, runtime, keys: session.keys, clock })
}

/// Renews until the Session is over, and says why. Runs are leased in it once the first renewal is answered, for until
/// then nobody knows how long what an earlier Session left may go on.
async fn renew(
    daemon: &Daemon,
    session: &Current,
    safe_until: &mut Option<Instant>,
    current: &watch::Sender<Option<Current>>,
) -> ClientError {
    let mut failures = 0;
    let mut first = true;
    loop {
        let sent = Moment::now();
        // One that was stopped asks for a quick answer too: until then nothing that it leases may begin.
        let prompt = first || daemon.hold.is_over();
        let _asked_now = slot::full(daemon);
        let request = Renew { unready: daemon.readiness.why_not(), prompt, ..held(daemon, session) };
        let patience = patience(sent.at, *safe_until, session.lease);
        let error = match daemon.controller.renew(&session.id, &request, patience).await {
            Ok(renewed) => {
                failures = 0;
                *safe_until = Some(sent.at + safe_for(session.lease));
                if matches!(daemon.controller, Upstream::Controller(_)) {
                    daemon.hold.until(sent, safe_for(session.lease));
                }
                session.clock.learn(sent.at, renewed.at_millis);
                if std::mem::take(&mut first) {
                    tracing::info!(session = %session.id, "connected to the controller");
                    daemon.readiness.connected.store(true, Ordering::Release);
                    current.send_replace(Some(session.clone()));
                }
                for order in renewed.orders {
                    if let Some(live) = daemon.attempts.get(&order.attempt) {
                        live.stop(match order.order {
                            OrderKind::Cancel => Stop::Cancel,
                            OrderKind::Abandon => Stop::LeaseLost,
                        });
                    }
                }
                continue;
            }
            Err(error) => error,
        };
        if let ClientError::Problem { problem, .. } = &error
            && matches!(problem.code, Code::SessionUnknown | Code::Unauthenticated | Code::Forbidden)
        {
            return error;
        }
        tracing::warn!(%error, "a renewal failed");
        let pause = backoff(failures).min(session.lease / 6);
        failures += 1;
        give_up_if_due(daemon, *safe_until, pause).await;
    }
}

/// All that this daemon has, and as of when. In this order: a lease that is taken once the time was read is too late by it,
/// or its attempt is listed; what is not listed any more has its reports in the outbox, or they are answered.
fn held(daemon: &Daemon, session: &Current) -> Renew {
    let newest = session.clock.newest();
    let mut attempts = daemon.attempts.held();
    let known: BTreeSet<AttemptKey> = attempts.iter().map(|held| held.attempt.clone()).collect();
    let (unanswered, whole) = daemon.outbox.attempts();
    let left = unanswered.difference(&known).cloned();
    attempts.extend(left.map(|attempt| Held { attempt, stopping: true, step: None, last_output: None }));
    Renew { attempts, unready: None, prompt: false, as_of_millis: newest.filter(|_| whole) }
}

/// For how long attempts are safe after a renewal was sent: the controller counts the period from when the renewal
/// arrived, which is later, and a sixth of it is left for ending them.
fn safe_for(lease: Duration) -> Duration {
    lease - (lease / 6).min(Duration::from_secs(2))
}

/// How long to wait for the answer to a renewal, which takes a third of the period where all is well: not longer than
/// attempts are safe, for a connection that has died without a word must not outlast them. What is not safe any more has
/// been given up, and there is nothing to hurry for.
fn patience(now: Instant, safe_until: Option<Instant>, lease: Duration) -> Duration {
    let most = lease * 2 / 3;
    let left = safe_until.map(|until| until.saturating_duration_since(now)).filter(|left| !left.is_zero());
    left.map_or(most, |left| left.min(most)).max(lease / 6)
}

/// Waits `pause`, and gives every attempt up when it is not safe any more: before the controller may hand the Run on.
async fn give_up_if_due(daemon: &Daemon, safe_until: Option<Instant>, pause: Duration) {
    let wake = Instant::now() + pause;
    if let Some(due) = safe_until.filter(|due| *due <= wake) {
        tokio::time::sleep_until(due.into()).await;
        for live in daemon.attempts.all() {
            live.stop(Stop::LeaseLost);
        }
    }
    tokio::time::sleep_until(wake.into()).await;
}

/// How long to wait after a request that failed, as one of so many in a row: as long as the server asks for and a random
/// part of 100 ms, so that not all whom it asked come back at once; or see [`backoff`].
#[must_use]
pub fn pause(error: &ClientError, failures: u32) -> Duration {
    error.retry_after().map_or_else(|| backoff(failures), |asked| asked + backoff(0))
}

/// How long to wait before a Session is opened again. A controller that comes back lets the leases that it knows of run out
/// after a period or a little more, whatever waits in an outbox: whoever has one to report must be there before.
fn pause_before_opening(error: &ClientError, failures: u32, lease: Option<Duration>) -> Duration {
    let most = lease.map_or(LONGEST_AWAY, |lease| (lease / 6).min(LONGEST_AWAY));
    error.retry_after().map_or_else(|| backoff(failures).min(most), |asked| asked + backoff(0))
}

/// How long to wait after so many failures in a row: a random part ("full jitter") of 100 ms doubled each time, at most
/// 30 s, so that many daemons do not come back at once.
#[must_use]
pub fn backoff(failures: u32) -> Duration {
    let most = Duration::from_millis(100).saturating_mul(1 << failures.min(10)).min(Duration::from_secs(30));
    let mut random = [0; 4];
    // Without randomness the longest wait is the safe one.
    let part = match rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()) {
        Ok(_) => f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX),
        Err(_) => 1.0,
    };
    Duration::from_millis(10) + most.mul_f64(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A renewal is sent, answered after a third of the period, and the next one meets a connection that is dead.
    #[test]
    fn a_dead_connection_is_given_up_before_the_lease_runs_out() {
        for lease in [300, 2000, 15_000, 600_000].map(Duration::from_millis) {
            let sent = Instant::now();
            let safe_until = sent + safe_for(lease);
            let next = sent + lease / 3;
            let patience = patience(next, Some(safe_until), lease);
            assert!(patience > lease / 3, "{lease:?}: the answer of a good connection is waited for");
            let known = next + patience;
            assert!(known.max(safe_until) < sent + lease, "{lease:?}: the controller waits longer");
        }
    }

    #[test]
    fn a_time_of_the_controller_is_never_taken_for_later_than_it_was() {
        let begun = Instant::now();
        let ms = Duration::from_millis;
        let clock = RemoteClock::new(begun);
        assert_eq!(clock.earliest(1000), None, "nothing is known");
        // What is sent at 0 arrives 40 ms later, when the controller's clock shows 5000: it is 4960 ahead of ours.
        clock.learn(begun, Some(5000));
        assert_eq!(clock.earliest(5100), Some(begun + ms(100)), "at 140 in truth");
        // A faster one tells more, and a slower one nothing.
        clock.learn(begun + ms(1000), Some(5961));
        assert_eq!(clock.earliest(6100), Some(begun + ms(1139)));
        clock.learn(begun + ms(2000), Some(9000));
        clock.learn(begun + ms(2000), None);
        assert_eq!(clock.earliest(6100), Some(begun + ms(1139)));
        assert_eq!(clock.earliest(0), Some(begun), "before all that is known");
        assert_eq!(clock.newest(), Some(9000));
        clock.learn(begun + ms(3000), Some(8000));
        assert_eq!(clock.newest(), Some(9000), "an answer that was overtaken");
    }

    #[test]
    fn the_wait_grows_and_is_bounded() {
        assert!((0..200).all(|failures| backoff(failures) <= Duration::from_secs(31)));
        assert!((0..50).all(|_| backoff(0) <= Duration::from_millis(110)));
    }
    #[test]
    fn a_daemon_is_back_before_a_controller_that_was_away_lets_its_leases_run_out() {
        let error = ClientError::Unreachable { url: String::new(), why: String::new() };
        for failures in 0..40 {
            assert!(pause_before_opening(&error, failures, None) <= LONGEST_AWAY);
            for lease in [300, 2000, 15_000].map(Duration::from_millis) {
                assert!(pause_before_opening(&error, failures, Some(lease)) <= lease / 6);
            }
        }
    }
}
