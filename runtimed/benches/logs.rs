//! How fast a Run can write its log: pipe, masker with 20 secrets, segments on the disk; beside `cat > file` of the same
//! bytes through the same kind of pipe; neither is synced. And how late a follower sees a line.
//!
//! `cargo bench -p runtimed --bench logs [-- DIRECTORY]`
#![expect(clippy::print_stdout, reason = "a benchmark prints what it measures")]

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use runtimed::logs::{Bounds, LiveSource, Log, Overflow, Pool, pump};
use runtimed::redact::Redactor;
use runtimed_client::logs::Source as _;
use tokio::net::unix::pipe::Receiver;
use tokio_util::sync::CancellationToken;

const BYTES: u64 = 1 << 29;
const ROUNDS: usize = 5;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    let given = std::env::args().nth(1).filter(|word| !word.starts_with('-')).map(PathBuf::from);
    let dir = tempfile::tempdir_in(given.unwrap_or_else(std::env::temp_dir)).expect("a directory");
    println!("{} MB through a pipe into {}; MB/s", BYTES / 1_000_000, dir.path().display());
    for round in 0..ROUNDS {
        let file = std::fs::File::create(dir.path().join("cat")).expect("a file");
        let began = Instant::now();
        let (mut writer, pipe) = writer();
        #[expect(clippy::disallowed_methods, reason = "the peer of the measurement")]
        let mut cat = Command::new("cat").stdin(Stdio::from(pipe)).stdout(file).spawn().expect("cat");
        cat.wait().expect("it ends");
        let peer = rate(began);
        writer.wait().expect("it ends");
        std::fs::remove_file(dir.path().join("cat")).expect("removed");

        let began = Instant::now();
        let (mut writer, pipe) = writer_and_log(&runtime, dir.path().join(format!("log-{round}")));
        writer.wait().expect("it ends");
        let log = runtime.block_on(pipe).expect("it ends");
        let ours = rate(began);
        assert_eq!(log.facts().bytes, BYTES, "nothing is lost");
        println!("log {ours:>6.0}   cat > file {peer:>6.0}   ratio {:.2}", ours / peer);
        std::fs::remove_dir_all(dir.path().join(format!("log-{round}"))).expect("removed");
    }
    println!("memory {} MB at most", peak());
    runtime.block_on(lag(dir.path().join("lag")));
}

/// The most memory that this process has had, in MB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("it is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it is told");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

fn rate(began: Instant) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let bytes = BYTES as f64;
    bytes / began.elapsed().as_secs_f64() / 1e6
}

/// A program that writes flat out, and the other end of its pipe.
fn writer() -> (Child, OwnedFd) {
    let (pipe, end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    let line = "compiling module 12345 of 90000: warning: unused variable `x` in src/lib.rs at 17:5";
    let script = format!("yes '{line}' | head -c {BYTES}");
    #[expect(clippy::disallowed_methods, reason = "what is measured needs a writer")]
    let child = Command::new("sh").args(["-c", &script]).stdout(Stdio::from(end)).spawn().expect("sh");
    (child, pipe)
}

fn log_at(dir: PathBuf) -> Arc<Log> {
    let share = Pool::new(u64::MAX).share();
    Arc::new(Log::new(dir, Bounds { limit: u64::MAX, share, overflow: Overflow::Drop }))
}

fn redactor() -> Redactor {
    let redactor = Redactor::default();
    let values: Vec<String> =
        (0..20_u64).map(|i| format!("token-{:016x}-{:016x}", i * 0x9E37_79B9_7F4A_7C15, i)).collect();
    let named: Vec<(&str, &[u8])> = values.iter().map(|value| ("secret", value.as_bytes())).collect();
    redactor.register(&named).expect("registers");
    redactor
}

fn writer_and_log(
    runtime: &tokio::runtime::Runtime,
    dir: PathBuf,
) -> (Child, tokio::task::JoinHandle<Arc<Log>>) {
    let (child, pipe) = writer();
    let log = log_at(dir);
    let pumping = runtime.spawn(async move {
        let (stderr, _end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
        drop(_end);
        pump(receiver(pipe), receiver(stderr), redactor(), Arc::clone(&log)).await;
        log
    });
    (child, pumping)
}

fn receiver(pipe: OwnedFd) -> Receiver {
    Receiver::from_owned_fd(pipe).expect("a pipe")
}

/// From the write of a line until each of 100 followers has it.
async fn lag(dir: PathBuf) {
    let (out, mut end) = std::io::pipe().expect("a pipe");
    let (err, err_end) = std::io::pipe().expect("a pipe");
    drop(err_end);
    let log = log_at(dir);
    let pumping =
        tokio::spawn(pump(receiver(out.into()), receiver(err.into()), redactor(), Arc::clone(&log)));
    let (told, mut lags) = tokio::sync::mpsc::unbounded_channel();
    let start = Instant::now();
    for _ in 0..100 {
        let (told, mut source) =
            (told.clone(), LiveSource::new(Arc::clone(&log), 1, CancellationToken::new()));
        tokio::spawn(async move {
            loop {
                while let Some(chunk) = source.next().await.expect("reads") {
                    let text = String::from_utf8_lossy(&chunk.bytes).into_owned();
                    let last = text
                        .rsplit("at ")
                        .next()
                        .and_then(|rest| rest.split('.').next()?.parse::<u64>().ok());
                    if let Some(written) = last {
                        let now = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
                        told.send(now.saturating_sub(written)).expect("received");
                    }
                }
                if source.more().await != runtimed_client::logs::More::Yes {
                    return;
                }
            }
        });
    }
    drop(told);
    for _ in 0..500 {
        writeln!(end, "line at {}.", start.elapsed().as_micros()).expect("written");
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    drop(end);
    pumping.await.expect("it ends");
    let mut seen = Vec::new();
    while let Some(lag) = lags.recv().await {
        seen.push(lag);
    }
    seen.sort_unstable();
    let at = |part: usize| seen[seen.len() * part / 1000];
    println!("100 followers, {} readings: lag p50 {} us, p99 {} us", seen.len(), at(500), at(990));
}
