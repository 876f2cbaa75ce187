//! Whether what a Run costs stays the same where there is much of everything, and what an idle daemon costs.
//!
//! ```text
//! cargo build --release --workspace
//! target/release/bench-scale stored     # 100 to 100,000 Runs in the store
//! target/release/bench-scale daemons    # 1 to 64 daemons
//! target/release/bench-scale idle       # leases beside 1,000 idle daemons
//! target/release/bench-scale crowded    # a submission where many Runs wait for room, and many slots for a Run that fits
//! target/release/bench-scale ready      # how soon a daemon is ready, and how much memory it takes
//! ```
//!
//! Each line says its ratio to the first: the figures of one machine say little.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use futures_util::stream::{self, StreamExt as _};
use runtimed_api::capacity::Capacity;
use runtimed_api::duration::Span;
use runtimed_api::ids::SessionId;
use runtimed_api::quantity::Bytes;
use runtimed_api::run::Run;
use runtimed_api::run::status::Phase;
use runtimed_api::session::{Held, Lease, OpenSession, Renew, SecretText, Submission};
use runtimed_client::Endpoint;
use runtimed_client::controller::Controller;
use runtimed_tests::cluster::{Cluster, Options, namespace, phase};
use runtimed_tests::runs::read;
use tokio::sync::mpsc;

/// Measures what grows, and what must not.
#[derive(Debug, Parser)]
struct Args {
    /// Where daemon and controller keep their state; a journaled file system gives an honest fdatasync.
    #[arg(long, global = true)]
    state: Option<PathBuf>,
    /// Where the trees are.
    #[arg(long, global = true, default_value = "/dev/shm")]
    trees: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// What a Run costs beside so many finished ones.
    Stored {
        /// How many there are.
        #[arg(long, value_delimiter = ',', default_value = "100,1000,10000,100000")]
        stored: Vec<u32>,
        /// Runs at each.
        #[arg(long, default_value_t = 300)]
        runs: u32,
    },
    /// What a Run costs with so many daemons, each a real one.
    Daemons {
        /// How many there are.
        #[arg(long, value_delimiter = ',', default_value = "1,8,64")]
        daemons: Vec<usize>,
        /// Runs at each.
        #[arg(long, default_value_t = 300)]
        runs: u32,
    },
    /// How long a lease takes beside so many idle daemons, which speak the protocol and execute nothing.
    Idle {
        /// How many there are.
        #[arg(long, value_delimiter = ',', default_value = "1,1000")]
        daemons: Vec<usize>,
        /// Leases at each.
        #[arg(long, default_value_t = 500)]
        leases: u32,
    },
    /// What a submission and a renewal take where so many Runs wait, each for a daemon with room, and the slots that wait are
    /// all of daemons without: they speak the protocol, state a capacity, hold one Run each, and execute nothing.
    Crowded {
        /// Runs that wait.
        #[arg(long, value_delimiter = ',', default_value = "10,1000,8000")]
        waiting: Vec<usize>,
        /// Daemons, each with one Run.
        #[arg(long, default_value_t = 100)]
        daemons: usize,
        /// Slots of each that wait.
        #[arg(long, default_value_t = 5)]
        slots: u32,
        /// Submissions and renewals that are measured at each.
        #[arg(long, default_value_t = 300)]
        asked: usize,
    },
    /// How soon a daemon is ready, and how much memory it takes when it is.
    Ready {
        /// Starts.
        #[arg(long, default_value_t = 30)]
        starts: u32,
    },
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match &args.what {
            What::Stored { stored, runs } => stored_runs(&args, stored, *runs).await,
            What::Daemons { daemons, runs } => daemons_and_runs(&args, daemons, *runs).await,
            What::Idle { daemons, leases } => idle(&args, daemons, *leases).await?,
            What::Crowded { waiting, daemons, slots, asked } => {
                for (level, waiting) in waiting.iter().enumerate() {
                    let crowd = Crowd { waiting: *waiting, daemons: *daemons, slots: *slots };
                    let (submitted, renewed) = crowd.measure(&args, *asked).await?;
                    println!("{level}: {waiting:>5} Runs wait, and {} slots: a submission {submitted}; a renewal {renewed}", daemons * *slots as usize);
                }
            }
            What::Ready { starts } => ready(&args, *starts).await?,
        }
        Ok(())
    })
}

fn options(args: &Args, daemons: usize) -> Options {
    Options {
        daemons,
        slots: 8,
        runtime_toml: "[sandbox]\ntier = \"Base\"\n".to_owned(),
        trees: Some(args.trees.clone()),
        state: args.state.clone(),
        ..Options::default()
    }
}

