//! Starting a worker, and its end.

use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtimed_api::enforcement::Tier;
use runtimed_api::link::{HOLD_FD, LINK_FD, STDERR_FD, STDOUT_FD};
use runtimed_sandbox::process::{self, Pid, Signal};
use runtimed_sandbox::spawn::{Child, Executable, Spawn, Status};
use runtimed_sandbox::tree::TreeName;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::net::unix::pipe::Receiver;

use crate::hold::Hold;
use crate::link::Link;

/// The worker's executable cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot use the worker {path}: {why}; build or install runtimed-worker beside runtimed, or set [worker] path"
)]
pub struct WorkerError {
    path: PathBuf,
    why: String,
}

/// Finds the worker: where the configuration says, beside this executable, or in PATH.
///
/// It is opened here and executed by descriptor later: a daemon that was started as root and has dropped to another uid
/// may not be able to reach it any more, and what was checked is what is executed.
///
/// # Errors
/// It is not there or not executable.
pub fn find(configured: Option<&Path>) -> Result<Executable, WorkerError> {
    let path = configured.map(Path::to_owned).or_else(beside).or_else(in_path);
    let path = path.unwrap_or_else(|| PathBuf::from("runtimed-worker"));
    Executable::open(&path).map_err(|errno| WorkerError { path, why: io::Error::from(errno).to_string() })
}

fn beside() -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.parent()?.join("runtimed-worker");
    path.is_file().then_some(path)
}

fn in_path() -> Option<PathBuf> {
    let dirs = std::env::var_os("PATH")?;
    std::env::split_paths(&dirs).map(|dir| dir.join("runtimed-worker")).find(|path| path.is_file())
}

/// The build that a worker says it is of.
///
/// # Errors
/// It cannot be started, or says something else.
pub fn version(executable: &Executable) -> io::Result<String> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    let mut process = Spawn::new(executable, ["runtimed-worker", "version", "--json"])
        .fd(1, write.as_fd())
        .spawn()
        .map_err(io::Error::other)?;
    drop(write);
    let mut said = String::new();
    // A version is short; whatever says more is no worker.
    std::fs::File::from(read).take(4096).read_to_string(&mut said)?;
    process.wait()?;
    let said: serde_json::Value = serde_json::from_str(&said).map_err(io::Error::other)?;
    said["build"].as_str().map(str::to_owned).ok_or_else(|| io::Error::other("it does not say its build"))
}

/// A worker that runs.
#[derive(Debug)]
pub struct Worker {
    process: Child,
    /// The link to it.
    pub link: Link,
}

/// The three pipes of a worker, read by the daemon alone.
#[derive(Debug)]
pub struct Pipes {
    /// The command's stdout.
    pub stdout: Receiver,
    /// The command's stderr.
    pub stderr: Receiver,
    /// The worker's own words.
    pub diagnostics: Receiver,
}

/// Starts a worker with an empty environment, as the first of a process namespace if its tier is of namespaces. The name of
/// the attempt's trees is what a later daemon finds it by, should this one die.
///
/// # Errors
/// A descriptor or the process cannot be made.
pub fn launch(
    executable: &Executable,
    name: &TreeName,
    tier: Tier,
    hold: &Hold,
) -> io::Result<(Worker, Pipes)> {
    let (link, theirs) = Link::pair()?;
    let (stdout, stdout_end) = receiver()?;
    let (stderr, stderr_end) = receiver()?;
    let (diagnostics, diagnostics_end) = receiver()?;
    let mut argv = ["runtimed-worker", "attempt", name.as_str()].map(str::to_owned).to_vec();
    let own_processes = tier == Tier::Namespaces;
    if own_processes {
        // It is nobody in its user namespace until it has said who it is, and cannot find out there.
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        argv.extend(["namespaces".to_owned(), uid.to_string(), gid.to_string()]);
    }
    let process = Spawn::new(executable, &argv)
        .own_processes(own_processes)
        .fd(2, diagnostics_end.as_fd())
        .fd(LINK_FD, theirs.as_fd())
        .fd(STDOUT_FD, stdout_end.as_fd())
        .fd(STDERR_FD, stderr_end.as_fd())
        .fd(HOLD_FD, hold.timer())
        .new_session(true)
        .spawn()
        .map_err(io::Error::other)?;
    Ok((Worker { process, link }, Pipes { stdout, stderr, diagnostics }))
}

fn receiver() -> io::Result<(Receiver, OwnedFd)> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((Receiver::from_owned_fd(ours)?, theirs))
}

impl Worker {
    /// Its process id: everything of the attempt is below it.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Ends the worker and whatever is left of its tree, if `patience` runs out before it ends by itself. Returns whether
    /// it ended by itself and in order.
    pub async fn end(self, patience: Duration) -> bool {
        let Self { mut process, link } = self;
        // Its end of the link is what a worker lives by.
        drop(link);
        let ended = tokio::task::spawn_blocking(move || {
            if patience.is_zero() || !ends_within(&process, patience) {
                // It may have ended in this very moment.
                process.signal(Signal::KILL).unwrap_or_default();
            }
            process.wait()
        });
        let in_order = matches!(ended.await, Ok(Ok(exited)) if exited.status == Status::Exited(0));
        if !in_order {
            reap_strays().await;
        }
        in_order
    }
}

/// Whether a process ends before the time is up.
fn ends_within(process: &Child, patience: Duration) -> bool {
    let pidfd = process.pidfd();
    let mut polled = [PollFd::new(&pidfd, PollFlags::IN)];
    let timeout = Timespec::try_from(patience).ok();
    loop {
        match poll(&mut polled, timeout.as_ref()) {
            Ok(count) => return count > 0,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Ends what a dead worker left behind: its children have become the daemon's, which did not start them.
pub async fn reap_strays() {
    let reaped = tokio::task::spawn_blocking(|| process::reap_strays(&[], Duration::from_secs(10))).await;
    match reaped {
        Ok(report) if report.survivors > 0 => {
            tracing::error!(survivors = report.survivors, "processes could not be killed");
        }
        Ok(report) if report.collected > 0 => {
            tracing::warn!(collected = report.collected, "killed what a dead worker left behind");
        }
        Ok(_) | Err(_) => {}
    }
}
