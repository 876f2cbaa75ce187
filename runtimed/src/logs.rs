//! The log of an attempt: from the command's pipes, through the masker, into append-only segments.

mod pump;
mod store;

pub use pump::{diagnostics, pump};
pub use store::{End, Facts, Log, Position, Segment};
