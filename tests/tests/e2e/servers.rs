//! The servers themselves: their endpoints, their ends, and bad input.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use runtimed_api::run::status::Phase;
use runtimed_tests::binaries;
use runtimed_tests::cluster::{Cluster, Options, phase, result};
use runtimed_tests::process::command;
use runtimed_tests::runs::shell;
use rustix::process::Signal;

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_a_daemon_that_has_a_run_in_flight() {
    let mut cluster = Cluster::start(Options {
        runtime_toml: "[drain]\ngrace = \"300ms\"\n".to_owned(),
        ..Options::default()
    })
    .await;
    let name = cluster.submit(shell("in-flight", "echo up; sleep 60", ""), &[]).await;
    cluster.until_printed(&name).await;
    assert!(cluster.drain().is_empty());
    let run = cluster.client.get(&runtimed_tests::cluster::namespace(), &name).await.expect("it is kept");
    // Not counted as an attempt: without a retry of its own it waits for another daemon.
    assert!(
        run.status.as_ref().is_some_and(|status| status.attempts.first().is_some_and(|first| {
            first
                .result
                .as_ref()
                .is_some_and(|result| result.end == runtimed_api::run::status::AttemptEnd::Drained)
        })),
        "{:?}",
        run.status
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_leaves_nothing_running_and_reports_lost() {
    let mut cluster = Cluster::start(Options { lease: "2s", ..Options::default() }).await;
    let run = shell("doomed", "echo up; sleep 34.9", "secrets: [{ name: llm }]");
    let name = cluster.submit(run, &[("llm", "a-submitted-value")]).await;
    cluster.until_printed(&name).await;
    cluster.daemon(0).signal(Signal::KILL);
    cluster.daemon(0).wait(Duration::from_secs(5));
    cluster.restart_daemon(0);
    let run = cluster.end(&name).await;
    assert_eq!(phase(&run), Phase::Lost, "{:?}", run.status);
    assert!(result(&run).reason.is_some());
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_outcome_of_a_run_arrives_after_the_controller_is_back() {
    let mut cluster = Cluster::start(Options { lease: "10s", ..Options::default() }).await;
    let name = cluster.submit(shell("patient", "echo up; sleep 0.5; exit 5", ""), &[]).await;
    cluster.until_printed(&name).await;
    cluster.restart_controller();
    let run = cluster.end(&name).await;
    let status = run.status.as_ref().expect("a status");
    assert_eq!(runtimed_api::exit::of(status), Some(5), "{status:?}");
    assert_eq!(status.attempts.len(), 1);
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemons_endpoints_need_a_token_but_for_the_probes() {
    let cluster = Cluster::start(Options::default()).await;
    let name = cluster.submit(shell("seen", "echo one; echo two; echo three; sleep 60", ""), &[]).await;
    cluster.until_printed(&name).await;
    let address = cluster.address(0);
    let token = fs::read_to_string(&cluster.token_file).expect("a token");
    let run = "/v1/namespaces/default/runs/seen";
    let get = |path: &str, token: &str, extra: &str| {
        let mut stream = std::net::TcpStream::connect(&address).expect("connects");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n{extra}\r\n"
        );
        std::io::Write::write_all(&mut stream, request.as_bytes()).expect("sent");
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).expect("answered");
        answer
    };
    for (path, status, word) in [
        ("/healthz".to_owned(), "200", "ok"),
        ("/readyz".to_owned(), "200", "ready"),
        ("/metrics".to_owned(), "200", "runtimed_free_slots 1"),
        ("/v1/posture".to_owned(), "200", "\"tier\":"),
        (run.to_owned(), "200", "\"step\":\"Run\""),
        (format!("{run}/logs"), "200", "one"),
        (format!("{run}/logs?tail=1"), "200", "three"),
        (format!("{run}/logs?tail=x"), "400", "invalid-request"),
        (format!("{run}/artifacts"), "404", "not-found"),
        (format!("{run}/patch"), "404", "not-found"),
        ("/v1/namespaces/default/runs/other".to_owned(), "404", "not-found"),
        ("/nothing".to_owned(), "404", "not-found"),
    ] {
        let answer = get(&path, &token, "");
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(word),
            "{path}: {answer}"
        );
        let probe = path == "/healthz" || path == "/readyz" || path == "/nothing";
        let stranger = get(&path, "a-token-of-nobody", "");
        assert_eq!(stranger.starts_with("HTTP/1.1 401"), !probe, "{path}: {stranger}");
    }
    assert!(!get(&format!("{run}/logs?tail=1"), &token, "").contains("two"));
    let range = get(&format!("{run}/logs"), &token, "Range: bytes=4-6\r\n");
    assert!(range.starts_with("HTTP/1.1 206") && range.contains("two") && !range.contains("one"), "{range}");
}

/// Whoever starts a daemon may die, and with it whatever reads what the daemon says.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_whose_words_nobody_reads_ends_in_order() {
    let mut cluster = Cluster::start(Options::default()).await;
    let config = cluster.config(0);
    // Served once, it is sure to hear a signal.
    cluster.run(shell("first", "true", "")).await;
    assert!(cluster.drain().is_empty());
    let mut start = command(binaries::path("runtimed"));
    start.args(["serve", "--until-stdin-closes", "--config"]).arg(config);
    let piped = std::process::Stdio::piped;
    let mut daemon = start.stdin(piped()).stderr(piped()).spawn().expect("it starts");
    drop(daemon.stderr.take());
    let run = shell("unheard", "echo up; sleep 60", "secrets: [{ name: llm }]");
    let name = cluster.submit(run, &[("llm", "a-submitted-value")]).await;
    cluster.until_printed(&name).await;
    drop(daemon.stdin.take());
    let status = tokio::task::spawn_blocking(move || daemon.wait()).await.expect("waits").expect("its child");
    assert_eq!(status.code(), Some(0));
    assert_eq!(cluster.left_in_roots(), Vec::<std::path::PathBuf>::new());
    assert!(cluster.files_with(b"a-submitted-value").is_empty());
}

