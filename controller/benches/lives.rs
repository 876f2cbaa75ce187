//! How many Runs a second go through the controller, and how long one takes: submit, lease, reports, terminal, over real
//! sockets and a real disk, with a daemon that executes nothing.
//!
//! `cargo bench -p runtimed-controller --bench lives -- [RUNS]`. The database lies in `TMPDIR`. Beside it the time of one
//! `fdatasync` in the same place, as the measure of the disk.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::Semaphore;

#[expect(dead_code, reason = "the tests use all of it")]
#[path = "../tests/it/harness.rs"]
mod harness;

use harness::{ALICE, Server, default, run, until_over};

fn main() -> io::Result<()> {
    let runs = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(1000);
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    for in_flight in [1, 8, 64] {
        let report = threads.block_on(measure(in_flight, runs));
        writeln!(io::stdout(), "{report}")?;
    }
    Ok(())
}

/// Runs so many Runs with so many in flight.
async fn measure(in_flight: usize, runs: usize) -> String {
    let server = Server::start();
    let disk = fdatasync(server.dir.path());
    let daemon = Arc::new(server.daemon("d1", u32::try_from(in_flight).expect("small")).await);
    let slots = (0..in_flight).map(|_| {
        let daemon = Arc::clone(&daemon);
        tokio::spawn(async move {
            loop {
                if let Some(lease) = daemon.lease_within(Duration::from_secs(20)).await {
                    daemon.complete(&lease, 0).await;
                }
            }
        })
    });
    let slots: Vec<_> = slots.collect();
    let places = Arc::new(Semaphore::new(in_flight));
    let alice = server.client(ALICE);
    let start = Instant::now();
    let lives = (0..runs).map(|index| {
        let (places, alice) = (Arc::clone(&places), alice.clone());
        async move {
            let _place = places.acquire().await.expect("open");
            let name = format!("r{index}");
            let start = Instant::now();
            alice.submit(&default(), &run(&name, "")).await.expect("submitted");
            until_over(&alice, &name).await;
            start.elapsed()
        }
    });
    let mut took: Vec<Duration> =
        join_all(lives.map(tokio::spawn)).await.into_iter().map(|life| life.expect("ended")).collect();
    let wall = start.elapsed();
    for slot in slots {
        slot.abort();
    }
    let rate = u32::try_from(runs).map(f64::from).unwrap_or(f64::NAN) / wall.as_secs_f64();
    let (p50, p99) = quantiles(&mut took);
    format!(
        "{in_flight:>3} in flight: {rate:>6.0} Runs/s   submit to terminal p50 {p50:>9.2?} p99 {p99:>9.2?}   fdatasync p50 {disk:.2?}"
    )
}

fn quantiles(took: &mut [Duration]) -> (Duration, Duration) {
    took.sort();
    let at = |percent: usize| took.get(took.len() * percent / 100).copied().unwrap_or_default();
    (at(50), at(99))
}

fn fdatasync(dir: &std::path::Path) -> Duration {
    let mut file = OpenOptions::new().create(true).append(true).open(dir.join("probe")).expect("a file");
    let mut took: Vec<Duration> = (0..200)
        .map(|_| {
            file.write_all(&[0; 4096]).expect("written");
            let start = Instant::now();
            file.sync_data().expect("synced");
            start.elapsed()
        })
        .collect();
    quantiles(&mut took).0
}
