//! The daemon in a Runtime Pod: leases Runs, gives each its own workspace, and reports what became of it.
//!
//! [`serve`] is the wiring. One lease becomes one [`attempt`], which goes through the steps of the specification in
//! order. What must outlive the daemon is in the [`journal`]; the [`outbox`] is its unacknowledged reports. The daemon
//! parses nothing that a Run or a remote made: that is the worker's, in a process of its own.
#![forbid(unsafe_code)]

pub mod admission;
pub mod args;
pub mod artifacts;
pub mod attempt;
pub mod check;
pub mod config;
pub mod daemon;
pub mod environ;
pub mod exclusive;
pub mod hold;
pub mod http;
pub mod isolation;
pub mod job;
pub mod journal;
mod keys;
pub mod link;
pub mod live;
pub mod logs;
pub mod metrics;
pub mod mirrors;
pub mod notices;
pub mod outbox;
pub mod outputs;
pub mod proxy;
pub mod readiness;
pub mod recovery;
pub mod redact;
pub mod room;
pub mod secrets;
pub mod selftest;
pub mod serve;
pub mod session;
pub mod slot;
pub mod state_dir;
pub mod upstream;
pub mod workers;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

/// Everything that `main` does, so that a test can do it too. `build` names the build of the binary.
#[must_use]
pub fn main(build: &'static str) -> ExitCode {
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are no errors; clap knows which stream each belongs on.
            let code = if error.use_stderr() { runtimed_api::exit::Exit::Usage.code() } else { 0 };
            let _unwritable = error.print();
            return ExitCode::from(code);
        }
    };
    match args::run(args, build) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            // A closed stderr must not hide the exit code.
            let _unwritable = writeln!(std::io::stderr(), "runtimed: {:#}", failure.error);
            ExitCode::from(failure.exit.code())
        }
    }
}
