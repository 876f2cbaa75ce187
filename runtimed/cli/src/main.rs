//! `runtimectl`: the command people use.

use std::process::ExitCode;

fn main() -> ExitCode {
    runtimectl::main(std::env::args_os(), env!("RUNTIMED_BUILD_ID"))
}
