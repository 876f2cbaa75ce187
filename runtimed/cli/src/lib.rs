//! The command people use, as a library: the binary calls [`main`] and nothing else, so that tests can reach the rest.
#![forbid(unsafe_code)]

pub mod args;
pub mod attach;
pub mod commands;
pub mod compose;
pub mod context;
pub mod document;
pub mod failure;
pub mod local;
pub mod output;
pub mod patience;
pub mod signals;
mod spawn;
pub mod style;
pub mod summary;
pub mod table;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use clap::error::ErrorKind;
use runtimed_api::exit::Exit;

use args::Args;
use failure::Failure;
use output::Output;

/// Does what the command line asks, and gives the exit code of [`runtimed_api::exit`]. `build` is the build that the
/// binary belongs to.
pub fn main(line: impl IntoIterator<Item = OsString>, build: &str) -> ExitCode {
    let parsed = Args::try_parse_from(line).and_then(|mut args| Ok((args.settle()?, args)));
    let (format, args) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return explain(&error),
    };
    let output = Output::of_process(format);
    let code = match run(args, build, &output) {
        Ok(code) => code,
        Err(failure) => {
            output.failure(&failure);
            failure.exit()
        }
    };
    ExitCode::from(code)
}

fn run(args: Args, build: &str, output: &Output) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::fault(format!("cannot start: {error}")))?;
    let result = runtime.block_on(commands::run(args, build, output));
    // A write to a pipe that nobody reads must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(50));
    result
}

/// Prints clap's own words: a help text is an answer, anything else a usage error.
fn explain(error: &clap::Error) -> ExitCode {
    let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    // Nobody can be told that the text cannot be written.
    drop(error.print());
    ExitCode::from(if asked { Exit::Ok.code() } else { Exit::Usage.code() })
}
