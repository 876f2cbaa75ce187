//! What a patch may do to which path. The resulting entries are judged, not what the patch says of them.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::{
    git_path::{Disguise, GitPath, disguise},
    rule::{Refusal, Rule},
    tree::{Difference, Mode},
};

pub(crate) mod links;

/// Paths that some machine obeys merely because they are in a checkout: a CI system, git itself, an editor, a
/// coding agent. A Run that could change them would act later, elsewhere, with someone else's rights. Source and
/// build files can do so too, but changing those is what Runs are for, and people review them.
pub const DEFAULT_PROTECTED: &[&str] = &[
    // CI systems and forges.
    ".github/**",
    ".gitlab/**",
    ".gitlab-ci.yml",
    ".gitea/**",
    ".forgejo/**",
    ".circleci/**",
    ".buildkite/**",
    ".woodpecker/**",
    ".woodpecker.{yml,yaml}",
    ".tekton/**",
    ".travis.yml",
    ".drone.yml",
    ".cirrus.yml",
    "appveyor.yml",
    ".appveyor.yml",
    "azure-pipelines.yml",
    "bitbucket-pipelines.yml",
    "cloudbuild.{yml,yaml}",
    "Jenkinsfile",
    // git: submodules, filters and hooks.
    "**/.gitmodules",
    "**/.gitattributes",
    "**/.lfsconfig",
    ".husky/**",
    ".githooks/**",
    ".pre-commit-config.yaml",
    "lefthook.{yml,yaml}",
    ".lefthook.{yml,yaml}",
    // Coding agents.
    "**/.claude/**",
    "**/.codex/**",
    "**/.cursor/**",
    "**/.gemini/**",
    "**/.aider.conf.yml",
    "**/.mcp.json",
    "**/.cursorrules",
    "**/.windsurfrules",
    "**/AGENTS.md",
    "**/CLAUDE.md",
    "**/GEMINI.md",
    // Editors and shells that run what a directory tells them.
    "**/.vscode/**",
    "**/.devcontainer/**",
    "**/.devcontainer.json",
    "**/.envrc",
];

/// A Runtime's rules for patches. The rules of [`RuleKind::Always`](crate::RuleKind::Always) hold whatever is here.
#[derive(Debug, Clone)]
pub struct PathPolicy {
    /// Whether symlinks may be made or retargeted, within the tree.
    pub allow_symlinks: bool,
    protected: GlobSet,
    allowed: GlobSet,
}

impl PathPolicy {
    /// A policy with these globs: `*` and `?` stop at `/`, `**` does not, `{a,b}` is a choice. `protected` ignores
    /// case. `allow` lifts the protection, and the refusal of symlinks, for the paths that it matches.
    ///
    /// # Errors
    /// The first glob that is not well formed.
    pub fn new<'g>(
        allow_symlinks: bool,
        protected: impl IntoIterator<Item = &'g str>,
        allow: impl IntoIterator<Item = &'g str>,
    ) -> Result<Self, globset::Error> {
        Ok(Self { allow_symlinks, protected: globs(protected, true)?, allowed: globs(allow, false)? })
    }

    /// Judges one changed entry of a tree by its path and modes.
    pub(crate) fn judge(&self, change: &Difference) -> Result<(), Refusal> {
        let path = &change.path;
        // What leaves the tree cannot harm by its name.
        if change.new.is_some() {
            path.judge()?;
        }
        let modes = [change.old, change.new].map(|entry| entry.map(|entry| entry.mode));
        if modes.contains(&Some(Mode::Gitlink)) {
            return Err(Refusal::at(
                Rule::Gitlink,
                path,
                "submodules cannot be made, changed or removed by a patch",
            ));
        }
        let system_path = OsStr::from_bytes(path.as_bytes());
        if self.allowed.is_match(system_path) {
            return Ok(());
        }
        if self.protected.is_match(system_path)
            || self.protected.is_match(OsStr::from_bytes(&undisguised(path)))
        {
            let message = "machines obey this file because it is there; a Runtime can allow the path";
            return Err(Refusal::at(Rule::ProtectedPath, path, message));
        }
        if modes[1] == Some(Mode::Symlink) && !self.allow_symlinks {
            let message = "the patch makes or retargets a symlink, which this Runtime does not allow";
            return Err(Refusal::at(Rule::Symlink, path, message));
        }
        Ok(())
    }
}

/// [`DEFAULT_PROTECTED`], nothing allowed, no symlinks.
impl Default for PathPolicy {
    fn default() -> Self {
        Self::new(false, DEFAULT_PROTECTED.iter().copied(), []).expect("the default globs are well formed")
    }
}

/// The path with `.gitmodules` and `.gitattributes` in place of what some file system takes for them.
fn undisguised(path: &GitPath) -> Vec<u8> {
    let plain = |name| match disguise(name) {
        Some(Disguise::Modules) => &b".gitmodules"[..],
        Some(Disguise::Attributes) => &b".gitattributes"[..],
        _ => name,
    };
    path.components().map(plain).collect::<Vec<_>>().join(&b"/"[..])
}

fn globs<'g>(
    patterns: impl IntoIterator<Item = &'g str>,
    ignore_case: bool,
) -> Result<GlobSet, globset::Error> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(GlobBuilder::new(pattern).literal_separator(true).case_insensitive(ignore_case).build()?);
    }
    set.build()
}

#[cfg(test)]
mod tests {
    use git2::Oid;

    use super::*;
    use crate::tree::Entry;

    fn judge(policy: &PathPolicy, path: &str, mode: Mode) -> Option<Rule> {
        let new = Some(Entry { mode, id: Oid::ZERO_SHA1 });
        policy
            .judge(&Difference { path: GitPath::new(path.as_bytes()), old: None, new })
            .err()
            .map(|it| it.rule)
    }

    #[test]
    fn what_machines_obey_is_protected_in_any_case() {
        let policy = PathPolicy::default();
        for path in [
            ".github/workflows/ci.yml",
            ".GitHub/x",
            "a/.gitattributes",
            ".GITMODULES",
            "gitmod~1",
            "sub/AGENTS.md",
            ".vscode/tasks.json",
            "lefthook.yml",
            ".woodpecker.yaml",
            "deep/er/.claude/settings.json",
        ] {
            assert_eq!(judge(&policy, path, Mode::File), Some(Rule::ProtectedPath), "{path}");
        }
        for path in ["src/main.rs", "github/x", ".gitignore", "docs/.github.md", "Makefile", "agents.md.txt"]
        {
            assert_eq!(judge(&policy, path, Mode::File), None, "{path}");
        }
    }

    #[test]
    fn an_allowed_path_is_allowed_and_no_more() {
        let policy = PathPolicy::new(false, DEFAULT_PROTECTED.iter().copied(), [".github/**"]).unwrap();
        assert_eq!(judge(&policy, ".github/workflows/ci.yml", Mode::File), None);
        assert_eq!(judge(&policy, ".github/link", Mode::Symlink), None);
        assert_eq!(judge(&policy, ".github/.git/x", Mode::File), Some(Rule::PathDotGit));
        assert_eq!(judge(&policy, ".github/sub", Mode::Gitlink), Some(Rule::Gitlink));
        assert_eq!(judge(&policy, ".gitmodules", Mode::File), Some(Rule::ProtectedPath));
        assert_eq!(judge(&policy, "link", Mode::Symlink), Some(Rule::Symlink));
    }
}
