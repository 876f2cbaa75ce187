//! Masking of secrets in what leaves the daemon: logs, outputs, artifacts, messages.
//!
//! This guards against accident. A Run that means to give its secret away can encode it in a way that is not looked
//! for; docs/SECURITY.md says so.

mod needles;
mod set;
mod spaced;
mod stream;

pub use needles::{Needles, Redactor, TooMany};
pub use stream::Masker;
