//! The servers of one schedule, and what is done to them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use runtimed_api::session::SecretText;
use runtimed_client::Endpoint;
use runtimed_client::controller::Controller;
use rustix::process::{Pid, Signal};
use tokio::time::Instant;

use super::disk::{self, Disk};
use super::failing::{self, DATABASE, Failing, JOURNAL};
use super::plan::{DAEMONS, Plan, What, Who};
use super::proxy::Proxy;
use super::{Seen, check, watch};
use crate::cluster::{Cluster, Options};
use crate::marks::Marks;

/// How long Runs may take to end after all was put right.
const PATIENCE: Duration = Duration::from_secs(90);
/// The size of a disk that is to be filled, in megabytes: twice what a daemon wants to keep free.
const DISK: u32 = 40;

/// The servers of one schedule.
struct World {
    cluster: Cluster,
    /// Before the controller, one a daemon; the last is people's.
    proxies: Vec<Proxy>,
    /// Under what is filled in this schedule. Dropped after what lives on them.
    disks: BTreeMap<usize, Disk>,
    /// Whose writes fail just now.
    failing: BTreeMap<usize, Failing>,
    /// By which attempts find each other.
    marks: Marks,
    /// Stopped processes.
    frozen: BTreeSet<i32>,
    /// Every process that a daemon was seen to have started, with the time of its start.
    seen: BTreeSet<Process>,
    /// Daemons that were told to end: a second word would abort them.
    draining: BTreeSet<usize>,
    left_out: Vec<&'static str>,
}

/// A process, told from a later one of the same id by the time of its start.
type Process = (i32, u64);

/// The controller, in the numbers of disks and daemons.
const CONTROLLER: usize = DAEMONS;

/// Plays a schedule.
///
/// # Errors
/// What was not as it must be.
pub async fn play(plan: &Plan) -> Result<Seen, String> {
    let mut world = World::start(plan).await.map_err(|error| format!("the servers do not start: {error}"))?;
    let client = world.client();
    let begun = Instant::now();
    let mut people = tokio::task::JoinSet::new();
    for run in &plan.runs {
        let (client, run) = (client.clone(), run.clone());
        let planned = run.clone();
        let script = if run.marked { world.marks.locked(&run.name, &run.script()) } else { run.script() };
        people.spawn(async move {
            tokio::time::sleep_until(begun + run.at).await;
            watch::live(client, run, script).await.map(|watched| (planned, watched))
        });
    }
    world.course(plan, begun).await;
    world.put_right();
    let mut lives = Vec::new();
    let ends = async {
        while let Some(life) = people.join_next().await {
            lives.push(life.map_err(|error| error.to_string())??);
        }
        Ok::<_, String>(())
    };
    match tokio::time::timeout(PATIENCE, ends).await {
        Ok(ended) => ended.map_err(|why| world.told(&why))?,
        Err(_) => return Err(world.told("not every Run ends after all was put right")),
    }
    let checked = check::runs(plan, &lives, &client).await;
    checked.map_err(|why| world.told(&why))?;
    world.end(plan)?;
    Ok(Seen {
        phases: lives.iter().map(|(_, life)| crate::cluster::phase(&life.over)).collect(),
        attempts: lives.iter().map(|(_, life)| check::attempts(&life.over)).sum(),
        unexplained: lives.iter().filter(|(_, life)| check::is_unexplained(plan, &life.over)).count() as u64,
        left_out: world.left_out,
    })
}

impl World {
    async fn start(plan: &Plan) -> std::io::Result<Self> {
        let marks = Marks::new();
        let mut runtime_toml = "[upload]\ndeadline = \"10s\"\n[drain]\ngrace = \"200ms\"\n".to_owned();
        runtime_toml.push_str(&marks.runtime_toml());
        let options = Options { daemons: 0, slots: 2, runtime_toml, lease: "300ms", ..Options::default() };
        let mut cluster = Cluster::start(options).await;
        let mut disks = BTreeMap::new();
        if disk::may_mount() && plan.has(|what| what == What::Fill(Who::Controller)) {
            cluster.kill_controller();
            disks.insert(CONTROLLER, Disk::at(&cluster.controller_dir(), DISK)?);
            cluster.revive_controller().map_err(std::io::Error::other)?;
        }
        let mut proxies = Vec::new();
        for index in 0..=DAEMONS {
            let proxy = Proxy::before(&cluster.url).await?;
            if index < DAEMONS {
                if disk::may_mount() && plan.has(|what| what == What::Fill(Who::Daemon(index))) {
                    let place = cluster.state_dir(index);
                    crate::cluster::own(&place);
                    disks.insert(index, Disk::at(&place, DISK)?);
                }
                cluster.add_daemon(&proxy.url);
            }
            proxies.push(proxy);
        }
        let (frozen, seen) = (BTreeSet::new(), BTreeSet::new());
        let (failing, draining, left_out) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
        Ok(Self { cluster, proxies, disks, failing, marks, frozen, seen, draining, left_out })
    }

