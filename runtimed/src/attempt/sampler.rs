//! Limits that the kernel cannot hold without a cgroup of our own: CPU time, memory, processes and disk of a whole tree.
//!
//! They are looked at, at most ten times a second and only while they are set: best effort, and the Enforcement says
//! `sampled`. What is held between two looks and given back is not seen.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use runtimed_api::enforcement::{Protection, State};
use runtimed_api::run::limits::{LimitName, Limits};
use runtimed_sandbox::process::{self, Pid};
use runtimed_sandbox::tree::{Medium, Root, Tree, TreeError, Usage};
use tokio::task::JoinHandle;
use tracing::Instrument as _;

use super::cpu;
use super::workspace::Workspace;
use super::{Attempt, Ended, storage};
use crate::daemon::{Live, Stop};
use crate::workers::Worker;

/// From one look to the next, at least.
const INTERVAL: Duration = Duration::from_millis(100);
/// A look that takes long is followed by this many times as long without one, so that it costs a fifth of a core at most.
const REST: u32 = 4;
/// Entries of a tree that a look counts.
const MAX_ENTRIES: u64 = 200_000;

/// Looks for as long as it lives.
pub(super) struct Sampler {
    task: JoinHandle<()>,
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is looked at.
struct Watched {
    limits: Limits,
    worker: Pid,
    trees: Vec<Tree>,
    /// What the command has whole.
    whole: Vec<Root>,
    page: u64,
    /// CPU time that the worker's former children had used when the command began.
    before: Duration,
}

/// Begins to look, if there is anything to look at.
pub(super) fn start(
    attempt: &mut Attempt,
    limits: &Limits,
    worker: &Worker,
    workspace: &Workspace,
) -> Result<Option<Sampler>, Ended> {
    let sampled = [
        ("cpu-limit", limits.cpu.is_some()),
        ("memory-limit", limits.memory.is_some()),
        ("processes-limit", limits.processes.is_some()),
        ("disk-limit", limits.disk.is_some()),
    ];
    if !sampled.iter().any(|(_, set)| *set) {
        return Ok(None);
    }
    if let Some(enforcement) = &mut attempt.result.enforcement {
        enforcement.protections.extend(sampled.iter().filter(|(_, set)| *set).map(|(name, _)| Protection {
            name: (*name).to_owned(),
            state: State::Degraded,
            mechanism: "sampled".to_owned(),
            why: Some(
                "looked at ten times a second at most: what passes between two looks is not seen".to_owned(),
            ),
        }));
    }
    let mut trees = Vec::new();
    for tree in [&workspace.tmp, &workspace.home, &workspace.workspace] {
        let again = tree.root().reopen(tree.name());
        trees.extend(again.map_err(|error| storage("a tree cannot be measured", &error))?);
    }
    let whole = workspace.whole.iter().flat_map(|whole| whole.all()).cloned().collect();
    let page = rustix::param::page_size() as u64;
    let before = cpu::reaped(worker.pid());
    let watched =
        Arc::new(Watched { limits: limits.clone(), worker: worker.pid(), trees, whole, page, before });
    let live = Arc::clone(&attempt.live);
    Ok(Some(Sampler { task: tokio::spawn(watch(watched, live).in_current_span()) }))
}

async fn watch(watched: Arc<Watched>, live: Arc<Live>) {
    let mut rest = Duration::ZERO;
    loop {
        tokio::time::sleep(INTERVAL.max(rest)).await;
        let looking = Arc::clone(&watched);
        let begun = Instant::now();
        match tokio::task::spawn_blocking(move || looking.over()).await {
            Ok(Some(limit)) => {
                live.stop(Stop::Limit(limit));
                return;
            }
            Ok(None) => rest = begun.elapsed() * REST,
            Err(_) => return,
        }
    }
}

impl Watched {
    /// The first limit that is exceeded at this moment.
    fn over(&self) -> Option<LimitName> {
        let limits = &self.limits;
        let tree = process::descendants(self.worker, &[]);
        if limits.processes.is_some_and(|most| tree.len() > most as usize) {
            return Some(LimitName::Processes);
        }
        // The kernel holds each process to it; together they may have used more.
        if limits.cpu.is_some_and(|most| self.cpu_used(&tree) > most.get()) {
            return Some(LimitName::Cpu);
        }
        if let Some(most) = limits.memory {
            let resident: u64 = tree.iter().map(|pid| self.resident(*pid)).sum();
            // What lies on a memory-backed root is memory too, and no process's own.
            let kept = self.used(Medium::is_memory);
            if resident.saturating_add(kept) > most.0 {
                return Some(LimitName::Memory);
            }
        }
        let over_disk = limits.disk.is_some_and(|most| self.used(|_| true) > most.0);
        over_disk.then_some(LimitName::Disk)
    }

    /// What the Run's directories on such media take. One that cannot be measured, or has too many entries, is taken for
    /// full.
    fn used(&self, wanted: impl Fn(Medium) -> bool) -> u64 {
        let trees =
            self.trees.iter().filter(|tree| wanted(tree.medium())).map(|tree| tree.usage(MAX_ENTRIES));
        let whole =
            self.whole.iter().filter(|root| wanted(root.medium())).map(|root| root.usage(MAX_ENTRIES));
        let bytes = |usage: Result<Usage, TreeError>| match usage {
            Ok(usage) if usage.complete || usage.entries < MAX_ENTRIES => usage.bytes,
            Ok(_) | Err(_) => u64::MAX,
        };
        trees.chain(whole).map(bytes).fold(0, u64::saturating_add)
    }

    /// CPU time of the tree: of what lives, with those that it has waited for, and of what the worker has reaped.
    fn cpu_used(&self, tree: &[Pid]) -> Duration {
        let living: Duration = tree.iter().map(|pid| cpu::used(*pid)).sum();
        living + cpu::reaped(self.worker).saturating_sub(self.before)
    }

    /// The resident set of a process: the second number of `/proc/PID/statm`, in pages (proc(5)). Pages that several
    /// processes share are counted for each.
    fn resident(&self, pid: Pid) -> u64 {
        let statm = fs::read_to_string(format!("/proc/{}/statm", pid.as_raw_pid())).unwrap_or_default();
        let pages: u64 =
            statm.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
        pages.saturating_mul(self.page)
    }
}