async fn stored_runs(args: &Args, stored: &[u32], runs: u32) {
    let mut levels = Vec::new();
    for wanted in stored {
        let mut cluster = Cluster::start(options(args, 1)).await;
        cluster.until_ready(0).await;
        // `seed-0` is what the store is filled with.
        measure(&cluster, "seed", 20, 1, &mut Figures::default()).await;
        cluster.edit_controller(|database| fill(database, *wanted).expect("the store is filled"));
        levels.push(Level::new(format!("{wanted:>6} stored"), cluster));
    }
    in_turns(levels, runs).await;
}

/// Copies the finished Run `seed-0` under names and uids of its own, until there are so many.
fn fill(database: &rusqlite::Connection, count: u32) -> rusqlite::Result<()> {
    database.execute(
        "WITH RECURSIVE number (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n + 1 < ?1),
              seed AS (SELECT * FROM object WHERE kind = 'run' AND name = 'seed-0')
         INSERT INTO object (kind, namespace, name, version, uid, phase, body)
         SELECT kind, namespace, 'copy-' || n, version, substr(uid, 1, 24) || printf('%012x', n), phase,
                CAST(replace(replace(CAST(body AS TEXT), '\"seed-0\"', '\"copy-' || n || '\"'),
                             uid, substr(uid, 1, 24) || printf('%012x', n)) AS BLOB)
         FROM seed, number",
        [count],
    )?;
    Ok(())
}

async fn daemons_and_runs(args: &Args, daemons: &[usize], runs: u32) {
    let mut levels = Vec::new();
    for count in daemons {
        let cluster = Cluster::start(options(args, *count)).await;
        for index in 0..*count {
            cluster.until_ready(index).await;
        }
        levels.push(Level::new(format!("{count:>3} daemons"), cluster));
    }
    in_turns(levels, runs).await;
}

async fn idle(args: &Args, daemons: &[usize], leases: u32) -> anyhow::Result<()> {
    let mut first = None;
    for count in daemons {
        let cluster = Cluster::start(options(args, 0)).await;
        let token = std::fs::read_to_string(cluster.token_file.with_file_name("daemon.token"))?;
        let (given, mut leased) = mpsc::unbounded_channel();
        let mut idling = tokio::task::JoinSet::new();
        let (waits, mut waiting) = mpsc::unbounded_channel();
        for index in 0..*count {
            let client =
                Controller::new(&Endpoint::new(&cluster.url))?.with_token(SecretText::new(token.clone()));
            let (given, waits) = (given.clone(), waits.clone());
            idling.spawn(async move { idle_daemon(&client, index, &given, &waits).await });
        }
        for _ in 0..*count {
            waiting.recv().await;
        }
        let mut took = Vec::new();
        for index in 0..leases {
            let submission = Submission {
                run: run(&format!("leased-{index}")),
                secrets: std::collections::BTreeMap::default(),
            };
            let begun = Instant::now();
            let namespace = namespace();
            let submitted = cluster.client.submit(&namespace, &submission);
            let (submitted, lease) = tokio::join!(submitted, leased.recv());
            submitted?;
            let (at, _lease) = lease.ok_or_else(|| anyhow::anyhow!("every daemon is gone"))?;
            took.push(at - begun);
        }
        let (p50, p99) = (percentile(&mut took, 50), percentile(&mut took, 99));
        let base = *first.get_or_insert(p50);
        println!(
            "{count:>4} idle daemons: from before the submission until a daemon has the lease p50 {} p99 {} ({:.2} × the first)",
            millis(p50),
            millis(p99),
            ratio(p50, base)
        );
        idling.abort_all();
    }
    Ok(())
}

/// Opens a Session, renews it, and asks for Runs with one slot. What it gets it holds for as long as it lives.
async fn idle_daemon(
    client: &Controller,
    index: usize,
    given: &mpsc::UnboundedSender<(Instant, Lease)>,
    waits: &mpsc::UnboundedSender<()>,
) -> anyhow::Result<()> {
    let open = OpenSession {
        daemon: format!("idle-{index}").parse()?,
        instance: None,
        runtime: "test".parse()?,
        slots: 1,
        address: None,
        build: "bench".parse()?,
        capacity: Default::default(),
    };
    let session: SessionId = client.open_session(&open).await?.id;
    waits.send(())?;
    let renew = async {
        loop {
            let renew = Renew { attempts: Vec::new(), unready: None, prompt: false, as_of_millis: None };
            client.renew(&session, &renew, Duration::from_secs(30)).await?;
        }
    };
    let ask = async {
        loop {
            if let Some(lease) = client.lease(&session, Duration::from_secs(20)).await? {
                given.send((Instant::now(), lease))?;
            }
        }
    };
    tokio::select! { ended = renew => ended, ended = ask => ended }
}

