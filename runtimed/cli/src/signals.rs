//! Interrupts from a person or a supervisor.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// SIGINT, SIGTERM and SIGHUP, one as good as the other: each asks to come to an end.
#[derive(Debug)]
pub struct Interrupts {
    signals: [Signal; 3],
}

impl Interrupts {
    /// From now on none of them ends the process by itself.
    ///
    /// # Errors
    /// The handlers cannot be installed.
    pub fn new() -> Result<Self, Failure> {
        let install =
            |kind| signal(kind).map_err(|error| Failure::fault(format!("signals cannot be caught: {error}")));
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [first, second, third] = kinds.map(install);
        Ok(Self { signals: [first?, second?, third?] })
    }

    /// The next one.
    pub async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
