//! `runtime.toml`: what the pod is told about itself.
//!
//! Flags are over the environment, which is over the file, which is over what is built in; [`layers`] joins them.

pub mod layers;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use runtimed_api::duration::Span;
use runtimed_api::https_url::proxy_port;
use runtimed_api::ids::{DaemonName, RuntimeName, SecretName};
use runtimed_api::quantity::Bytes;
use runtimed_api::runtime::{Ceiling, Defaults, PatchPolicy};
use runtimed_store::StoreConfig;
use serde::{Deserialize, Serialize};

use layers::{Effective, Overlay};

use crate::logs::Overflow;

/// The whole configuration. Unknown keys are errors.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The Runtime whose Runs it leases.
    pub runtime: RuntimeName,
    /// The daemon's name; the host's name, which in a pod is the pod's, without it.
    #[serde(default)]
    pub name: Option<DaemonName>,
    /// Runs at once, 1 to 256.
    #[serde(default = "one")]
    pub slots: u32,
    /// The three writable directories.
    #[serde(default)]
    pub roots: Roots,
    /// Where the daemon keeps its own state.
    #[serde(default)]
    pub state: State,
    /// Who gives it work; only a job that was given its Run can do without.
    #[serde(default)]
    pub controller: Option<Controller>,
    /// Its own endpoints.
    #[serde(default)]
    pub http: Http,
    /// The worker's executable.
    #[serde(default)]
    pub worker: Worker,
    /// How Runs are set apart.
    #[serde(default)]
    pub sandbox: Sandbox,
    /// What every command gets.
    #[serde(default)]
    pub run: RunSettings,
    /// What a Run gets that does not say. The words are those of a Runtime's `spec.defaults`.
    #[serde(default)]
    pub defaults: Defaults,
    /// What a Run may ask for at most. The words are those of a Runtime's `spec.ceiling`.
    #[serde(default)]
    pub ceiling: Ceiling,
    /// Which prior patches are taken. The words are those of a Runtime's `spec.patches`.
    #[serde(default)]
    pub patches: PatchPolicy,
    /// Secrets that Runs may ask for.
    #[serde(default)]
    pub secrets: BTreeMap<SecretName, Secret>,
    /// Further names for variables that we set: alias to our name.
    #[serde(default)]
    pub aliases: BTreeMap<String, String>,
    /// What every https connection trusts.
    #[serde(default)]
    pub tls: Tls,
    /// Through what sources are reached.
    #[serde(default)]
    pub proxy: Proxy,
    /// What fetches of git repositories keep for later ones.
    #[serde(default)]
    pub mirror: Mirror,
    /// What happens at the end.
    #[serde(default)]
    pub drain: Drain,
    /// What becomes of results.
    #[serde(default)]
    pub upload: Upload,
    /// Where the daemon puts results itself, to the store that its controller has; through the controller without it.
    #[serde(default)]
    pub store: Option<StoreConfig>,
    /// What becomes of logs.
    #[serde(default)]
    pub logs: Logs,
    /// What is tried before the first Run.
    #[serde(default)]
    pub selftest: Selftest,
    /// What the pod has for its Runs together.
    #[serde(default)]
    pub capacity: Capacity,
}

/// The three writable directories of a pod.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Roots {
    /// `/tmp` without it.
    #[serde(default = "Roots::tmp")]
    pub tmp: PathBuf,
    /// `/home/worker` without it.
    #[serde(default = "Roots::home")]
    pub home: PathBuf,
    /// `/workspace` without it.
    #[serde(default = "Roots::workspace")]
    pub workspace: PathBuf,
}

impl Roots {
    fn tmp() -> PathBuf {
        "/tmp".into()
    }

    fn home() -> PathBuf {
        "/home/worker".into()
    }

    fn workspace() -> PathBuf {
        "/workspace".into()
    }
}

impl Default for Roots {
    fn default() -> Self {
        Self { tmp: Self::tmp(), home: Self::home(), workspace: Self::workspace() }
    }
}

/// Where the daemon keeps its own state.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// A directory that is the daemon's own; a randomly named one in the workspace root without it.
    #[serde(default)]
    pub dir: Option<PathBuf>,
}

/// Who gives the daemon work.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Controller {
    /// `https://…`, or `http://` on loopback.
    pub url: String,
    /// The file that holds the daemon's token.
    pub token_file: PathBuf,
    /// Certificate authorities instead of the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The public keys that statements about patches are held to, as `GET /v1/keys` gives them; those that the controller
    /// names itself without it.
    #[serde(default)]
    pub keys_file: Option<PathBuf>,
}

