//! One attempt of `true` without a source, as the daemon drives it, beside a bare spawn of the same program in the same
//! run: medians, and their ratio. `cargo bench -p runtimed-worker`.

#![expect(clippy::print_stdout, reason = "a benchmark prints its result")]

#[path = "../tests/worker/harness.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "it is the tests' own, and they use the rest of it")]
mod harness;

use std::time::{Duration, Instant};

use runtimed_api::link::Source;
use runtimed_sandbox::spawn::{Executable, Spawn};

use crate::harness::{Attempt, Daemon};

/// Attempts that are measured, after a tenth as many that are not.
const ROUNDS: usize = 500;

/// What is measured of one attempt. All times count from the worker's spawn.
#[derive(Default)]
struct Series {
    greeted: Vec<Duration>,
    ready: Vec<Duration>,
    started: Vec<Duration>,
    exited: Vec<Duration>,
    captured: Vec<Duration>,
    ended: Vec<Duration>,
    cpu: Vec<Duration>,
    command_cpu: Vec<Duration>,
    bare: Vec<Duration>,
    bare_cpu: Vec<Duration>,
}

fn main() {
    let mut series = Series::default();
    for round in 0..ROUNDS + ROUNDS / 10 {
        if round == ROUNDS / 10 {
            series = Series::default();
        }
        attempt(&mut series);
        bare(&mut series);
    }
    let bare = median(&mut series.bare);
    println!("bare spawn to exit        {bare:>10.1?}");
    println!("  its processor time      {:>10.1?}", median(&mut series.bare_cpu));
    for (name, times) in [
        ("spawn to Hello", &mut series.greeted),
        ("spawn to Baseline", &mut series.ready),
        ("spawn to Started", &mut series.started),
        ("spawn to Exited", &mut series.exited),
        ("spawn to Captured", &mut series.captured),
        ("spawn to worker's exit", &mut series.ended),
    ] {
        let time = median(times);
        println!("{name:<25} {time:>10.1?}  {:.1} x bare", time.as_secs_f64() / bare.as_secs_f64());
    }
    println!("processor time, worker    {:>10.1?}", median(&mut series.cpu));
    println!("processor time, command   {:>10.1?}", median(&mut series.command_cpu));
}

fn attempt(series: &mut Series) {
    let trees = Attempt::new();
    let spawned = Instant::now();
    let mut daemon = Daemon::with(trees);
    daemon.greet();
    series.greeted.push(spawned.elapsed());
    daemon.assign(Source::Empty);
    daemon.baseline();
    series.ready.push(spawned.elapsed());
    daemon.start(&["true"]);
    series.started.push(spawned.elapsed());
    let exited = daemon.exited();
    series.exited.push(spawned.elapsed());
    daemon.capture();
    series.captured.push(spawned.elapsed());
    assert!(daemon.try_receive().is_none(), "the worker says more than was expected");
    let ended = daemon.worker.wait().expect("the worker is ours to wait for");
    series.ended.push(spawned.elapsed());
    let command = Duration::from_micros(exited.user_micros + exited.system_micros);
    series.command_cpu.push(command);
    series.cpu.push((ended.rusage.user + ended.rusage.system).saturating_sub(command));
}

fn bare(series: &mut Series) {
    let program = Executable::open(std::path::Path::new("/bin/true")).expect("there is a /bin/true");
    let started = Instant::now();
    let mut child = Spawn::new(&program, ["true"]).spawn().expect("it starts");
    let ended = child.wait().expect("it ends");
    series.bare.push(started.elapsed());
    series.bare_cpu.push(ended.rusage.user + ended.rusage.system);
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
