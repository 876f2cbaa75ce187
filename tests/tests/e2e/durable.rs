//! What is held when a daemon is stopped, when a disk fails, and when reports are not taken.

use std::path::PathBuf;
use std::time::Duration;

use runtimed_api::problem::Code;
use runtimed_api::run::status::{AttemptEnd, Phase};
use runtimed_api::session::Submission;
use runtimed_client::controller::{ListQuery, LogQuery};
use runtimed_tests::answering::Answering;
use runtimed_tests::cluster::{Cluster, Options, namespace, own, phase, result};
use runtimed_tests::fault::disk::{Disk, may_mount};
use runtimed_tests::fault::failing::{DATABASE, Failing, JOURNAL, may_fail};
use runtimed_tests::fault::plan::Trouble;
use runtimed_tests::fault::proxy::Proxy;
use runtimed_tests::marks::{Marks, OVERLAP};
use runtimed_tests::runs::shell;
use runtimed_tests::wait::eventually;
use rustix::process::Signal;

/// Nobody but the worker can end the command of a daemon that is stopped, and the controller does not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_stopped_is_overtaken_when_its_command_is_dead() {
    let marks = Marks::new();
    let runtime_toml = marks.runtime_toml();
    let options = Options { daemons: 2, slots: 1, lease: "1s", runtime_toml, ..Options::default() };
    let mut cluster = Cluster::start(options).await;
    let script = "echo up; if [ $RUNTIMED_ATTEMPT = 1 ]; then (setsid sleep 61.37 &); sleep 61.37; fi";
    let retry = "retry: { maxAttempts: 2, on: [Lost] }";
    let name = cluster.submit(shell("overtaken", &marks.locked("overtaken", script), retry), &[]).await;
    cluster.until_printed(&name).await;
    let holder = cluster.until(&name, |run| phase(run) == Phase::Running).await;
    let holder = holder.status.expect("a status").attempts[0].daemon.to_string();
    let index: usize = holder.trim_start_matches("daemon-").parse().expect("its number");
    cluster.daemon(index).signal(Signal::STOP);
    let run = cluster.end(&name).await;
    assert_eq!(runtimed_tests::wait::processes_with("61.37"), 0, "the daemon is stopped still");
    assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
    let attempts = run.status.expect("a status").attempts;
    let ends: Vec<_> = attempts.iter().flat_map(|attempt| &attempt.result).map(|result| result.end).collect();
    assert_eq!(ends, [AttemptEnd::Lost, AttemptEnd::Completed]);
    assert_ne!(attempts[0].daemon, attempts[1].daemon);
    assert_eq!(cluster.log(&name).await, "up\n", "no {OVERLAP}");
    cluster.daemon(index).signal(Signal::CONT);
    cluster.until_daemon_said(index, "the attempt is over").await;
    assert_eq!(cluster.drain(), Vec::<PathBuf>::new());
}

/// Whoever wrote a log brings the rest of it, whosever the Run is by then.
#[tokio::test(flavor = "multi_thread")]
async fn the_rest_of_a_log_follows_a_lost_lease() {
    let mut cluster = Cluster::start(Options { daemons: 0, lease: "6s", ..Options::default() }).await;
    let proxy = Proxy::before(&cluster.url).await.expect("a port");
    cluster.add_daemon(&proxy.url);
    let name = cluster.submit(shell("cut", "echo up; sleep 0.5; seq -w 100000; sleep 60", ""), &[]).await;
    cluster.until_printed(&name).await;
    proxy.set(Some(Trouble::Refused));
    assert_eq!(phase(&cluster.end(&name).await), Phase::Lost);
    proxy.set(None);
    let lines: String = (1..=100_000).map(|line| format!("{line:06}\n")).collect();
    let printed = format!("up\n{lines}");
    eventually("all of the log", async || cluster.log(&name).await == printed).await;
    assert!(cluster.drain().is_empty());
}

/// Waits until the daemon has declined more leases than `before`, and says how many.
async fn declined(cluster: &Cluster, before: usize) -> usize {
    let count = || cluster.said(0).matches("a lease was not accepted").count();
    eventually("a lease to be declined", async || count() > before).await;
    count()
}

