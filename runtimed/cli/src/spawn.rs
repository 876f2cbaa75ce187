//! The one place that starts other programs: our own servers, for `runtimectl local`.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;

use tokio::process::{Child, Command};

/// Starts a program with these arguments, in a process group of its own so that a terminal's interrupt reaches us alone,
/// and killed when the handle is dropped. All three standard streams are pipes.
pub(crate) fn start(program: &Path, arguments: &[&str]) -> io::Result<Child> {
    #[expect(clippy::disallowed_methods, reason = "this module is where the command line may spawn")]
    let mut command = std::process::Command::new(program);
    command.args(arguments).process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Command::from(command).kill_on_drop(true).spawn()
}
