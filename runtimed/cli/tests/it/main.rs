//! The binary as people use it, against servers that fail on cue and repositories of its own.

mod artifacts;
mod follow;
mod patches;
mod process;
mod script;
mod words;
