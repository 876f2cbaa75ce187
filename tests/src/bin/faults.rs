//! Plays schedules of faults against the real binaries, for as long as it is told to.
//!
//! ```text
//! cargo build --workspace --bins
//! target/debug/faults --minutes 30               # from a seed that is printed
//! target/debug/faults --seed 4711 --schedules 1  # one of them again
//! ```

#![expect(clippy::print_stdout, reason = "it prints what it saw")]

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Parser;
use runtimed_tests::fault;
use runtimed_tests::fault::plan::Plan;

/// Plays schedules of faults against the real binaries.
#[derive(Debug, Parser)]
struct Args {
    /// For so many minutes at most.
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// The first seed; of the time without it.
    #[arg(long)]
    seed: Option<u64>,
    /// So many schedules at most.
    #[arg(long, default_value_t = u64::MAX)]
    schedules: u64,
    /// So many at once.
    #[arg(long, default_value_t = 3)]
    at_once: usize,
    /// Print the plans and play nothing.
    #[arg(long)]
    plan: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let first = args.seed.unwrap_or(now * 1000);
    let seeds = first..first.saturating_add(args.schedules);
    if args.plan {
        seeds.for_each(|seed| println!("seed {seed}\n{}", Plan::of(seed)));
        return Ok(ExitCode::SUCCESS);
    }
    println!("from seed {first}");
    let tally = fault::play(seeds, args.at_once, Duration::from_secs(args.minutes * 60));
    println!("{} schedules, {} Runs, {} attempts", tally.schedules, tally.runs(), tally.attempts);
    for (phase, count) in &tally.phases {
        println!("{count:>8} {phase}");
    }
    println!("{} lost without a fault that explains it", tally.unexplained);
    for (why, count) in &tally.left_out {
        println!("left out {count} times: {why}");
    }
    for (_, why) in &tally.failures {
        println!("FAILED: {why}");
    }
    Ok(if tally.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