/// The daemon's own endpoints.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// `127.0.0.1:8410` without it. Off loopback it needs a certificate.
    #[serde(default = "Http::default_listen")]
    pub listen: SocketAddr,
    /// A certificate chain, PEM.
    #[serde(default)]
    pub tls_cert: Option<PathBuf>,
    /// Its key, PEM.
    #[serde(default)]
    pub tls_key: Option<PathBuf>,
    /// Hashes of people's tokens; without it only per-attempt tokens open anything.
    #[serde(default)]
    pub tokens_file: Option<PathBuf>,
    /// The file that holds the token for `/metrics`; without it nobody reads them.
    #[serde(default)]
    pub metrics_token_file: Option<PathBuf>,
    /// Where others reach it, if not at `listen`.
    #[serde(default)]
    pub address: Option<String>,
}

impl Http {
    fn default_listen() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 8410))
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: Self::default_listen(),
            tls_cert: None,
            tls_key: None,
            tokens_file: None,
            metrics_token_file: None,
            address: None,
        }
    }
}

/// The worker's executable.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Worker {
    /// Beside the daemon's, then in PATH, without it.
    #[serde(default)]
    pub path: Option<PathBuf>,
}

/// How Runs are set apart.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Sandbox {
    /// By which means; `Auto` without it.
    #[serde(default)]
    pub tier: TierChoice,
}

/// By which means Runs are set apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum TierChoice {
    /// `Namespaces` where the pod allows them; else `Exclusive` where a pod of one slot has its state on a mount of its own,
    /// and the three directories are mounts that hold nothing; else `Base`.
    #[default]
    Auto,
    /// Landlock, seccomp and limits.
    Base,
    /// Base, with a view of its own for each Run. The daemon does not start where the pod does not allow it.
    Namespaces,
    /// Base, with the three directories whole for the only Run: they are emptied before and after it. The daemon does not
    /// start where slots are not 1, or where something of its own lies in them.
    Exclusive,
}

/// What every command gets.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RunSettings {
    /// Variables for every command.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Variables of the daemon's environment that every command gets, such as `JAVA_HOME`.
    #[serde(default)]
    pub pass_env: Vec<String>,
    /// Directories that every command may read and execute; the image's own without it.
    #[serde(default)]
    pub read: Option<Vec<String>>,
    /// Files of `/proc` and `/sys` beyond the built-in list.
    #[serde(default)]
    pub proc_files: Vec<String>,
}

/// A secret that Runs may ask for.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// `file:/path`, or `dir:/path` for a git credential.
    pub source: String,
    /// Who may use it; nobody without it. `["*"]` is every namespace.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// What it is.
    #[serde(default)]
    pub kind: SecretKind,
    /// For a git credential: the hosts it may be shown to.
    #[serde(default)]
    pub hosts: Vec<String>,
}

/// What a secret is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretKind {
    /// Bytes for the command.
    #[default]
    Opaque,
    /// `username` and `password` (or `token`) for git and archives over https; for the fetch alone.
    GitHttps,
    /// `ssh-privatekey` (or `key`) and `known_hosts` for git over ssh; for the fetch alone.
    GitSsh,
}

/// What every https connection of the daemon and its fetches trusts.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Certificate authorities instead of the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

/// Through what https sources are reached.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Proxy {
    /// `http://host:port`, without a login. Without it `HTTPS_PROXY` and `NO_PROXY` of the daemon's environment count.
    #[serde(default)]
    pub url: Option<String>,
    /// Hosts that are reached directly: `git.example` with all below it, or `*`.
    #[serde(default)]
    pub no_proxy: Vec<String>,
    /// Whether sources over ssh are reached through it as well. Many proxies lead to no port but 443.
    #[serde(default)]
    pub ssh: bool,
}

/// What fetches of git repositories keep for later ones.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// Bytes of all of it; 1Gi without it, and 0 keeps nothing.
    #[serde(default = "Mirror::default_max")]
    pub max: Bytes,
}

impl Mirror {
    fn default_max() -> Bytes {
        Bytes::mib(1024)
    }
}

impl Default for Mirror {
    fn default() -> Self {
        Self { max: Self::default_max() }
    }
}

/// What the pod has for its Runs together; what its cgroup allows without it.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Capacity {
    /// Memory, in bytes.
    #[serde(default)]
    pub memory: Option<Bytes>,
    /// Processes and threads.
    #[serde(default)]
    pub processes: Option<u32>,
    /// Disk of all trees, in bytes: an `EmptyDir` does not show the size that it was given.
    #[serde(default)]
    pub disk: Option<Bytes>,
}

/// What happens at the end.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// How long running Runs may go on; 15s without it.
    #[serde(default = "Drain::default_grace")]
    pub grace: Span,
    /// How long after that killing, capture, scrub, uploads and reports may take; 12s without it. With the grace it must
    /// fit in the pod's own grace period, which is 30 s where nobody sets it.
    #[serde(default = "Drain::default_finish")]
    pub finish: Span,
}

impl Drain {
    fn default_grace() -> Span {
        Span::from_secs(15)
    }

    fn default_finish() -> Span {
        Span::from_secs(12)
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self { grace: Self::default_grace(), finish: Self::default_finish() }
    }
}

/// What becomes of results.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Upload {
    /// How long a finished Run waits for its store; 15m without it.
    #[serde(default = "Upload::default_deadline")]
    pub deadline: Span,
}

