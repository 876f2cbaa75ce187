//! Repositories for the tests, made by git itself.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A repository with a work tree, and a bare clone of it.
pub(crate) struct Repository {
    directory: TempDir,
}

impl Repository {
    /// Two commits on `main`; the branch `side` and the tag `v1` are at the first.
    pub(crate) fn new() -> Self {
        let repository = Self { directory: TempDir::new().unwrap() };
        std::fs::create_dir(repository.work()).unwrap();
        repository.git(&["init", "-q", "-b", "main"]);
        repository.write("readme", "first\n");
        repository.write("sub/run", "#!/bin/sh\necho ran\n");
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(repository.work().join("sub/run"), executable).unwrap();
        repository.git(&["add", "."]);
        repository.git(&["commit", "-qm", "first"]);
        repository.git(&["branch", "side"]);
        repository.git(&["tag", "-a", "v1", "-m", "one"]);
        repository.write("readme", "second\n");
        std::os::unix::fs::symlink("readme", repository.work().join("link")).unwrap();
        repository.git(&["add", "."]);
        repository.git(&["commit", "-qm", "second"]);
        repository
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.directory.path().join("work")
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        let path = self.work().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// The bare clone, brought up to date.
    pub(crate) fn bare(&self) -> PathBuf {
        let bare = self.directory.path().join("bare.git");
        if bare.exists() {
            std::fs::remove_dir_all(&bare).unwrap();
        }
        self.git(&["clone", "-q", "--bare", ".", bare.to_str().unwrap()]);
        bare
    }

    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        git(&self.work(), arguments)
    }

    pub(crate) fn id(&self, name: &str) -> String {
        self.git(&["rev-parse", name])
    }
}

/// Runs git as a person with no configuration would, and gives its output without the newline.
#[expect(clippy::disallowed_methods, reason = "the tests compare with git itself")]
pub(crate) fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = std::process::Command::new("git")
        .current_dir(directory)
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .env("GIT_CONFIG_COUNT", "3")
        // The machine's own would win over what an argument says.
        .env_remove("GIT_SSL_CAINFO")
        .envs([("GIT_CONFIG_KEY_0", "user.name"), ("GIT_CONFIG_VALUE_0", "a")])
        .envs([("GIT_CONFIG_KEY_1", "user.email"), ("GIT_CONFIG_VALUE_1", "a@example")])
        .envs([("GIT_CONFIG_KEY_2", "safe.directory"), ("GIT_CONFIG_VALUE_2", "*")])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "git {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap().trim_end_matches('\n').to_owned()
}
