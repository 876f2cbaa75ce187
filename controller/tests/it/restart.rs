//! What a controller that was killed still knows, and how one ends well.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use runtimed_api::problem::Code;
use runtimed_api::run::status::Phase;
use runtimed_api::session::{Held, Renew, ReportAnswer, SecretValue, Submission};
use runtimed_client::controller::Blob;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{
    ALICE, DAEMON, Daemon, Server, completed, default, finished, phase, run, status, until_over,
};

#[tokio::test]
async fn a_killed_controller_goes_on_where_it_was() {
    let mut server = Server::start_with("5s");
    let alice = server.client(ALICE);
    alice.submit(&default(), &run("over", "")).await.expect("submitted");
    let daemon = server.daemon("d1", 2).await;
    let lease = daemon.lease().await;
    daemon.complete(&lease, 0).await;
    let over = until_over(&alice, "over").await;
    alice.submit(&default(), &run("held", "")).await.expect("submitted");
    let held = daemon.lease().await;
    alice.submit(&default(), &run("waits", "")).await.expect("submitted");

    server.restart();
    let alice = server.client(ALICE);
    assert_eq!(alice.get(&default(), &"over".parse().expect("a name")).await.expect("there"), over);
    // The lease still holds: the daemon opens another Session, and its token is still good.
    let daemon = Daemon::connect(server.client(DAEMON), "d1", 2, None).await;
    assert!(daemon.renew(std::slice::from_ref(&held.attempt)).await.orders.is_empty());
    let blob = bytes::Bytes::from_static(b"blob");
    let digest = runtimed_api::digest::Digest::of(&blob);
    daemon.client.put_blob(&digest, 0, 4, Blob::Bytes(blob), &held.token).await.expect("stored");
    let answers = daemon.report(vec![finished(&held, 1, completed(0))]).await;
    assert!(matches!(answers[..], [ReportAnswer::Applied]));
    assert_eq!(phase(&until_over(&alice, "held").await), Phase::Succeeded);
    assert_eq!(daemon.lease_alive().await.attempt.name.as_str(), "waits");
}

#[tokio::test]
async fn a_lease_that_nobody_renews_after_a_restart_runs_out() {
    let mut server = Server::start_with("900ms");
    server.client(ALICE).submit(&default(), &run("a", "")).await.expect("submitted");
    let daemon = server.daemon("d1", 2).await;
    daemon.lease().await;
    // Most of the lease goes by before: what is left of it is not what counts after.
    assert!(daemon.lease_within(Duration::from_millis(800)).await.is_none());
    server.restart();
    let restarted = Instant::now();
    assert_eq!(phase(&until_over(&server.client(ALICE), "a").await), Phase::Lost);
    assert!(restarted.elapsed() >= Duration::from_millis(900), "{:?}", restarted.elapsed());
}

fn secret_run(run_name: &str) -> runtimed_api::session::Submission {
    let mut submission = run(run_name, r#","secrets":[{"name":"llm"}]"#);
    let value = SecretValue::new(b"hunter22".to_vec());
    submission.secrets = BTreeMap::from([("llm".parse().expect("a name"), value)]);
    submission
}

/// How many Runs have secrets in the database.
fn kept_secrets(server: &Server) -> i64 {
    let path = server.dir.path().join("data/controller.db");
    let database = rusqlite::Connection::open(path).expect("opens");
    let counted =
        database.query_row("SELECT count(*) FROM object WHERE kind = 'secrets'", [], |row| row.get(0));
    counted.expect("counted")
}

/// What is stored of submitted secrets: each begins with a nonce, and no two are alike.
fn sealed(server: &Server) -> Vec<Vec<u8>> {
    let path = server.dir.path().join("data/controller.db");
    let database = rusqlite::Connection::open(path).expect("opens");
    let mut query = database.prepare("SELECT body FROM object WHERE kind = 'secrets'").expect("a query");
    query.query_map([], |row| row.get(0)).expect("asked").map(|body| body.expect("a body")).collect()
}

/// Whether a file of the data directory holds the beginning or the end of one of these.
fn is_held(server: &Server, sealed: &[Vec<u8>]) -> bool {
    let parts: Vec<&[u8]> = sealed.iter().flat_map(|body| [&body[..24], &body[body.len() - 24..]]).collect();
    std::fs::read_dir(server.dir.path().join("data")).expect("listed").flatten().any(|file| {
        let bytes = std::fs::read(file.path()).unwrap_or_default();
        bytes.windows(24).any(|window| parts.contains(&window))
    })
}

async fn until_none_is_held(server: &Server, sealed: &[Vec<u8>]) {
    let none = async {
        while is_held(server, sealed) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), none).await.expect("nothing of them is left");
}

