//! What confinement costs: spawn to reap of `/bin/true` in each tier, beside a bare `posix_spawn` and bubblewrap in the same
//! loop; a filtered system call; a compile and a `git status` inside and outside.
//!
//! `cargo run --release -p runtimed-sandbox --example spawn_cost`; with `inside PROGRAM ARG…` it runs that in the base tier, with
//! the current directory as its own, for a profiler to look at. Bubblewrap is Debian's package of that name. A daemon of
//! a realistic size (64 threads, 200 MB) starts what it would start; what a worker would start is started by a process of a
//! worker's size.

#![expect(clippy::print_stdout, reason = "the table is this program's output")]

mod work;

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use runtimed_sandbox::plan::{Plan, plan};
use runtimed_sandbox::policy::{COMMON_DEVICES, HARMLESS_PROC, Network, Policy, Rlimits};
use runtimed_sandbox::process;
use runtimed_sandbox::spawn::{Executable, Spawn, Status};
use runtimed_sandbox::support::{Support, views};
use runtimed_sandbox::view::View;

const ROUNDS: usize = 500;
const THREADS: usize = 64;
const BALLAST: usize = 200 << 20;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_, "worker", uid, gid] => {
            process::settle(uid.parse()?, gid.parse()?)?;
            return as_a_worker();
        }
        [_, "calls"] => return work::calls(),
        [_, "inside", program, rest @ ..] => return work::inside(Path::new(program), rest),
        _ => {}
    }
    if rustix::process::geteuid().is_root() {
        process::drop_to(65_532, 65_532)?;
    }
    let own_views = views();
    let ours = Executable::open(Path::new("/proc/self/exe"))?;
    as_a_daemon(own_views.is_ok())?;
    match own_views {
        Ok(_) => {
            let (uid, gid) = (rustix::process::geteuid().to_string(), rustix::process::getegid().to_string());
            let worker = Spawn::new(&ours, ["spawn_cost", "worker", &uid, &gid]);
            let worker = worker.env("PATH", "/usr/bin:/bin").fd(1, rustix::stdio::stdout());
            let status = worker.fd(2, rustix::stdio::stderr()).own_processes(true).spawn()?.wait()?.status;
            if status != Status::Exited(0) {
                return Err("the worker failed".into());
            }
        }
        Err(missing) => println!("namespaces: not measured: {missing}"),
    }
    work::compare(&ours)
}

/// What a daemon starts: workers; for comparison, commands of the base tier.
fn as_a_daemon(namespaces: bool) -> Outcome {
    // Written, so that the pages exist and a fork would have to copy their table.
    let ballast: Vec<u8> = (0..BALLAST).map(|at| if at % 4096 == 0 { 1 } else { 0 }).collect();
    let (stay, threads) = threads();
    let program = Executable::open(Path::new("/bin/true"))?;
    let base = planned(None, ports())?;
    let bubblewrap =
        ["/usr/bin/bwrap", "/usr/local/bin/bwrap"].into_iter().find(|path| Path::new(path).exists());
    let mut preparing = Vec::with_capacity(ROUNDS);
    let mut table = Table::new(&format!("from {THREADS} threads and {} MB", ballast.len() >> 20));
    // In turns, so that whatever else the machine does meets all of them alike.
    for _ in 0..ROUNDS {
        table.time("posix_spawn", || posix_spawn("/bin/true", &[]))?;
        table.time("spawn", || run(Spawn::new(&program, ["true"])))?;
        let begun = Instant::now();
        let prepared = base.prepare()?;
        preparing.push(begun.elapsed());
        table.time("base tier, prepared", || run(Spawn::new(&program, ["true"]).confine(prepared)))?;
        table.time("base tier, and preparing", || {
            run(Spawn::new(&program, ["true"]).confine(base.prepare()?))
        })?;
        if namespaces {
            table.time("own processes", || run(Spawn::new(&program, ["true"]).own_processes(true)))?;
        }
        // From here, for it refuses to start with the capabilities that a worker has in its namespace.
        if let Some(path) = bubblewrap {
            let usual = "--unshare-all --die-with-parent --ro-bind /usr /usr --ro-bind /etc /etc --symlink usr/bin /bin \
                         --symlink usr/lib /lib --symlink usr/lib64 /lib64 --dev /dev --proc /proc --tmpfs /tmp -- /bin/true";
            table.time("bubblewrap", || {
                posix_spawn(path, &usual.split_ascii_whitespace().collect::<Vec<_>>())
            })?;
        }
    }
    table.add("  of base, preparing", preparing);
    table.print();
    if bubblewrap.is_none() {
        println!("bubblewrap: not measured: install the package bubblewrap");
    }
    drop(stay);
    threads.into_iter().for_each(|thread| thread.join().unwrap_or_default());
    Ok(())
}

