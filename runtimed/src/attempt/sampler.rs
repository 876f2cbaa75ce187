//! Limits that the kernel cannot hold without a cgroup of our own: CPU time, memory, processes and disk of a whole tree.
//!
//! They are looked at, at most ten times a second and only while they are set: best effort, and the Enforcement says
//! `sampled`. What is held between two looks and given back is not seen.

mod deleted;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use runtimed_api::enforcement::{Protection, State};
use runtimed_api::run::limits::{LimitName, Limits};
use runtimed_sandbox::process::{self, Pid};
use runtimed_sandbox::tree::{Medium, Root, Seen, Tree};
use rustix::io::Errno;
use tokio::task::JoinHandle;
use tracing::Instrument as _;

use super::cpu::{self, Ledger, Stat};
use super::workspace::Workspace;
use super::{Attempt, Ended, storage};
use crate::live::{Live, Stop};
use crate::workers::Worker;

/// From one look to the next, at least.
const INTERVAL: Duration = Duration::from_millis(100);
/// A look that takes long is followed by this many times as long without one, so that it costs a fifth of a core at most.
const REST: u32 = 4;
/// Entries of a tree that a look counts.
const MAX_ENTRIES: u64 = 200_000;

/// How long a part of a tree may keep from being seen before it is taken for full. Programs that try what a mode forbids are
/// done with it much sooner.
const UNSEEN: Duration = Duration::from_secs(2);

/// Looks for as long as it lives.
pub(super) struct Sampler {
    task: JoinHandle<()>,
    why: Arc<OnceLock<String>>,
}

impl Sampler {
    /// What a person should know of the limit that was found to be exceeded, beside its name.
    pub(super) fn why(&self) -> Option<String> {
        self.why.get().cloned()
    }
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
    places: Vec<Place>,
    page: u64,
    /// CPU time that the worker's former children had used when the command began.
    before: Duration,
    cpu: Ledger,
    why: Arc<OnceLock<String>>,
}

/// A directory of the Run, and what was last seen of it.
struct Place {
    what: Measured,
    device: u64,
    medium: Medium,
    bytes: u64,
    /// Since when a part of it is not seen.
    unseen: Option<Instant>,
}

enum Measured {
    Tree(Tree),
    /// What the command has whole.
    Whole(Root),
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
    let mut places = Vec::new();
    for tree in [&workspace.tmp, &workspace.home, &workspace.workspace] {
        let again = tree.root().reopen(tree.name());
        let again = again.map_err(|error| storage("a tree cannot be measured", &error))?;
        places.extend(again.map(Measured::Tree));
    }
    places.extend(workspace.whole.iter().flat_map(|whole| whole.all()).cloned().map(Measured::Whole));
    let places = places.into_iter().map(Place::new).collect::<Result<_, _>>();
    let why = Arc::new(OnceLock::new());
    let watched = Watched {
        limits: limits.clone(),
        worker: worker.pid(),
        places: places.map_err(|error| storage("a tree cannot be measured", &error))?,
        page: rustix::param::page_size() as u64,
        before: cpu::reaped(worker.pid()),
        cpu: Ledger::default(),
        why: Arc::clone(&why),
    };
    let live = Arc::clone(&attempt.live);
    Ok(Some(Sampler { task: tokio::spawn(watch(watched, live).in_current_span()), why }))
}

async fn watch(mut watched: Watched, live: Arc<Live>) {
    let mut rest = Duration::ZERO;
    loop {
        tokio::time::sleep(INTERVAL.max(rest)).await;
        let begun = Instant::now();
        let looked = tokio::task::spawn_blocking(move || {
            let over = watched.over();
            (watched, over)
        });
        match looked.await {
            Ok((_, Some(limit))) => {
                live.stop(Stop::Limit(limit));
                return;
            }
            Ok((again, None)) => (watched, rest) = (again, begun.elapsed() * REST),
            Err(_) => return,
        }
    }
}

