//! Logs as people and programs read them, while a Run goes on and after everything that wrote it is gone.

use futures_util::StreamExt as _;
use runtimed_api::log::LogEvent;
use runtimed_api::run::status::Phase;
use runtimed_client::controller::LogQuery;
use runtimed_tests::broken_network::{Fault, FaultProxy};
use runtimed_tests::cluster::{Cluster, Options, eventually, namespace, phase, result};
use runtimed_tests::process::command;
use runtimed_tests::runs::shell;

/// What the controller has of a log, however little.
async fn stored(cluster: &Cluster, name: &str) -> String {
    let name = name.parse().expect("a name");
    let Ok(mut events) = cluster.client.logs(&namespace(), &name, &LogQuery::default()).await else {
        return String::new();
    };
    let mut text = Vec::new();
    while let Some(Ok(event)) = events.next().await {
        text.extend(event.bytes());
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// A node that is lost costs the last seconds of a log and nothing else: the daemon and all that it started are gone
/// without a word, and what it had sent is served.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_node_costs_the_last_seconds_of_a_log() {
    let mut cluster = Cluster::start(Options { lease: "2s", ..Options::default() }).await;
    // 6 MB at once go up at once; what comes after 4 MiB of them may be lost.
    let line =
        "for i in $(seq 6); do head -c 1000000 /dev/zero | tr '\\0' \"$i\"; echo; done; echo up; sleep 120";
    let name = cluster.submit(shell("lost", line, ""), &[]).await;
    let follow = LogQuery { follow: true, ..LogQuery::default() };
    let mut events = cluster.client.logs(&namespace(), &name, &follow).await.expect("a log");
    let mut seen: Vec<u8> = Vec::new();
    while !seen.ends_with(b"up\n") {
        let event = events.next().await.expect("it goes on").expect("an event");
        seen.extend(event.bytes());
    }
    let sent = || {
        cluster.files_with(b"11111111").iter().any(|path| path.components().any(|c| c.as_os_str() == "blobs"))
    };
    eventually("a part of the log goes up while the Run runs", async || sent()).await;
    // Stopped and then killed, so that nothing of it can say a last word.
    cluster.daemon(0).signal(rustix::process::Signal::STOP);
    let run = cluster.end(&name).await;
    assert_eq!(phase(&run), Phase::Lost);
    let text = stored(&cluster, "lost").await;
    assert!(text.len() >= 4_000_000, "{} bytes of {}", text.len(), seen.len());
    assert!(seen.starts_with(text.as_bytes()), "what is there is what was written");
    cluster.daemon(0).signal(rustix::process::Signal::CONT);
    let still = cluster.run(shell("still", "echo alive", "")).await;
    assert_eq!(phase(&still), Phase::Succeeded);
}

/// A daemon that is killed outright loses no byte that a reader had seen: its next life brings the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_loses_no_byte_that_a_reader_had_seen() {
    let mut cluster = Cluster::start(Options::default()).await;
    let name = cluster.submit(shell("killed", "echo seen; echo and this >&2; sleep 120", ""), &[]).await;
    let follow = LogQuery { follow: true, ..LogQuery::default() };
    let mut events = cluster.client.logs(&namespace(), &name, &follow).await.expect("a log");
    let mut seen = 0;
    while seen < "seen\nand this\n".len() as u64 {
        seen = events.next().await.expect("it goes on").expect("an event").next;
    }
    cluster.daemon(0).signal(rustix::process::Signal::KILL);
    cluster.restart_daemon(0);
    assert_eq!(phase(&cluster.end(&name).await), Phase::Lost);
    let brought = async || stored(&cluster, "killed").await.len() as u64 == seen;
    eventually("the next life of the daemon brings what the first had written", brought).await;
    let mut lines: Vec<_> = stored(&cluster, "killed").await.lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["and this", "seen"]);
    assert!(cluster.drain().is_empty());
}

