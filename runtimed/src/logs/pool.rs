//! The bytes that all logs of a pod may take on its disk together.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A bound that the logs of all attempts share.
#[derive(Debug)]
pub struct Pool {
    limit: u64,
    used: Mutex<u64>,
    freed: Notify,
}

/// What one log has taken of the pool. It is given back when this is dropped.
#[derive(Debug)]
pub struct Share {
    pool: Arc<Pool>,
    taken: u64,
}

impl Pool {
    /// A pool of so many bytes.
    #[must_use]
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, used: Mutex::new(0), freed: Notify::new() })
    }

    /// A share that has nothing yet.
    #[must_use]
    pub fn share(self: &Arc<Self>) -> Share {
        Share { pool: Arc::clone(self), taken: 0 }
    }

    /// Bytes that all logs take now.
    #[must_use]
    pub fn used(&self) -> u64 {
        *self.lock()
    }

    /// Completes when something is given back after this was called.
    pub(super) fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.freed.notified()
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Takes as much of `wanted` bytes as there is.
    pub(super) fn take(&mut self, wanted: u64) -> u64 {
        let mut used = self.pool.lock();
        let got = wanted.min(self.pool.limit.saturating_sub(*used));
        *used += got;
        self.taken += got;
        got
    }

    /// Gives back what was taken a moment ago and is not used after all. Nobody is woken for it: two who each want more than there is
    /// would wake each other for ever.
    pub(super) fn put_back(&mut self, unused: u64) {
        let unused = unused.min(self.taken);
        *self.pool.lock() -= unused;
        self.taken -= unused;
    }

    /// Gives back what was taken and could not be used, and wakes who waits for it.
    pub(super) fn free(&mut self, unused: u64) {
        self.put_back(unused);
        self.pool.freed.notify_waiters();
    }

    /// Where it is from.
    pub(super) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        *self.pool.lock() -= self.taken;
        self.pool.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_given_back() {
        let pool = Pool::new(10);
        let (mut one, mut two) = (pool.share(), pool.share());
        assert_eq!((one.take(7), two.take(7), two.take(1)), (7, 3, 0));
        drop(one);
        assert_eq!(two.take(9), 7);
        two.put_back(1);
        assert_eq!((pool.used(), two.take(9)), (9, 1));
        drop(two);
        assert_eq!(pool.used(), 0);
    }
}
