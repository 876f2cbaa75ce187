//! A controller and some daemons on loopback.

mod config;
mod leftovers;
mod person;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use runtimed_api::ids::Namespace;
use runtimed_api::run::Run;
use runtimed_api::run::status::{AttemptResult, Phase};
use runtimed_api::session::SecretText;
use runtimed_client::Endpoint;
use runtimed_client::controller::Controller;
use tempfile::TempDir;

use crate::binaries;
use crate::process::{Server, command};
use crate::wait::eventually;

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
    /// The uid of the daemons, if the test is root's; [`UNPRIVILEGED`] without it.
    pub daemon_uid: Option<u32>,
    /// Where the trees are; a directory on disk without it.
    pub trees: Option<PathBuf>,
    /// Where daemons and controller keep their state; a directory on disk without it.
    pub state: Option<PathBuf>,
    /// The controller's keys that the daemons trust, as JSON; the controller's own word without it.
    pub keys: Option<String>,
    /// The words of a store that daemons and controller share.
    pub store: Option<String>,
    /// The controller alone has that store.
    pub through_controller: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            daemons: 1,
            slots: 2,
            runtime_toml: String::new(),
            lease: "15s",
            daemon_env: Vec::new(),
            daemon_uid: None,
            trees: None,
            state: None,
            keys: None,
            store: None,
            through_controller: false,
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
    programs: Option<TempDir>,
}

impl Cluster {
    /// Starts it, and returns when every daemon is connected.
    ///
    /// # Panics
    /// Something does not start.
    pub async fn start(options: Options) -> Self {
        let trees = directory(options.trees.as_deref());
        let state = directory(options.state.as_deref());
        let programs = options.daemon_uid.map(|_| directory(None));
        let base = state.path().to_owned();
        config::write(&base);
        own(&base.join("controller"));
        let (controller, url) = start_controller(&base, &options, "127.0.0.1:0");
        let endpoint = Endpoint::new(&url);
        let client = Controller::new(&endpoint)
            .expect("a client")
            .with_token(SecretText::new(config::PERSON.to_owned()));
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
            programs,
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

    /// The state directory of a daemon.
    #[must_use]
    pub fn state_dir(&self, index: usize) -> PathBuf {
        self.state.path().join(format!("daemon-{index}"))
    }

    fn start_daemon(&self, index: usize) -> Server {
        let mut start = match self.options.daemon_uid {
            Some(uid) if rustix::process::geteuid().is_root() => {
                let mut start = command("setpriv");
                let uid = uid.to_string();
                start.args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "--"]);
                start.arg(self.daemon_program("runtimed"));
                start
            }
            _ => command(self.daemon_program("runtimed")),
        };
        start.args(["serve", "--until-stdin-closes", "--config"]).arg(self.config(index));
        start.envs(self.options.daemon_env.iter().copied());
        Server::start(&format!("daemon {index}"), &mut start)
    }

    /// A program of the daemons: under a uid of their own, a copy where that uid can reach it.
    fn daemon_program(&self, name: &str) -> PathBuf {
        let built = binaries::path(name);
        let Some(programs) = &self.programs else { return built };
        let copy = programs.path().join(name);
        if !copy.exists() {
            fs::hard_link(&built, &copy).or_else(|_| fs::copy(built, &copy).map(drop)).expect("copied");
        }
        copy
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

    /// What a daemon's own endpoints answer, headers and body.
    ///
    /// # Panics
    /// The daemon does not answer.
    #[must_use]
    pub fn get(&self, index: usize, path: &str, token: &str) -> String {
        ask(&self.address(index), path, token)
    }

    /// What the controller answers to a person, headers and body.
    ///
    /// # Panics
    /// The controller does not answer.
    #[must_use]
    pub fn ask_controller(&self, path: &str) -> String {
        ask(self.url.trim_start_matches("http://"), path, &self.token())
    }

    /// What a daemon's own log has so far.
    ///
    /// # Panics
    /// It does not run.
    #[must_use]
    pub fn said(&self, index: usize) -> String {
        self.daemons[index].as_ref().expect("the daemon runs").said()
    }

    /// Waits until a daemon has said this in its log.
    ///
    /// # Panics
    /// It does not within a minute.
    pub async fn until_daemon_said(&self, index: usize, words: &str) {
        let said = || self.daemons[index].as_ref().expect("the daemon runs").said();
        eventually(&format!("daemon {index} to say {words:?}"), async || said().contains(words)).await;
    }

    /// Waits until a daemon is ready for Runs.
    ///
    /// # Panics
    /// It is not within a minute.
    pub async fn until_ready(&self, index: usize) {
        self.until_daemon_said(index, "ready to lease").await;
        let answers = async || self.get(index, "/readyz", "").starts_with("HTTP/1.1 200");
        eventually("a daemon to be ready", answers).await;
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

    /// Stops the controller, has `edit` change what it keeps, and starts it again on the same address.
    ///
    /// # Panics
    /// Its database cannot be opened.
    pub fn edit_controller(&mut self, edit: impl FnOnce(&rusqlite::Connection)) {
        drop(self.controller.take());
        let database = rusqlite::Connection::open(self.controller_dir().join("controller.db"));
        let database = database.expect("the database opens");
        edit(&database);
        database.close().expect("the database closes");
        self.restart_controller();
    }

    /// The three roots of a daemon.
    #[must_use]
    pub fn roots(&self, index: usize) -> PathBuf {
        self.trees.path().join(index.to_string())
    }
}

/// What a server answers to a `GET`, headers and body.
fn ask(address: &str, path: &str, token: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address).expect("connects");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    answer
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
    own_as(path, UNPRIVILEGED);
}

/// Makes a directory that belongs to a server of this uid, if it is started as root.
fn own_as(path: &Path, uid: u32) {
    fs::create_dir_all(path).expect("made");
    if rustix::process::geteuid().is_root() {
        chown(path, Some(uid), Some(uid)).expect("owned");
    }
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
