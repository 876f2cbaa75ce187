//! A proxy that is not ours: tinyproxy, from the distribution.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A running tinyproxy, which ends with this.
pub(crate) struct Tinyproxy {
    process: Child,
    directory: TempDir,
    pub(crate) port: u16,
}

impl Tinyproxy {
    /// Connects its clients to this port and to no other.
    pub(crate) fn new(to: u16) -> Self {
        let directory = TempDir::new().unwrap();
        // Free a moment ago; tinyproxy cannot choose one and say which.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log = directory.path().join("log");
        let config = format!(
            "Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 16\nLogFile \"{}\"\nLogLevel Connect\nConnectPort {to}\n",
            log.display()
        );
        let path = directory.path().join("config");
        std::fs::write(&path, config).unwrap();
        let mut process = command("tinyproxy").arg("-d").arg("-c").arg(&path).spawn().unwrap();
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(30), "tinyproxy does not listen");
            assert!(process.try_wait().unwrap().is_none(), "tinyproxy ended");
            std::thread::yield_now();
        }
        Self { process, directory, port }
    }

    /// How the daemon names it to a worker.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }
}

impl Drop for Tinyproxy {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[expect(clippy::disallowed_methods, reason = "the tests run a proxy of the distribution")]
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}
