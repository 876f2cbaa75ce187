//! Whether the daemon takes work, and how many of its slots do.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Whether the daemon takes work.
#[derive(Debug)]
pub struct Readiness {
    /// Runs at once.
    slots: u32,
    /// Slots that have no Run.
    free: AtomicU32,
    /// Slots that wait for the journal to take something again: the daemon can promise nothing.
    broken: AtomicU32,
    /// Slots that are out of use, for what they staged could not be removed.
    quarantined: AtomicU32,
    /// It has a session.
    pub connected: AtomicBool,
    /// It is being shut down.
    pub draining: AtomicBool,
    /// The selftest is required, and something did not hold.
    pub untested: AtomicBool,
    /// A disk is nearly full: which.
    full: Mutex<Option<String>>,
}

/// A slot that is counted, for as long as this lives.
#[derive(Debug)]
pub struct Counted<'a>(&'a AtomicU32);

impl<'a> Counted<'a> {
    fn among(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Readiness {
    /// Of a daemon with so many slots, none of which is served yet.
    #[must_use]
    pub fn new(slots: u32) -> Self {
        Self {
            slots,
            free: AtomicU32::new(0),
            broken: AtomicU32::new(0),
            quarantined: AtomicU32::new(0),
            connected: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            untested: AtomicBool::new(false),
            full: Mutex::default(),
        }
    }

    /// How many slots are free, and how many out of use.
    #[must_use]
    pub fn counts(&self) -> (u32, u32) {
        (self.free.load(Ordering::Acquire), self.quarantined.load(Ordering::Acquire))
    }

    /// Counts a slot as free.
    pub fn free(&self) -> Counted<'_> {
        Counted::among(&self.free)
    }

    /// Counts a slot as one that can keep nothing.
    pub fn broken(&self) -> Counted<'_> {
        Counted::among(&self.broken)
    }

    /// Takes a slot out of use for good.
    pub fn quarantine(&self) {
        self.quarantined.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether it takes work.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.connected.load(Ordering::Acquire) && self.why_not().is_none()
    }

    /// Why it takes no work beside having no session, in a sentence; `None` when it would.
    #[must_use]
    pub fn why_not(&self) -> Option<String> {
        let is = |flag: &AtomicBool| flag.load(Ordering::Acquire);
        let why = if is(&self.draining) {
            "it is being shut down"
        } else if self.broken.load(Ordering::Acquire) > 0 {
            "its journal cannot be written"
        } else if self.quarantined.load(Ordering::Acquire) >= self.slots {
            "every slot is out of use: what was staged there could not be removed"
        } else if is(&self.untested) {
            "its selftest is required, and something did not hold"
        } else {
            return self.lock().clone();
        };
        Some(why.to_owned())
    }

    /// Notes which disk is nearly full, if one is.
    pub fn set_full(&self, why: Option<String>) {
        let mut full = self.lock();
        if let (None, Some(why)) = (&*full, &why) {
            tracing::warn!(why, "no Run is taken until there is room");
        }
        *full = why;
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.full.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
