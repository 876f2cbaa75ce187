//! The log of an attempt: from the command's pipes, through the masker, into append-only segments, and from there to
//! whoever reads, to the store while the Run runs, and to the cluster's log stack.

mod echo;
mod pool;
mod pump;
mod source;
mod store;

pub use echo::echo;
pub use pool::Pool;
pub use pump::{diagnostics, pump};
pub use source::LiveSource;
pub use store::{Bounds, End, Facts, Log, Overflow, Position, Segment};