impl Upload {
    fn default_deadline() -> Span {
        Span::from_secs(900)
    }
}

impl Default for Upload {
    fn default() -> Self {
        Self { deadline: Self::default_deadline() }
    }
}

/// What becomes of logs.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Logs {
    /// Whether they are also written to the daemon's own standard output.
    #[serde(default)]
    pub stdout: LogOutput,
    /// Bytes that all logs may take on the pod's disk together; 2Gi without it.
    #[serde(default = "Logs::default_pod")]
    pub pod: Bytes,
    /// What happens to what is written beyond a bound.
    #[serde(default)]
    pub overflow: Overflow,
}

/// Whether logs are also written to the daemon's own standard output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogOutput {
    /// They are not.
    #[default]
    Off,
    /// Each line as a JSON object.
    Json,
}

impl Logs {
    fn default_pod() -> Bytes {
        Bytes::mib(2048)
    }
}

impl Default for Logs {
    fn default() -> Self {
        Self { stdout: LogOutput::Off, pod: Self::default_pod(), overflow: Overflow::Drop }
    }
}

/// What is tried before the first Run.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Selftest {
    /// The daemon makes the selftest when it starts; without a pass it is not ready and takes no Run.
    #[serde(default)]
    pub required: bool,
}

fn one() -> u32 {
    1
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or cannot be read.
    #[error("cannot read the configuration {path}: {error}; name another with --config")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file does not say what it should.
    #[error("{path}: {why}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A variable or a flag over it does not.
    #[error("{0}")]
    Over(String),
}

impl Config {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// The file cannot be read, is not TOML, has unknown keys, or its values contradict each other.
    pub fn read(path: &Path, over: &Overlay) -> Result<Self, ConfigError> {
        Effective::read(path, over).map(|effective| effective.config)
    }

    /// What https servers of sources are checked with; the system's authorities without it.
    #[must_use]
    pub fn ca_file(&self) -> Option<&Path> {
        let of_the_controller =
            || self.controller.as_ref().and_then(|controller| controller.ca_file.as_ref());
        self.tls.ca_file.as_ref().or_else(of_the_controller).map(PathBuf::as_path)
    }

    fn check(&self) -> Result<(), String> {
        if !(1..=256).contains(&self.slots) {
            return Err(format!("slots = {}: it must be 1 to 256", self.slots));
        }
        if self.http.tls_cert.is_some() != self.http.tls_key.is_some() {
            return Err("[http] tls_cert and tls_key go together".to_owned());
        }
        for root in [&self.roots.tmp, &self.roots.home, &self.roots.workspace] {
            if !root.is_absolute() {
                return Err(format!("[roots] {} is not an absolute path", root.display()));
            }
        }
        if let Some(url) = &self.proxy.url
            && proxy_port(url).is_none()
        {
            return Err("[proxy] url: it is written \"http://host:port\", without a login".to_owned());
        }
        for (name, secret) in &self.secrets {
            let scheme = match secret.kind {
                SecretKind::Opaque => "file:/",
                SecretKind::GitHttps | SecretKind::GitSsh => "dir:/",
            };
            if !secret.source.starts_with(scheme) {
                return Err(format!(
                    "[secrets.{name}] source: a secret of this kind is written \"{scheme}…\""
                ));
            }
            if secret.kind != SecretKind::Opaque && secret.hosts.is_empty() {
                return Err(format!(
                    "[secrets.{name}] hosts: a git credential needs the hosts it may be shown to"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("runtime.toml");
        fs::write(&path, text).expect("written");
        Config::read(&path, &Overlay::default())
    }

    const LEAST: &str =
        "runtime = \"bash\"\n[controller]\nurl = \"http://127.0.0.1:1\"\ntoken_file = \"/t\"\n";

    #[test]
    fn the_least_is_enough() {
        let config = read(LEAST).expect("reads");
        assert_eq!(config.slots, 1);
        assert_eq!(config.roots.tmp, Path::new("/tmp"));
    }

    #[test]
    fn an_unknown_key_is_an_error_with_a_suggestion() {
        let error = read(&format!("slot = 2\n{LEAST}")).expect_err("refused").to_string();
        assert!(error.contains("did you mean `slots`?"), "{error}");
    }

    #[test]
    fn values_that_contradict_each_other_are_errors() {
        for (bad, word) in [
            (format!("slots = 0\n{LEAST}"), "slots"),
            (format!("{LEAST}[http]\ntls_cert = \"/c\"\n"), "tls_key"),
            (format!("{LEAST}[secrets.a]\nsource = \"/x\"\n"), "secrets.a"),
            (format!("{LEAST}[secrets.a]\nsource = \"dir:/x\"\nkind = \"git-https\"\n"), "hosts"),
            (format!("{LEAST}[roots]\ntmp = \"tmp\"\n"), "absolute"),
        ] {
            let error = read(&bad).expect_err("refused").to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
