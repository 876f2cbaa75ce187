//! Drives the real worker as the daemon does.

#![expect(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod archive;
mod git;
mod harness;
mod https;
mod inputs;
mod killed;
mod lifecycle;
mod memory;
mod mirror;
mod patches;
mod protocol;
mod proxy;
mod server;
mod source;
mod ssh;
mod sshd;
mod tinyproxy;
