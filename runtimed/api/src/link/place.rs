//! The trees of an attempt: where they are, what is in them, and where a command finds it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use crate::enforcement::Tier;

/// The three private trees of one attempt: absolute paths. See [`layout`] for what is in them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Trees {
    /// On `/tmp`; with [`Tier::Exclusive`] all three are where the daemon's state is.
    pub tmp: String,
    /// On `/home/worker`.
    pub home: String,
    /// On `/workspace`.
    pub workspace: String,
    /// With [`Tier::Exclusive`]: directories that the command has whole, in the place of some of what is in the trees.
    pub whole: Option<Whole>,
}

/// The pod's three directories, for the only Run in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Whole {
    /// The command's `TMPDIR`: `/tmp`.
    pub tmp: String,
    /// The command's `HOME`: `/home/worker`.
    pub home: String,
    /// The workspace: `/workspace`.
    pub workspace: String,
}

impl Trees {
    /// The command's `TMPDIR`.
    #[must_use]
    pub fn command_tmp(&self) -> PathBuf {
        self.whole.as_ref().map_or_else(|| self.in_tmp(layout::TMP), |whole| PathBuf::from(&whole.tmp))
    }

    /// The command's `HOME`.
    #[must_use]
    pub fn command_home(&self) -> PathBuf {
        self.whole.as_ref().map_or_else(|| self.in_home(layout::HOME), |whole| PathBuf::from(&whole.home))
    }

    /// The workspace.
    #[must_use]
    pub fn command_workspace(&self) -> PathBuf {
        let within = || self.in_workspace(layout::WORKSPACE);
        self.whole.as_ref().map_or_else(within, |whole| PathBuf::from(&whole.workspace))
    }

    /// What has this name in the tmp tree.
    #[must_use]
    pub fn in_tmp(&self, name: &str) -> PathBuf {
        Path::new(&self.tmp).join(name)
    }

    /// What has this name in the home tree.
    #[must_use]
    pub fn in_home(&self, name: &str) -> PathBuf {
        Path::new(&self.home).join(name)
    }

    /// What has this name in the workspace tree.
    #[must_use]
    pub fn in_workspace(&self, name: &str) -> PathBuf {
        Path::new(&self.workspace).join(name)
    }
}

/// What is in the three trees. The command is granted all but the last, which is the worker's own.
pub mod layout {
    /// In the tmp tree: the command's `TMPDIR`; like [`HOME`] and [`WORKSPACE`] not there with
    /// [`Tier::Exclusive`](crate::enforcement::Tier::Exclusive).
    pub const TMP: &str = "t";
    /// In the tmp tree: staged secrets, 0700.
    pub const STAGED: &str = "s";
    /// In the tmp tree: what a fetch over ssh needs by path, 0700; removed before anything else starts.
    pub const KEYS: &str = "k";
    /// In the tmp tree: the command's `/dev/shm`, with [`crate::enforcement::Tier::Namespaces`].
    pub const SHARED_MEMORY: &str = "m";
    /// In the home tree: the command's `HOME`.
    pub const HOME: &str = "h";
    /// In the workspace tree: the workspace.
    pub const WORKSPACE: &str = "w";
    /// In the workspace tree: the artifacts directory.
    pub const ARTIFACTS: &str = "a";
    /// In the home tree: the directory of the outputs file.
    pub const OUTPUTS_DIR: &str = "o";
    /// In [`OUTPUTS_DIR`]: the outputs file.
    pub const OUTPUTS_FILE: &str = "outputs";
    /// In the workspace tree: what the command is given to read and execute, where it is given something.
    pub const GIVEN: &str = "g";
    /// In [`GIVEN`]: a directory for each Run whose artifacts are inputs, named after it.
    pub const INPUTS: &str = "inputs";
    /// In [`GIVEN`]: the certificate authorities that the daemon trusts, PEM.
    pub const AUTHORITIES: &str = "authorities.pem";
    /// In the workspace tree: the worker's private object store and index. No policy of a command grants it.
    pub const PRIVATE: &str = "p";
}

/// Where a command with a view of its own finds what is in the trees.
pub mod inside {
    /// [`layout::TMP`](super::layout::TMP).
    pub const TMP: &str = "/tmp";
    /// [`layout::SHARED_MEMORY`](super::layout::SHARED_MEMORY).
    pub const SHARED_MEMORY: &str = "/dev/shm";
    /// [`layout::HOME`](super::layout::HOME).
    pub const HOME: &str = "/home/worker";
    /// [`layout::WORKSPACE`](super::layout::WORKSPACE).
    pub const WORKSPACE: &str = "/workspace";
    /// [`layout::STAGED`](super::layout::STAGED).
    pub const STAGED: &str = "/run/runtimed/secrets";
    /// [`layout::ARTIFACTS`](super::layout::ARTIFACTS).
    pub const ARTIFACTS: &str = "/run/runtimed/artifacts";
    /// [`layout::OUTPUTS_DIR`](super::layout::OUTPUTS_DIR).
    pub const OUTPUTS_DIR: &str = "/run/runtimed/outputs";
    /// [`layout::GIVEN`](super::layout::GIVEN).
    pub const GIVEN: &str = "/run/runtimed/given";
}
