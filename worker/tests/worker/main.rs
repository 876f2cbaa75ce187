//! Drives the real worker as the daemon does.

#![expect(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod git;
mod harness;
mod https;
mod lifecycle;
mod patches;
mod protocol;
mod server;
mod source;
