//! A log that is being written, as the endpoint reads it.

use std::io;
use std::sync::Arc;

use runtimed_client::logs::{Chunk, More, Source};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{End, Log, Position};

/// One reader's place in the log of an attempt.
#[derive(Debug)]
pub struct LiveSource {
    log: Arc<Log>,
    attempt: u32,
    ends: watch::Receiver<End>,
    position: Position,
    /// The daemon ends.
    closing: CancellationToken,
}

impl LiveSource {
    /// At the beginning of this log.
    #[must_use]
    pub fn new(log: Arc<Log>, attempt: u32, closing: CancellationToken) -> Self {
        let ends = log.ends();
        Self { log, attempt, ends, position: Position::default(), closing }
    }
}

impl Source for LiveSource {
    fn attempt(&self) -> u32 {
        self.attempt
    }

    fn closed(&self) -> bool {
        let end = self.ends.borrow();
        end.closed && !end.has_changed()
    }

    async fn end(&mut self) -> io::Result<u64> {
        Ok(self.log.end().offset)
    }

    fn parts(&self) -> Vec<u64> {
        self.log.parts()
    }

    fn seek(&mut self, offset: u64) {
        self.position = self.log.position(offset);
    }

    async fn next(&mut self) -> io::Result<Option<Chunk>> {
        // Taken before the look: what comes after it changes it again.
        self.ends.mark_unchanged();
        self.log.read(&mut self.position)
    }

    async fn more(&mut self) -> More {
        {
            let end = self.ends.borrow();
            if end.has_changed() {
                return More::Yes;
            }
            if end.closed {
                return More::Closed;
            }
        }
        tokio::select! {
            _changed = self.ends.changed() => More::Yes,
            () = self.closing.cancelled() => More::Stopping,
        }
    }
}
