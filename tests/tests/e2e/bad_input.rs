//! Policies that cannot be: each is refused by the id of its rule before the command, or anything it needs, begins.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use runtimed_api::rule::Rule;
use runtimed_api::run::status::Phase;
use runtimed_api::run::step::Step;
use runtimed_tests::cluster::{Cluster, Options, phase, result};
use runtimed_tests::runs::shell;

fn options(runtime_toml: &str) -> Options {
    Options { runtime_toml: runtime_toml.to_owned(), ..Options::default() }
}

/// Runs it, and asserts that its refusal names the rule and that nothing was fetched, staged or started.
async fn refused(cluster: &Cluster, name: &str, extra: &str, rule: Rule, word: &str) {
    let run = cluster.run(shell(name, "echo started", extra)).await;
    assert_eq!(phase(&run), Phase::Refused, "{name}: {:?}", run.status);
    let refusal = &result(&run).refusals[0];
    assert_eq!(refusal.rule, rule, "{refusal}");
    assert!(refusal.message.contains(word), "{refusal}");
    let steps = &result(&run).steps;
    let begun = |time: &runtimed_api::run::step::StepTime| {
        matches!(time.step, Step::Source | Step::Stage | Step::Run)
    };
    assert!(!steps.iter().any(begun), "{steps:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_of_a_path_that_is_not_there() {
    let mut cluster = Cluster::start(options("[run]\nread = [\"/usr\", \"/nowhere/at/all\"]\n")).await;
    refused(&cluster, "missing", "", Rule::SANDBOX_GRANT, "/nowhere/at/all").await;
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_holds_a_secret() {
    let place = tempfile::tempdir().expect("a directory");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(place.path(), open).expect("set");
    fs::create_dir(place.path().join("mount")).expect("made");
    fs::write(place.path().join("mount/token"), "a-secret-of-the-pod").expect("written");
    let place = place.path().display();
    let toml = format!(
        "[run]\nread = [\"/usr\", \"{place}\"]\n[secrets.pod]\nsource = \"file:{place}/mount/token\"\nnamespaces = [\"team-b\"]\n"
    );
    let mut cluster = Cluster::start(options(&toml)).await;
    refused(&cluster, "holds", "", Rule::SANDBOX_GRANT, "protected").await;
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemons_own_port_and_port_zero() {
    let mut cluster = Cluster::start(Options::default()).await;
    cluster.until_ready(0).await;
    let (_, port) = cluster
        .address(0)
        .rsplit_once(':')
        .map(|(host, port)| (host.to_owned(), port.to_owned()))
        .expect("a port");
    for list in ["ports", "listen"] {
        let extra = format!("network: {{ mode: Ports, {list}: [{port}] }}");
        refused(&cluster, &format!("own-{list}"), &extra, Rule::NETWORK_PORT, "the daemon's own").await;
    }
    let zero = submit_raw(&cluster, "zero", "{\"mode\":\"Ports\",\"ports\":[0]}");
    assert!(zero.starts_with("HTTP/1.1 422") && zero.contains("network.port"), "{zero}");
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_out_of_range() {
    let cluster = Cluster::start(Options::default()).await;
    for port in ["65536", "-1", "99999999"] {
        let answer = submit_raw(&cluster, "far", &format!("{{\"mode\":\"Ports\",\"ports\":[{port}]}}"));
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
        assert!(
            answer.contains(&format!("port {port} is out of range")) && answer.contains("network.port"),
            "{answer}"
        );
    }
}

/// Submits a Run as a client would that judges nothing itself.
fn submit_raw(cluster: &Cluster, name: &str, network: &str) -> String {
    let body = format!(
        "{{\"run\":{{\"apiVersion\":\"runtimed.dev/v1alpha1\",\"kind\":\"Run\",\"metadata\":{{\"name\":\"{name}\"}},\"spec\":{{\"runtime\":\"test\",\"command\":[\"true\"],\"network\":{network}}}}}}}"
    );
    let address = cluster.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).expect("connects");
    let request = format!(
        "POST /v1/namespaces/default/runs HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        cluster.token(),
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    answer
}