#[tokio::test]
async fn a_controller_that_is_stopped_or_killed_leaves_no_sealed_secret_of_an_ended_run() {
    let mut server = Server::start();
    for (run_name, kill) in [("killed", true), ("stopped", false)] {
        let alice = server.client(ALICE);
        alice.submit(&default(), &secret_run(run_name)).await.expect("submitted");
        let sealed = sealed(&server);
        assert!(sealed.len() == 1 && is_held(&server, &sealed));
        alice.cancel(&default(), &run_name.parse().expect("a name")).await.expect("cancelled");
        // Before it had the time to empty its log by itself.
        if kill {
            server.restart();
            until_none_is_held(&server, &sealed).await;
        } else {
            let pid = Pid::from_raw(i32::try_from(server.pid()).expect("a pid")).expect("a pid");
            kill_process(pid, Signal::TERM).expect("sent");
            assert_eq!(server.wait(), Some(0));
            assert!(!is_held(&server, &sealed));
        }
    }
}

#[tokio::test]
async fn submitted_secrets_survive_a_restart_and_go_with_the_run() {
    let mut server = Server::start();
    let name = "llm".parse().expect("a name");
    let value = |lease: &runtimed_api::session::Lease| lease.secrets.get(&name).map(|v| v.expose().to_vec());
    let alice = server.client(ALICE);
    for run_name in ["taken", "waits", "ends"] {
        alice.submit(&default(), &secret_run(run_name)).await.expect("submitted");
    }
    // Submitted twice, it is stored once.
    alice.submit(&default(), &secret_run("ends")).await.expect("submitted");
    assert_eq!(kept_secrets(&server), 3);
    // With other values, or with none, it is another.
    let other = SecretValue::new(b"hunter23".to_vec());
    for secrets in [BTreeMap::from([("llm".parse().expect("a name"), other)]), BTreeMap::new()] {
        let submission = Submission { secrets, ..secret_run("ends") };
        let error = alice.submit(&default(), &submission).await.expect_err("refused");
        assert_eq!(error.code(), Some(Code::Conflict));
        let said = error.to_string();
        assert!(
            said.contains("exists with other values of its secrets") && !said.contains("hunter"),
            "{said}"
        );
    }
    let sealed = sealed(&server);
    assert!(is_held(&server, &sealed));
    alice.cancel(&default(), &"ends".parse().expect("a name")).await.expect("cancelled");
    let daemon = server.daemon("d1", 1).await;
    let taken = daemon.lease().await;
    assert_eq!(value(&taken).as_deref(), Some(&b"hunter22"[..]));

    server.restart();
    for file in std::fs::read_dir(server.dir.path().join("data")).expect("listed").flatten() {
        let bytes = std::fs::read(file.path()).unwrap_or_default();
        for plain in [&b"hunter22"[..], b"aHVudGVyMjI"] {
            assert!(!bytes.windows(plain.len()).any(|window| window == plain), "{file:?}");
        }
    }
    let alice = server.client(ALICE);
    let daemon = server.daemon("d1", 1).await;
    let waited = daemon.lease().await;
    assert_eq!((waited.attempt.name.as_str(), value(&waited).as_deref()), ("waits", Some(&b"hunter22"[..])));
    for lease in [&taken, &waited] {
        daemon.complete(lease, 0).await;
        until_over(&alice, lease.attempt.name.as_str()).await;
    }
    // Removed just after the phase was stored: the next answer of the one writer is behind that.
    alice.submit(&default(), &run("later", "")).await.expect("submitted");
    assert_eq!(kept_secrets(&server), 0);
    until_none_is_held(&server, &sealed).await;
}

