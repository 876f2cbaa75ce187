//! `runtimed`: the daemon in a Runtime Pod.

use std::process::ExitCode;

fn main() -> ExitCode {
    runtimed::main(env!("RUNTIMED_BUILD_ID"))
}