/// Failed, cancelled and timed-out Runs have their whole log, and it is the same in every form.
#[tokio::test(flavor = "multi_thread")]
async fn every_end_keeps_its_log() {
    let mut cluster = Cluster::start(Options::default()).await;
    let failed = cluster.run(shell("failed", "echo one; echo two >&2; exit 3", "")).await;
    let timed_out = cluster.run(shell("late", "echo one; sleep 60", "limits: { timeout: 1s }")).await;
    let name = cluster.submit(shell("cancelled", "echo one; sleep 60", ""), &[]).await;
    cluster.until_printed(&name).await;
    cluster.client.cancel(&namespace(), &name).await.expect("cancelled");
    let cancelled = cluster.end(&name).await;
    let phases = [&failed, &timed_out, &cancelled].map(phase);
    assert_eq!(phases, [Phase::Failed, Phase::TimedOut, Phase::Cancelled]);
    assert_eq!(result(&failed).log.bytes, 8);
    assert!(cluster.drain().is_empty());
    for (name, text) in [("failed", "one"), ("late", "one"), ("cancelled", "one")] {
        assert!(stored(&cluster, name).await.contains(text), "{name}");
    }
    let ctl = |arguments: &[&str]| {
        let mut ctl = command(runtimed_tests::binaries::path("runtimectl"));
        ctl.args(["--server", &cluster.url, "--token-file"]).arg(&cluster.token_file);
        let output = ctl.arg("logs").args(arguments).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    assert_eq!(ctl(&["failed"]), ("one\n".to_owned(), "two\n".to_owned()));
    assert_eq!(ctl(&["failed", "--stream", "stderr"]), (String::new(), "two\n".to_owned()));
    assert_eq!(ctl(&["failed", "--since", "10m"]).0, "one\n");
    assert_eq!(ctl(&["failed", "--since", "2100-01-01T00:00:00Z"]).0, "");
    assert!(ctl(&["failed", "--timestamps", "--tail", "9"]).0.ends_with("Z one\n"));
}

/// The bound of a Run with `overflow = "drop"`, the default, and with `block`; and the lines on the daemon's own output.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_beyond_a_bound_is_dropped_and_told_or_waits() {
    let dropping = Options { runtime_toml: "[logs]\nstdout = \"json\"".to_owned(), ..Options::default() };
    let mut cluster = Cluster::start(dropping).await;
    let run =
        cluster.run(shell("much", "head -c 5000 /dev/zero | tr '\\0' x", "limits: { log: 1000 }")).await;
    assert_eq!(phase(&run), Phase::Succeeded);
    assert_eq!((result(&run).log.bytes, result(&run).log.dropped), (1000, 4000));
    let name = "much".parse().expect("a name");
    let events = cluster.client.logs(&namespace(), &name, &LogQuery::default()).await.expect("a log");
    let events: Vec<LogEvent> = events.map(|event| event.expect("an event")).collect().await;
    assert_eq!(events.iter().filter_map(|event| event.dropped).sum::<u64>(), 4000);
    assert!(cluster.drain().is_empty());

    let blocking = Options { runtime_toml: "[logs]\noverflow = \"block\"".to_owned(), ..Options::default() };
    let mut cluster = Cluster::start(blocking).await;
    let limits = "limits: { log: 1000, timeout: 2s }";
    let run = cluster.run(shell("waits", "head -c 5000000 /dev/zero; echo never > /dev/null", limits)).await;
    assert_eq!(phase(&run), Phase::TimedOut, "the command waits for room that never comes");
    assert_eq!(result(&run).log.bytes, 1000);
    assert!(cluster.drain().is_empty());
}

/// Connections that break again and again, often within an event: what `runtimectl logs -f` shows is the log, without a repeat or a hole.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_on_a_broken_network_sees_each_line_once() {
    let mut cluster = Cluster::start(Options::default()).await;
    let line = "for i in $(seq 1 20000); do echo \"line $i of the log\"; done; sleep 1; echo end";
    let name = cluster.submit(shell("cut", line, ""), &[]).await;
    cluster.until_printed(&name).await;
    let server = cluster.url.trim_start_matches("http://").parse().expect("an address");
    let proxy = FaultProxy::start(server, &[], Fault::CutAnswer(300_000));
    let mut ctl = command(runtimed_tests::binaries::path("runtimectl"));
    ctl.args(["--server", &format!("http://{}", proxy.address()), "--token-file"]).arg(&cluster.token_file);
    ctl.args(["logs", "-f", "cut"]);
    let output = tokio::task::spawn_blocking(move || ctl.output()).await.expect("it waits").expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let mut expected: String = (1..=20_000).map(|i| format!("line {i} of the log\n")).collect();
    expected.push_str("end\n");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown == expected, "{} of {} bytes: {said}", shown.len(), expected.len());
    let cuts = proxy.done().iter().filter(|fault| matches!(fault, Fault::CutAnswer(_))).count();
    assert!(cuts >= 2, "{:?}", proxy.done());
    assert!(cluster.drain().is_empty());
}