impl Watched {
    /// The first limit that is exceeded at this moment.
    fn over(&mut self) -> Option<LimitName> {
        let tree = process::descendants(self.worker, &[]);
        if self.limits.processes.is_some() || self.limits.cpu.is_some() {
            let stats: Vec<_> = tree.iter().filter_map(|pid| Some((*pid, Stat::of(*pid)?))).collect();
            // Threads count, as the pod's own bound counts them (`pids.max` of cgroups(7)).
            let threads: u64 = stats.iter().map(|(_, stat)| stat.threads).sum();
            if self.limits.processes.is_some_and(|most| threads > u64::from(most)) {
                return Some(LimitName::Processes);
            }
            // The kernel holds each process to it; together they may have used more.
            let reaped = cpu::reaped(self.worker).saturating_sub(self.before);
            if self.limits.cpu.is_some_and(|most| self.cpu.used(&stats, reaped) > most.get()) {
                return Some(LimitName::Cpu);
            }
        }
        let (memory, disk) = (self.limits.memory, self.limits.disk);
        let wanted = |place: &Place| disk.is_some() || memory.is_some() && place.medium.is_memory();
        let why = &self.why;
        self.places.iter_mut().filter(|place| wanted(place)).for_each(|place| place.look(why));
        let devices: Vec<u64> =
            self.places.iter().filter(|place| wanted(place)).map(|place| place.device).collect();
        let deleted = if devices.is_empty() { BTreeMap::new() } else { deleted::held(&tree, &devices) };
        if let Some(most) = memory {
            let resident = tree.iter().map(|pid| self.resident(*pid)).fold(0, u64::saturating_add);
            // What lies on a memory-backed root is memory too, and no process's own.
            let kept = self.kept(&deleted, |place| place.medium.is_memory());
            if resident.saturating_add(kept) > most.0 {
                return Some(LimitName::Memory);
            }
        }
        let over_disk = disk.is_some_and(|most| self.kept(&deleted, |_| true) > most.0);
        over_disk.then_some(LimitName::Disk)
    }

    /// What such places of the Run take, with the files there that have no name any more.
    fn kept(&self, deleted: &BTreeMap<u64, u64>, wanted: impl Fn(&Place) -> bool) -> u64 {
        let wanted: Vec<&Place> = self.places.iter().filter(|place| wanted(place)).collect();
        let devices: BTreeSet<u64> = wanted.iter().map(|place| place.device).collect();
        let nameless = devices.iter().filter_map(|device| deleted.get(device)).copied();
        wanted.iter().map(|place| place.bytes).chain(nameless).fold(0, u64::saturating_add)
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

impl Place {
    fn new(what: Measured) -> Result<Self, Errno> {
        let (directory, medium) = match &what {
            Measured::Tree(tree) => (tree.fd(), tree.medium()),
            Measured::Whole(root) => (root.fd(), root.medium()),
        };
        let device = rustix::fs::fstat(directory)?.st_dev;
        Ok(Self { what, device, medium, bytes: 0, unseen: None })
    }

    /// Measures it. One that has too many entries is taken for full, and so is one of which a part keeps from being seen: to
    /// see it, a mode would have to be changed that the Run may mean.
    fn look(&mut self, why: &OnceLock<String>) {
        let usage = match &self.what {
            Measured::Tree(tree) => tree.usage(MAX_ENTRIES),
            Measured::Whole(root) => root.usage(MAX_ENTRIES),
        };
        let (bytes, seen) = usage.map_or((0, Seen::Part), |usage| (usage.bytes, usage.seen));
        self.bytes = bytes;
        let taken_for_full = match seen {
            Seen::Whole => {
                self.unseen = None;
                return;
            }
            Seen::Capped => format!(
                "its directories have more than {MAX_ENTRIES} entries, or very long names: that many are not measured, \
                 but count as more than the limit"
            ),
            Seen::Part if self.unseen.get_or_insert_with(Instant::now).elapsed() < UNSEEN => return,
            Seen::Part => format!(
                "for {} s a directory of the Run could not be measured, because its mode keeps its owner from reading \
                 it, or because directories kept being moved: that counts as more than the limit",
                UNSEEN.as_secs()
            ),
        };
        self.bytes = u64::MAX;
        // The first reason stays.
        why.get_or_init(|| taken_for_full);
    }
}
