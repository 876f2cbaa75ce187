//! The one place that starts other programs: our own servers, for `runtimectl local`.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;

use tokio::process::{Child, Command};

/// What of our environment the servers get. Their own settings are not among it: a local Run is told everything.
const PASSED: [&str; 14] = [
    "PATH",
    "HOME",
    "LANG",
    "TZ",
    "TMPDIR",
    "RUNTIMED_LOG",
    "RUST_BACKTRACE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTPS_PROXY",
    "https_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
];

/// Starts a program with these arguments, in a process group of its own so that a terminal's interrupt reaches us alone,
/// and killed when the handle is dropped. All three standard streams are pipes.
pub(crate) fn start(program: &Path, arguments: &[&str]) -> io::Result<Child> {
    #[expect(clippy::disallowed_methods, reason = "this module is where the command line may spawn")]
    let mut command = std::process::Command::new(program);
    command.args(arguments).process_group(0).env_clear().env("NO_COLOR", "1");
    command.envs(PASSED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Command::from(command).kill_on_drop(true).spawn()
}
