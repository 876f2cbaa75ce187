//! What must outlive the daemon: an append-only file of checksummed records.
//!
//! One thread owns the file. Whoever appends gets its answer after the record is on disk; records that arrive together
//! share one `fdatasync`. A torn tail, which is all that a crash can leave, is cut off and never guessed at. What is
//! appended is folded into a [`State`], and when the file has grown past a bound it is written anew from that.

pub mod format;
pub mod state;
mod writer;

pub use state::{Attempt, Record, State};
pub use writer::{Journal, JournalError, Known};
