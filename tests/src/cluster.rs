//! A controller and some daemons on loopback.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, TryStreamExt as _};
use runtimed_api::digest::Digest;
use runtimed_api::ids::{Namespace, RunName};
use runtimed_api::run::Run;
use runtimed_api::run::status::{AttemptResult, Phase};
use runtimed_api::session::{SecretText, SecretValue, Submission};
use runtimed_client::Endpoint;
use runtimed_client::controller::{Controller, LogQuery};
use tempfile::TempDir;

use crate::binaries;
use crate::process::{Server, command};

/// The uid under which servers live that were started as root.
pub const UNPRIVILEGED: u32 = 65532;

/// How the cluster of a test is made.
#[derive(Debug, Clone)]
pub struct Options {
    /// Daemons.
    pub daemons: usize,
    /// Runs at once on each.
    pub slots: u32,
    /// Lines of each daemon's `runtime.toml`.
    pub runtime_toml: String,
    /// The lease period.
    pub lease: &'static str,
    /// Variables of each daemon's environment.
    pub daemon_env: Vec<(&'static str, &'static str)>,
    /// Where the trees are; a directory on disk without it.
    pub trees: Option<PathBuf>,
    /// Where daemons and controller keep their state; a directory on disk without it.
    pub state: Option<PathBuf>,
    /// The controller's keys that the daemons trust, as JSON; the controller's own word without it.
    pub keys: Option<String>,
    /// The words of a store that daemons and controller share.
    pub store: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            daemons: 1,
            slots: 2,
            runtime_toml: String::new(),
            lease: "15s",
            daemon_env: Vec::new(),
            trees: None,
            state: None,
            keys: None,
            store: None,
        }
    }
}

/// A controller and some daemons, in directories that are gone afterwards.
#[derive(Debug)]
pub struct Cluster {
    // Dropped in this order: the servers before what they live in.
    daemons: Vec<Option<Server>>,
    controller: Option<Server>,
    /// The client of a person who may do everything.
    pub client: Controller,
    /// The controller's URL.
    pub url: String,
    /// The person's token, in a file.
    pub token_file: PathBuf,
    options: Options,
    trees: TempDir,
    state: TempDir,
}

impl Cluster {
    /// Starts it, and returns when every daemon is connected.
    ///
    /// # Panics
    /// Something does not start.
    pub async fn start(options: Options) -> Self {
        let trees = directory(options.trees.as_deref());
        let state = directory(options.state.as_deref());
        let base = state.path().to_owned();
        fs::create_dir(base.join("runtimes")).expect("made");
        let runtime = "apiVersion: runtimed.dev/v1alpha1\nkind: Runtime\nmetadata: { name: test }\nspec:\n  namespaces: [\"*\"]\n  ceiling: { network: Full, watch: true, localPaths: [\"/\"] }\n";
        fs::write(base.join("runtimes/test.yaml"), runtime).expect("written");
        let (person, daemon) = ("person-token-of-a-test", "daemon-token-of-a-test");
        let tokens = format!(
            "[[people]]\nhash = \"{}\"\nsubject = \"tester\"\nnamespaces = [\"*\"]\nrole = \"admin\"\n\n[[daemons]]\nhash = \"{}\"\nruntime = \"test\"\n",
            Digest::of(person.as_bytes()),
            Digest::of(daemon.as_bytes())
        );
        fs::write(base.join("tokens.toml"), tokens).expect("written");
        fs::write(base.join("person.token"), person).expect("written");
        fs::write(base.join("daemon.token"), daemon).expect("written");
        own(&base.join("controller"));
        let (controller, url) = start_controller(&base, &options, "127.0.0.1:0");
        let endpoint = Endpoint::new(&url);
        let client =
            Controller::new(&endpoint).expect("a client").with_token(SecretText::new(person.to_owned()));
        let token_file = base.join("person.token");
        let mut cluster = Self {
            daemons: Vec::new(),
            controller: Some(controller),
            client,
            url,
            token_file,
            options,
            trees,
            state,
        };
        for _ in 0..cluster.options.daemons {
            let url = cluster.url.clone();
            cluster.add_daemon(&url);
        }
        cluster
    }

