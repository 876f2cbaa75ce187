//! `GET …/logs`, as both servers answer it: one reading of the request, one way to write the answer.
//!
//! A [`Source`] gives whole records from some offset on; what a reader sees of them (text or events, one stream, since a
//! time, the last lines, a range of bytes) is decided here, so that a log looks the same wherever it comes from.

mod format;
mod query;
pub(crate) mod range;
mod reader;
mod tail;

use std::future::Future;
use std::io;

pub use format::problem_event;
pub use query::{Asked, LogQuery};
pub use reader::{Reader, answer};

use tower_http::compression::CompressionLayer;

/// Whole records that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The offset of the first.
    pub offset: u64,
    /// The records, in the format of [`runtimed_api::log`], without a segment's header.
    pub bytes: bytes::Bytes,
}

/// What becomes of a log whose records have all been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum More {
    /// There is more.
    Yes,
    /// There never will be.
    Closed,
    /// There may be, and the server ends: whoever reads asks again elsewhere.
    Stopping,
}

/// Where the records of one log come from. It has a place, which [`Source::next`] moves on.
pub trait Source: Send + 'static {
    /// The attempt whose log it is.
    fn attempt(&self) -> u32;

    /// Nothing will be added to it.
    fn closed(&self) -> bool;

    /// The offset after what is there now.
    ///
    /// # Errors
    /// The log cannot be read.
    fn end(&mut self) -> impl Future<Output = io::Result<u64>> + Send;

    /// The offsets where its parts begin, ascending: the last lines are looked for from the last of them.
    fn parts(&self) -> Vec<u64>;

    /// Goes to the record that holds this offset, or to one before it.
    fn seek(&mut self, offset: u64);

    /// The next records; `None` when there are no more now.
    ///
    /// # Errors
    /// The log cannot be read.
    fn next(&mut self) -> impl Future<Output = io::Result<Option<Chunk>>> + Send;

    /// Returns when there is more, or never will be.
    fn more(&mut self) -> impl Future<Output = More> + Send;
}

/// Compression for whoever accepts it. Events are left as they are, for they must not be held back, and so are ranges.
#[must_use]
pub fn compression() -> CompressionLayer {
    CompressionLayer::new()
}
