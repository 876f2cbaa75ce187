//! Three directories, a configuration and a secret, as a pod has them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use runtimed_tests::binaries;
use runtimed_tests::process::command;
use tempfile::TempDir;

/// The value of the secret named `transaction`.
pub(crate) const SECRET: &str = "a-transaction-token-of-a-test";

/// Gone when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    dir: TempDir,
    /// The daemon's binaries as an image has them, where every uid and every Run can reach them: not below `/tmp`, which is
    /// another one for a Run in namespaces.
    bin: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = TempDir::with_prefix("runtimed-test-").expect("a directory");
        let set = |path: &str, mode| {
            fs::set_permissions(dir.path().join(path), fs::Permissions::from_mode(mode)).expect("set");
        };
        set("", 0o755);
        for root in ["tmp", "home", "workspace"] {
            fs::create_dir(dir.path().join(root)).expect("made");
            // As a kubelet makes an EmptyDir.
            set(root, 0o2777);
        }
        fs::write(dir.path().join("secret"), format!("{SECRET}\n")).expect("written");
        fs::write(dir.path().join("termination"), "").expect("written");
        let at = dir.path().display();
        let config = format!(
            "runtime = \"test\"\n[roots]\ntmp = \"{at}/tmp\"\nhome = \"{at}/home\"\nworkspace = \"{at}/workspace\"\n[http]\nlisten = \"127.0.0.1:0\"\n[secrets.transaction]\nsource = \"file:{at}/secret\"\nnamespaces = [\"default\"]\n"
        );
        fs::write(dir.path().join("runtime.toml"), config).expect("written");
        let bin = TempDir::with_prefix_in("runtimed-test-", "/var/tmp").expect("a directory");
        fs::set_permissions(bin.path(), fs::Permissions::from_mode(0o755)).expect("set");
        for name in ["runtimed", "runtimed-worker"] {
            let (from, to) = (binaries::path(name), bin.path().join(name));
            fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop)).expect("a binary");
        }
        Self { dir, bin }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The daemon's binary with a subcommand and this configuration.
    pub(crate) fn runtimed(&self, subcommand: &str) -> Command {
        let mut runtimed = command(self.bin.path().join("runtimed"));
        runtimed.arg(subcommand).arg("--config").arg(self.path("runtime.toml"));
        runtimed
    }

    /// The same for a job, whose summary is kept here.
    pub(crate) fn job(&self) -> Command {
        let mut job = self.runtimed("job");
        job.arg("--termination-log").arg(self.path("termination"));
        job
    }

    pub(crate) fn summary(&self) -> serde_json::Value {
        let text = fs::read_to_string(self.path("termination")).expect("a summary");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}"))
    }

    /// What is left in the three directories, but for the state.
    pub(crate) fn left(&self) -> Vec<PathBuf> {
        let roots = ["tmp", "home", "workspace"].map(|root| self.path(root));
        let entries = roots.iter().flat_map(|root| fs::read_dir(root).expect("a root").flatten());
        entries.map(|entry| entry.path()).filter(|path| !path.join("runtimed.state").exists()).collect()
    }
}

/// What a command printed, and its exit code.
pub(crate) fn ended(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}