/// The calls of the thread that owns the journal fail with EIO. Only root can have them fail.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_fails_promises_nothing_and_goes_on_afterwards() {
    if !may_fail() {
        return;
    }
    let mut cluster = Cluster::start(Options::default()).await;
    let before = cluster.run(shell("before", "echo before", "")).await;
    let ending = cluster.submit(shell("ending", "echo up; sleep 5; exit 3", ""), &[]).await;
    cluster.until_printed(&ending).await;
    let pid = cluster.daemon(0).pid();
    let failing = Failing::of(pid, JOURNAL, None).expect("it fails");
    // One that cannot be accepted waits on; one whose end cannot be is a fault, and its outcome is not shown.
    let waiting = cluster.submit(shell("waiting", "echo late", ""), &[]).await;
    let run = cluster.end(&ending).await;
    assert_eq!(phase(&run), Phase::Fault, "{:?}", run.status);
    let fault = result(&run).fault.as_ref().map(|fault| fault.code);
    assert_eq!(fault, Some(Code::StorageFailed), "{:?}", run.status);
    assert_eq!(run.status.expect("a status").attempts[0].outcome, None);
    let declines = declined(&cluster, 0).await;
    assert!(cluster.daemon(0).ended().is_none(), "it lives on");
    drop(failing);
    let late = cluster.end(&waiting).await;
    assert_eq!((phase(&late), late.status.expect("a status").attempts.len()), (Phase::Succeeded, 1));
    let after = cluster.run(shell("after", "echo after", "")).await;
    assert_eq!(phase(&after), Phase::Succeeded);
    // A sync that fails once, with notes before it that nobody waited for.
    let failing = Failing::of(pid, JOURNAL, Some("fdatasync")).expect("it fails");
    let unsynced = cluster.submit(shell("unsynced", "echo late", ""), &[]).await;
    declined(&cluster, declines).await;
    drop(failing);
    let unsynced = cluster.end(&unsynced).await;
    assert_eq!(phase(&unsynced), Phase::Succeeded, "{:?}", unsynced.status);
    let held = cluster.submit(shell("held", "echo up; sleep 61", ""), &[]).await;
    cluster.until_printed(&held).await;
    cluster.kill_daemon(0);
    cluster.restart_daemon(0);
    assert_eq!(phase(&cluster.end(&held).await), Phase::Lost, "the journal had it");
    for (name, run) in [("before", before), ("after", after), ("unsynced", unsynced)] {
        let now =
            cluster.client.get(&namespace(), &name.parse().expect("a name")).await.expect("it is there");
        assert_eq!(now.status, run.status);
    }
    cluster.until_ready(0).await;
    assert_eq!(cluster.drain(), Vec::<PathBuf>::new());
}

/// The same for the thread that writes the controller's database.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_fails_takes_nothing_and_loses_nothing() {
    if !may_fail() {
        return;
    }
    let mut cluster = Cluster::start(Options::default()).await;
    let running = cluster.submit(shell("running", "echo up; sleep 4", ""), &[]).await;
    cluster.until_printed(&running).await;
    let pid = cluster.controller().expect("it runs").pid();
    let failing = Failing::of(pid, DATABASE, None).expect("it fails");
    let submission = Submission { run: shell("refused", "true", ""), secrets: Default::default() };
    let refused = cluster.client.submit(&namespace(), &submission).await.expect_err("it is not taken");
    assert_eq!(refused.code(), Some(Code::Internal), "{refused}");
    let there = cluster.client.get(&namespace(), &"refused".parse().expect("a name")).await;
    assert_eq!(there.expect_err("it is not there").code(), Some(Code::NotFound));
    // What ends meanwhile is reported until it is taken.
    cluster.until_daemon_said(0, "reports are not delivered yet").await;
    let shown = cluster.client.get(&namespace(), &running).await.expect("it can be read");
    assert_eq!(phase(&shown), Phase::Running);
    drop(failing);
    let over = cluster.end(&running).await;
    assert_eq!(phase(&over), Phase::Succeeded, "{:?}", over.status);
    let taken = cluster.run(submission.run).await;
    assert_eq!(phase(&taken), Phase::Succeeded);
    cluster.restart_controller();
    for (name, run) in [("running", over), ("refused", taken)] {
        let now =
            cluster.client.get(&namespace(), &name.parse().expect("a name")).await.expect("it is there");
        assert_eq!(now.status, run.status);
    }
    assert_eq!(cluster.drain(), Vec::<PathBuf>::new());
}

/// A proxy answers reports in the controller's place: what an operator may mend is waited for, what is asked for is
/// heeded, what will never be taken is given up alone, and what follows it is delivered.
#[tokio::test(flavor = "multi_thread")]
async fn rejected_reports_are_handled_by_status() {
    let mut cluster = Cluster::start(Options { daemons: 0, ..Options::default() }).await;
    let answers =
        ["403 Forbidden", "503 Away\r\nRetry-After: 2", "413 Content Too Large", "413 Content Too Large"];
    let proxy = Answering::before(&cluster.url, "/reports", &answers);
    cluster.add_daemon(&proxy.url);
    let run = cluster.run(shell("told", "echo told; exit 3", "")).await;
    assert_eq!(phase(&run), Phase::Failed, "{:?}", run.status);
    assert!(run.status.expect("a status").attempts[0].outcome.is_some(), "the last report has it too");
    cluster.until_daemon_said(0, "a report was rejected").await;
    // Both in one request, the first alone, the second alone.
    let asked = proxy.asked();
    assert_eq!(asked.len(), 5, "{asked:?}");
    let waits: Vec<_> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits[0] >= Duration::from_secs(5) && waits[1] >= Duration::from_secs(2), "{waits:?}");
    assert!(waits[2] < Duration::from_secs(2) && waits[3] < Duration::from_secs(2), "{waits:?}");
    let query = LogQuery { follow: false, ..LogQuery::default() };
    assert!(cluster.client.logs(&namespace(), &"told".parse().expect("a name"), &query).await.is_ok());
    assert_eq!(cluster.drain(), Vec::<PathBuf>::new());
}

