//! The one place that starts other programs: our own servers, for `runtimectl local`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;

use tokio::process::{Child, Command};

/// A program that is about to be started, opened already.
#[derive(Debug)]
pub(crate) struct Program {
    file: File,
    name: String,
}

impl Program {
    /// Opens the executable.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Ok(Self { file: File::open(path)?, name })
    }

    /// Starts it with these arguments, in a process group of its own so that a terminal's interrupt reaches us alone, and
    /// killed when the handle is dropped. All three standard streams are pipes.
    ///
    /// It is executed by descriptor: it may lie where `user` cannot go, below a private home.
    pub(crate) fn start(&self, arguments: &[&str], user: Option<u32>) -> io::Result<Child> {
        #[expect(clippy::disallowed_methods, reason = "this module is where the command line may spawn")]
        let mut command = std::process::Command::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        command.arg0(&self.name).args(arguments).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(user) = user {
            // std also clears the supplementary groups then.
            command.uid(user).gid(user);
        }
        let mut command = Command::from(command);
        command.kill_on_drop(true).spawn()
    }
}