/// Runs that wait for room, beside daemons that have none.
struct Crowd {
    waiting: usize,
    daemons: usize,
    slots: u32,
}

impl Crowd {
    /// p50 and p99 of a submission, and of a renewal that is answered at once, in words.
    async fn measure(&self, args: &Args, asked: usize) -> anyhow::Result<(String, String)> {
        let cluster = Cluster::start(options(args, 0)).await;
        let token = std::fs::read_to_string(cluster.token_file.with_file_name("daemon.token"))?;
        let client = Controller::new(&Endpoint::new(&cluster.url))?.with_token(SecretText::new(token));
        let mut polling = tokio::task::JoinSet::new();
        let mut held = Vec::new();
        for index in 0..self.daemons {
            submit_large(&cluster, &format!("held-{index}")).await?;
            let open = full_daemon(index, self.slots + 1)?;
            let session: SessionId = client.open_session(&open).await?.id;
            let lease = client.lease(&session, Duration::from_secs(20)).await?;
            let attempt = lease.ok_or_else(|| anyhow::anyhow!("no Run for a daemon with room"))?.attempt;
            let attempts = vec![Held { attempt, stopping: false, step: None, last_output: None }];
            held.push((session, Renew { attempts, unready: None, prompt: true, as_of_millis: None }));
        }
        for (session, renew) in &held {
            let (client, session) = (client.clone(), session.clone());
            let renew = Renew { prompt: false, ..renew.clone() };
            polling.spawn(async move {
                while client.renew(&session, &renew, Duration::from_secs(30)).await.is_ok() {}
            });
        }
        let submissions =
            (0..self.waiting).map(async |index| submit_large(&cluster, &format!("waits-{index}")).await);
        let submitted: Vec<_> = stream::iter(submissions).buffer_unordered(16).collect().await;
        submitted.into_iter().collect::<anyhow::Result<()>>()?;
        for (session, _) in held.iter().flat_map(|one| (0..self.slots).map(move |_| one)) {
            let (client, session) = (client.clone(), session.clone());
            polling.spawn(async move {
                while matches!(client.lease(&session, Duration::from_secs(20)).await, Ok(None)) {}
            });
        }
        // Whoever submits is told how many slots are free: all of them ask when it says so.
        let all = format!("{} free slots", self.daemons * usize::try_from(self.slots)?);
        let mut tries = 0;
        while !why_waits(&cluster, "waits-0").await?.contains(&all) {
            tries += 1;
            anyhow::ensure!(tries < 500, "the slots do not wait: {}", why_waits(&cluster, "waits-0").await?);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (mut submitted, mut renewed) = (Vec::new(), Vec::new());
        for index in 0..asked {
            let begun = Instant::now();
            submit_large(&cluster, &format!("asked-{index}")).await?;
            submitted.push(begun.elapsed());
            let (session, renew) = &held[index % held.len()];
            let begun = Instant::now();
            client.renew(session, renew, Duration::from_secs(30)).await?;
            renewed.push(begun.elapsed());
        }
        polling.abort_all();
        let words = |times: &mut Vec<Duration>| {
            format!("p50 {} p99 {}", millis(percentile(times, 50)), millis(percentile(times, 99)))
        };
        Ok((words(&mut submitted), words(&mut renewed)))
    }
}

/// A daemon with room for one Run of [`submit_large`].
fn full_daemon(index: usize, slots: u32) -> anyhow::Result<OpenSession> {
    Ok(OpenSession {
        daemon: format!("full-{index}").parse()?,
        instance: None,
        runtime: "test".parse()?,
        slots,
        address: None,
        build: "bench".parse()?,
        capacity: Capacity { memory: Some(Bytes::mib(100)), ..Capacity::default() },
    })
}

async fn submit_large(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    let mut run = run(name);
    run.spec.limits.memory = Some(Bytes::mib(60));
    run.spec.limits.queue = Some(Span::from_secs(3600));
    let submission = Submission { run, secrets: std::collections::BTreeMap::default() };
    cluster.client.submit(&namespace(), &submission).await?;
    Ok(())
}

async fn why_waits(cluster: &Cluster, name: &str) -> anyhow::Result<String> {
    let run = cluster.client.get(&namespace(), &name.parse()?).await?;
    Ok(run.status.and_then(|status| status.reason).unwrap_or_default())
}

async fn ready(args: &Args, starts: u32) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(options(args, 1)).await;
    cluster.until_ready(0).await;
    let mut took = Vec::new();
    let (mut memory, mut own) = (Vec::new(), Vec::new());
    for _ in 0..starts {
        cluster.kill_daemon(0);
        let begun = Instant::now();
        cluster.restart_daemon(0);
        while !cluster.daemon(0).said().contains("connected to the controller") {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        took.push(begun.elapsed());
        let pid = cluster.daemon(0).pid().as_raw_nonzero().get();
        memory.push(kibibytes(pid, "VmRSS:")?);
        own.push(kibibytes(pid, "RssAnon:")?);
    }
    memory.sort_unstable();
    own.sort_unstable();
    println!(
        "from exec until it leases: p50 {} p99 {}; resident when idle: {:.1} MiB at the median, {:.1} at most, of which {:.1} are no file's",
        millis(percentile(&mut took, 50)),
        millis(percentile(&mut took, 99)),
        mebibytes(memory[memory.len() / 2]),
        mebibytes(memory[memory.len() - 1]),
        mebibytes(own[own.len() / 2]),
    );
    Ok(())
}

/// Kibibytes of memory that a process has, as this line of its status says.
fn kibibytes(pid: i32, name: &str) -> anyhow::Result<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kibibytes.ok_or_else(|| anyhow::anyhow!("the kernel does not say"))?.parse()?)
}

