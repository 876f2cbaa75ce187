//! `runtime.toml`: what the pod is told about itself.
//!
//! Flags are over the environment, which is over the file, which is over what is built in; [`layers`] joins them.

mod check;
pub mod layers;
mod tables;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use runtimed_api::ids::{DaemonName, RuntimeName, SecretName};
use runtimed_api::runtime::{Ceiling, Defaults, PatchPolicy};
use runtimed_store::StoreConfig;
use serde::{Deserialize, Serialize};

use layers::{Effective, Overlay};

pub use tables::{
    Capacity, Controller, Drain, Http, LogOutput, Logs, Mirror, Proxy, Roots, RunSettings, Sandbox, Secret,
    SecretKind, Selftest, State, TierChoice, Tls, Upload, Worker,
};

/// The whole configuration. Unknown keys are errors.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The Runtime whose Runs it leases.
    pub runtime: RuntimeName,
    /// The daemon's name; the host's name, which in a pod is the pod's, without it.
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
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    pub(super) fn read(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("runtime.toml");
        fs::write(&path, text).expect("written");
        Config::read(&path, &Overlay::default())
    }

    pub(super) const LEAST: &str =
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
}
