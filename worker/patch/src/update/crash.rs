//! Points at which a test kills the process.

/// In a test that asked for it, ends the process here, as a kill would. Else nothing.
#[inline]
pub(super) fn point() {
    #[cfg(test)]
    tests::count();
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;

    thread_local! {
        static LEFT: Cell<u64> = const { Cell::new(u64::MAX) };
    }

    /// Lets this many points pass on this thread; the next one aborts.
    pub(crate) fn after(points: u64) {
        LEFT.set(points);
    }

    pub(super) fn count() {
        match LEFT.get() {
            0 => std::process::abort(),
            left => LEFT.set(left - 1),
        }
    }
}