/// What a worker starts in the namespaces tier: the command, in a view of its own.
fn as_a_worker() -> Outcome {
    let program = Executable::open(Path::new("/bin/true"))?;
    let view = || Some(View { shown: Vec::new(), own_proc: true });
    let (alone, sharing) = (planned(view(), Network::None)?, planned(view(), ports())?);
    let mut preparing = Vec::with_capacity(ROUNDS);
    let mut table = Table::new("from the first process of a namespace");
    for _ in 0..ROUNDS {
        table.time("posix_spawn", || posix_spawn("/bin/true", &[]))?;
        table.time("namespaces, network None", || {
            let begun = Instant::now();
            let prepared = alone.prepare()?;
            preparing.push(begun.elapsed());
            run(Spawn::new(&program, ["true"]).confine(prepared))
        })?;
        table.time("namespaces, network Ports", || {
            run(Spawn::new(&program, ["true"]).confine(sharing.prepare()?))
        })?;
    }
    table.add("  of None, preparing", preparing);
    table.print();
    Ok(())
}

/// Samples by name, in the order of their first.
struct Table {
    title: String,
    rows: Vec<(String, Vec<Duration>)>,
}

impl Table {
    fn new(title: &str) -> Self {
        Self { title: title.to_owned(), rows: Vec::new() }
    }

    fn time(&mut self, name: &str, start: impl FnOnce() -> Outcome) -> Outcome {
        let begun = Instant::now();
        start()?;
        let took = begun.elapsed();
        match self.rows.iter_mut().find(|(row, _)| row == name) {
            Some((_, samples)) => samples.push(took),
            None => self.rows.push((name.to_owned(), vec![took])),
        }
        Ok(())
    }

    fn add(&mut self, name: &str, samples: Vec<Duration>) {
        self.rows.push((name.to_owned(), samples));
    }

    /// The first row is what the others are compared with.
    fn print(mut self) {
        println!("{}, {ROUNDS} rounds", self.title);
        self.rows.iter_mut().for_each(|(_, samples)| samples.sort_unstable());
        let at = |samples: &[Duration], share: usize| {
            samples.get(samples.len() * share / 100).copied().unwrap_or_default()
        };
        let first = self.rows.first().map(|(_, samples)| at(samples, 50)).unwrap_or_default();
        for (name, samples) in &self.rows {
            let (p10, p50, p99) = (at(samples, 10), at(samples, 50), at(samples, 99));
            println!(
                "  {name:26} p10 {p10:>9.1?}  p50 {p50:>9.1?}  p99 {p99:>9.1?}  ratio {:.2}  difference {:+.3} ms",
                p50.as_secs_f64() / first.as_secs_f64(),
                (p50.as_secs_f64() - first.as_secs_f64()) * 1e3
            );
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the standard library's posix_spawn is the peer")]
fn posix_spawn(program: &str, arguments: &[&str]) -> Outcome {
    let status = std::process::Command::new(program).args(arguments).env_clear().status()?;
    if status.success() { Ok(()) } else { Err(format!("{program}: {status}").into()) }
}

fn run(spawn: Spawn<'_>) -> Outcome {
    match spawn.spawn()?.wait()?.status {
        Status::Exited(0) => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}

fn ports() -> Network {
    Network::Ports { connect: vec![53, 443], listen: vec![], bind_ephemeral: true, udp_dns: false }
}

/// A policy as a Run has it: a dozen grants.
fn policy(view: Option<View>, network: Network) -> Policy {
    let existing = |paths: &[&str]| -> Vec<PathBuf> {
        paths.iter().map(PathBuf::from).filter(|path| path.exists()).collect()
    };
    Policy {
        read: existing(&["/etc", "/opt"]),
        execute: existing(&["/usr", "/bin", "/lib", "/lib64"]),
        devices: existing(COMMON_DEVICES),
        proc_files: existing(HARMLESS_PROC),
        network,
        view,
        limits: Rlimits { nofile: Some(1024), ..Rlimits::default() },
        ..Policy::default()
    }
}

fn planned(view: Option<View>, network: Network) -> Outcome<Plan> {
    Ok(plan(&policy(view, network), &Support::probe())?)
}

fn threads() -> (mpsc::Sender<()>, Vec<std::thread::JoinHandle<()>>) {
    let (stay, until) = mpsc::channel::<()>();
    let until = std::sync::Arc::new(std::sync::Mutex::new(until));
    let threads = (0..THREADS).map(|_| {
        let until = until.clone();
        // Each waits for the lock or, with it, for the other end to be dropped.
        std::thread::spawn(move || until.lock().map_or((), |until| until.recv().unwrap_or_default()))
    });
    (stay, threads.collect())
}
