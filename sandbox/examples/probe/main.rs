//! Tries one forbidden thing and exits with the errno that it got, or 0 if it succeeded: what the kernel tests start
//! twice, without the sandbox and inside it. A scenario that needs a process of one thread runs here as well.

mod attempts;
mod forbidden;
mod scenarios;

use rustix::io::Errno;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = scenarios::run(&words).unwrap_or_else(|| attempts::run(&words));
    std::process::exit(outcome.map_or_else(Errno::raw_os_error, |()| 0));
}