    /// A person's client.
    fn client(&self) -> Controller {
        let token = fs::read_to_string(&self.cluster.token_file).expect("a token");
        let endpoint = Endpoint::new(&self.proxies[DAEMONS].url);
        Controller::new(&endpoint).expect("a client").with_token(SecretText::new(token))
    }

    /// Everything that the plan has, each at its time.
    async fn course(&mut self, plan: &Plan, begun: Instant) {
        let mut due: Vec<(Duration, bool, What)> = Vec::new();
        for act in &plan.acts {
            due.push((act.at, true, act.what));
            due.push((act.at + act.lasts, false, act.what));
        }
        due.sort_by_key(|(at, _, _)| *at);
        for (at, begins, what) in due {
            tokio::time::sleep_until(begun + at).await;
            if begins { self.begin(what).await } else { self.end_of(what) }
        }
    }

    async fn begin(&mut self, what: What) {
        match what {
            What::Kill(Who::Daemon(index)) => {
                self.note_processes(index);
                self.cluster.kill_daemon(index);
            }
            What::Kill(Who::Controller) => self.cluster.kill_controller(),
            What::Kill(Who::Worker(index)) => {
                self.note_processes(index);
                match self.worker(index) {
                    Some(worker) => signal(worker, Signal::KILL),
                    None => self.left_out.push("a worker was to be killed, and the daemon had none"),
                }
            }
            What::Freeze(who) => match self.pid(who) {
                Some(pid) => {
                    signal(pid, Signal::STOP);
                    self.frozen.insert(pid.as_raw_pid());
                }
                None => self.left_out.push("a process was to be stopped, and was not there"),
            },
            What::Link(index, trouble) => self.proxies[index].set(Some(trouble)),
            What::Replay(index) => self.proxies[index].replay().await,
            What::Fill(who) => match self.disks.get(&number(who)).map(Disk::fill) {
                Some(Ok(())) => {}
                Some(Err(_)) | None => {
                    self.left_out.push(super::NO_DISK);
                }
            },
            What::Fail(who) => self.fail(who),
            What::Drain(index) => {
                self.note_processes(index);
                if self.runs(index) && self.draining.insert(index) {
                    self.cluster.daemon(index).signal(Signal::TERM);
                }
            }
        }
    }

    fn end_of(&mut self, what: What) {
        match what {
            What::Kill(Who::Worker(_)) | What::Replay(_) => {}
            What::Kill(Who::Daemon(index)) => self.revive(index),
            // A drained daemon ends in its own time: it is started again when all is put right.
            What::Drain(index) => {
                if !self.runs(index) {
                    self.revive(index);
                }
            }
            What::Kill(Who::Controller) => self.revive_controller(),
            What::Freeze(_) => self.thaw(),
            What::Link(index, _) => self.proxies[index].set(None),
            What::Fail(who) => drop(self.failing.remove(&number(who))),
            What::Fill(who) => {
                if let Some(disk) = self.disks.get(&number(who)) {
                    disk.empty();
                }
            }
        }
    }

    /// Ends every trouble. A server that has ended is started again, as a kubelet does.
    fn put_right(&mut self) {
        self.thaw();
        self.failing.clear();
        self.disks.values().for_each(Disk::empty);
        if self.cluster.controller().is_none_or(|controller| controller.ended().is_some()) {
            self.revive_controller();
        }
        self.proxies.iter().for_each(|proxy| proxy.set(None));
        for index in 0..DAEMONS {
            self.note_processes(index);
            if self.draining.contains(&index)
                && let Some(daemon) = self.cluster.daemon_if_there(index)
            {
                daemon.wait(PATIENCE);
            }
            self.revive(index);
        }
    }

    /// Starts a daemon again that is not there. What an earlier one left is waited for as little as a kubelet does.
    fn revive(&mut self, index: usize) {
        if !self.runs(index) {
            self.draining.remove(&index);
            self.cluster.restart_daemon(index);
        }
    }

    fn revive_controller(&mut self) {
        if self.cluster.controller().is_some_and(|controller| controller.ended().is_none()) {
            return;
        }
        // On a full disk it may not come up; then it does when all is put right.
        if let Ok(url) = self.cluster.revive_controller() {
            self.proxies.iter().for_each(|proxy| proxy.lead_to(&url));
        }
    }

