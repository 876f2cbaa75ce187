//! What may begin: the sum of what Runs may use stays below what the pod has, and no disk is filled to its end.
//!
//! Since Kubernetes 1.28 the kernel kills the whole container when it runs out of memory, so that the sum of the limits
//! is the protection of one Run from another. The controller reckons the same way and rarely hands out what has to wait
//! here; a Run that waits holds its lease and has not begun.

mod cgroup;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use runtimed_api::capacity::{Amounts, Capacity};
use runtimed_api::quantity::Bytes;
use runtimed_api::rule::{Refusal, Rule};
use runtimed_api::run::limits::Limits;
use tokio::sync::watch;

use crate::config;

/// Memory that stays for the daemon and its workers.
const OWN_MEMORY: u64 = 64 << 20;
/// Processes and threads that stay for them.
const OWN_PROCESSES: u32 = 64;
/// A file system with less room than this, or than a twentieth of it, is full.
const MIN_FREE: u64 = 64 << 20;
/// Names that a file system must still be able to take.
const MIN_NAMES: u64 = 1000;
/// How often a full disk is looked at again: nothing tells when it has room.
pub const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What may begin.
#[derive(Debug)]
pub struct Admission {
    capacity: Capacity,
    disks: Vec<Disk>,
    used: Mutex<Amounts>,
    /// Tells when something was given back.
    freed: watch::Sender<()>,
}

/// A file system that is not to be filled.
#[derive(Debug)]
struct Disk {
    what: &'static str,
    path: PathBuf,
}

/// What one Run may use, until this is dropped.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    need: Amounts,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut used = self.admission.lock();
        *used = used.minus(self.need);
        drop(used);
        self.admission.freed.send_replace(());
    }
}

impl Admission {
    /// What the configuration says, and where it is silent what the pod's cgroup allows. `disks` are the directories that
    /// must keep some room, and what they are for.
    #[must_use]
    pub fn new(config: &config::Config, disks: Vec<(&'static str, PathBuf)>) -> Self {
        let own = cgroup::limits();
        let asked = &config.capacity;
        let memory = asked.memory.or(own.memory.map(|all| Bytes(all.saturating_sub(OWN_MEMORY))));
        let processes = asked.processes.or(own
            .processes
            .map(|all| u32::try_from(all).unwrap_or(u32::MAX).saturating_sub(OWN_PROCESSES).max(1)));
        let mut capacity = Capacity { memory, processes, disk: asked.disk, defaults: Limits::default() };
        let share = capacity.share(config.slots);
        capacity.defaults = config.defaults.limits.or(&config.ceiling.limits).or(&share);
        let disks = disks.into_iter().map(|(what, path)| Disk { what, path }).collect();
        Self { capacity, disks, used: Mutex::default(), freed: watch::Sender::new(()) }
    }

    /// What the controller reckons with.
    #[must_use]
    pub fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    /// The limits of a Run, with its share of the pod where nobody set one; refused when they can never be met.
    ///
    /// # Errors
    /// The pod as a whole has less.
    pub fn judge(&self, limits: &Limits) -> Result<Limits, Refusal> {
        let limits = limits.or(&self.capacity.defaults);
        match self.capacity.fits(Amounts::default(), self.capacity.need(&limits)) {
            Ok(()) => Ok(limits),
            Err(short) => {
                let subject = format!("spec.limits.{}", short.what);
                let message = format!("no pod of this Runtime can ever give it: {short}");
                let refusal = Refusal::new(Rule::LIMIT_POD, subject, message);
                Err(refusal.hint("ask for less, or for a Runtime with larger pods"))
            }
        }
    }

    /// Waits until a Run of these limits may begin.
    pub async fn admit(self: &Arc<Self>, limits: &Limits) -> Permit {
        let need = self.capacity.need(limits);
        let mut freed = self.freed.subscribe();
        loop {
            let mut pause = None;
            if let Some(why) = self.full() {
                tracing::warn!(why, "a Run waits for room");
                pause = Some(LOOK_AGAIN);
            } else {
                match self.try_admit(need) {
                    Ok(permit) => return permit,
                    Err(short) => tracing::info!(%short, "a Run waits for room"),
                }
            }
            tokio::select! {
                // The sender lives as long as we do.
                _changed = freed.changed() => {}
                () = sleep(pause) => {}
            }
        }
    }

    fn try_admit(self: &Arc<Self>, need: Amounts) -> Result<Permit, runtimed_api::capacity::Short> {
        let mut used = self.lock();
        self.capacity.fits(*used, need)?;
        *used = used.plus(need);
        Ok(Permit { admission: Arc::clone(self), need })
    }

    /// Which disk is full, in a sentence; `None` while all have room.
    #[must_use]
    pub fn full(&self) -> Option<String> {
        self.disks.iter().find_map(|disk| {
            let what = disk.what;
            match room(disk) {
                Ok(None) => None,
                Ok(Some(left)) => Some(format!("the disk of {what} is nearly full: {left}")),
                Err(error) => Some(format!("the disk of {what} cannot be asked for room: {error}")),
            }
        })
    }

    fn lock(&self) -> MutexGuard<'_, Amounts> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What little is left, if it is too little.
fn room(disk: &Disk) -> io::Result<Option<String>> {
    let stat = rustix::fs::statvfs(&disk.path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    let (free, all) = (bytes(stat.f_bavail), bytes(stat.f_blocks));
    if free < MIN_FREE.min(all / 20) {
        return Ok(Some(format!("{} MiB free of {}", free >> 20, all >> 20)));
    }
    // File systems without a fixed number of inodes say 0.
    if stat.f_files > 0 && stat.f_favail < MIN_NAMES.min(stat.f_files / 20) {
        return Ok(Some(format!("{} more files of {}", stat.f_favail, stat.f_files)));
    }
    Ok(None)
}

async fn sleep(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(memory: u64, disks: Vec<Disk>) -> Arc<Admission> {
        let capacity = Capacity { memory: Some(Bytes::mib(memory)), ..Capacity::default() };
        Arc::new(Admission { capacity, disks, used: Mutex::default(), freed: watch::Sender::new(()) })
    }

    fn limits(memory: u64) -> Limits {
        Limits { memory: Some(Bytes::mib(memory)), ..Limits::default() }
    }

    #[tokio::test]
    async fn a_run_waits_until_another_gives_its_memory_back() {
        let pod = pod(100, Vec::new());
        let first = pod.admit(&limits(60)).await;
        let small = pod.admit(&limits(40)).await;
        let waiting = Arc::clone(&pod);
        let second = tokio::spawn(async move { waiting.admit(&limits(60)).await });
        drop(small);
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        let second = tokio::time::timeout(Duration::from_secs(10), second).await.expect("in time");
        drop(second.expect("admitted"));
        assert_eq!(*pod.lock(), Amounts::default());
    }

    #[test]
    fn what_can_never_fit_is_refused_by_its_rule() {
        let pod = pod(100, Vec::new());
        assert!(pod.judge(&limits(100)).is_ok());
        let refusal = pod.judge(&limits(101)).expect_err("too much");
        assert_eq!((refusal.rule, refusal.subject.as_str()), (Rule::LIMIT_POD, "spec.limits.memory"));
    }

    #[test]
    fn a_disk_that_cannot_be_asked_counts_as_full() {
        let disk = |path: &str| Disk { what: "nothing", path: path.into() };
        assert_eq!(pod(1, vec![disk("/proc")]).full(), None);
        assert!(pod(1, vec![disk("/nowhere/at/all")]).full().is_some());
    }
}
