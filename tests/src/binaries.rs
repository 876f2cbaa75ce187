//! The binaries under test: those beside the test itself, and of its own build.

use std::path::PathBuf;
use std::sync::OnceLock;

use crate::process::command;

/// The directory of the binaries, and every one of them known to be of this build.
///
/// # Panics
/// One is missing, or of another build: what would be tested is not what was written.
#[must_use]
pub fn dir() -> &'static PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let ours = std::env::current_exe().expect("the path of this program");
        let found = ours.ancestors().skip(1).find(|dir| dir.join("runtimectl").is_file());
        let dir = found.expect("runtimectl beside the tests: run `cargo build --workspace` first").to_owned();
        for name in ["runtimectl", "runtimed", "runtimed-worker", "runtimed-controller"] {
            let output = command(dir.join(name)).args(["version", "--json"]).output().expect("it runs");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let version: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(
                version["build"],
                env!("RUNTIMED_BUILD_ID"),
                "{name} is of another build: run `cargo build --workspace` first"
            );
        }
        dir
    })
}

/// The path of one of them.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    dir().join(name)
}
