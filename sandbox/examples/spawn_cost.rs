//! What confinement costs at a start: spawn to reap of `/bin/true`, beside a bare `posix_spawn` in the same loop, from a
//! process of a daemon's size (64 threads, 200 MB).
//!
//! `cargo run --release -p runtimed-sandbox --example spawn_cost`

#![expect(clippy::print_stdout, reason = "the table is this program's output")]

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use runtimed_sandbox::plan::{Plan, plan};
use runtimed_sandbox::policy::{COMMON_DEVICES, HARMLESS_PROC, Network, Policy, Rlimits};
use runtimed_sandbox::spawn::{Executable, Spawn};
use runtimed_sandbox::support::Support;

const ROUNDS: usize = 1000;
const THREADS: usize = 64;
const BALLAST: usize = 200 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Written, so that the pages exist and a fork would have to copy their table.
    let ballast: Vec<u8> = (0..BALLAST).map(|at| if at % 4096 == 0 { 1 } else { 0 }).collect();
    let (stay, threads) = threads();
    let program = Executable::open(Path::new("/bin/true"))?;
    let planned = planned()?;

    let mut bare = Vec::with_capacity(ROUNDS);
    let mut ours = Vec::with_capacity(ROUNDS);
    let mut confined = Vec::with_capacity(ROUNDS);
    let mut preparing = Vec::with_capacity(ROUNDS);
    // In turns, so that whatever else the machine does meets all of them alike.
    for _ in 0..ROUNDS {
        bare.push(timed(posix_spawn)?);
        ours.push(timed(|| run(Spawn::new(&program, ["true"])))?);
        confined.push(timed(|| {
            let begun = Instant::now();
            let prepared = planned.prepare()?;
            preparing.push(begun.elapsed());
            run(Spawn::new(&program, ["true"]).confine(prepared))
        })?);
    }
    let base = median(&mut bare);
    println!("{ROUNDS} rounds, {THREADS} threads, {} MB", ballast.len() >> 20);
    for (name, samples) in [
        ("posix_spawn", &mut bare),
        ("spawn", &mut ours),
        ("confined spawn", &mut confined),
        ("  of it, preparing", &mut preparing),
    ] {
        let p50 = median(samples);
        let p99 = samples.get(samples.len() * 99 / 100).copied().unwrap_or_default();
        let difference = p50.as_secs_f64() - base.as_secs_f64();
        let p10 = samples.get(samples.len() / 10).copied().unwrap_or_default();
        println!(
            "{name:20} p10 {p10:>10.1?}  p50 {p50:>10.1?}  p99 {p99:>10.1?}  ratio {:.2}  difference {:+.3} ms",
            p50.as_secs_f64() / base.as_secs_f64(),
            difference * 1e3
        );
    }
    drop(stay);
    threads.into_iter().for_each(|thread| thread.join().unwrap_or_default());
    Ok(())
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn timed(start: impl FnOnce() -> Outcome) -> Result<Duration, Box<dyn std::error::Error>> {
    let begun = Instant::now();
    start()?;
    Ok(begun.elapsed())
}

#[expect(clippy::disallowed_methods, reason = "the standard library's posix_spawn is the peer")]
fn posix_spawn() -> Outcome {
    std::process::Command::new("/bin/true").env_clear().status()?;
    Ok(())
}

fn run(spawn: Spawn<'_>) -> Outcome {
    spawn.spawn()?.wait()?;
    Ok(())
}

fn median(samples: &mut [Duration]) -> Duration {
    samples.sort_unstable();
    samples.get(samples.len() / 2).copied().unwrap_or_default()
}

/// A policy as a Run has it: a dozen grants, two ports.
fn planned() -> Result<Plan, Box<dyn std::error::Error>> {
    let existing = |paths: &[&str]| -> Vec<PathBuf> {
        paths.iter().map(PathBuf::from).filter(|path| path.exists()).collect()
    };
    let policy = Policy {
        read: existing(&["/etc", "/opt"]),
        execute: existing(&["/usr", "/bin", "/lib", "/lib64"]),
        devices: existing(COMMON_DEVICES),
        proc_files: existing(HARMLESS_PROC),
        network: Network::Ports {
            connect: vec![53, 443],
            listen: vec![],
            bind_ephemeral: true,
            udp_dns: false,
        },
        limits: Rlimits { nofile: Some(1024), ..Rlimits::default() },
        ..Policy::default()
    };
    Ok(plan(&policy, &Support::probe())?)
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
