//! One attempt of one Run. Started by the daemon, which is at the other end of descriptor 3.

use std::process::ExitCode;

fn main() -> ExitCode {
    runtimed_worker::run(std::env::args_os().skip(1))
}