    /// Starts one more daemon, which reaches the controller at `url`. Returns its index.
    pub fn add_daemon(&mut self, url: &str) -> usize {
        let index = self.daemons.len();
        self.configure_daemon(index, url);
        let server = self.start_daemon(index);
        self.daemons.push(Some(server));
        index
    }

    fn configure_daemon(&self, index: usize, url: &str) {
        let trees = self.trees.path().join(index.to_string());
        for root in ["tmp", "home", "workspace"] {
            let path = trees.join(root);
            fs::create_dir_all(&path).expect("made");
            // As a kubelet makes an EmptyDir: anyone may write, and directories inherit the group.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o2777)).expect("set");
        }
        own(&self.state_dir(index));
        let config = format!(
            "runtime = \"test\"\nname = \"daemon-{index}\"\nslots = {}\n{}\n[roots]\ntmp = \"{trees}/tmp\"\nhome = \"{trees}/home\"\nworkspace = \"{trees}/workspace\"\n[state]\ndir = \"{}\"\n[controller]\nurl = \"{}\"\ntoken_file = \"{}\"\n{keys}[http]\nlisten = \"127.0.0.1:0\"\ntokens_file = \"{base}/tokens.toml\"\nmetrics_token_file = \"{base}/person.token\"\n[worker]\npath = \"{}\"\n[ceiling]\nnetwork = \"Full\"\nwatch = true\nlocalPaths = [\"/\"]\n",
            self.options.slots,
            self.options.runtime_toml,
            self.state_dir(index).display(),
            url,
            self.state.path().join("daemon.token").display(),
            binaries::path("runtimed-worker").display(),
            trees = trees.display(),
            keys = self.keys_line(),
            base = self.state.path().display(),
        );
        let store = self.options.store.as_ref().map(|store| format!("[store]\n{store}")).unwrap_or_default();
        fs::write(self.state.path().join(format!("runtime-{index}.toml")), config + &store).expect("written");
    }

    fn keys_line(&self) -> String {
        let Some(keys) = &self.options.keys else { return String::new() };
        let path = self.state.path().join("keys.json");
        fs::write(&path, keys).expect("written");
        format!("keys_file = \"{}\"\n", path.display())
    }

    /// The state directory of a daemon.
    #[must_use]
    pub fn state_dir(&self, index: usize) -> PathBuf {
        self.state.path().join(format!("daemon-{index}"))
    }

    fn start_daemon(&self, index: usize) -> Server {
        let config = self.state.path().join(format!("runtime-{index}.toml"));
        let mut start = command(binaries::path("runtimed"));
        start.args(["serve", "--until-stdin-closes", "--config"]).arg(config);
        start.envs(self.options.daemon_env.iter().copied());
        Server::start(&format!("daemon {index}"), &mut start)
    }

    /// One of the daemons.
    ///
    /// # Panics
    /// It is not running.
    pub fn daemon(&mut self, index: usize) -> &mut Server {
        self.daemons[index].as_mut().expect("the daemon runs")
    }

    /// One of the daemons, if it was not ended by a kill.
    pub fn daemon_if_there(&mut self, index: usize) -> Option<&mut Server> {
        self.daemons.get_mut(index)?.as_mut()
    }

    /// What each server has said, the last of it.
    #[must_use]
    pub fn all_said(&self) -> Vec<(String, String)> {
        let servers = self.daemons.iter().flatten().chain(&self.controller);
        servers.map(|server| (server.name().to_owned(), server.said_last())).collect()
    }

    /// The configuration of a daemon.
    #[must_use]
    pub fn config(&self, index: usize) -> PathBuf {
        self.state.path().join(format!("runtime-{index}.toml"))
    }

