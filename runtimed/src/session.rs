//! The daemon's Session with the controller: opened, kept by renewals, opened again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use runtimed_api::ids::SessionId;
use runtimed_api::problem::Code;
use runtimed_api::runtime::Runtime;
use runtimed_api::session::{OpenSession, OrderKind, Renew};
use runtimed_client::ClientError;
use tokio::sync::watch;

use crate::daemon::{Daemon, Stop};

/// The Session as it is now.
#[derive(Debug, Clone)]
pub struct Current {
    /// Its id.
    pub id: SessionId,
    /// How long leases hold after a renewal was sent.
    pub lease: Duration,
    /// The Runtime as the controller knows it.
    pub runtime: Arc<Runtime>,
}

/// Keeps a Session for ever. `address` is where the daemon's endpoints are.
pub async fn keep(daemon: &Daemon, address: String, current: &watch::Sender<Option<Current>>) {
    let mut failures = 0;
    // Leases that were handed out in an earlier Session hold until this moment, whatever happens to Sessions.
    let mut held_until: Option<Instant> = None;
    loop {
        let opened = open(daemon, &address).await;
        let error = match opened {
            Ok(session) => {
                failures = 0;
                tracing::info!(session = %session.id, "connected to the controller");
                daemon.readiness.connected.store(true, Ordering::Release);
                current.send_replace(Some(session.clone()));
                let error = renew(daemon, &session, &mut held_until).await;
                daemon.readiness.connected.store(false, Ordering::Release);
                current.send_replace(None);
                error
            }
            Err(error) => error,
        };
        let pause = error.retry_after().unwrap_or_else(|| backoff(failures));
        failures += 1;
        tracing::warn!(%error, ?pause, "no session with the controller");
        give_up_if_due(daemon, held_until, pause).await;
    }
}

async fn open(daemon: &Daemon, address: &str) -> Result<Current, ClientError> {
    let request = OpenSession {
        daemon: daemon.name.clone(),
        runtime: daemon.config.runtime.clone(),
        slots: daemon.config.slots,
        address: Some(address.to_owned()),
        build: daemon.build.clone(),
    };
    let session = daemon.controller.open_session(&request).await?;
    let lease = Duration::from_millis(session.lease_millis.clamp(50, 3_600_000));
    Ok(Current { id: session.id, lease, runtime: Arc::new(session.runtime) })
}

/// Renews until the Session is over, and says why.
async fn renew(daemon: &Daemon, session: &Current, held_until: &mut Option<Instant>) -> ClientError {
    let mut failures = 0;
    loop {
        let sent = Instant::now();
        let request = Renew { attempts: daemon.attempts.held() };
        // The answer may take a third of the period; a request that takes two is lost.
        let patience = session.lease * 2 / 3;
        let error = match daemon.controller.renew(&session.id, &request, patience).await {
            Ok(renewed) => {
                failures = 0;
                *held_until = Some(sent + session.lease);
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
        give_up_if_due(daemon, *held_until, pause).await;
    }
}

/// Waits `pause`, and gives every attempt up when its lease can be held no longer: before the controller, which counts
/// from when the renewal arrived, may hand the Run on.
async fn give_up_if_due(daemon: &Daemon, held_until: Option<Instant>, pause: Duration) {
    let wake = Instant::now() + pause;
    if let Some(until) = held_until {
        let margin = Duration::from_secs(2).min(until.saturating_duration_since(Instant::now()) / 4);
        let due = until.checked_sub(margin).unwrap_or(until);
        if due <= wake {
            tokio::time::sleep_until(due.into()).await;
            for live in daemon.attempts.all() {
                live.stop(Stop::LeaseLost);
            }
        }
    }
    tokio::time::sleep_until(wake.into()).await;
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