/// Each kind of bad input to a server: one sentence, a documented exit code, no backtrace.
#[test]
fn a_server_that_is_told_nonsense_says_so_in_one_sentence() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("set");
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).expect("written");
        path.to_string_lossy().into_owned()
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let occupied = taken.local_addr().expect("its address").to_string();
    let token = write("token", "a-token");
    let worker = binaries::path("runtimed-worker").display().to_string();
    let config = |name: &str, extra: &str, listen: &str, root: &str| {
        write(
            name,
            &format!(
                "runtime = \"test\"\n{extra}\n[roots]\ntmp = \"{root}\"\nhome = \"{root}\"\nworkspace = \"{root}\"\n[controller]\nurl = \"http://127.0.0.1:9\"\ntoken_file = \"{token}\"\n[http]\nlisten = \"{listen}\"\n[worker]\npath = \"{worker}\"\n"
            ),
        )
    };
    let daemon =
        |config: String| vec!["runtimed".to_owned(), "serve".to_owned(), "--config".to_owned(), config];
    let any = "127.0.0.1:0";
    let here = dir.path().to_string_lossy().into_owned();
    let data = dir.path().join("data").display().to_string();
    let tokens = write("tokens.toml", "");
    let runtimes = dir.path().join("runtimes");
    fs::create_dir(&runtimes).expect("made");
    let runtime = "apiVersion: runtimed.dev/v1alpha1\nkind: Runtime\nmetadata: { name: test }\nspec: {}\n";
    fs::write(runtimes.join("test.yaml"), runtime).expect("written");
    let runtimes = runtimes.display().to_string();
    let controller = |listen: &str, data: &str, tokens: &str| {
        let words = ["runtimed-controller", "serve", "--runtimes", &runtimes, "--listen", listen];
        let words = words.into_iter().chain(["--data", data, "--tokens", tokens]);
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    let cases = [
        (daemon("/nowhere/runtime.toml".to_owned()), "/nowhere/runtime.toml"),
        (daemon(config("unknown.toml", "slotz = 2", any, &here)), "did you mean `slots`?"),
        (daemon(config("type.toml", "slots = \"two\"", any, &here)), "slots"),
        (daemon(config("occupied.toml", "", &occupied, &here)), "taken"),
        (daemon(config("plain.toml", "", "0.0.0.0:0", &here)), "loopback"),
        (daemon(config("root.toml", "", any, "/proc")), "/proc"),
        (daemon(config("missing.toml", "", any, "/nowhere")), "/nowhere"),
        (vec!["runtimed".to_owned(), "frobnicate".to_owned()], "frobnicate"),
        (controller(&occupied, &data, &tokens), "taken"),
        (controller("0.0.0.0:0", &data, &tokens), "loopback"),
        (controller(any, "/proc/nowhere", &tokens), "/proc/nowhere"),
        (controller(any, &data, "/nowhere/tokens"), "/nowhere/tokens"),
    ];
    for (words, expected) in cases {
        let (program, arguments) = words.split_first().expect("a program");
        let output = command(binaries::path(program)).args(arguments).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(120), "{words:?}: {said}");
        assert!(said.contains(expected), "{words:?}: {said}");
        assert!(!said.contains("panicked") && !said.contains("backtrace"), "{words:?}: {said}");
    }
}