    /// The files of daemons and controller, and of the trees, that hold these bytes; those that go away meanwhile hold none.
    ///
    /// # Panics
    /// A file that is there cannot be read.
    #[must_use]
    pub fn files_with(&self, bytes: &[u8]) -> Vec<PathBuf> {
        let mut pending = vec![self.state.path().to_owned(), self.trees.path().to_owned()];
        let mut found = Vec::new();
        while let Some(path) = pending.pop() {
            let read = if path.is_dir() {
                fs::read_dir(&path).map(|entries| {
                    pending.extend(entries.flatten().map(|entry| entry.path()));
                    false
                })
            } else {
                fs::read(&path).map(|held| held.windows(bytes.len()).any(|window| window == bytes))
            };
            match read {
                Ok(true) => found.push(path),
                Ok(false) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => panic!("{}: {error}", path.display()),
            }
        }
        found
    }

    /// The address of a daemon's own endpoints, as it says itself.
    ///
    /// # Panics
    /// It has not said it.
    #[must_use]
    pub fn address(&self, index: usize) -> String {
        let said = self.daemons[index].as_ref().expect("the daemon runs").said();
        let (_, rest) = said.split_once("\"address\":\"http://").expect("it says its address");
        rest.split('"').next().unwrap_or_default().to_owned()
    }

    /// The directory in which a daemon's state is, which Runs may know.
    #[must_use]
    pub fn state_place(&self, index: usize) -> PathBuf {
        self.state_dir(index)
    }

    /// The person's token, which also opens the metrics.
    ///
    /// # Panics
    /// Its file is gone.
    #[must_use]
    pub fn token(&self) -> String {
        fs::read_to_string(&self.token_file).expect("a token")
    }

    /// What a daemon's own endpoints answer, headers and body.
    ///
    /// # Panics
    /// The daemon does not answer.
    #[must_use]
    pub fn get(&self, index: usize, path: &str, token: &str) -> String {
        let mut stream = std::net::TcpStream::connect(self.address(index)).expect("connects");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
    }

    /// Waits until a daemon has said this in its log.
    ///
    /// # Panics
    /// It does not within half a minute.
    pub async fn until_daemon_said(&self, index: usize, words: &str) {
        let said = || self.daemons[index].as_ref().expect("the daemon runs").said();
        until(&format!("daemon {index} to say {words:?}"), || said().contains(words)).await;
    }

    /// Waits until a daemon is ready for Runs.
    ///
    /// # Panics
    /// It is not within half a minute.
    pub async fn until_ready(&self, index: usize) {
        self.until_daemon_said(index, "ready to lease").await;
        until("a daemon to be ready", || self.get(index, "/readyz", "").starts_with("HTTP/1.1 200")).await;
    }

    /// Kills a daemon without a word, if it runs.
    pub fn kill_daemon(&mut self, index: usize) {
        drop(self.daemons[index].take());
    }

    /// Kills the controller without a word, if it runs.
    pub fn kill_controller(&mut self) {
        drop(self.controller.take());
    }

    /// The controller, if it runs.
    pub fn controller(&mut self) -> Option<&mut Server> {
        self.controller.as_mut()
    }

    /// The data directory of the controller.
    #[must_use]
    pub fn controller_dir(&self) -> PathBuf {
        self.state.path().join("controller")
    }

    /// Starts a controller on the directory of the one before, and any free port.
    ///
    /// # Errors
    /// It does not come up, as on a full disk.
    ///
    /// # Panics
    /// What it prints first is no address.
    pub fn revive_controller(&mut self) -> Result<String, String> {
        drop(self.controller.take());
        let (controller, url) = try_start_controller(self.state.path(), &self.options, "127.0.0.1:0")?;
        self.controller = Some(controller);
        self.url.clone_from(&url);
        Ok(url)
    }

    /// Starts a daemon again, after it has ended.
    pub fn restart_daemon(&mut self, index: usize) {
        drop(self.daemons[index].take());
        let server = self.start_daemon(index);
        self.daemons[index] = Some(server);
    }

    /// Kills the controller and starts it again on the same address and directory.
    pub fn restart_controller(&mut self) {
        drop(self.controller.take());
        let address = self.url.trim_start_matches("http://").to_owned();
        let (controller, _url) = start_controller(self.state.path(), &self.options, &address);
        self.controller = Some(controller);
    }

    /// The controller's directory.
    #[must_use]
    pub fn controller_data(&self) -> PathBuf {
        self.state.path().join("controller")
    }

