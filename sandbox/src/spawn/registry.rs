//! Which children this process has started and not yet collected, so that a child of anybody else's making, which
//! became ours when its parent died, can be told from them.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError, RwLock};

use rustix::process::Pid;

use super::{Child, Stage};

/// Held for reading from before a child exists until it is registered, for writing while strays are told from children.
static STARTING: RwLock<()> = RwLock::new(());
static STARTED: LazyLock<Mutex<HashMap<Pid, Entry>>> = LazyLock::new(Mutex::default);
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A registration. Process numbers come back, these do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(u64);

/// Starts a child and registers it before anybody can take it for a stray.
pub(super) fn start(
    launch: impl FnOnce() -> Result<(Pid, OwnedFd), (Stage, i32)>,
) -> Result<Child, (Stage, i32)> {
    let _starting = STARTING.read().unwrap_or_else(PoisonError::into_inner);
    let (pid, pidfd) = launch()?;
    let entry = Entry(NEXT.fetch_add(1, Ordering::Relaxed));
    started().insert(pid, entry);
    Ok(Child::new(pid, pidfd, entry))
}

/// Removes a registration, unless the number belongs to a later child by now.
pub(super) fn forget(pid: Pid, entry: Entry) {
    let mut started = started();
    if started.get(&pid) == Some(&entry) {
        started.remove(&pid);
    }
}

/// Those of this process's children that `children` lists and nobody here has started.
pub(crate) fn strays_of(children: impl FnOnce() -> Vec<Pid>) -> Vec<Pid> {
    let _none_starting = STARTING.write().unwrap_or_else(PoisonError::into_inner);
    let children = children();
    let started = started();
    children.into_iter().filter(|pid| !started.contains_key(pid)).collect()
}

fn started() -> MutexGuard<'static, HashMap<Pid, Entry>> {
    STARTED.lock().unwrap_or_else(PoisonError::into_inner)
}
