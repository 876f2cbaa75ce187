//! The escape suite: what a hostile Run would try, outside of the sandbox and inside it.

mod pods;