    /// Stops the controller, has `edit` change what it keeps, and starts it again on the same address.
    ///
    /// # Panics
    /// Its database cannot be opened.
    pub fn edit_controller(&mut self, edit: impl FnOnce(&rusqlite::Connection)) {
        drop(self.controller.take());
        let database = rusqlite::Connection::open(self.controller_data().join("controller.db"));
        let database = database.expect("the database opens");
        edit(&database);
        database.close().expect("the database closes");
        self.restart_controller();
    }

    /// Submits a Run with secrets.
    ///
    /// # Panics
    /// It is not taken.
    pub async fn submit(&self, run: Run, secrets: &[(&str, &str)]) -> RunName {
        let value = |text: &str| SecretValue::new(text.as_bytes().to_vec());
        let secrets =
            secrets.iter().map(|(name, text)| (name.parse().expect("a name"), value(text))).collect();
        let submission = Submission { run, secrets };
        let taken = self.client.submit(&namespace(), &submission).await.expect("the Run is taken");
        taken.metadata.name.expect("a stored Run has a name")
    }

    /// Waits for the end of a Run.
    ///
    /// # Panics
    /// It does not come within a minute.
    pub async fn end(&self, name: &RunName) -> Run {
        self.until(name, |run| phase(run).is_terminal()).await
    }

    /// Waits until a Run is as wanted.
    ///
    /// # Panics
    /// It does not come to that within a minute.
    pub async fn until(&self, name: &RunName, wanted: impl Fn(&Run) -> bool) -> Run {
        let watch = async {
            let mut events = self.client.events(&namespace(), name).await.expect("events");
            let mut last = None;
            while let Some(run) = events.next().await {
                let run = run.expect("an event");
                if wanted(&run) {
                    return run;
                }
                last = Some(run);
            }
            panic!("the events of {name} ended at {last:?}");
        };
        match tokio::time::timeout(Duration::from_secs(60), watch).await {
            Ok(run) => run,
            Err(_) => panic!("{name} waits too long: {:?}", self.client.get(&namespace(), name).await),
        }
    }

    /// Waits until the command of a Run has printed something.
    ///
    /// # Panics
    /// It prints nothing.
    pub async fn until_printed(&self, name: &RunName) {
        let query = LogQuery { follow: true, ..LogQuery::default() };
        let mut events = self.client.logs(&namespace(), name, &query).await.expect("a log");
        let first = tokio::time::timeout(Duration::from_secs(60), events.next()).await;
        first.expect("in time").expect("before its end").expect("an event");
    }

    /// Submits a Run and waits for its end.
    pub async fn run(&self, run: Run) -> Run {
        let name = self.submit(run, &[]).await;
        self.end(&name).await
    }