fn mebibytes(kibibytes: u32) -> f64 {
    f64::from(kibibytes) / 1024.0
}

fn run(name: &str) -> Run {
    read(&format!(
        "apiVersion: runtimed.dev/v1alpha1\nkind: Run\nmetadata: {{ name: {name} }}\nspec: {{ runtime: test, command: [\"true\"] }}\n"
    ))
}

/// Rounds in which the levels take turns: what else goes on in a machine changes from minute to minute, and meets all alike.
const ROUNDS: u32 = 10;

/// One cluster of those that are compared.
struct Level {
    label: String,
    cluster: Cluster,
    one: Figures,
    eight: Figures,
}

impl Level {
    fn new(label: String, cluster: Cluster) -> Self {
        Self { label, cluster, one: Figures::default(), eight: Figures::default() }
    }
}

/// Measures the levels in turns, with one and with eight in flight, and prints each beside the first.
async fn in_turns(mut levels: Vec<Level>, runs: u32) {
    for level in &levels {
        measure(&level.cluster, "warm", 20, 1, &mut Figures::default()).await;
    }
    for round in 0..ROUNDS {
        for level in &mut levels {
            measure(&level.cluster, &format!("one-{round}"), runs / ROUNDS, 1, &mut level.one).await;
            measure(&level.cluster, &format!("eight-{round}"), runs / ROUNDS, 8, &mut level.eight).await;
        }
    }
    let mut first = None;
    for Level { label, one, eight, .. } in &mut levels {
        let p50 = (percentile(&mut one.took, 50), percentile(&mut eight.took, 50));
        let base = *first.get_or_insert(p50);
        println!(
            "{label}: 1 in flight p50 {} p99 {} ({:.2} × the first); 8 in flight p50 {} p99 {} ({:.2} ×), {:.0}/s",
            millis(p50.0),
            millis(percentile(&mut one.took, 99)),
            ratio(p50.0, base.0),
            millis(p50.1),
            millis(percentile(&mut eight.took, 99)),
            ratio(p50.1, base.1),
            eight.took.len() as f64 / eight.all.as_secs_f64(),
        );
    }
}

/// How long Runs took, each and all together.
#[derive(Default)]
struct Figures {
    took: Vec<Duration>,
    all: Duration,
}

async fn measure(cluster: &Cluster, name: &str, count: u32, in_flight: usize, figures: &mut Figures) {
    let begun = Instant::now();
    let one = async |index: u32| {
        let begun = Instant::now();
        let over = cluster.run(run(&format!("{name}-{index}"))).await;
        assert_eq!(phase(&over), Phase::Succeeded, "{:?}", over.status);
        begun.elapsed()
    };
    let took: Vec<_> = stream::iter(0..count).map(one).buffer_unordered(in_flight).collect().await;
    figures.all += begun.elapsed();
    figures.took.extend(took);
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}

fn ratio(one: Duration, other: Duration) -> f64 {
    one.as_secs_f64() / other.as_secs_f64()
}

fn millis(took: Duration) -> String {
    format!("{:.2} ms", took.as_secs_f64() * 1000.0)
}
