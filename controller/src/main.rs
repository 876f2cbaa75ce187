//! The controller's program; all of it is in the library, so that tests drive the same.

use std::process::ExitCode;

fn main() -> ExitCode {
    runtimed_controller::run(std::env::args_os())
}
