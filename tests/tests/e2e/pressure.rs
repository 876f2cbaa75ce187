//! What is slow, stuck or dead delays nobody else, and a daemon that is told to end does so in its time.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use runtimed_api::run::Run;
use runtimed_api::run::status::{AttemptEnd, Phase};
use runtimed_api::run::step::Step;
use runtimed_tests::cluster::{Cluster, Options, namespace, phase, result};
use runtimed_tests::runs::shell;
use runtimed_tests::wait::eventually;
use rustix::process::Signal;

fn with(runtime_toml: &str, slots: u32) -> Options {
    Options { runtime_toml: runtime_toml.to_owned(), slots, ..Options::default() }
}

/// A server that takes connections and never says a word. They are closed when the test ends.
fn silent_server() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    (listener, format!("source: {{ git: {{ url: \"https://127.0.0.1:{port}/repo.git\", ref: main }} }}"))
}

fn is_at(run: &Run, step: Step) -> bool {
    run.status.as_ref().is_some_and(|status| status.step == Some(step))
}

fn took(run: &Run, step: Step) -> Duration {
    let micros = result(run).steps.iter().find(|time| time.step == step).expect("it went through it").micros;
    Duration::from_micros(micros)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_clone_delays_no_other_run_and_is_cancelled_at_once() {
    let (_server, source) = silent_server();
    let mut cluster = Cluster::start(Options { lease: "3s", ..with("", 2) }).await;
    let slow = cluster.submit(shell("slow", "true", &source), &[]).await;
    cluster.until(&slow, |run| is_at(run, Step::Source)).await;
    let run = cluster.run(shell("timed", "echo up; sleep 60", "limits: { timeout: 1s, grace: 100ms }")).await;
    assert_eq!(phase(&run), Phase::TimedOut);
    assert!(took(&run, Step::Run) < Duration::from_millis(2500), "{:?}", result(&run).steps);
    let other = cluster.submit(shell("other", "echo up; sleep 60", ""), &[]).await;
    cluster.until_printed(&other).await;
    for name in [&other, &slow] {
        let asked = Instant::now();
        cluster.client.cancel(&namespace(), name).await.expect("cancelled");
        assert_eq!(phase(&cluster.end(name).await), Phase::Cancelled);
        assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
    }
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_is_stopped_delays_no_timeout_and_no_log() {
    let mut cluster = Cluster::start(with("", 2)).await;
    let run = shell("timed", "echo up; sleep 60", "limits: { timeout: 2s, grace: 100ms }");
    let name = cluster.submit(run, &[]).await;
    cluster.until_printed(&name).await;
    cluster.controller().expect("it runs").signal(Signal::STOP);
    let token = cluster.token();
    let log = cluster.get(0, "/v1/namespaces/default/runs/timed/logs", &token);
    assert!(log.contains("up"), "{log}");
    cluster.until_daemon_said(0, "the command has ended").await;
    assert!(cluster.get(0, "/healthz", "").starts_with("HTTP/1.1 200"));
    cluster.controller().expect("it runs").signal(Signal::CONT);
    let run = cluster.end(&name).await;
    assert_eq!(phase(&run), Phase::TimedOut);
    assert!(took(&run, Step::Run) < Duration::from_millis(3500), "{:?}", result(&run).steps);
    assert!(cluster.drain().is_empty());
}

/// What becomes of uploads between daemon and controller. Everything else passes.
#[derive(Clone)]
enum Uploads {
    /// They are taken, and never answered.
    Stick,
    /// So many more are refused, as a proxy does that nobody asked; then they pass.
    Refused(Arc<AtomicU32>),
}

impl Uploads {
    fn refuses(&self) -> bool {
        let Self::Refused(left) = self else { return false };
        left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok()
    }
}

/// A proxy before the controller.
fn proxy(controller: &str, uploads: Uploads) -> String {
    let target = controller.trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(&target) else { continue };
            let (from, to) = (server.try_clone().expect("cloned"), client.try_clone().expect("cloned"));
            let uploads = uploads.clone();
            std::thread::spawn(move || pass(from, to, None));
            std::thread::spawn(move || pass(client, server, Some(uploads)));
        }
    });
    url
}

fn pass(mut from: TcpStream, mut to: TcpStream, uploads: Option<Uploads>) {
    let mut buffer = [0; 16 * 1024];
    let mut holding = false;
    while let Ok(count) = from.read(&mut buffer) {
        let piece = &buffer[..count];
        if piece.is_empty() {
            break;
        }
        let puts = [&b"PUT /v1/blobs/"[..], b"PUT /v1/logs/"].iter().any(|put| piece.starts_with(put));
        if let Some(uploads) = uploads.as_ref().filter(|_| puts) {
            if uploads.refuses() {
                let refused = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                // What is still on its way is taken, so that the answer is not lost to a reset.
                let _closed = from.write_all(refused).and_then(|()| from.shutdown(std::net::Shutdown::Write));
                let _rest = std::io::copy(&mut from, &mut std::io::sink());
                break;
            }
            holding = matches!(uploads, Uploads::Stick);
        }
        if !holding && to.write_all(piece).is_err() {
            break;
        }
    }
    let _closed = to.shutdown(std::net::Shutdown::Both);
}