    /// The log of a Run that is over, both streams as they came.
    ///
    /// # Panics
    /// It cannot be read.
    pub async fn log(&self, name: &RunName) -> String {
        let events = self.client.logs(&namespace(), name, &LogQuery::default()).await.expect("a log");
        let events: Vec<_> = events.try_collect().await.expect("events");
        let bytes: Vec<u8> = events.iter().flat_map(runtimed_api::log::LogEvent::bytes).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What is left in the three roots of every daemon.
    #[must_use]
    pub fn left_in_roots(&self) -> Vec<PathBuf> {
        let mut left = Vec::new();
        for index in 0..self.daemons.len() {
            for root in ["tmp", "home", "workspace"] {
                let path = self.trees.path().join(index.to_string()).join(root);
                left.extend(fs::read_dir(path).expect("a root").flatten().map(|entry| entry.path()));
            }
        }
        left
    }

    /// The three roots of a daemon.
    #[must_use]
    pub fn roots(&self, index: usize) -> PathBuf {
        self.trees.path().join(index.to_string())
    }

    /// Drains every daemon, and says what is left in their roots and state.
    ///
    /// # Panics
    /// A daemon does not drain in order.
    pub fn drain(&mut self) -> Vec<PathBuf> {
        self.try_drain().unwrap_or_else(|why| panic!("{why}"))
    }

    /// Drains every daemon, and says what is left in their roots and state.
    ///
    /// # Errors
    /// A daemon does not drain in order.
    ///
    /// # Panics
    /// A directory cannot be listed.
    pub fn try_drain(&mut self) -> Result<Vec<PathBuf>, String> {
        for server in self.daemons.iter_mut().flatten() {
            server.signal(rustix::process::Signal::TERM);
        }
        for server in self.daemons.iter_mut().flatten() {
            let status = server.wait(Duration::from_secs(60));
            if !status.success() {
                return Err(format!("{} drained with {status}: {}", server.name(), server.said()));
            }
        }
        let mut left = self.left_in_roots();
        for index in 0..self.daemons.len() {
            // The state has a random name in its place; directories in it are spools, but for the mirrors, which are kept for the
            // next start, within their bound.
            // With the exclusive tier the trees are beside it.
            let (trees, states): (Vec<_>, Vec<_>) = directories(&self.state_dir(index))
                .into_iter()
                .partition(|path| path.to_string_lossy().contains("/exclusive-"));
            left.extend(trees.iter().flat_map(|root| directories(root)));
            let spools = states.iter().flat_map(|state| directories(state));
            left.extend(spools.filter(|path| !path.ends_with("mirrors")));
        }
        Ok(left)
    }
}

fn start_controller(base: &Path, options: &Options, listen: &str) -> (Server, String) {
    try_start_controller(base, options, listen).unwrap_or_else(|why| panic!("{why}"))
}

fn try_start_controller(base: &Path, options: &Options, listen: &str) -> Result<(Server, String), String> {
    let mut start = command(binaries::path("runtimed-controller"));
    start
        .args(["serve", "--listen", listen, "--lease", options.lease, "--data"])
        .arg(base.join("controller"));
    if let Some(store) = &options.store {
        fs::write(base.join("store.toml"), store).expect("written");
        start.arg("--store").arg(base.join("store.toml"));
    }
    start.arg("--tokens").arg(base.join("tokens.toml")).arg("--runtimes").arg(base.join("runtimes"));
    let mut controller = Server::start("the controller", &mut start);
    let line: serde_json::Value = serde_json::from_str(&controller.first_line()?).expect("a line of JSON");
    let url = line["listening"].as_str().expect("the address").to_owned();
    Ok((controller, url))
}

/// Looks until it is so, at most half a minute.
async fn until(what: &str, so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !so() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn directories(place: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(place).expect("it can be listed");
    entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// A directory that others may enter, as the unprivileged uid must.
fn directory(parent: Option<&Path>) -> TempDir {
    let made = match parent {
        Some(parent) => TempDir::with_prefix_in("runtimed-test-", parent),
        None => TempDir::with_prefix("runtimed-test-"),
    };
    let dir = made.expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("set");
    dir
}

/// Makes a directory that belongs to the servers.
///
/// # Panics
/// It cannot be made.
pub fn own(path: &Path) {
    fs::create_dir_all(path).expect("made");
    if rustix::process::geteuid().is_root() {
        chown(path, Some(UNPRIVILEGED), Some(UNPRIVILEGED)).expect("owned");
    }
}

/// Waits until something holds that nothing tells of.
///
/// # Panics
/// It does not within a minute; `what` says what was waited for.
pub async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let wait = async {
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        while !holds().await {
            looks.tick().await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), wait).await.is_ok(), "{what}");
}

/// The namespace of every test.
///
/// # Panics
/// Never: it is a name.
#[must_use]
pub fn namespace() -> Namespace {
    "default".parse().expect("a namespace")
}

/// The phase of a Run.
///
/// # Panics
/// It has no status.
#[must_use]
pub fn phase(run: &Run) -> Phase {
    run.status.as_ref().expect("a stored Run has a status").phase
}

/// The result of a Run's last attempt.
///
/// # Panics
/// It has none.
#[must_use]
pub fn result(run: &Run) -> &AttemptResult {
    let status = run.status.as_ref().expect("a stored Run has a status");
    let last = status.attempts.last().unwrap_or_else(|| panic!("no attempt: {status:?}"));
    last.result.as_ref().unwrap_or_else(|| panic!("no result: {status:?}"))
}
