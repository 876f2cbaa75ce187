//! SIGTERM and SIGINT as the order to end.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end a server. One that comes before it is waited for is not lost.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes them from their default, which is to end the process.
    ///
    /// # Errors
    /// The kernel's refusal of a handler.
    pub fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for one of them.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
