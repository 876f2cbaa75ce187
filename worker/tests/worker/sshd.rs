//! A real sshd on loopback, with its own host key and its own configuration.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// A running sshd, which ends with this.
pub(crate) struct Sshd {
    process: Child,
    directory: TempDir,
    pub(crate) port: u16,
    pub(crate) user: String,
}

impl Sshd {
    /// Lets this user in with the key that it makes. `lines` are added to its configuration.
    pub(crate) fn new(lines: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        for name in ["host_key", "key", "other_key"] {
            run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "a test", "-f", &at(name)]);
        }
        std::fs::copy(at("key.pub"), at("authorized_keys")).unwrap();
        if rustix::process::geteuid().is_root() {
            // Where sshd keeps a root directory for its unprivileged half; its package makes it at boot.
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        // Free a moment ago; sshd cannot choose one and say which.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\n\
             UsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n{lines}\n",
            at("host_key"),
            at("authorized_keys")
        );
        std::fs::write(at("config"), config).unwrap();
        let mut process = command("/usr/sbin/sshd")
            .args(["-D", "-e", "-f", &at("config")])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("Server listening on") {
            line.clear();
            assert_ne!(said.read_line(&mut line).unwrap(), 0, "sshd ended");
        }
        // Read on, so that it never waits for a reader.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Self { process, directory, port, user: run("id", &["-un"]) }
    }

    pub(crate) fn url(&self, path: &Path) -> String {
        format!("ssh://{}@127.0.0.1:{}{}", self.user, self.port, path.display())
    }

    /// One of the files: `key`, `other_key`, `host_key`.
    pub(crate) fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(name)).unwrap()
    }

    /// What a person would have in known_hosts.
    pub(crate) fn known_hosts(&self) -> String {
        let key = self.file("host_key.pub");
        let words: Vec<_> = key.split(' ').take(2).collect();
        format!("[127.0.0.1]:{} {}\n", self.port, words.join(" "))
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[expect(clippy::disallowed_methods, reason = "the tests run OpenSSH's own server and tools")]
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = command(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
