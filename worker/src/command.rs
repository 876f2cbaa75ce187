//! The command: found, confined and started.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use runtimed_api::enforcement::Tier;
use runtimed_api::link::{MAX_FRAME_BYTES, Start};
use runtimed_api::problem::{Chain, Code};
use runtimed_api::rule::Rule;
use runtimed_sandbox::Prepared;
use runtimed_sandbox::beneath;
use runtimed_sandbox::spawn::{Child, Executable, Spawn, SpawnError, Stage};
use rustix::io::Errno;
use rustix::process::Signal;
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::fetch::read_sealed;

/// The directory in which the command starts, beneath the workspace and reached through no link.
pub(crate) fn directory(
    workspace: &Path,
    opened: BorrowedFd<'_>,
    relative: &str,
) -> Result<PathBuf, Failure> {
    match beneath::open_dir(opened, Path::new(relative)) {
        Ok(_) => Ok(workspace.join(relative)),
        Err(error) => Err(Failure::refused(
            Rule::SOURCE_SUB_PATH,
            "spec.source.git.subPath",
            format!("the command cannot start there: {}", Chain(&error)),
        )
        .hint("name a directory of the source")),
    }
}

/// The variables that hold secrets, as they come in their sealed file.
pub(crate) fn secret_env(sealed: &OwnedFd) -> Result<BTreeMap<String, Zeroizing<String>>, Failure> {
    let invalid = |why| Failure::fault(Code::WorkerFailed, format!("the variables that hold secrets {why}"));
    let bytes =
        read_sealed(sealed, MAX_FRAME_BYTES).map_err(|_| invalid("cannot be read, or are too large"))?;
    // serde's own words could repeat what it read.
    serde_json::from_slice(&bytes).map_err(|_| invalid("are not JSON of names and values"))
}

/// Starts the command. The descriptors become its stdout and stderr, and are closed here.
pub(crate) fn start(
    start: &Start,
    secrets: &BTreeMap<String, Zeroizing<String>>,
    directory: &Path,
    tier: Tier,
    confinement: Prepared,
    (stdout, stderr): (OwnedFd, OwnedFd),
) -> Result<Child, Failure> {
    let Some(name) = start.command.first() else {
        return Err(Failure::fault(Code::CommandNotStarted, "the Run names no program"));
    };
    let path = start.env.get("PATH").map_or("", String::as_str);
    let look_up = match tier {
        Tier::Namespaces => Executable::within_view,
        Tier::Base | Tier::Exclusive => Executable::path_lookup,
    };
    let executable =
        look_up(OsStr::new(name), OsStr::new(path), directory).map_err(|errno| not_found(name, errno))?;
    let started = Spawn::new(&executable, &start.command)
        .envs(start.env.iter().filter(|(name, _)| !secrets.contains_key(*name)))
        .envs(secrets.iter().map(|(name, value)| (name, value.as_str())))
        .cwd(directory)
        .fd(1, stdout)
        .fd(2, stderr)
        .new_session(true)
        .death_signal(Signal::KILL)
        .confine(confinement)
        .spawn();
    started.map_err(|error| match (error.stage, Errno::from_raw_os_error(error.errno)) {
        // Looked up only there.
        (Stage::Execute, errno @ (Errno::NOENT | Errno::ACCESS)) if tier == Tier::Namespaces => {
            not_found(name, errno)
        }
        _ => not_started(name, error),
    })
}

fn not_found(name: &str, errno: Errno) -> Failure {
    let (why, hint) = match errno {
        Errno::ACCESS => {
            ("is there and cannot be executed", "give it the execute bit, or run it with its interpreter")
        }
        _ if name.contains('/') => {
            ("is not there", "a name with a slash is relative to the command's directory")
        }
        _ => ("is in no directory of PATH", "choose a Runtime whose image has it, or give its path"),
    };
    Failure::fault(Code::CommandNotStarted, format!("the program {:?} {why}", clip(name))).hint(hint)
}

fn not_started(name: &str, error: SpawnError) -> Failure {
    let why = std::io::Error::from_raw_os_error(error.errno);
    match error.stage {
        Stage::Execute | Stage::Arguments => {
            let message = format!("the program {:?} cannot be executed: {why}", clip(name));
            Failure::fault(Code::CommandNotStarted, message)
                .hint("check its format and its interpreter, and that both lie where the Runtime lets commands read")
        }
        Stage::Directory => Failure::fault(
            Code::CommandNotStarted,
            format!("the command's directory cannot be entered: {why}"),
        ),
        _ => Failure::fault(Code::ConfinementFailed, format!("nothing was executed: the child {error}")),
    }
}

fn clip(name: &str) -> String {
    name.chars().take(200).collect()
}
