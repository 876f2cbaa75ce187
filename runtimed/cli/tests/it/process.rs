//! Running the binary, in an environment of its own.

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The binary, with nothing of the caller's environment but PATH.
#[expect(clippy::disallowed_methods, reason = "the test is about this program")]
pub(crate) fn runtimectl(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_runtimectl"));
    command.args(arguments).env_clear().envs(std::env::vars_os().filter(|(name, _)| name == "PATH"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What it said, and its exit code.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// Runs it to its end.
pub(crate) fn run(arguments: &[&str]) -> Said {
    runtimectl(arguments).output().expect("it runs").into()
}

/// As [`run`], in a directory.
pub(crate) fn run_in(dir: &Path, arguments: &[&str]) -> Said {
    runtimectl(arguments).current_dir(dir).output().expect("it runs").into()
}
