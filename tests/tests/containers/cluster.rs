//! A controller and a Runtime's pod, as the documentation installs and the manifests make them, in one network.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use runtimed_api::digest::Digest;
use runtimed_tests::binaries;
use runtimed_tests::container::manifest::{Workload, publish};
use runtimed_tests::container::ours::ours;
use runtimed_tests::container::{Container, World};
use tempfile::TempDir;

use crate::install;

/// What the secret named `transaction` is at first.
pub(crate) const SECRET: &str = "the-first-transaction-token";
/// The group of the pods' volumes.
const GROUP: u32 = 1000;
/// The pod's own end of a port-forward.
pub(crate) const POD: &str = "https://127.0.0.1:8410";

/// Ended and removed when dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) runtime: Container,
    pub(crate) controller: Container,
    dir: TempDir,
}

impl Cluster {
    /// Starts both, and returns when the daemon is ready. `adapt` changes the Runtime's workload.
    pub(crate) fn start(world: World, adapt: impl FnOnce(Workload) -> Workload) -> Self {
        let dir = TempDir::with_prefix("runtimed-test-").expect("a directory");
        let hosts = dir.path().join("hosts");
        fs::write(&hosts, "127.0.0.1 localhost runtimed-controller\n").expect("written");
        let secrets = install::secrets(dir.path());
        let controller = install::with(Workload::read("controller/controller.yaml"), &secrets)
            .hosts(hosts.clone())
            .start(&ours("controller"), world);
        let ca = dir.path().join("ca.crt");
        await_answer(&controller, &ca);
        // Beside the manifest: a secret for Runs, and the people who may read logs from the pod itself.
        let mut runtime = install::with(Workload::read("runtime/runtime.yaml"), &secrets).hosts(hosts);
        let people = secrets["runtimed-controller-tokens"].clone();
        let transaction = BTreeMap::from([("token".to_owned(), format!("{SECRET}\n"))]);
        for (name, files) in [("transaction", transaction), ("people", people)] {
            let place = dir.path().join(name);
            fs::create_dir(&place).expect("made");
            publish(&place, &files, 0o440, GROUP);
            runtime = runtime.option(format!("--volume={}:/run/runtimed/{name}:ro", place.display()));
        }
        let runtime = runtime.arguments(&[
            "serve",
            "--set",
            "secrets.transaction.source=file:/run/runtimed/transaction/token",
            "--set",
            "secrets.transaction.namespaces=[\"*\"]",
            "--set",
            "http.tokens_file=/run/runtimed/people/tokens.toml",
        ]);
        let runtime = adapt(runtime).network_of(&controller).start(&ours("bash"), world);
        let cluster = Self { runtime, controller, dir };
        cluster.await_ready();
        cluster
    }

    fn await_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.runtime.exec(["runtimed", "version"]).output().expect("podman runs").status.success()
            || !self.get(&format!("{POD}/readyz")).status.success()
        {
            assert!(Instant::now() < deadline, "the daemon is not ready: {}", self.runtime.said());
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// A GET from within the pod's network, as a probe or a port-forward makes it.
    pub(crate) fn get(&self, url: &str) -> Output {
        get(&self.controller, &self.dir.path().join("ca.crt"), url)
    }

    /// The same with a person's token.
    pub(crate) fn get_as_person(&self, url: &str) -> Output {
        let token = fs::read_to_string(self.dir.path().join("me.token")).expect("read");
        let header = self.dir.path().join("header");
        fs::write(&header, format!("Authorization: Bearer {}\n", token.trim())).expect("written");
        let mut get = self.controller.forwarded("curl");
        get.args(["--silent", "--show-error", "--fail", "--cacert"]).arg(self.dir.path().join("ca.crt"));
        get.arg("--header").arg(format!("@{}", header.display())).arg(url).output().expect("curl runs")
    }

    /// `runtimectl` of this machine, through a port-forward to the controller.
    pub(crate) fn runtimectl(&self) -> Command {
        let mut runtimectl = self.controller.forwarded(binaries::path("runtimectl"));
        runtimectl.args(["--server", "https://127.0.0.1:8443", "--token-file"]);
        runtimectl.arg(self.dir.path().join("me.token"));
        runtimectl.arg("--ca-file").arg(self.dir.path().join("ca.crt"));
        runtimectl
    }

    /// Runs a shell line to its end.
    pub(crate) fn run(&self, secrets: bool, line: &str) -> Ended {
        let file = self.dir.path().join(format!("run-{}.yaml", Digest::of(line.as_bytes()).hex()));
        let secrets = if secrets { "\n  secrets: [ { name: transaction } ]" } else { "" };
        let command = serde_json::to_string(line).expect("a string");
        let text = format!(
            "apiVersion: runtimed.dev/v1alpha1\nkind: Run\nmetadata: {{ generateName: run- }}\nspec:\n  runtime: bash\n  command: [bash, -c, {command}]{secrets}\n"
        );
        fs::write(&file, text).expect("written");
        Ended::of(self.runtimectl().args(["run", "-f"]).arg(file))
    }

    /// Submits a shell line under a name, and leaves it.
    pub(crate) fn submit(&self, name: &str, line: &str) {
        let mut run = self.runtimectl();
        run.args(["run", "--runtime", "bash", "--name", name, "--detach", "--", "bash", "-c", line]);
        let (code, _, err) = Ended::of(&mut run).parts();
        assert_eq!(code, 0, "{name}: {err}");
    }

    /// What a Run has written to its standard output so far.
    pub(crate) fn log(&self, name: &str) -> String {
        Ended::of(self.runtimectl().args(["logs", "--stream", "stdout", name])).out
    }

    /// Gives the secret another value, as a kubelet does.
    pub(crate) fn rotate(&self, value: &str) {
        let place = self.dir.path().join("transaction");
        publish(&place, &BTreeMap::from([("token".to_owned(), value.to_owned())]), 0o440, GROUP);
    }
}

/// How a command ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    pub(crate) fn parts(self) -> (i32, String, String) {
        (self.code, self.out, self.err)
    }
}

fn await_answer(controller: &Container, ca: &Path) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !controller.is_up() || !get(controller, ca, "https://127.0.0.1:8443/readyz").status.success() {
        assert!(Instant::now() < deadline, "the controller does not answer: {}", controller.said());
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

fn get(container: &Container, ca: &Path, url: &str) -> Output {
    let mut get = container.forwarded("curl");
    get.args(["--silent", "--fail", "--cacert"]).arg(ca).arg(url);
    get.output().expect("curl runs")
}
