//! The tables of the configuration, in the order of [`Config`](super::Config)'s keys.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use runtimed_api::duration::Span;
use runtimed_api::quantity::Bytes;
use serde::{Deserialize, Serialize};

use crate::logs::Overflow;

/// The three writable directories of a pod.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Roots {
    /// `/tmp` without it.
    pub tmp: PathBuf,
    /// `/home/worker` without it.
    pub home: PathBuf,
    /// `/workspace` without it.
    pub workspace: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { tmp: "/tmp".into(), home: "/home/worker".into(), workspace: "/workspace".into() }
    }
}

/// Where the daemon keeps its own state.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// A directory that is the daemon's own; a randomly named one in the workspace root without it.
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
    pub ca_file: Option<PathBuf>,
    /// The public keys that statements about patches are held to, as `GET /v1/keys` gives them; those that the controller
    /// names itself without it.
    pub keys_file: Option<PathBuf>,
}

/// The daemon's own endpoints.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// `127.0.0.1:8410` without it. Off loopback it needs a certificate.
    pub listen: SocketAddr,
    /// A certificate chain, PEM.
    pub tls_cert: Option<PathBuf>,
    /// Its key, PEM.
    pub tls_key: Option<PathBuf>,
    /// Hashes of people's tokens; without it only per-attempt tokens open anything.
    pub tokens_file: Option<PathBuf>,
    /// The file that holds the token for `/metrics`; without it nobody reads them.
    pub metrics_token_file: Option<PathBuf>,
    /// Where others reach it, if not at `listen`.
    pub address: Option<String>,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8410)),
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
    pub path: Option<PathBuf>,
}

/// How Runs are set apart.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sandbox {
    /// By which means; `Auto` without it.
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
#[serde(deny_unknown_fields, default)]
pub struct RunSettings {
    /// Variables for every command.
    pub env: BTreeMap<String, String>,
    /// Variables of the daemon's environment that every command gets, such as `JAVA_HOME`.
    pub pass_env: Vec<String>,
    /// Directories that every command may read and execute; the image's own without it.
    pub read: Option<Vec<String>>,
    /// Files of `/proc` and `/sys` beyond the built-in list.
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
    pub ca_file: Option<PathBuf>,
}

/// Through what sources are reached.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Proxy {
    /// `http://host:port`, without a login. Without it `HTTPS_PROXY` and `NO_PROXY` of the daemon's environment count.
    pub url: Option<String>,
    /// Hosts that are reached directly: `git.example` with all below it, or `*`.
    pub no_proxy: Vec<String>,
    /// Whether sources over ssh are reached through it as well. Many proxies lead to no port but 443.
    pub ssh: bool,
}

/// What fetches of git repositories keep for later ones.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mirror {
    /// Bytes of all of it; 1Gi without it, and 0 keeps nothing.
    pub max: Bytes,
}

impl Default for Mirror {
    fn default() -> Self {
        Self { max: Bytes::mib(1024) }
    }
}

/// What the pod has for its Runs together; what its cgroup allows without it.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Capacity {
    /// Memory, in bytes.
    pub memory: Option<Bytes>,
    /// Processes and threads.
    pub processes: Option<u32>,
    /// Disk of all trees, in bytes: an `EmptyDir` does not show the size that it was given.
    pub disk: Option<Bytes>,
}

/// What happens at the end.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// How long running Runs may go on; 15s without it.
    pub grace: Span,
    /// How long after that killing, capture, scrub, uploads and reports may take; 12s without it. With the grace it must
    /// fit in the pod's own grace period, which is 30 s where nobody sets it.
    pub finish: Span,
}

impl Default for Drain {
    fn default() -> Self {
        Self { grace: Span::from_secs(15), finish: Span::from_secs(12) }
    }
}

/// What becomes of results.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upload {
    /// How long a finished Run waits for its store; 15m without it.
    pub deadline: Span,
}

impl Default for Upload {
    fn default() -> Self {
        Self { deadline: Span::from_secs(900) }
    }
}

/// What becomes of logs.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logs {
    /// Whether they are also written to the daemon's own standard output.
    pub stdout: LogOutput,
    /// Bytes that all logs may take on the pod's disk together; 2Gi without it.
    pub pod: Bytes,
    /// What happens to what is written beyond a bound.
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

impl Default for Logs {
    fn default() -> Self {
        Self { stdout: LogOutput::Off, pod: Bytes::mib(2048), overflow: Overflow::Drop }
    }
}

/// What is tried before the first Run.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Selftest {
    /// The daemon makes the selftest when it starts; without a pass it is not ready and takes no Run.
    pub required: bool,
}
