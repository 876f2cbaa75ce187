use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use runtimed_tests::process::Server;

use crate::place::{Place, ended};

#[test]
fn what_is_claimed_holds_and_is_seen_to_be_an_attempt() {
    let place = Place::new();
    let (code, out, err) = ended(place.runtimed("selftest").arg("--json"));
    assert_eq!(code, 0, "{out}{err}");
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(report["held"], true);
    let attempts = report["attempts"].as_array().expect("a list");
    let held = attempts.iter().filter(|one| one["verdict"] == "held").count();
    // Without a sandbox these succeed: the test would see it if they did inside.
    assert!(held >= 15, "{out}");
    for protection in ["files", "tcp-ports", "signals", "abstract-unix-sockets", "other-processes"] {
        let shown = |one: &&serde_json::Value| one["protection"] == protection && one["verdict"] == "held";
        assert!(attempts.iter().any(|one| shown(&one)), "{protection}: {out}");
    }
    assert_eq!(place.left(), Vec::<std::path::PathBuf>::new());
}

/// The first line of the answer to a GET of a daemon's endpoint.
fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    answer.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn a_daemon_that_must_test_itself_and_cannot_is_not_ready() {
    let place = Place::new();
    std::fs::write(place.path("token"), "a-daemons-token").expect("written");
    let mut serve = place.runtimed("serve");
    serve.args(["--until-stdin-closes", "--set", "selftest.required=true"]);
    // No Run can have this grant, so that none can be tested.
    serve.args(["--set", "run.read=[\"/usr\", \"/nowhere\"]", "--set", "controller.url=http://127.0.0.1:1"]);
    serve.arg("--set").arg(format!("controller.token_file={}", place.path("token").display()));
    let server = Server::start("the daemon", &mut serve);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !server.said().contains("no Run is taken") {
        assert!(Instant::now() < deadline, "{}", server.said());
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let said = server.said();
    let (_, rest) = said.split_once("\"address\":\"http://").unwrap_or_else(|| panic!("{said}"));
    let address = rest.split('"').next().unwrap_or_default().to_owned();
    assert_eq!(get(&address, "/readyz"), "HTTP/1.1 503 Service Unavailable");
    assert_eq!(get(&address, "/healthz"), "HTTP/1.1 200 OK");
}
