//! Drives the real worker as the daemon does.

mod git;
mod harness;
mod https;
mod lifecycle;
mod patches;
mod protocol;
mod server;
mod source;
