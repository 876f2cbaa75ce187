//! Who may do what: the file of tokens' hashes, the same for controller and daemon.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::ids::{Namespace, RuntimeName};

/// The file of tokens. It holds hashes alone: `printf %s TOKEN | sha256sum` makes one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    /// People's and agents'.
    #[serde(default)]
    pub people: Vec<PersonToken>,
    /// Daemons'.
    #[serde(default)]
    pub daemons: Vec<DaemonToken>,
}

/// A person's or an agent's token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PersonToken {
    /// Of the token's text.
    pub hash: Digest,
    /// Who it is; `status.requestedBy` shows it.
    pub subject: String,
    /// Where; `["*"]` is everywhere.
    pub namespaces: Vec<String>,
    /// With which Runtimes; `["*"]`, the default, is all.
    #[serde(default = "everything")]
    pub runtimes: Vec<String>,
    /// What.
    pub role: Role,
}

/// A daemon's token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DaemonToken {
    /// Of the token's text.
    pub hash: Digest,
    /// The Runtime whose Runs it may lease.
    pub runtime: RuntimeName,
}

/// What a person may do. Each role may do what the one before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Look.
    Observer,
    /// Submit and cancel.
    Submitter,
    /// Everything.
    Admin,
}

fn everything() -> Vec<String> {
    vec!["*".to_owned()]
}

impl Tokens {
    /// The person whose token this is. The comparison is of hashes, so its timing tells nothing of a token.
    #[must_use]
    pub fn person(&self, token: &str) -> Option<&PersonToken> {
        let hash = Digest::of(token.as_bytes());
        self.people.iter().find(|person| person.hash == hash)
    }

    /// The daemon whose token this is.
    #[must_use]
    pub fn daemon(&self, token: &str) -> Option<&DaemonToken> {
        let hash = Digest::of(token.as_bytes());
        self.daemons.iter().find(|daemon| daemon.hash == hash)
    }
}

impl PersonToken {
    /// Whether the token is good for this namespace.
    #[must_use]
    pub fn may_use(&self, namespace: &Namespace) -> bool {
        self.namespaces.iter().any(|allowed| allowed == "*" || allowed == namespace.as_str())
    }

    /// Whether the token is good for this Runtime.
    #[must_use]
    pub fn may_run_on(&self, runtime: &RuntimeName) -> bool {
        self.runtimes.iter().any(|allowed| allowed == "*" || allowed == runtime.as_str())
    }
}
