//! Logs as people and programs read them, while a Run goes on and after everything that wrote it is gone.

use std::time::Duration;

use futures_util::StreamExt as _;
use runtimed_api::log::LogEvent;
use runtimed_api::run::status::Phase;
use runtimed_client::controller::{LogQuery, LogStream};
use runtimed_tests::broken_network::{Fault, FaultProxy};
use runtimed_tests::cluster::{Cluster, Options, namespace, phase, result};
use runtimed_tests::process::command;
use runtimed_tests::runs::shell;
use runtimed_tests::wait::eventually;

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

/// A question without an end of its line, after which the command waits, is shown: what is measured is from before the command's write
/// to the arrival of the event at a follower behind the controller, through pipe, redactor, disk, daemon and proxy. It is to be 100 ms at
/// most; a second is what a loaded machine is given, and the best of ten has to keep the promise.
#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_shown_while_the_command_waits_for_an_answer() {
    let mut cluster = Cluster::start(Options::default()).await;
    let line = "for i in 1 2 3 4 5 6 7 8 9 10; do printf '%s? ' $(date +%s%N); sleep 0.3; done; sleep 60";
    let run = shell("asks", line, "secrets: [{ name: llm }]");
    let name = cluster.submit(run, &[("llm", "12-a-submitted-value")]).await;
    cluster.until_printed(&name).await;
    let follow = LogQuery { follow: true, ..LogQuery::default() };
    let mut events = cluster.client.logs(&namespace(), &name, &follow).await.expect("a log");
    let (mut lags, mut text) = (Vec::new(), String::new());
    while text.matches('?').count() < 10 {
        let event = events.next().await.expect("it goes on").expect("an event");
        let arrived = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        text += &String::from_utf8(event.bytes()).expect("text");
        let asked = text.trim_end().trim_end_matches('?').rsplit(' ').next().and_then(|at| at.parse().ok());
        lags.push(arrived.saturating_sub(Duration::from_nanos(asked.expect("a whole question"))));
    }
    lags.sort();
    assert!(lags[0] <= Duration::from_millis(100), "{lags:?}");
    assert!(lags[lags.len() / 2] <= Duration::from_secs(1), "{lags:?}");
    cluster.client.cancel(&namespace(), &name).await.expect("cancelled");
    cluster.end(&name).await;
    assert!(cluster.drain().is_empty());
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

/// `runtimectl logs -f`, once it has shown something: whether it ended well, and what it showed.
async fn followed(cluster: &Cluster, name: &str) -> tokio::task::JoinHandle<(bool, String, String)> {
    let shown = tempfile::NamedTempFile::new().expect("a file");
    let mut ctl = command(runtimed_tests::binaries::path("runtimectl"));
    ctl.args(["--server", &cluster.url, "--token-file"]).arg(&cluster.token_file).args(["logs", "-f", name]);
    ctl.stdout(shown.reopen().expect("opens")).stderr(std::process::Stdio::piped());
    let child = ctl.spawn().expect("it starts");
    let began = async || shown.as_file().metadata().is_ok_and(|file| file.len() > 0);
    eventually("the follower shows something", began).await;
    tokio::task::spawn_blocking(move || {
        let output = child.wait_with_output().expect("it runs");
        let text = std::fs::read_to_string(shown.path()).expect("read");
        (output.status.success(), text, String::from_utf8_lossy(&output.stderr).into_owned())
    })
}

/// A daemon that is frozen for a while, and a controller that is restarted meanwhile: a follower shows the log as it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_outlives_a_daemon_that_is_away_and_a_controller_that_restarts() {
    let mut cluster = Cluster::start(Options { lease: "20s", ..Options::default() }).await;
    let line = "for i in $(seq 1 400); do echo line $i; sleep 0.01; done; echo end";
    let name = cluster.submit(shell("away", line, ""), &[]).await;
    cluster.until_printed(&name).await;
    let follower = followed(&cluster, "away").await;
    cluster.daemon(0).signal(rustix::process::Signal::STOP);
    cluster.restart_controller();
    // It answers again, and the daemon does not.
    eventually("the controller is back", async || cluster.client.get(&namespace(), &name).await.is_ok())
        .await;
    cluster.daemon(0).signal(rustix::process::Signal::CONT);
    assert_eq!(phase(&cluster.end(&name).await), Phase::Succeeded);
    let (ended, shown, said) = follower.await.expect("it ends");
    let mut expected: String = (1..=400).map(|i| format!("line {i}\n")).collect();
    expected.push_str("end\n");
    assert!(ended, "{said}");
    assert!(shown == expected, "{} of {} bytes: {said}", shown.len(), expected.len());
    assert!(cluster.drain().is_empty());
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

