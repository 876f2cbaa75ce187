//! What a Run finds in each tier, and that nothing of it outlives whoever kept it.

use std::fs;
use std::time::Duration;

use runtimed_api::enforcement::{State, Tier};
use runtimed_api::run::Run;
use runtimed_api::run::status::Phase;
use runtimed_tests::cluster::{Cluster, Options, phase, result};
use runtimed_tests::runs::shell;
use runtimed_tests::wait::{eventually, processes_with};
use rustix::process::{Pid, Signal};

fn options(tier: &str) -> Options {
    let usual = Options { runtime_toml: format!("[sandbox]\ntier = \"{tier}\"\n"), ..Options::default() };
    if tier == "Exclusive" { Options { slots: 1, ..usual } } else { usual }
}

fn state(run: &Run, protection: &str) -> State {
    let enforcement = result(run).enforcement.as_ref().expect("it was enforced");
    let mut protections = enforcement.protections.iter();
    protections.find(|one| one.name == protection).expect("it is reported").state
}

#[tokio::test(flavor = "multi_thread")]
async fn in_namespaces_a_run_has_the_usual_places_to_itself() {
    let mut cluster = Cluster::start(options("Namespaces")).await;
    let line = "set -e; test $PWD$HOME$TMPDIR = /workspace/home/worker/tmp; \
        echo one > /tmp/x; echo two > /home/worker/x; echo three > /workspace/x; echo four > /dev/shm/x; \
        cat $RUNTIMED_SECRET_MINE_FILE > /dev/null; echo $RUNTIMED_SECRET_MINE_FILE; \
        echo kept > $RUNTIMED_ARTIFACTS_DIR/a; echo k=v > $RUNTIMED_OUTPUTS; \
        cat /proc/self/status > /dev/null; ls /proc | grep -c '^[0-9]' > /tmp/count; test $(cat /tmp/count) -le 4; \
        ! ls /proc/1 2> /dev/null; ! cat /proc/keys | grep .; ! touch /usr/x 2> /dev/null; \
        test ! -e /var/lib/dpkg; \
        ! unshare -U true 2> /dev/null; printf '#!/bin/sh\\necho from a script\\n' > s; chmod 755 s; ./s";
    let name =
        cluster.submit(shell("view", line, "secrets: [{ name: mine }]"), &[("mine", "a-secret-value")]).await;
    let run = cluster.end(&name).await;
    let log = cluster.log(&name).await;
    assert_eq!(phase(&run), Phase::Succeeded, "{log} {:?}", result(&run));
    assert_eq!(log, "/run/runtimed/secrets/mine\nfrom a script\n");
    let ended = result(&run);
    assert_eq!(ended.enforcement.as_ref().map(|enforcement| enforcement.tier), Some(Tier::Namespaces));
    for protection in
        ["file-metadata", "pathname-unix-sockets", "loopback-neighbours", "process-list", "signals"]
    {
        assert_eq!(state(&run, protection), State::Active, "{protection}");
    }
    assert_eq!(ended.outputs.get("k").map(String::as_str), Some("v"));
    assert_eq!(ended.artifacts.as_ref().map(|artifacts| artifacts.count), Some(1));
    assert_eq!(ended.patch.as_ref().map(|patch| patch.files), Some(2));
    assert!(ended.scrub.as_ref().is_some_and(|scrub| scrub.verified), "{:?}", ended.scrub);
    assert_eq!(cluster.drain(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_of_its_own_has_a_loopback_and_nothing_else() {
    let mut cluster = Cluster::start(options("Namespaces")).await;
    let outside = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = outside.local_addr().expect("an address").port();
    let line = format!(
        "python3 -c 'import socket\ns = socket.create_server((\"127.0.0.1\", 0))\nsocket.create_connection(s.getsockname())\n\
         try:\n socket.create_connection((\"127.0.0.1\", {port}))\n print(\"reached\")\nexcept ConnectionRefusedError: print(\"refused\")'"
    );
    let run = cluster.run(shell("alone", &line, "")).await;
    assert_eq!(cluster.log(&"alone".parse().expect("a name")).await, "refused\n");
    assert_eq!(phase(&run), Phase::Succeeded);
    // Who asks for the network keeps the pod's, and the report says so.
    let shared = cluster
        .run(shell(
            "shared",
            "! cat /proc/self/net/unix 2> /dev/null",
            "network: { mode: Ports, ports: [443] }",
        ))
        .await;
    assert_eq!(phase(&shared), Phase::Succeeded, "{:?}", shared.status);
    assert_eq!(state(&shared, "loopback-neighbours"), State::Unavailable);
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn in_base_the_machine_stays_in_sight_and_closed() {
    let mut cluster = Cluster::start(options("Base")).await;
    let run = cluster
        .run(shell("base", "case $PWD in */w) ;; *) exit 4 ;; esac; ! cat /proc/1/status 2> /dev/null", ""))
        .await;
    assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
    assert_eq!(result(&run).enforcement.as_ref().map(|enforcement| enforcement.tier), Some(Tier::Base));
    assert_eq!(state(&run, "file-metadata"), State::Unavailable);
    assert!(cluster.drain().is_empty());
}

/// A command that forks, detaches, stops and ignores TERM; all of it ends by itself in two minutes.
fn storm(word: &str) -> String {
    format!(
        "trap '' TERM; for i in 1 2 3 4 5 6 7 8; do setsid sleep {word} & (sleep {word} &); sleep {word} & kill -STOP $!; done; echo ready; sleep {word}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outlives_a_supervisor_or_a_daemon_that_is_killed() {
    for (tier, first, second) in
        [("Base", "117.1", "117.2"), ("Namespaces", "117.3", "117.4"), ("Exclusive", "117.5", "117.6")]
    {
        let mut cluster = Cluster::start(options(tier)).await;
        let name = cluster.submit(shell("orphaned", &storm(first), ""), &[]).await;
        cluster.until_printed(&name).await;
        eventually("the first command to run", async || processes_with(first) >= 16).await;
        let daemon = cluster.daemon(0).pid();
        let worker = child_of(daemon).expect("a worker");
        rustix::process::kill_process(worker, Signal::KILL).expect("killed");
        let run = cluster.end(&name).await;
        assert_eq!(phase(&run), Phase::Fault, "{tier}: {:?}", run.status);
        assert_eq!(processes_with(first), 0, "{tier}: the supervisor was killed");

        let name = cluster.submit(shell("lost", &storm(second), ""), &[]).await;
        cluster.until_printed(&name).await;
        eventually("the second command to run", async || processes_with(second) >= 16).await;
        cluster.daemon(0).signal(Signal::KILL);
        cluster.daemon(0).wait(Duration::from_secs(10));
        eventually("nothing of it to be left", async || processes_with(second) == 0).await;
        cluster.restart_daemon(0);
        assert_eq!(phase(&cluster.end(&name).await), Phase::Lost, "{tier}");
    }
}

fn child_of(parent: Pid) -> Option<Pid> {
    let parent = parent.as_raw_nonzero();
    let children =
        fs::read_dir(format!("/proc/{parent}/task")).expect("tasks").flatten().filter_map(|task| {
            let list = fs::read_to_string(task.path().join("children")).ok()?;
            list.split_ascii_whitespace().next().and_then(|pid| Pid::from_raw(pid.parse().ok()?))
        });
    children.into_iter().next()
}
