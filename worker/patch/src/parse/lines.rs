//! A cursor over the lines of a patch that knows where it is.

use crate::rule::{Refusal, Rule};

#[derive(Debug, Clone)]
pub(super) struct Lines<'a> {
    rest: &'a [u8],
    number: u64,
}

impl<'a> Lines<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, number: 1 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The current line without its newline.
    pub(super) fn peek(&self) -> Option<&'a [u8]> {
        (!self.is_empty()).then(|| self.split().0)
    }

    /// The line after the current one.
    pub(super) fn peek_second(&self) -> Option<&'a [u8]> {
        Self { rest: self.split().1, number: 0 }.peek()
    }

    /// The current line with its newline, if it has one.
    pub(super) fn peek_whole(&self) -> Option<&'a [u8]> {
        (!self.is_empty()).then(|| &self.rest[..self.rest.len() - self.split().1.len()])
    }

    pub(super) fn advance(&mut self) {
        self.rest = self.split().1;
        self.number += 1;
    }

    /// Takes the current line if it starts so, and gives what follows the prefix.
    pub(super) fn take(&mut self, prefix: &[u8]) -> Option<&'a [u8]> {
        let found = self.peek()?.strip_prefix(prefix)?;
        self.advance();
        Some(found)
    }

    /// All bytes from `start`, an earlier position of the same cursor, to the current one.
    pub(super) fn since(&self, start: &Self) -> &'a [u8] {
        &start.rest[..start.rest.len() - self.rest.len()]
    }

    pub(super) fn malformed(&self, message: &str) -> Refusal {
        Refusal::new(Rule::Malformed, format!("line {}: {message}", self.number))
    }

    fn split(&self) -> (&'a [u8], &'a [u8]) {
        match self.rest.iter().position(|byte| *byte == b'\n') {
            Some(end) => (&self.rest[..end], &self.rest[end + 1..]),
            None => (self.rest, &[]),
        }
    }
}
