//! Why a patch was refused: a stable rule id, the patch, the file, and one sentence.

use std::fmt;

use crate::git_path::GitPath;

/// A patch was refused. Nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// Position of the patch in its stack, from 0. A patch that is parsed alone is 0.
    pub patch: usize,
    /// The file that broke the rule, if one file did. Its bytes are kept as they were in the patch.
    pub file: Option<GitPath>,
    /// The rule that was broken.
    pub rule: Rule,
    /// One sentence: what, and where it helps what to do.
    pub message: String,
}

impl Refusal {
    pub(crate) fn new(rule: Rule, message: impl Into<String>) -> Self {
        Self { patch: 0, file: None, rule, message: message.into() }
    }

    pub(crate) fn at(rule: Rule, file: &GitPath, message: impl Into<String>) -> Self {
        Self { patch: 0, file: Some(file.clone()), rule, message: message.into() }
    }

    /// The same refusal, attributed to the patch at this position of a stack.
    #[must_use]
    pub fn in_patch(mut self, patch: usize) -> Self {
        self.patch = patch;
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "patch {} was refused by {}", self.patch + 1, self.rule)?;
        if let Some(file) = &self.file {
            write!(f, " at {file}")?;
        }
        write!(f, ": {}", self.message)
    }
}

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $kind:ident;)*) => {
        /// The closed set of rules. Their ids are those of the wire, where they are in statuses, logs and documents.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Rule { $($(#[$doc])* $name,)* }

        impl Rule {
            /// Every rule, in the order of their declaration.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The stable id, as in `patch.path-dot-git`.
            #[must_use]
            pub const fn id(self) -> &'static str {
                match self { $(Self::$name => $id,)* }
            }

            /// Whether a Runtime's policy can lift this rule, or no policy can.
            #[must_use]
            pub const fn kind(self) -> RuleKind {
                match self { $(Self::$name => RuleKind::$kind,)* }
            }
        }
    };
}

/// Who can lift a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleKind {
    /// No policy lifts it: the patch is wrong, or dangerous wherever it is applied.
    Always,
    /// A Runtime's policy decides, with its allowed paths; on a person's own repository it only warns.
    Policy,
    /// A number that the operator sets.
    Limit,
}

rules! {
    /// The bytes are not a patch in git's format, contradict themselves, or lack a binary file's data.
    Malformed = "patch.malformed", Always;
    /// More bytes, in the patch or in what it expands to, than the limits allow.
    TooLarge = "patch.too-large", Limit;
    /// More changed files than the limits allow.
    TooManyFiles = "patch.too-many-files", Limit;
    /// More patches in one stack than the limits allow.
    TooManyPatches = "patch.too-many", Limit;
    /// `..`, `.`, an empty component, an absolute path or a NUL.
    Traversal = "patch.traversal", Always;
    /// A component that some file system takes for `.git`.
    PathDotGit = "patch.path-dot-git", Always;
    /// A component over 255 bytes, or a path over 4095 bytes or 256 components.
    PathInvalid = "patch.path-invalid", Always;
    /// A mode other than 100644, 100755 and 120000.
    Mode = "patch.mode", Always;
    /// A submodule: a commit of another repository in place of a file.
    Gitlink = "patch.gitlink", Always;
    /// A symlink that is new or points elsewhere than before, where the policy allows none.
    Symlink = "patch.symlink", Policy;
    /// A symlink that resolves outside the tree, or into `.git`.
    SymlinkEscapes = "patch.symlink-escapes", Always;
    /// A file beneath something that is a symlink in the tree.
    BeneathSymlink = "patch.beneath-symlink", Always;
    /// A path that machines obey because it is there: CI, git, editor and agent configuration.
    ProtectedPath = "patch.protected-path", Policy;
    /// The tree is not what the patch expects: context, file, mode or content id.
    DoesNotApply = "patch.does-not-apply", Always;
    /// The tree to patch is not the one that the patch's statement names. Judged by who has the statement.
    BaseMismatch = "patch.base-mismatch", Always;
    /// The tree after the patch is not the one that the patch's statement names. Judged by who has the statement.
    TreeMismatch = "patch.tree-mismatch", Always;
    /// The patch holds a staged secret. Judged by who holds the secrets, not here.
    ContainsSecret = "patch.contains-secret", Always;
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}
