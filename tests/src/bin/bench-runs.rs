//! How long a warm Run takes, and how many go through in a second, beside starting the same program bare.
//!
//! ```text
//! cargo build --release --workspace && target/release/bench-runs
//! ```
//!
//! One daemon, the command `true`, no source; trees on tmpfs, state on disk. Figures of one machine say little, ratios to the
//! bare spawn of the same run say more; docs/BENCHMARKS.md has both.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use futures_util::stream::{self, StreamExt as _};
use runtimed_api::run::status::Phase;
use runtimed_api::run::step::Step;
use runtimed_tests::cluster::{Cluster, Options, phase, result};
use runtimed_tests::process::command;
use runtimed_tests::runs;

/// Times warm Runs beside bare spawns.
#[derive(Debug, Parser)]
struct Args {
    /// Runs at each number in flight.
    #[arg(long, default_value_t = 400)]
    runs: u32,
    /// Numbers in flight.
    #[arg(long, value_delimiter = ',', default_value = "1,8,64")]
    in_flight: Vec<usize>,
    /// Slots of the daemon.
    #[arg(long, default_value_t = 8)]
    slots: u32,
    /// Where the trees are; a memory-backed directory, as a pod's /tmp may be.
    #[arg(long, default_value = "/dev/shm")]
    trees: PathBuf,
    /// Where daemon and controller keep their state; a journaled file system gives an honest fdatasync.
    #[arg(long)]
    state: Option<PathBuf>,
    /// By which means Runs are set apart: Base, or Namespaces.
    #[arg(long, default_value = "Base")]
    tier: String,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(bench(args))
}

async fn bench(args: Args) -> anyhow::Result<()> {
    println!("fdatasync of 4 KiB in the state directory: p50 {}", millis(fdatasync(args.state.as_deref())?));
    let options = Options {
        slots: args.slots,
        runtime_toml: format!("[sandbox]\ntier = {:?}\n", args.tier),
        trees: Some(args.trees.clone()),
        state: args.state.clone(),
        ..Options::default()
    };
    let cluster = Arc::new(Cluster::start(options).await);
    measure(&cluster, "warm", 20, 1).await;
    println!(
        "{:<10} {:>9} {:>9} {:>9} {:>12} {:>12} {:>12}",
        "in flight", "p50", "p99", "Runs/s", "bare p50", "bare/s", "p50 / bare"
    );
    let mut steps = BTreeMap::new();
    for (round, in_flight) in args.in_flight.iter().copied().enumerate() {
        let bare = bare(args.runs, in_flight);
        let runs = measure(&cluster, &format!("r{round}"), args.runs, in_flight).await;
        let ratio = runs.p50.as_secs_f64() / bare.p50.as_secs_f64();
        println!(
            "{in_flight:<10} {:>9} {:>9} {:>9.0} {:>12} {:>12.0} {ratio:>12.1}",
            millis(runs.p50),
            millis(runs.p99),
            runs.rate,
            millis(bare.p50),
            bare.rate,
        );
        steps.insert(in_flight, runs.steps);
    }
    for (in_flight, steps) in steps {
        let line: Vec<_> = steps.iter().map(|(step, took)| format!("{step} {}", millis(*took))).collect();
        println!("steps at {in_flight} in flight, p50: {}", line.join(", "));
    }
    Ok(())
}

struct Figures {
    p50: Duration,
    p99: Duration,
    rate: f64,
    steps: BTreeMap<Step, Duration>,
}

/// Times from before the submission until the terminal phase has arrived.
async fn measure(cluster: &Arc<Cluster>, name: &str, count: u32, in_flight: usize) -> Figures {
    let begun = Instant::now();
    let one = |index: u32| {
        let cluster = Arc::clone(cluster);
        let run = runs::read(&format!(
            "apiVersion: runtimed.dev/v1alpha1\nkind: Run\nmetadata: {{ name: {name}-{index} }}\nspec: {{ runtime: test, command: [\"true\"] }}\n"
        ));
        async move {
            let begun = Instant::now();
            let run = cluster.run(run).await;
            let took = begun.elapsed();
            assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
            (took, result(&run).steps.clone())
        }
    };
    let all: Vec<_> = stream::iter(0..count).map(one).buffer_unordered(in_flight).collect().await;
    let rate = f64::from(count) / begun.elapsed().as_secs_f64();
    let mut times: Vec<_> = all.iter().map(|(took, _)| *took).collect();
    let mut steps: BTreeMap<Step, Vec<Duration>> = BTreeMap::new();
    for time in all.iter().flat_map(|(_, steps)| steps) {
        steps.entry(time.step).or_default().push(Duration::from_micros(time.micros));
    }
    let steps = steps.into_iter().map(|(step, mut times)| (step, percentile(&mut times, 50))).collect();
    Figures { p50: percentile(&mut times, 50), p99: percentile(&mut times, 99), rate, steps }
}

/// The same program, started and waited for with nothing around it.
fn bare(count: u32, in_flight: usize) -> Figures {
    let begun = Instant::now();
    let each = count.div_ceil(u32::try_from(in_flight).expect("a small number"));
    let one = || {
        let begun = Instant::now();
        let status = command("/bin/true").status().expect("it runs");
        assert!(status.success());
        begun.elapsed()
    };
    let mut times: Vec<Duration> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..in_flight).map(|_| scope.spawn(|| (0..each).map(|_| one()).collect::<Vec<_>>())).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("it ends")).collect()
    });
    let rate = f64::from(u32::try_from(times.len()).expect("a small number")) / begun.elapsed().as_secs_f64();
    Figures { p50: percentile(&mut times, 50), p99: percentile(&mut times, 99), rate, steps: BTreeMap::new() }
}

/// What a promise to the disk costs here: the floor of every journaled step.
fn fdatasync(dir: Option<&std::path::Path>) -> anyhow::Result<Duration> {
    let file = match dir {
        Some(dir) => tempfile::tempfile_in(dir)?,
        None => tempfile::tempfile()?,
    };
    let mut times: Vec<Duration> = (0..50).map(|_| sync_once(&file)).collect::<std::io::Result<_>>()?;
    Ok(percentile(&mut times, 50))
}

fn sync_once(mut file: &File) -> std::io::Result<Duration> {
    let begun = Instant::now();
    file.write_all(&[0; 4096])?;
    file.sync_data()?;
    Ok(begun.elapsed())
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}

fn millis(took: Duration) -> String {
    format!("{:.2} ms", took.as_secs_f64() * 1000.0)
}
