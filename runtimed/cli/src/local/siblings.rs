//! The other binaries of this build.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::timeout;

use crate::failure::Failure;
use crate::spawn::start;

/// Printing a version takes a millisecond; a program that takes this long is another.
const PATIENCE: Duration = Duration::from_secs(10);

/// The other binaries of this build.
#[derive(Debug)]
pub(super) struct Siblings {
    pub(super) controller: PathBuf,
    pub(super) daemon: PathBuf,
    /// Started by the daemon, which compares builds itself.
    pub(super) worker: PathBuf,
}

impl Siblings {
    /// Finds them beside this executable, else in PATH, and compares their builds with ours.
    pub(super) async fn find(build: &str) -> Result<Self, Failure> {
        let found = Self {
            controller: find("runtimed-controller")?,
            daemon: find("runtimed")?,
            worker: find("runtimed-worker")?,
        };
        tokio::try_join!(same_build(&found.controller, build), same_build(&found.daemon, build))?;
        Ok(found)
    }
}

fn find(name: &str) -> Result<PathBuf, Failure> {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.to_owned()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = beside.into_iter().chain(std::env::split_paths(&path));
    places.map(|place| place.join(name)).find(|file| file.is_absolute() && is_executable(file)).ok_or_else(
        || {
            Failure::usage(format!("{name} is neither beside runtimectl nor in PATH"))
                .hint("build all of it with `cargo build --release`, or install all binaries together")
        },
    )
}

fn is_executable(file: &Path) -> bool {
    file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
}

#[derive(Debug, Deserialize)]
struct Version {
    build: String,
}

async fn same_build(path: &Path, build: &str) -> Result<(), Failure> {
    let failed = |why: String| {
        Failure::usage(format!("{} cannot be used: {why}", path.display()))
            .hint("build or install all binaries together")
    };
    let child = start(path, &["version", "--json"]).map_err(|error| failed(error.to_string()))?;
    let said = timeout(PATIENCE, child.wait_with_output())
        .await
        .map_err(|_| failed("it does not say its version".to_owned()))?
        .map_err(|error| failed(error.to_string()))?;
    let version: Version =
        serde_json::from_slice(&said.stdout).map_err(|_| failed("it does not say its build".to_owned()))?;
    if version.build != build {
        return Err(failed(format!("it is of the build {}, and runtimectl of {build}", version.build)));
    }
    Ok(())
}
