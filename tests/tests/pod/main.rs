//! The commands of a pod's entrypoint, beside `serve`: `job`, `check` and `selftest`, on this machine.

mod check;
mod documented;
mod job;
mod place;
mod selftest;
