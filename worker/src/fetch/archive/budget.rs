//! How much an archive may grow when it is unpacked.

use std::cell::Cell;
use std::io::{self, Read};

use runtimed_api::rule::Rule;

use super::SUBJECT;
use crate::failure::Failure;

/// Entries of an archive, directories included.
const MAX_ENTRIES: u64 = 500_000;
/// Bytes of all files together, with what is between them.
pub(super) const MAX_BYTES: u64 = 8 << 30;
/// How many times larger than itself an archive may become; the best of text hardly reaches 50.
const MAX_RATIO: u64 = 200;
/// Below this nobody is harmed, whatever the ratio: an archive of one small file is mostly padding.
const UNCOUNTED: u64 = 64 << 20;

/// What an archive has used of what it may.
#[derive(Debug)]
pub(super) struct Budget {
    packed: u64,
    entries: Cell<u64>,
    bytes: Cell<u64>,
    over: Cell<Option<Over>>,
}

#[derive(Debug, Clone, Copy)]
enum Over {
    Entries,
    Bytes,
    Ratio,
}

impl Budget {
    /// For an archive of `packed` bytes.
    pub(super) fn new(packed: u64) -> Self {
        Self { packed, entries: Cell::new(0), bytes: Cell::new(0), over: Cell::new(None) }
    }

    /// Takes one entry of it.
    pub(super) fn entry(&self) -> Result<(), ()> {
        self.entries.set(self.entries.get() + 1);
        if self.entries.get() > MAX_ENTRIES {
            self.over.set(Some(Over::Entries));
            return Err(());
        }
        Ok(())
    }

    /// A stream all of whose bytes are taken of it.
    pub(super) fn bounded<R: Read>(&self, stream: R) -> Bounded<'_, R> {
        Bounded { stream, budget: self }
    }

    /// Why it is used up, if it is.
    pub(super) fn refusal(&self) -> Option<Failure> {
        let (rule, message) = match self.over.get()? {
            Over::Entries => {
                (Rule::ARCHIVE_TOO_MANY_FILES, format!("it has more than {MAX_ENTRIES} entries"))
            }
            Over::Bytes => (Rule::ARCHIVE_TOO_LARGE, format!("it unpacks to more than {MAX_BYTES} bytes")),
            Over::Ratio => {
                (Rule::ARCHIVE_RATIO, format!("it unpacks to more than {MAX_RATIO} times its size"))
            }
        };
        Some(Failure::refused(rule, SUBJECT, message))
    }

    fn take(&self, count: u64) -> io::Result<()> {
        let bytes = self.bytes.get().saturating_add(count);
        self.bytes.set(bytes);
        let over = if bytes > MAX_BYTES {
            Over::Bytes
        } else if bytes > UNCOUNTED && bytes / MAX_RATIO > self.packed {
            Over::Ratio
        } else {
            return Ok(());
        };
        self.over.set(Some(over));
        Err(io::ErrorKind::FileTooLarge.into())
    }
}

/// A stream of limited growth.
pub(super) struct Bounded<'a, R> {
    stream: R,
    budget: &'a Budget,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.budget.take(u64::try_from(count).unwrap_or(u64::MAX))?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(budget: &Budget) -> Option<Rule> {
        match budget.refusal()? {
            Failure::Refused(refusals) => refusals.first().map(|refusal| refusal.rule),
            Failure::Fault(_) => None,
        }
    }

    #[test]
    fn each_bound_is_told_by_its_rule() {
        let budget = Budget::new(1);
        assert!((0..MAX_ENTRIES).all(|_| budget.entry().is_ok()) && rule(&budget).is_none());
        assert!(budget.entry().is_err());
        assert_eq!(rule(&budget), Some(Rule::ARCHIVE_TOO_MANY_FILES));
        let budget = Budget::new(1);
        assert!(budget.take(UNCOUNTED).is_ok() && budget.take(1).is_err());
        assert_eq!(rule(&budget), Some(Rule::ARCHIVE_RATIO));
        let budget = Budget::new(MAX_BYTES);
        assert!(budget.take(MAX_BYTES).is_ok() && budget.take(1).is_err());
        assert_eq!(rule(&budget), Some(Rule::ARCHIVE_TOO_LARGE));
    }
}