/// A daemon that is frozen with its readers, and then killed: they are sent on to what the controller has, and nobody sees a line
/// twice or misses one of those that came before.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_of_a_frozen_and_killed_daemon_goes_on_with_what_is_stored() {
    let mut cluster = Cluster::start(Options { lease: "2s", ..Options::default() }).await;
    let line = "for i in $(seq 1 300); do echo line $i; done; sleep 120";
    let name = cluster.submit(shell("frozen", line, ""), &[]).await;
    cluster.until_printed(&name).await;
    let follower = followed(&cluster, "frozen").await;
    let expected: String = (1..=300).map(|i| format!("line {i}\n")).collect();
    let sent = || {
        let files = cluster.files_with(b"line 300\n");
        files.iter().any(|path| path.components().any(|part| part.as_os_str() == "blobs"))
    };
    eventually("the log goes up while the Run runs", async || sent()).await;
    cluster.daemon(0).signal(rustix::process::Signal::STOP);
    // One that comes when the daemon answers nobody any more.
    let (late, run) = tokio::join!(followed(&cluster, "frozen"), cluster.end(&name));
    assert_eq!(phase(&run), Phase::Lost);
    cluster.daemon(0).signal(rustix::process::Signal::KILL);
    for follower in [follower, late] {
        let ended = tokio::time::timeout(Duration::from_secs(30), follower).await;
        let (ended, shown, said) = ended.expect("it does not wait for a dead daemon").expect("it ends");
        assert!(ended, "{said}");
        assert!(shown == expected, "{} of {} bytes: {said}", shown.len(), expected.len());
        assert!(!said.contains("missing"), "{said}");
    }
    cluster.restart_daemon(0);
    let still = cluster.run(shell("still", "echo alive", "")).await;
    assert_eq!(phase(&still), Phase::Succeeded);
    assert!(cluster.drain().is_empty());
}

/// Readers that never read, of the controller and of the daemon itself: they are cut off after a minute, and until then and after
/// the Run writes on as if they were not there, and others read it.
#[tokio::test(flavor = "multi_thread")]
async fn readers_that_take_nothing_are_cut_off_and_slow_no_run() {
    let mut cluster = Cluster::start(Options::default()).await;
    let line =
        "echo up; sleep 1; head -c 20000000 /dev/zero; echo; echo all; while sleep 0.1; do echo more; done";
    let name = cluster.submit(shell("loud", line, ""), &[]).await;
    cluster.until_printed(&name).await;
    let path = "/v1/namespaces/default/runs/loud/logs?follow=true";
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", cluster.token());
    let addresses = [cluster.address(0), cluster.url.trim_start_matches("http://").to_owned()];
    let mut deaf: Vec<_> = addresses
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
    let query = LogQuery { follow: true, ..LogQuery::default() };
    let mut events = cluster.client.logs(&namespace(), &name, &query).await.expect("a log");
    read_until(&mut events, b"\nall\n").await;
    assert!(deaf.iter().all(is_served), "the Run and its other readers are done before their minute is over");
    let cut = async {
        let mut looks = tokio::time::interval(Duration::from_millis(200));
        while deaf.iter().any(is_served) {
            looks.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), cut).await.expect("they are cut off");
    // What was under way is all that comes of it.
    for stream in &mut deaf {
        let mut rest = Vec::new();
        // A connection that was reset is cut off as well.
        let _ended = std::io::Read::read_to_end(stream, &mut rest);
        assert!(rest.len() < 15_000_000, "{} bytes", rest.len());
    }
    read_until(&mut events, b"more\n").await;
    cluster.client.cancel(&namespace(), &name).await.expect("cancelled");
    let run = cluster.end(&name).await;
    assert_eq!(phase(&run), Phase::Cancelled);
    assert!(result(&run).log.bytes > 20_000_000 && result(&run).log.dropped == 0, "{:?}", result(&run).log);
    assert!(cluster.drain().is_empty());
}

/// Reads until these bytes have come, and drops what was before them.
async fn read_until(events: &mut LogStream, end: &[u8]) {
    let mut last: Vec<u8> = Vec::new();
    while !last.windows(end.len()).any(|window| window == end) {
        last.drain(..last.len().saturating_sub(end.len()));
        last.extend(events.next().await.expect("it goes on").expect("an event").bytes());
    }
}

/// Whether the server still has its end of this connection open, as the kernel says.
fn is_served(stream: &std::net::TcpStream) -> bool {
    let ours = stream.local_addr().expect("connected").port();
    let theirs = stream.peer_addr().expect("connected").port();
    let table = std::fs::read_to_string("/proc/net/tcp").expect("a table");
    let port = |address: &str| address.split(':').nth(1).and_then(|port| u16::from_str_radix(port, 16).ok());
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let mut next = || fields.next().unwrap_or_default();
        // 01 is established; the server's own row has our port as the remote one.
        (port(next()), port(next()), next()) == (Some(theirs), Some(ours), "01")
    })
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