#[tokio::test]
async fn secrets_that_another_key_sealed_end_their_run_as_a_fault() {
    let mut server = Server::start();
    server.client(ALICE).submit(&default(), &secret_run("a")).await.expect("submitted");
    std::fs::remove_file(server.dir.path().join("data/secrets.key")).expect("removed");
    server.restart();
    let alice = server.client(ALICE);
    let over = until_over(&alice, "a").await;
    assert_eq!(phase(&over), Phase::Fault);
    let reason = status(&over).reason.clone().unwrap_or_default();
    assert!(reason.contains("secret-invalid") && reason.contains("submit again"), "{reason}");
    alice.submit(&default(), &run("later", "")).await.expect("submitted");
    assert_eq!(kept_secrets(&server), 0);
}

#[tokio::test]
async fn the_first_signal_drains() {
    let mut server = Server::start();
    let alice = server.client(ALICE);
    alice.submit(&default(), &run("a", "")).await.expect("submitted");
    let daemon = server.daemon("d1", 2).await;
    let lease = daemon.lease().await;
    let name = "a".parse().expect("a name");
    let mut events = alice.events(&default(), &name).await.expect("events");
    let held = [Held { attempt: lease.attempt, stopping: false, step: None, last_output: None }];
    let renew = Renew { attempts: held.to_vec(), unready: None, prompt: false, as_of_millis: None };
    let (waited, renewed, ()) = tokio::join!(
        daemon.client.lease(&daemon.session, Duration::from_secs(20)),
        daemon.client.renew(&daemon.session, &renew, Duration::from_secs(20)),
        async {
            events.next().await.expect("it comes").expect("a Run");
            let pid = Pid::from_raw(i32::try_from(server.pid()).expect("a pid")).expect("a pid");
            kill_process(pid, Signal::TERM).expect("sent");
            assert!(events.next().await.is_none(), "the stream ends");
        }
    );
    // Either it waited and was told that there is nothing, or it came too late and was refused.
    assert!(waited.is_err() || waited.is_ok_and(|lease| lease.is_none()));
    assert!(renewed.is_err() || renewed.is_ok_and(|renewed| renewed.orders.is_empty()));
    assert_eq!(server.wait(), Some(0));
}

#[tokio::test]
async fn two_controllers_do_not_share_a_directory() {
    let server = Server::start();
    let output = crate::harness::program(server.dir.path(), "1s").output().expect("ran");
    assert_eq!(output.status.code(), Some(125));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("another controller works on"), "{said}");
}

/// Started as root it becomes another user; an ordinary user cannot, and says so.
#[test]
fn the_controller_does_not_stay_root() {
    let dir = tempfile::tempdir().expect("a directory");
    crate::harness::prepare(dir.path());
    let mut command = crate::harness::program(dir.path(), "1s");
    if !rustix::process::geteuid().is_root() {
        let output = command.args(["--user", "0"]).output().expect("ran");
        assert_eq!(output.status.code(), Some(120));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("only root can become user 0"), "{said}");
        return;
    }
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), open).expect("set");
    command.env_remove("RUNTIMED_CONTROLLER_USER").stdout(std::process::Stdio::piped());
    let mut child = command.spawn().expect("started");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("a pipe");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("a line");
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("read");
    child.kill().expect("killed");
    child.wait().expect("reaped");
    assert!(line.contains("listening"), "{line}");
    for words in [
        "Uid:\t65532\t65532\t65532\t65532",
        "Gid:\t65532\t65532\t65532\t65532",
        "Groups:\t \n",
        "CapEff:\t0000000000000000",
    ] {
        assert!(status.contains(words), "{words:?} is not in {status}");
    }
}
