//! What is wrong on the command line or in a request: one sentence, and a documented code.

use std::os::unix::fs::PermissionsExt as _;

use crate::harness::{ALICE, Server, prepare, program};

fn refused(change: impl FnOnce(&std::path::Path, &mut std::process::Command)) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().expect("a directory");
    prepare(dir.path());
    let mut command = program(dir.path(), "1s");
    change(dir.path(), &mut command);
    let output = command.output().expect("ran");
    assert!(output.stdout.is_empty());
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[track_caller]
fn says(got: &(Option<i32>, String), code: i32, words: &str) {
    assert_eq!(got.0, Some(code), "{}", got.1);
    assert!(got.1.contains(words), "{}", got.1);
    assert!(!got.1.contains("panicked"), "{}", got.1);
}

#[test]
fn a_wrong_command_line_or_file_is_120() {
    says(
        &refused(|_, command| {
            command.arg("--frobnicate");
        }),
        120,
        "--frobnicate",
    );
    says(
        &refused(|_, command| {
            command.args(["--user", "root"]);
        }),
        120,
        "UID",
    );
    let plain = refused(|_, command| {
        command.args(["--listen", "0.0.0.0:0"]);
    });
    says(&plain, 120, "plain HTTP is for loopback alone");
    let key = refused(|_, command| {
        command.args(["--tls-cert", "/nothing"]);
    });
    says(&key, 120, "--tls-key");
    let tokens =
        refused(|dir, _| std::fs::write(dir.join("tokens.toml"), "[[people]]\nhahs = 1\n").expect("written"));
    says(&tokens, 120, "did you mean `hash`?");
    says(
        &refused(|dir, _| std::fs::remove_file(dir.join("tokens.toml")).expect("gone")),
        120,
        "cannot be read",
    );
    let runtimes =
        refused(|dir, _| std::fs::write(dir.join("runtimes/x.yaml"), "kind: Runtim").expect("written"));
    says(&runtimes, 120, "x.yaml is not a Runtime");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = taken.local_addr().expect("an address").to_string();
    let occupied = refused(|_, command| {
        command.args(["--listen", &address]);
    });
    says(&occupied, 120, "is taken by another program");
    let data = refused(|dir, _| std::fs::write(dir.join("data"), "a file").expect("written"));
    says(&data, 120, "give --data a directory");
    let store = refused(|dir, command| {
        command.arg("--store").arg(dir.join("nowhere.toml"));
    });
    says(&store, 120, "cannot read the --store file");
}

#[test]
fn a_strange_database_is_125() {
    let database = refused(|dir, _| {
        std::fs::create_dir(dir.join("data")).expect("made");
        std::fs::write(dir.join("data/controller.db"), "no database, and not empty").expect("written");
    });
    says(&database, 125, "controller.db cannot be used");
}

#[test]
fn help_is_no_error() {
    let (code, said) = {
        let dir = tempfile::tempdir().expect("a directory");
        let output = program(dir.path(), "1s").arg("--help").output().expect("ran");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(code, Some(0));
    assert!(said.contains("--runtimes"), "{said}");
}

#[tokio::test]
async fn what_is_kept_is_for_its_owner_alone() {
    let server = Server::start();
    let data = server.dir.path().join("data");
    for (file, mode) in
        [("", 0o700), ("controller.db", 0o600), ("controller.db-wal", 0o600), ("attempts.key", 0o600)]
    {
        let meta = std::fs::metadata(data.join(file)).expect("there");
        assert_eq!(meta.permissions().mode() & 0o777, mode, "{file}");
    }
}

/// Sends bytes as they are, and reads the answer's status and body.
async fn raw(server: &Server, request: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let address = server.url.trim_start_matches("http://");
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("connected");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("received");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

fn request(line: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {ALICE}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn a_wrong_request_gets_a_problem() {
    let server = Server::start();
    let runs = "/v1/namespaces/default/runs";
    for (line, body, status, words) in [
        (format!("GET {runs}/../x"), "", 404, "not-found"),
        ("GET /nothing".to_owned(), "", 404, "there is no GET /nothing"),
        (format!("PUT {runs}"), "", 405, "does not take PUT"),
        (format!("POST {runs}"), "{", 400, "invalid-request"),
        (format!("POST {runs}"), r#"{"run":{"spec":{}},"secret":{}}"#, 400, "invalid-request"),
        (format!("POST {runs}"), r#"{"secret":{}}"#, 400, "did you mean `secrets`?"),
        ("GET /v1/namespaces/Default/runs".to_owned(), "", 400, "the namespace"),
        (format!("GET {runs}?phase=Gone"), "", 400, "is not a phase"),
        (format!("GET {runs}?frobnicate=1"), "", 400, "frobnicate"),
        (format!("GET {runs}/a"), "", 404, "there is no Run default/a"),
        ("GET /v1/blobs/sha256:00".to_owned(), "", 400, "the digest"),
        ("POST /v1/sessions".to_owned(), "{}", 403, "a daemon's is needed"),
    ] {
        let (got, said) = raw(&server, &request(&line, body)).await;
        assert_eq!(got, status, "{line}: {said}");
        assert!(said.contains(words), "{line}: {said}");
        let problem: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        assert!(problem["code"].is_string(), "{said}");
    }
    let (status, said) =
        raw(&server, "GET /v1/runtimes HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert_eq!(status, 401);
    assert!(said.contains("Authorization: Bearer TOKEN"), "{said}");
    for probe in ["/healthz", "/readyz"] {
        let line = format!("GET {probe} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        assert_eq!(raw(&server, &line).await.0, 200);
    }
    let (status, _) = raw(&server, &request("GET /metrics", "")).await;
    assert_eq!(status, 403, "counters are of every namespace");
    let metrics = request("GET /metrics", "").replace(ALICE, crate::harness::ADMIN);
    assert!(raw(&server, &metrics).await.1.contains("runtimed_controller_runs_submitted_total 0"));
}
