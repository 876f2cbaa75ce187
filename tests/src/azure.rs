//! A server that speaks Azure's protocol for blobs: azurite, which `tests/run` puts into the target directory.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::process::{Server, command};

/// The account, the key of it, and its one container, which is empty at first.
pub const ACCOUNT: &str = "testaccount";
/// 32 bytes in base64, as Azure's keys are.
pub const KEY: &str = "YSBrZXkgb2YgYSB0ZXN0LCB0aGlydHktdHdvIGJ5dGU=";
/// The container.
pub const CONTAINER: &str = "results";

/// The server. Everything is in its memory, and gone with it.
#[derive(Debug)]
pub struct Azure {
    server: Server,
    address: SocketAddr,
}

impl Azure {
    /// Starts it, and returns when it answers.
    ///
    /// # Panics
    /// It is not installed or does not start.
    #[must_use]
    pub fn start() -> Self {
        let program = target().join("node/azurite/node_modules/azurite/dist/src/blob/main.js");
        assert!(program.is_file(), "azurite is not there: run `tests/run --only tools` first");
        let free = TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port");
        let mut start = command("node");
        start.arg(program).args(["--blobHost", "127.0.0.1", "--blobPort", &free.port().to_string()]);
        start.args(["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent"]);
        start.env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{KEY}"));
        let azure = Self { server: Server::start("azurite", &mut start), address: free };
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(free).is_err() {
            assert!(Instant::now() < deadline, "azurite does not answer: {}", azure.server.said());
            std::thread::park_timeout(Duration::from_millis(50));
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/azure/container.py");
        let mut make = command("python3");
        make.arg(script).args([&azure.url(free), ACCOUNT, KEY, CONTAINER]);
        let made = make.output().expect("python3 runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        azure
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The account's endpoint, at its own address or at that of a proxy before it.
    #[must_use]
    pub fn url(&self, at: SocketAddr) -> String {
        format!("http://{at}/{ACCOUNT}")
    }
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")
}
