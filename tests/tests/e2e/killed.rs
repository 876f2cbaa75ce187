//! What a daemon that was killed leaves to the next one.

use std::fs;

use runtimed_api::run::status::{AttemptEnd, Phase};
use runtimed_tests::cluster::{Cluster, Options, phase, result};
use runtimed_tests::runs::shell;
use runtimed_tests::wait::{eventually, processes_with};
use rustix::process::{Pid, Signal, kill_process};

/// The worker of the one Run that a daemon has.
fn worker(cluster: &mut Cluster) -> Pid {
    let tasks = format!("/proc/{}/task", cluster.daemon(0).pid().as_raw_pid());
    let children = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
    let children: String = fs::read_dir(tasks).expect("its threads").flatten().map(children).collect();
    let is_worker = |pid: &&str| {
        fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim() == "runtimed-worker"
    };
    let worker = children.split_ascii_whitespace().find(is_worker).expect("a worker");
    worker.parse().ok().and_then(Pid::from_raw).expect("a process id")
}

/// What a stopped worker cannot do at its daemon's death, and a dead one cannot do at all, the next daemon does before it is
/// ready.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_old_daemon_runs_when_the_next_is_ready() {
    for (tier, signal) in
        [("Base", Signal::STOP), ("Base", Signal::KILL), ("Auto", Signal::STOP), ("Auto", Signal::KILL)]
    {
        let runtime_toml = format!("[sandbox]\ntier = \"{tier}\"\n");
        let mut cluster = Cluster::start(Options { runtime_toml, lease: "60s", ..Options::default() }).await;
        // The third has nothing of ours about it but what it cannot shed.
        let script = "(setsid sleep 34.91 &); cd /; (env -i setsid sleep 34.93 </dev/null >/dev/null 2>&1 &); echo up; sleep 34.92";
        let run = shell("doomed", script, "secrets: [{ name: llm }]");
        let name = cluster.submit(run, &[("llm", "a-submitted-value")]).await;
        cluster.until_printed(&name).await;
        let running = || ["34.91", "34.92", "34.93"].map(processes_with).iter().sum::<usize>();
        eventually("the command to run", async || running() == 3).await;
        let worker = worker(&mut cluster);
        kill_process(worker, Signal::STOP).expect("stopped");
        cluster.kill_daemon(0);
        assert!(running() > 0, "{tier}: nobody was there to end it");
        // Killed after its daemon, which would have ended what is below it.
        kill_process(worker, signal).expect("it is there");
        cluster.restart_daemon(0);
        cluster.until_daemon_said(0, "ready to lease").await;
        assert_eq!(running(), 0, "{tier}, {signal:?}");
        assert!(cluster.files_with(b"a-submitted-value").is_empty());
        assert_eq!(phase(&cluster.end(&name).await), Phase::Lost, "{tier}");
        assert!(cluster.drain().is_empty());
    }
}

/// A controller that comes back waits little longer than a lease, and the outbox must be there by then, however long it was
/// away.
#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_survives_a_restart_of_the_daemon_while_the_controller_is_away_for_long() {
    let mut cluster = Cluster::start(Options { lease: "3s", ..Options::default() }).await;
    let name = cluster.submit(shell("patient", "echo up; sleep 0.3; exit 5", ""), &[]).await;
    cluster.until_printed(&name).await;
    cluster.kill_controller();
    cluster.until_daemon_said(0, "the command has ended").await;
    cluster.kill_daemon(0);
    cluster.restart_daemon(0);
    // With pauses that only double, the twelfth failure is minutes away.
    let failures = |said: String| said.matches("no session with the controller").count();
    eventually("many failures", async || failures(cluster.said(0)) >= 12).await;
    cluster.restart_controller();
    let run = cluster.end(&name).await;
    let status = run.status.as_ref().expect("a status");
    assert_eq!(runtimed_api::exit::of(status), Some(5), "{status:?}");
    assert_eq!(status.attempts.len(), 1);
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_collected_is_reported_by_the_next_daemon_and_what_did_not_arrive_is_named() {
    let mut cluster = Cluster::start(Options { lease: "60s", ..Options::default() }).await;
    let script = "echo up; echo k=v > $RUNTIMED_OUTPUTS; echo kept > $RUNTIMED_ARTIFACTS_DIR/file; sleep 0.3
        seq -w 1000000";
    let name = cluster.submit(shell("half", script, ""), &[]).await;
    cluster.until_printed(&name).await;
    cluster.controller().expect("it runs").signal(Signal::STOP);
    // The state is in a directory of a random name.
    let states = || fs::read_dir(cluster.state_dir(0)).expect("lists").flatten();
    let says = |journal: Vec<u8>| journal.windows(11).any(|window| window == b"\"collected\"");
    let journaled = || states().any(|state| fs::read(state.path().join("journal")).is_ok_and(says));
    eventually("its results to be collected", async || journaled()).await;
    cluster.kill_daemon(0);
    cluster.controller().expect("it runs").signal(Signal::CONT);
    cluster.restart_daemon(0);
    let run = cluster.end(&name).await;
    assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
    let ended = result(&run);
    assert_eq!(ended.end, AttemptEnd::Completed);
    assert_eq!(ended.outputs.get("k").map(String::as_str), Some("v"));
    assert_eq!(ended.uploads_incomplete, ["artifacts: the daemon died during the upload"]);
    // The result came first, and the log follows it: 8 MB of it, whatever becomes of that daemon as well.
    cluster.kill_daemon(0);
    cluster.restart_daemon(0);
    let lines: String = (1..=1_000_000).map(|line| format!("{line:07}\n")).collect();
    let printed = format!("up\n{lines}");
    assert_eq!(ended.log.bytes, printed.len() as u64);
    eventually("all of the log", async || cluster.log(&name).await == printed).await;
    assert!(cluster.drain().is_empty());
}
