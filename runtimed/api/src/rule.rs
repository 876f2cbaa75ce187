//! Policy rules. Each has a stable id, which a refusal carries, which documents name, and which never changes meaning.

use std::fmt;

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// The id of a rule: `area.what`, lowercase. Only ids of [`ALL`] exist.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(into = "String")]
#[schemars(with = "String", extend("pattern" = "^[a-z]+\\.[a-z-]+$"))]
pub struct Rule(&'static str);

/// Defines the rules: a constant each, and the table of all.
macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $id:literal;)*) => {
        impl Rule {
            $($(#[$doc])* pub const $name: Self = Self($id);)*
        }

        /// Every rule there is.
        pub const ALL: &[Rule] = &[$(Rule::$name),*];
    };
}

rules! {
    /// A Run needs a command, within bounds, without NUL bytes.
    SPEC_COMMAND = "spec.command";
    /// A Run has exactly one of `name` and `generateName`.
    SPEC_NAME = "spec.name";
    /// Names and values of `env`, within bounds; `RUNTIMED_*` is ours.
    SPEC_ENV = "spec.env";
    /// Labels, within bounds.
    SPEC_LABELS = "spec.labels";
    /// A path leads out of its place: absolute, or with `..`.
    SPEC_PATH = "spec.path";
    /// The status, the uid and the creation time are the controller's.
    SPEC_STATUS = "spec.status";
    /// More items than the bound of a list.
    SPEC_TOO_MANY = "spec.too-many";
    /// An artifact glob that is not one.
    SPEC_GLOB = "spec.glob";
    /// Retry bounds.
    SPEC_RETRY = "spec.retry";
    /// Exactly one kind of source.
    SOURCE_KIND = "source.kind";
    /// A URL that is neither https nor ssh, has credentials in it, or looks like an option.
    SOURCE_URL = "source.url";
    /// A ref that git would not take, or that looks like an option.
    SOURCE_REF = "source.ref";
    /// A local path that the Runtime does not allow.
    SOURCE_LOCAL_PATH = "source.local-path";
    /// The uploaded work tree or archive is not there.
    SOURCE_UNKNOWN = "source.unknown";
    /// The remote has no such branch, tag or commit.
    SOURCE_REF_NOT_FOUND = "source.ref-not-found";
    /// The path given as sub path is not a directory of the source.
    SOURCE_SUB_PATH = "source.sub-path";
    /// Submodules and LFS are not fetched.
    SOURCE_UNSUPPORTED = "source.unsupported";
    /// A credential that is missing, of the wrong kind, or not for that host.
    SOURCE_CREDENTIAL = "source.credential";
    /// An earlier Run whose artifacts are not there.
    SOURCE_ARTIFACTS = "source.artifacts";
    /// An archive that is not the one named.
    ARCHIVE_DIGEST = "archive.digest";
    /// Not an archive of a known form, or a damaged one.
    ARCHIVE_MALFORMED = "archive.malformed";
    /// A path that leads out of the workspace.
    ARCHIVE_TRAVERSAL = "archive.traversal";
    /// `.git`, in any disguise.
    ARCHIVE_DOT_GIT = "archive.dot-git";
    /// A path that no file system, or none of ours, should hold.
    ARCHIVE_PATH_INVALID = "archive.path-invalid";
    /// A symbolic or a hard link.
    ARCHIVE_LINK = "archive.link";
    /// A device, a FIFO, a sparse file, or whatever else is neither file nor directory.
    ARCHIVE_SPECIAL_FILE = "archive.special-file";
    /// A setuid, setgid or sticky file.
    ARCHIVE_MODE = "archive.mode";
    /// A path that is there twice, or is both a file and a directory.
    ARCHIVE_DUPLICATE = "archive.duplicate";
    /// More bytes than allowed.
    ARCHIVE_TOO_LARGE = "archive.too-large";
    /// More entries than allowed.
    ARCHIVE_TOO_MANY_FILES = "archive.too-many-files";
    /// Bytes that grow too much when they are unpacked.
    ARCHIVE_RATIO = "archive.ratio";
    /// More network than the Runtime allows.
    NETWORK_MODE = "network.mode";
    /// A port that the Runtime does not allow, or that is the daemon's own.
    NETWORK_PORT = "network.port";
    /// `ports`, `listen` and `dns` go with `mode: Ports`.
    NETWORK_SHAPE = "network.shape";
    /// `hosts` is reserved.
    NETWORK_HOSTS = "network.hosts";
    /// inotify is not allowed in this Runtime.
    WATCH = "sandbox.watch";
    /// A Run whose artifacts are asked for twice.
    INPUT_TWICE = "input.twice";
    /// A limit above the Runtime's.
    LIMIT_CEILING = "limits.ceiling";
    /// A limit of nothing.
    LIMIT_ZERO = "limits.zero";
    /// A limit above what the pod as a whole has.
    LIMIT_POD = "limits.pod";
    /// A secret that nobody configured or submitted.
    SECRET_UNKNOWN = "secret.unknown";
    /// A secret that this namespace may not use.
    SECRET_NAMESPACE = "secret.namespace";
    /// A secret asked for twice, or two under one file or variable.
    SECRET_TWICE = "secret.twice";
    /// A secret's file or variable name.
    SECRET_NAME = "secret.name";
    /// A namespace that the Runtime does not serve.
    RUNTIME_NAMESPACE = "runtime.namespace";
    /// The Runtime does not exist.
    RUNTIME_UNKNOWN = "runtime.unknown";
    /// The sandbox cannot give a required protection here.
    SANDBOX_UNAVAILABLE = "sandbox.unavailable";
    /// The pod gives another tier than the one that is asked for.
    SANDBOX_TIER = "sandbox.tier";
    /// A grant that reaches what must stay closed.
    SANDBOX_GRANT = "sandbox.grant";
    /// A prior patch that is not there.
    PATCH_UNKNOWN = "patch.unknown";
    /// Exactly one of `run` and `digest`.
    PATCH_KIND = "patch.kind";
    /// The bytes are not the ones named.
    PATCH_DIGEST = "patch.digest";
    /// The Runtime requires a provenance that the patch lacks.
    PATCH_PROVENANCE = "patch.provenance";
    /// The statement about it is not well formed, or is not signed by the key it names.
    PATCH_SIGNATURE = "patch.signature";
    /// The statement about it is signed with a key that is none of the controller's.
    PATCH_KEY_UNKNOWN = "patch.key-unknown";
    /// The statement about it is signed with a key that was replaced too long ago.
    PATCH_KEY_EXPIRED = "patch.key-expired";
    /// The statement about it is for another namespace.
    PATCH_NAMESPACE = "patch.namespace";
    /// Not a patch in git's format.
    PATCH_MALFORMED = "patch.malformed";
    /// More bytes than allowed.
    PATCH_TOO_LARGE = "patch.too-large";
    /// More files than allowed.
    PATCH_TOO_MANY_FILES = "patch.too-many-files";
    /// More patches than allowed.
    PATCH_TOO_MANY = "patch.too-many";
    /// Made for another tree.
    PATCH_BASE_MISMATCH = "patch.base-mismatch";
    /// Applied, it yields another tree than stated.
    PATCH_TREE_MISMATCH = "patch.tree-mismatch";
    /// Its context is not there.
    PATCH_DOES_NOT_APPLY = "patch.does-not-apply";
    /// A path that leads out of the workspace.
    PATCH_TRAVERSAL = "patch.traversal";
    /// `.git`, in any disguise.
    PATCH_PATH_DOT_GIT = "patch.path-dot-git";
    /// A path that no file system, or none of ours, should hold.
    PATCH_PATH_INVALID = "patch.path-invalid";
    /// CI, agent or git configuration that the Runtime protects.
    PATCH_PROTECTED_PATH = "patch.protected-path";
    /// A symlink that is new or leads elsewhere.
    PATCH_SYMLINK = "patch.symlink";
    /// A symlink that leads out of the workspace.
    PATCH_SYMLINK_ESCAPES = "patch.symlink-escapes";
    /// A path beneath a symlink.
    PATCH_BENEATH_SYMLINK = "patch.beneath-symlink";
    /// A submodule.
    PATCH_GITLINK = "patch.gitlink";
    /// A mode other than 644 and 755.
    PATCH_MODE = "patch.mode";
    /// The captured patch holds a staged secret.
    PATCH_CONTAINS_SECRET = "patch.contains-secret";
}

impl Rule {
    /// The rule of this id, if there is one.
    #[must_use]
    pub fn find(id: &str) -> Option<Self> {
        ALL.iter().copied().find(|rule| rule.0 == id)
    }

    /// The id.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

// By hand: derived, it would ask for input that lives as long as the table of ids.
impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let id = String::deserialize(deserializer)?;
        let unknown = || format!("there is no rule {:?}", id.chars().take(60).collect::<String>());
        Self::find(&id).ok_or_else(|| D::Error::custom(unknown()))
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> Self {
        rule.0.to_owned()
    }
}

/// What was refused, by which rule, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Refusal {
    /// By which rule.
    pub rule: Rule,
    /// The field or file it is about, such as `spec.network.ports`.
    pub subject: String,
    /// One sentence: what, and why.
    pub message: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Refusal {
    /// A refusal by `rule` of `subject`.
    #[must_use]
    pub fn new(rule: Rule, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self { rule, subject: subject.into(), message: message.into(), hint: None }
    }

    /// The same, with what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.message)?;
        if self.subject == self.rule.0 {
            return Ok(());
        }
        write!(f, " ({})", self.rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_are_unique_and_of_one_form() {
        let ids: BTreeSet<_> = ALL.iter().map(|rule| rule.as_str()).collect();
        assert_eq!(ids.len(), ALL.len());
        for id in ids {
            let (area, what) = id.split_once('.').expect("area.what");
            assert!(area.bytes().all(|b| b.is_ascii_lowercase()), "{id}");
            assert!(what.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{id}");
        }
    }

    #[test]
    fn an_unknown_rule_is_not_read() {
        assert!(serde_json::from_str::<Rule>("\"patch.nothing\"").is_err());
        assert_eq!(serde_json::from_str::<Rule>("\"patch.mode\"").expect("reads"), Rule::PATCH_MODE);
    }
}
