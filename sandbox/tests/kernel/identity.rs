//! Each test runs as whoever started it and, if that is root, once more as an ordinary uid: root reads what modes forbid.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A uid and gid that own nothing.
pub(crate) const NOBODY: u32 = 65_534;
const ORDINARY: &str = "SANDBOX_TEST_ORDINARY";

/// Defines a test that is run in both identities.
macro_rules! both {
    ($(fn $name:ident() $body:block)*) => { $(
        #[test]
        fn $name() {
            crate::identity::also_as_ordinary(concat!(module_path!(), "::", stringify!($name)), &[]);
            $body
        }
    )* };
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The same, where only root has what is tested; whoever runs the tests is told what was not.
#[expect(clippy::print_stderr, reason = "a person who runs the tests is told what was not run")]
pub(crate) fn only_root_can(what: &str) -> bool {
    if !is_root() {
        eprintln!("not run, for only root can: {what}");
    }
    is_root()
}

/// Runs the test of this name in a process of an ordinary uid, if this one is root, and requires that it passes.
pub(crate) fn also_as_ordinary(test: &str, environment: &[(&str, &Path)]) {
    if !is_root() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).unwrap();
    // Copies, for the build may lie under a directory that only root may enter.
    let program = place.path().join("kernel");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    std::fs::copy(probe_path(), place.path().join("probe")).unwrap();
    let (_, name) = test.split_once("::").unwrap();
    #[expect(
        clippy::disallowed_methods,
        reason = "the one thing that the sandbox's own spawn does not do: another uid"
    )]
    let mut command = Command::new(&program);
    command.args(["--exact", name, "--nocapture"]).env(ORDINARY, "1").current_dir("/");
    command.envs(environment.iter().copied()).gid(NOBODY).uid(NOBODY);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "as an ordinary uid: {text}");
}

/// The probe program, beside this one or among the examples that cargo built with it.
pub(crate) fn probe_path() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let beside = here.with_file_name("probe");
    if std::env::var_os(ORDINARY).is_some() {
        return beside;
    }
    let built = here.parent().and_then(Path::parent).unwrap().join("examples/probe");
    assert!(built.exists(), "{} is missing: cargo build --examples -p runtimed-sandbox", built.display());
    built
}