/// What `runtimectl logs -f` shows, once the Run is over.
async fn followed(cluster: &Cluster, name: &str) -> tokio::task::JoinHandle<(bool, String, String)> {
    let mut ctl = command(runtimed_tests::binaries::path("runtimectl"));
    ctl.args(["--server", &cluster.url, "--token-file"]).arg(&cluster.token_file).args(["logs", "-f", name]);
    tokio::task::spawn_blocking(move || {
        let output = ctl.output().expect("it runs");
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    })
}

/// A daemon that is killed in the middle of what is followed: what it wrote is shown once, and then the attempt that follows.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_goes_on_with_the_attempt_after_a_killed_daemon() {
    let mut cluster = Cluster::start(Options { lease: "2s", ..Options::default() }).await;
    let line = "echo attempt $RUNTIMED_ATTEMPT; [ $RUNTIMED_ATTEMPT = 2 ] || sleep 120";
    let extra = "retry: { maxAttempts: 2, backoff: 1ms, on: [Lost] }";
    let name = cluster.submit(shell("again", line, extra), &[]).await;
    cluster.until_printed(&name).await;
    let follower = followed(&cluster, "again").await;
    cluster.daemon(0).signal(rustix::process::Signal::KILL);
    cluster.restart_daemon(0);
    assert_eq!(phase(&cluster.end(&name).await), Phase::Succeeded);
    let (ended, shown, said) = follower.await.expect("it ends");
    assert!(ended, "{said}");
    assert_eq!(shown, "attempt 1\nattempt 2\n", "{said}");
    assert!(cluster.drain().is_empty());
}

/// Readers that never read, of the controller and of the daemon itself: the Run writes on as if they were not there.
#[tokio::test(flavor = "multi_thread")]
async fn readers_that_take_nothing_slow_no_run() {
    let mut cluster = Cluster::start(Options::default()).await;
    let line = "echo up; sleep 1; head -c 50000000 /dev/zero";
    let name = cluster.submit(shell("loud", line, ""), &[]).await;
    cluster.until_printed(&name).await;
    let path = "/v1/namespaces/default/runs/loud/logs?follow=true";
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", cluster.token());
    let addresses = [cluster.address(0), cluster.url.trim_start_matches("http://").to_owned()];
    let deaf: Vec<_> = addresses
        .iter()
        .map(|address| {
            let mut stream = std::net::TcpStream::connect(address).expect("connects");
            std::io::Write::write_all(&mut stream, request.as_bytes()).expect("sent");
            let mut first = [0; 12];
            std::io::Read::read_exact(&mut stream, &mut first).expect("it begins to answer");
            assert_eq!(&first, b"HTTP/1.1 200");
            stream
        })
        .collect();
    let run = cluster.end(&name).await;
    assert_eq!(phase(&run), Phase::Succeeded);
    assert_eq!((result(&run).log.bytes, result(&run).log.dropped), (50_000_003, 0));
    drop(deaf);
    assert!(cluster.drain().is_empty());
}

/// Files that are saved on a terminal have a progress bar, and nowhere else.
#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_alone_sees_a_progress_bar() {
    let mut cluster = Cluster::start(Options::default()).await;
    let line = "head -c 30000000 /dev/zero > $RUNTIMED_ARTIFACTS_DIR/image";
    assert_eq!(phase(&cluster.run(shell("big", line, "")).await), Phase::Succeeded);
    let dir = tempfile::tempdir().expect("a directory");
    let ctl = format!(
        "{} --server {} --token-file {} artifacts get big --dir {}",
        runtimed_tests::binaries::path("runtimectl").display(),
        cluster.url,
        cluster.token_file.display(),
        dir.path().display(),
    );
    let saved = dir.path().join("image");
    for (program, arguments, barred) in
        [("script", vec!["-qec", &ctl, "/dev/null"], true), ("sh", vec!["-c", &ctl], false)]
    {
        let output = command(program).args(&arguments).env("TERM", "xterm").output().expect("it runs");
        let shown = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{shown}");
        assert_eq!(shown.contains("/28.61 MiB"), barred, "{program}: {shown}");
        assert!(shown.contains("saved"), "{shown}");
        assert_eq!(std::fs::metadata(&saved).expect("saved").len(), 30_000_000);
        std::fs::remove_file(&saved).expect("removed");
    }
    assert!(cluster.drain().is_empty());
}
