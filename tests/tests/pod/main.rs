//! The commands of a pod's entrypoint: `job`, `check` and `selftest`, and a `serve` that fails, on this machine.

mod check;
mod documented;
mod job;
mod place;
mod selftest;
mod start;
