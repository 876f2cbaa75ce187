//! Drives the real worker as the daemon does.

mod git;
mod harness;
mod lifecycle;
mod patches;
mod protocol;
mod source;