    fn fail(&mut self, who: Who) {
        let thread = if who == Who::Controller { DATABASE } else { JOURNAL };
        let failing = match self.pid(who) {
            Some(pid) if failing::may_fail() => Failing::of(pid, thread, None).ok(),
            _ => None,
        };
        match failing {
            Some(failing) => drop(self.failing.insert(number(who), failing)),
            None => self
                .left_out
                .push("writes were to fail, and only root may have a server's fail, while it runs"),
        }
    }

    fn thaw(&mut self) {
        for pid in std::mem::take(&mut self.frozen) {
            if let Some(pid) = Pid::from_raw(pid) {
                signal(pid, Signal::CONT);
            }
        }
    }

    fn runs(&mut self, index: usize) -> bool {
        self.cluster.daemon_if_there(index).is_some_and(|daemon| daemon.ended().is_none())
    }

    fn is_up(&mut self, index: usize) -> bool {
        self.cluster.daemon_if_there(index).is_some_and(|daemon| daemon.said().contains("ready to lease"))
    }

    fn pid(&mut self, who: Who) -> Option<Pid> {
        match who {
            Who::Daemon(index) => self.cluster.daemon_if_there(index).map(|daemon| daemon.pid()),
            Who::Worker(index) => self.worker(index),
            Who::Controller => self.cluster.controller().map(|controller| controller.pid()),
        }
    }

    /// One of the workers that a daemon has just now.
    fn worker(&mut self, index: usize) -> Option<Pid> {
        let daemon = self.cluster.daemon_if_there(index)?.pid();
        Pid::from_raw(children(daemon.as_raw_pid()).first().copied()?)
    }

    /// Writes down what runs below a daemon: none of it may be there in the end.
    fn note_processes(&mut self, index: usize) {
        let Some(daemon) = self.cluster.daemon_if_there(index) else { return };
        let mut pending = vec![daemon.pid().as_raw_pid()];
        while let Some(parent) = pending.pop() {
            for child in children(parent) {
                self.seen.extend(started(child).map(|at| (child, at)));
                pending.push(child);
            }
        }
    }

    /// Drains the daemons, and looks at what is left.
    fn end(&mut self, plan: &Plan) -> Result<(), String> {
        for index in 0..DAEMONS {
            self.note_processes(index);
            // It may have been drained just before the trouble ended.
            if !self.runs(index) {
                self.revive(index);
            }
        }
        // A daemon that has only just been started is not told to end before it can hear it.
        let deadline = std::time::Instant::now() + PATIENCE;
        while (0..DAEMONS).any(|index| !self.is_up(index)) {
            if std::time::Instant::now() > deadline {
                return Err(self.told("a daemon does not come up"));
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        let left = self.cluster.try_drain().map_err(|why| self.told(&why))?;
        if !left.is_empty() {
            return Err(self.told(&format!("trees or spools are left: {left:?}")));
        }
        let alive: Vec<_> = self.seen.iter().filter(|(pid, at)| started(*pid) == Some(*at)).collect();
        if !alive.is_empty() {
            let words: Vec<_> = alive.iter().map(|(pid, _)| words(*pid)).collect();
            return Err(self.told(&format!("processes are left: {words:?}")));
        }
        for run in plan.runs.iter().filter(|run| run.secret) {
            let found = self.cluster.files_with(run.secret_value().as_bytes());
            if !found.is_empty() {
                return Err(self.told(&format!("a secret of {} is left in {found:?}", run.name)));
            }
        }
        Ok(())
    }

    /// A failure, with what the servers said.
    fn told(&mut self, why: &str) -> String {
        let mut text = why.to_owned();
        for (name, said) in self.cluster.all_said() {
            text.push_str(&format!("\n--- {name} said:\n{said}"));
        }
        text
    }
}

fn number(who: Who) -> usize {
    match who {
        Who::Daemon(index) | Who::Worker(index) => index,
        Who::Controller => CONTROLLER,
    }
}

fn signal(pid: Pid, signal: Signal) {
    // Gone is as good.
    let _gone = rustix::process::kill_process(pid, signal);
}

/// The children of a process, whatever thread of it started them.
fn children(pid: i32) -> Vec<i32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let of = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
    let text: Vec<String> = tasks.flatten().map(of).collect();
    text.iter().flat_map(|text| text.split_whitespace()).filter_map(|pid| pid.parse().ok()).collect()
}

/// When a process that is not a zombie was started, in ticks since the boot: the 22nd field of `/proc/PID/stat`
/// (proc(5)), counted behind the name, which may hold anything.
fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit(')').next()?.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" { None } else { fields.nth(18)?.parse().ok() }
}

fn words(pid: i32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("{pid} {}", String::from_utf8_lossy(&words).replace('\0', " "))
}