/// The answer with a lease is lost between the two: the controller holds the Run for one that a daemon has, and the daemon
/// has never heard of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_lease_never_arrived_is_begun_all_the_same_and_once() {
    let options = Options { daemons: 0, lease: "3s", ..Options::default() };
    let mut cluster = Cluster::start(options).await;
    let proxy = Answering::losing(&cluster.url, "\"readToken\"");
    cluster.add_daemon(&proxy.url);
    let run = cluster.run(shell("once", "echo begun", "")).await;
    assert!(proxy.has_lost());
    assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
    let status = run.status.expect("a status");
    assert_eq!((status.attempts.len(), status.fence.0), (1, 2), "handed out twice, and tried once");
    assert_eq!(cluster.log(&"once".parse().expect("a name")).await, "begun\n");
    assert_eq!(cluster.drain(), Vec::<PathBuf>::new());
}

/// The disk under the trees, the daemon's state, and the controller's data. Only root may mount one.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_is_the_reason_and_the_servers_live_on() {
    if !may_mount() {
        return;
    }
    let place = tempfile::tempdir().expect("a directory");
    let trees = Disk::at(place.path(), 64).expect("mounted");
    std::fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    let options = Options { daemons: 0, trees: Some(place.path().to_owned()), ..Options::default() };
    let mut cluster = Cluster::start(options).await;
    own(&cluster.state_dir(0));
    let state = Disk::at(&cluster.state_dir(0), 40).expect("mounted");
    let url = cluster.url.clone();
    cluster.add_daemon(&url);
    // In the workspace: the command is told, and what it says and how it exits is kept.
    let filling = "cat /dev/zero > all; echo failed with $?; exit 7";
    let run = cluster.run(shell("filling", filling, "limits: { disk: 1Gi }")).await;
    assert_eq!(phase(&run), Phase::Failed, "{:?}", run.status);
    let log = cluster.log(&"filling".parse().expect("a name")).await;
    assert!(log.contains("No space left on device") && log.contains("failed with 1"), "{log}");
    assert_eq!(phase(&cluster.run(shell("next", "true", "")).await), Phase::Succeeded);
    // In the daemon's state: what it cannot keep of a log is told.
    let line = "echo up; sleep 4; head -c 3000000 /dev/zero | tr '\\0' x; exit 0";
    let printing = cluster.submit(shell("printing", line, ""), &[]).await;
    cluster.until_printed(&printing).await;
    state.fill().expect("filled");
    let run = cluster.end(&printing).await;
    let told = format!("{:?}", result(&run)).to_lowercase();
    assert!(
        ["no space", "storagefull", "has no room for it"].iter().any(|words| told.contains(words)),
        "{:?}",
        run.status
    );
    assert!(cluster.daemon(0).ended().is_none(), "it lives on");
    state.empty();
    assert_eq!(phase(&cluster.run(shell("emptied", "true", "")).await), Phase::Succeeded);
    assert_eq!(cluster.drain(), Vec::<PathBuf>::new());
    drop(cluster);
    drop((trees, state));
}

/// The controller's data: what cannot be stored is not taken, and what was taken goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_full_takes_nothing_and_loses_nothing() {
    if !may_mount() {
        return;
    }
    let mut cluster = Cluster::start(Options { daemons: 0, ..Options::default() }).await;
    cluster.kill_controller();
    let disk = Disk::at(&cluster.controller_dir(), 40).expect("mounted");
    let url = cluster.revive_controller().expect("it comes up");
    // A client of this address; the cluster's own knows the one before.
    let token = runtimed_api::session::SecretText::new(cluster.token());
    let endpoint = runtimed_client::Endpoint::new(&url);
    let client = runtimed_client::controller::Controller::new(&endpoint).expect("a client").with_token(token);
    let submit = async |name: &str| {
        let submission = Submission { run: shell(name, "true", ""), secrets: Default::default() };
        client.submit(&namespace(), &submission).await
    };
    submit("before").await.expect("taken");
    // What people and Runs upload leaves the database its room.
    let mut full = None;
    for number in 0..20 {
        if let Err(error) = client.put_source(&namespace(), vec![number; 4 << 20].into()).await {
            full = Some(error);
            break;
        }
    }
    assert_eq!(full.and_then(|error| error.code()), Some(Code::StorageFull));
    submit("beside").await.expect("taken");
    disk.fill().expect("filled");
    let mut refused = None;
    // The log of the database has some room left of its own.
    for index in 0..200 {
        if let Err(error) = submit(&format!("full-{index}")).await {
            refused = Some((index, error));
            break;
        }
    }
    let (index, error) = refused.expect("a full disk takes no Run");
    assert_eq!(error.code(), Some(Code::StorageFull), "{error}");
    disk.empty();
    submit(&format!("full-{index}")).await.expect("taken once there is room");
    let all = ListQuery { limit: Some(500), ..ListQuery::default() };
    let listed = client.list(&namespace(), &all).await.expect("a list");
    assert_eq!(listed.items.len(), index + 3, "each that was taken, and no other");
    drop((cluster, disk));
}
