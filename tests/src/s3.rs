//! A server that speaks S3's protocol: moto, which `tests/run` puts into the target directory.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::process::{Server, command};

/// The server, with one empty bucket. Everything in it is gone with it.
#[derive(Debug)]
pub struct S3 {
    _server: Server,
    address: SocketAddr,
}

/// The bucket.
pub const BUCKET: &str = "results";

impl S3 {
    /// Starts it, and returns when it answers.
    ///
    /// # Panics
    /// It is not installed or does not start.
    #[must_use]
    pub fn start() -> Self {
        let packages = packages();
        assert!(packages.join("moto").is_dir(), "moto is not there: run `tests/run --only tools` first");
        let free =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port");
        let port = free.port().to_string();
        let mut start = command("python3");
        start.env("PYTHONPATH", packages).args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port]);
        let server = Server::start("moto", &mut start);
        let s3 = Self { _server: server, address: free };
        let deadline = Instant::now() + Duration::from_secs(60);
        while s3.ask("PUT", &format!("/{BUCKET}")).is_none_or(|answer| !answer.starts_with("HTTP/1.1 200")) {
            assert!(Instant::now() < deadline, "moto does not answer: {}", s3._server.said());
            std::thread::park_timeout(Duration::from_millis(50));
        }
        s3
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The answer to a request without a body.
    #[must_use]
    pub fn ask(&self, method: &str, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer).into_owned())
    }

    /// The names of what is in the bucket.
    ///
    /// # Panics
    /// It does not answer.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        let answer = self.ask("GET", &format!("/{BUCKET}?list-type=2")).expect("an answer");
        answer
            .split("<Key>")
            .skip(1)
            .filter_map(|rest| rest.split("</Key>").next())
            .map(str::to_owned)
            .collect()
    }

    /// Uploads that were begun and neither completed nor aborted.
    ///
    /// # Panics
    /// It does not answer.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        let answer = self.ask("GET", &format!("/{BUCKET}?uploads")).expect("an answer");
        answer.matches("<UploadId>").count()
    }
}

/// Where `tests/run` puts Python's packages.
fn packages() -> PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/python")
}