/// A cluster whose daemon cannot upload.
async fn cluster_with_a_stuck_store(runtime_toml: &str, slots: u32) -> Cluster {
    cluster_with(Uploads::Stick, runtime_toml, slots).await
}

async fn cluster_with(uploads: Uploads, runtime_toml: &str, slots: u32) -> Cluster {
    let mut cluster = Cluster::start(with(runtime_toml, slots)).await;
    let url = proxy(&cluster.url, uploads);
    cluster.daemon(0).signal(Signal::TERM);
    cluster.daemon(0).wait(Duration::from_secs(60));
    let config = cluster.config(0);
    let text = fs::read_to_string(&config).expect("read").replace(&cluster.url, &url);
    fs::write(&config, text).expect("written");
    cluster.restart_daemon(0);
    cluster.until_ready(0).await;
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_store_holds_no_slot_and_ends_as_uploads_incomplete() {
    let mut cluster = cluster_with_a_stuck_store("[upload]\ndeadline = \"5s\"\n", 1).await;
    let line = "echo x > $RUNTIMED_ARTIFACTS_DIR/one";
    let first = cluster
        .submit(shell("first", line, "secrets: [{ name: llm }]"), &[("llm", "a-submitted-value")])
        .await;
    cluster.until(&first, |run| phase(run) == Phase::Finishing).await;
    // The only slot takes the next Run, and a cancel of it is not held up.
    let second = cluster.submit(shell("second", "echo up; sleep 60", ""), &[]).await;
    let running = cluster.until(&second, |run| is_at(run, Step::Run)).await;
    assert_eq!(phase(&running), Phase::Running);
    assert!(!phase(&cluster.client.get(&namespace(), &first).await.expect("it is kept")).is_terminal());
    assert!(cluster.files_with(b"a-submitted-value").is_empty(), "scrubbed before the upload");
    cluster.client.cancel(&namespace(), &second).await.expect("cancelled");
    for (name, expected) in [(&first, Phase::Succeeded), (&second, Phase::Cancelled)] {
        let run = cluster.end(name).await;
        assert_eq!(phase(&run), expected, "{:?}", run.status);
        assert!(!result(&run).uploads_incomplete.is_empty(), "{:?}", result(&run));
    }
    assert!(cluster.drain().is_empty());
}

/// A key that is being changed, or a proxy that is: no reason to leave anything out that has minutes to arrive.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_for_a_while_arrives_all_the_same() {
    let left = Arc::new(AtomicU32::new(6));
    let mut cluster = cluster_with(Uploads::Refused(Arc::clone(&left)), "", 1).await;
    let run = cluster.run(shell("refused", "echo up; echo kept > $RUNTIMED_ARTIFACTS_DIR/one", "")).await;
    assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
    assert_eq!(result(&run).uploads_incomplete, [""; 0]);
    assert_eq!(left.load(Ordering::Acquire), 0, "nothing was refused");
    assert!(cluster.drain().is_empty());
    let name = "refused".parse().expect("a name");
    assert_eq!(cluster.log(&name).await, "up\n");
    let file = cluster.client.artifact(&namespace(), &name, "one").await.expect("an artifact");
    assert_eq!(&file.bytes().await.expect("its bytes")[..], b"kept\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_ends_uploads_that_go_nowhere() {
    let mut cluster = cluster_with_a_stuck_store("", 1).await;
    let writes = "echo x > $RUNTIMED_ARTIFACTS_DIR/one";
    let done = shell("done", writes, "");
    let late = shell("late", &format!("{writes}; sleep 60"), "limits: { timeout: 1s, grace: 100ms }");
    // The command had ended, or was being ended for another reason: its Outcome stands.
    for (run, expected) in [(done, Phase::Succeeded), (late, Phase::TimedOut)] {
        let name = cluster.submit(run, &[]).await;
        cluster.until(&name, |run| phase(run) == Phase::Finishing && is_at(run, Step::Upload)).await;
        cluster.client.cancel(&namespace(), &name).await.expect("cancelled");
        let run = cluster.end(&name).await;
        assert_eq!(phase(&run), expected, "{:?}", run.status);
        let missing = &result(&run).uploads_incomplete;
        assert!(missing.contains(&"one: given up, for the Run was cancelled".to_owned()), "{missing:?}");
    }
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_with_a_stuck_store_reports_in_its_time_what_did_not_arrive() {
    let toml = "[drain]\ngrace = \"200ms\"\nfinish = \"8s\"\n";
    let mut cluster = cluster_with_a_stuck_store(toml, 1).await;
    let name = cluster.submit(shell("stuck", "echo up; echo x > $RUNTIMED_ARTIFACTS_DIR/one", ""), &[]).await;
    cluster.until(&name, |run| phase(run) == Phase::Finishing && is_at(run, Step::Upload)).await;
    assert_eq!(cluster.drain(), Vec::<PathBuf>::new());
    let run = cluster.end(&name).await;
    assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
    let missing = &result(&run).uploads_incomplete;
    for what in ["one", "the end of the log"] {
        assert!(missing.contains(&format!("{what}: given up, for the daemon was shut down")), "{missing:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_meets_a_fetch_ends_it() {
    let (_server, source) = silent_server();
    let mut cluster =
        Cluster::start(Options { lease: "3s", ..with("[drain]\ngrace = \"200ms\"\n", 2) }).await;
    let slow = cluster.submit(shell("slow", "true", &source), &[]).await;
    cluster.until(&slow, |run| is_at(run, Step::Source)).await;
    assert!(cluster.drain().is_empty());
    let run = cluster.end(&slow).await;
    assert_eq!(result(&run).end, AttemptEnd::Drained);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_outlives_its_own_grace_does_not_outlive_the_drain() {
    let toml = "[drain]\ngrace = \"200ms\"\nfinish = \"6s\"\n";
    let mut cluster = Cluster::start(with(toml, 1)).await;
    let run = shell("stubborn", "trap '' TERM; echo up; while :; do sleep 1; done", "limits: { grace: 10m }");
    let name = cluster.submit(run, &[]).await;
    cluster.until_printed(&name).await;
    let begun = Instant::now();
    assert_eq!(cluster.drain(), Vec::<PathBuf>::new());
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!(result(&cluster.end(&name).await).end, AttemptEnd::Drained);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_hurries_what_is_being_ended_already() {
    let toml = "[drain]\ngrace = \"200ms\"\nfinish = \"6s\"\n";
    let mut cluster = Cluster::start(with(toml, 2)).await;
    let script = "trap 'echo told' TERM; echo up; while :; do sleep 1; done";
    let cancelled = cluster.submit(shell("cancelled", script, "limits: { grace: 10m }"), &[]).await;
    let late = cluster.submit(shell("late", script, "limits: { timeout: 1s, grace: 10m }"), &[]).await;
    cluster.until_printed(&cancelled).await;
    cluster.client.cancel(&namespace(), &cancelled).await.expect("cancelled");
    for name in [&cancelled, &late] {
        eventually("the grace to begin", async || cluster.log(name).await.contains("told")).await;
    }
    let begun = Instant::now();
    assert_eq!(cluster.drain(), Vec::<PathBuf>::new());
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    // Each for the reason that came first.
    assert_eq!(result(&cluster.end(&cancelled).await).end, AttemptEnd::Cancelled);
    assert_eq!(result(&cluster.end(&late).await).end, AttemptEnd::TimedOut);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_aborts_and_the_next_start_cleans_up() {
    let mut cluster = Cluster::start(with("[drain]\ngrace = \"50s\"\n", 1)).await;
    let run = shell("aborted", "echo up; sleep 60", "secrets: [{ name: llm }]");
    let name = cluster.submit(run, &[("llm", "a-submitted-value")]).await;
    cluster.until_printed(&name).await;
    cluster.daemon(0).signal(Signal::TERM);
    cluster.until_daemon_said(0, "draining").await;
    assert!(cluster.get(0, "/readyz", "").starts_with("HTTP/1.1 503"));
    assert!(cluster.get(0, "/healthz", "").starts_with("HTTP/1.1 200"));
    // A client that never says what it wants is not waited for.
    let mut silent = std::net::TcpStream::connect(cluster.address(0)).expect("connects");
    std::io::Write::write_all(&mut silent, b"GET /healthz HTTP/1.1\r\n").expect("sent");
    let begun = Instant::now();
    cluster.daemon(0).signal(Signal::TERM);
    let status = cluster.daemon(0).wait(Duration::from_secs(20));
    assert_eq!((status.code(), status.signal()), (Some(122), None));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    cluster.restart_daemon(0);
    cluster.until_ready(0).await;
    assert!(cluster.files_with(b"a-submitted-value").is_empty());
    assert_eq!(phase(&cluster.end(&name).await), Phase::Lost);
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_without_a_controller_ends_in_its_time_and_loses_nothing() {
    let toml = "[drain]\ngrace = \"200ms\"\nfinish = \"2s\"\n";
    let mut cluster = Cluster::start(Options { lease: "60s", ..with(toml, 1) }).await;
    let name = cluster.submit(shell("kept", "echo up; sleep 1; exit 5", ""), &[]).await;
    cluster.until_printed(&name).await;
    cluster.controller().expect("it runs").signal(Signal::STOP);
    cluster.until_daemon_said(0, "the command has ended").await;
    let begun = Instant::now();
    cluster.daemon(0).signal(Signal::TERM);
    let status = cluster.daemon(0).wait(Duration::from_secs(30));
    assert_eq!(status.code(), Some(124), "{}", cluster.daemon(0).said());
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    cluster.controller().expect("it runs").signal(Signal::CONT);
    cluster.restart_daemon(0);
    let run = cluster.end(&name).await;
    assert_eq!(runtimed_api::exit::of(run.status.as_ref().expect("a status")), Some(5), "{:?}", run.status);
    assert!(cluster.drain().is_empty());
}
