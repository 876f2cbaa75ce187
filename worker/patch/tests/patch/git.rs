//! The `git` command in a directory of its own, without anybody's configuration.

use std::{
    ffi::OsStr,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use runtimed_patch::{CheckError, Checked, Enforce, Limits, PathPolicy, TreeId, check, parse};
use tempfile::TempDir;

/// A repository with a work tree. It goes when this is dropped.
pub(crate) struct Git {
    dir: TempDir,
}

impl Git {
    pub(crate) fn new() -> Self {
        let git = Self { dir: TempDir::new().unwrap() };
        git.run(["init", "--quiet", "--initial-branch=main"]);
        git
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn repo(&self) -> git2::Repository {
        git2::Repository::open_bare(self.path().join(".git")).unwrap()
    }

    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    pub(crate) fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        let path = self.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    #[expect(clippy::disallowed_methods, reason = "git is the second opinion of these tests")]
    pub(crate) fn try_run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>, input: &[u8]) -> Output {
        let mut child = Command::new("git")
            .args(args)
            .current_dir(self.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs([
                ("HOME", "/nonexistent"),
                ("GIT_CONFIG_NOSYSTEM", "1"),
                ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ])
            .envs([("GIT_AUTHOR_NAME", "A"), ("GIT_AUTHOR_EMAIL", "a@example.org")])
            .envs([("GIT_COMMITTER_NAME", "A"), ("GIT_COMMITTER_EMAIL", "a@example.org")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let feeder = std::thread::spawn(move || stdin.write_all(&input).ok());
        let output = child.wait_with_output().unwrap();
        feeder.join().unwrap();
        output
    }

    /// Runs git, which must succeed; gives its output without the last newline.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Vec<u8> {
        self.run_with(args, b"")
    }

    pub(crate) fn run_with<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        input: &[u8],
    ) -> Vec<u8> {
        let output = self.try_run(args, input);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout.strip_suffix(b"\n").map(<[u8]>::to_vec).unwrap_or(output.stdout)
    }

    /// The tree of everything in the work tree, ignored files too.
    pub(crate) fn tree(&self) -> TreeId {
        self.run(["add", "--all", "--force"]);
        self.index_tree()
    }

    pub(crate) fn index_tree(&self) -> TreeId {
        String::from_utf8(self.run(["write-tree"])).unwrap().parse().unwrap()
    }

    /// What git writes as the patch between two trees.
    pub(crate) fn diff(&self, from: TreeId, to: TreeId, options: &[&str]) -> Vec<u8> {
        let (from, to) = (from.to_string(), to.to_string());
        let mut args = vec!["diff-tree", "-p", "--binary"];
        args.extend(options);
        args.extend([from.as_str(), to.as_str()]);
        let output = self.try_run(args, b"");
        assert!(output.status.success());
        output.stdout
    }

    /// The paths that differ between two trees.
    pub(crate) fn differences(&self, from: TreeId, to: TreeId) -> String {
        let names = self.run(["diff-tree", "-r", "--name-status", &from.to_string(), &to.to_string()]);
        String::from_utf8(names).unwrap()
    }

    /// The tree that `git apply --cached` makes, if it accepts the patch.
    pub(crate) fn apply(&self, base: TreeId, patch: &[u8]) -> Result<TreeId, String> {
        self.run(["read-tree", &base.to_string()]);
        let output = self.try_run(["apply", "--cached", "--whitespace=nowarn", "-"], patch);
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(self.index_tree())
    }
}

/// A policy under which only what is always refused is refused.
pub(crate) fn permissive() -> PathPolicy {
    PathPolicy::new(true, [], []).unwrap()
}

pub(crate) fn check_with(
    git: &Git,
    base: TreeId,
    stack: &[&[u8]],
    policy: &PathPolicy,
) -> Result<Checked, CheckError> {
    let limits = Limits::default();
    let stack =
        stack.iter().enumerate().map(|(at, bytes)| parse(bytes, &limits).map_err(|it| it.in_patch(at)));
    let stack = stack.collect::<Result<Vec<_>, _>>()?;
    check(&git.repo(), base, &stack, policy, Enforce::All, &limits)
}
