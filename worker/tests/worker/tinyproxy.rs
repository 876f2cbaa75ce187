//! A source through a proxy that is not ours: tinyproxy, from the distribution.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use runtimed_api::link::{Assign, Down, Source};
use tempfile::TempDir;

use crate::git::Repository;
use crate::harness::Daemon;
use crate::server::{Behaviour, Server};
use crate::source::at;

/// A running tinyproxy, which ends with this.
pub(crate) struct Tinyproxy {
    process: Child,
    directory: TempDir,
    port: u16,
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

fn fetching(server: &Server, proxy: &Tinyproxy) -> Daemon {
    let mut daemon = Daemon::new();
    let assign = Assign {
        ca_file: Some(server.authority().to_str().unwrap().to_owned()),
        proxy: Some(proxy.url()),
        ..daemon.assignment(Source::Git(at(&server.url("bare.git"), None)))
    };
    daemon.send(&Down::Assign(Box::new(assign)));
    daemon
}

#[test]
fn a_fetch_goes_through_it() {
    let repository = Repository::new();
    let server = Server::new(repository.bare().parent().unwrap(), Behaviour::Serve);
    let proxy = Tinyproxy::new(server.port);
    let mut daemon = fetching(&server, &proxy);
    assert_eq!(daemon.baseline().commit.unwrap().as_str(), repository.id("main"));
    let asked = format!("CONNECT 127.0.0.1:{} ", server.port);
    assert!(proxy.said().contains(&asked), "{}", proxy.said());
}

#[test]
fn where_it_refuses_the_fetch_says_so() {
    let repository = Repository::new();
    let server = Server::new(repository.bare().parent().unwrap(), Behaviour::Serve);
    // Another port than the server's: what the proxy's operator has not allowed.
    let proxy = Tinyproxy::new(if server.port == 443 { 444 } else { 443 });
    let problem = fetching(&server, &proxy).fault().problem;
    assert_eq!(problem.code.to_string(), "source-unreachable");
    assert!(problem.message.contains("proxy"), "{problem:?}");
    assert!(server.shown.lock().unwrap().is_empty());
}
