//! How Runs begin and end.

use futures_util::StreamExt as _;
use runtimed_api::problem::Code;
use runtimed_api::run::Run;
use runtimed_api::run::limits::LimitName;
use runtimed_api::run::outcome::Verdict;
use runtimed_api::run::status::{AttemptEnd, Phase};
use runtimed_tests::cluster::{Cluster, Options, namespace, phase, result};
use runtimed_tests::runs::shell;
use runtimed_tests::wait::{eventually, processes_with};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_prints_is_in_the_log_and_not_in_the_status() {
    let mut cluster = Cluster::start(Options::default()).await;
    let run = cluster.run(shell("echo", "echo a-word-in-the-log", "")).await;
    assert_eq!(phase(&run), Phase::Succeeded);
    assert_eq!(result(&run).outcome.as_ref().map(|outcome| outcome.verdict), Some(Verdict::Exited(0)));
    assert_eq!(cluster.log(&"echo".parse().expect("a name")).await, "a-word-in-the-log\n");
    let status = serde_json::to_string(&run.status).expect("JSON");
    assert!(!status.contains("a-word-in-the-log"), "{status}");
    assert_eq!(cluster.drain(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_ends_the_whole_tree_in_time_and_keeps_the_log() {
    let mut cluster = Cluster::start(Options::default()).await;
    let line = "echo before; setsid sleep 31.7 & sleep 31.7";
    let run = cluster.run(shell("slow", line, "limits: { timeout: 1s }")).await;
    assert_eq!(phase(&run), Phase::TimedOut);
    let status = run.status.as_ref().expect("a status");
    assert_eq!(status.attempts.len(), 1);
    let took = result(&run).steps.iter().find(|time| time.step.as_str() == "run").expect("it ran").micros;
    assert!((1_000_000..1_500_000).contains(&took), "{took} µs");
    assert_eq!(cluster.log(&"slow".parse().expect("a name")).await, "before\n");
    assert_eq!(processes_with("31.7"), 0);
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_is_not_tried_again() {
    let cluster = Cluster::start(Options::default()).await;
    let retry = "retry: { maxAttempts: 3, on: [Failed, Lost, Fault] }";
    let name = cluster.submit(shell("long", "echo ready; sleep 60", retry), &[]).await;
    cluster.until(&name, |run| phase(run) == Phase::Running).await;
    cluster.client.cancel(&namespace(), &name).await.expect("cancelled");
    let run = cluster.end(&name).await;
    assert_eq!(phase(&run), Phase::Cancelled);
    assert_eq!(run.status.expect("a status").attempts.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_run_that_is_deleted_is_cancelled_first_and_then_gone() {
    let mut cluster = Cluster::start(Options::default()).await;
    let name = cluster.submit(shell("doomed", "echo ready; sleep 33.9", ""), &[]).await;
    cluster.until_printed(&name).await;
    let client = cluster.client.clone();
    let mut events = client.events(&namespace(), &name).await.expect("events");
    cluster.client.delete(&namespace(), &name).await.expect("taken");
    let mut last = None;
    while let Some(run) = events.next().await {
        last = Some(run.expect("an event"));
    }
    let last = last.expect("an event");
    assert_eq!((phase(&last), result(&last).end), (Phase::Cancelled, AttemptEnd::Cancelled));
    assert_eq!(processes_with("33.9"), 0);
    let gone = || async { cluster.client.get(&namespace(), &name).await.is_err() };
    tokio::time::timeout(std::time::Duration::from_secs(20), async { while !gone().await {} })
        .await
        .expect("it goes with its end");
    let error = cluster.client.get(&namespace(), &name).await.expect_err("gone");
    assert_eq!(error.code(), Some(Code::NotFound), "{error}");
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_run_is_cancelled_at_once_and_says_why_it_waits() {
    let cluster = Cluster::start(Options { slots: 1, ..Options::default() }).await;
    let first = cluster.submit(shell("first", "sleep 60", ""), &[]).await;
    cluster.until(&first, |run| phase(run) == Phase::Running).await;
    let second = cluster.submit(shell("second", "true", ""), &[]).await;
    let waiting =
        cluster.until(&second, |run| run.status.as_ref().is_some_and(|status| status.reason.is_some())).await;
    assert_eq!(phase(&waiting), Phase::Pending);
    let reason = waiting.status.and_then(|status| status.reason).unwrap_or_default();
    assert!(reason.contains("0 free slots"), "{reason}");
    cluster.client.cancel(&namespace(), &second).await.expect("cancelled");
    let run = cluster.end(&second).await;
    assert_eq!(phase(&run), Phase::Cancelled);
    assert!(run.status.expect("a status").attempts.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_meets_the_end_leaves_one_end_for_ever() {
    let cluster = Cluster::start(Options { slots: 4, ..Options::default() }).await;
    for index in 0..24_u32 {
        let line = if index % 4 == 0 { "sleep 30.3" } else { "true" };
        let name = cluster.submit(shell(&format!("race-{index}"), line, ""), &[]).await;
        let seen = match index % 4 {
            0 | 1 => Phase::Pending,
            2 => phase(&cluster.until(&name, |run| phase(run) != Phase::Pending).await),
            _ => {
                let done = |run: &Run| !matches!(phase(run), Phase::Pending | Phase::Running);
                phase(&cluster.until(&name, done).await)
            }
        };
        // One that is over cannot be cancelled any more, and says so.
        let _over = cluster.client.cancel(&namespace(), &name).await;
        let ended = phase(&cluster.end(&name).await);
        match (index % 4, seen) {
            (0, _) => assert_eq!(ended, Phase::Cancelled, "it sleeps"),
            (_, Phase::Pending | Phase::Running) => {
                assert!(matches!(ended, Phase::Succeeded | Phase::Cancelled), "{ended}");
            }
            _ => assert_eq!(ended, Phase::Succeeded, "the command had ended: {seen}"),
        }
        let _over = cluster.client.cancel(&namespace(), &name).await;
        let later = cluster.client.get(&namespace(), &name).await.expect("it is kept");
        assert_eq!(phase(&later), ended);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_tried_again_in_a_fresh_workspace_until_it_passes() {
    let mut cluster = Cluster::start(Options::default()).await;
    let line =
        "test ! -e mark || exit 9; touch mark; echo attempt $RUNTIMED_ATTEMPT; test $RUNTIMED_ATTEMPT = 3";
    let retry = "retry: { maxAttempts: 5, backoff: 10ms, on: [Failed] }";
    let run = cluster.run(shell("again", line, retry)).await;
    assert_eq!(phase(&run), Phase::Succeeded);
    let attempts = run.status.expect("a status").attempts;
    let codes: Vec<_> = attempts
        .iter()
        .map(|attempt| attempt.outcome.as_ref().map(|outcome| outcome.verdict).expect("an outcome"))
        .collect();
    assert_eq!(codes, [Verdict::Exited(1), Verdict::Exited(1), Verdict::Exited(0)]);
    assert!(attempts.windows(2).all(|pair| pair[0].fence < pair[1].fence));
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_attempt_has_a_deadline_of_its_own() {
    let mut cluster = Cluster::start(Options::default()).await;
    let extra =
        "limits: { timeout: 500ms, grace: 100ms }\nretry: { maxAttempts: 3, backoff: 10ms, on: [TimedOut] }";
    let run = cluster.run(shell("late", "sleep 34.9", extra)).await;
    assert_eq!(phase(&run), Phase::TimedOut);
    let attempts = run.status.expect("a status").attempts;
    let took = |result: &runtimed_api::run::status::AttemptResult| {
        result.steps.iter().find(|time| time.step.as_str() == "run").expect("it ran").micros
    };
    let took: Vec<u64> = attempts.iter().flat_map(|attempt| &attempt.result).map(took).collect();
    assert!(took.len() == 3 && took.iter().all(|took| *took >= 500_000), "{took:?}");
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_is_left_running_is_killed_and_reported() {
    let mut cluster = Cluster::start(Options::default()).await;
    let run = cluster.run(shell("leaky", "setsid sleep 32.3 & exit 0", "")).await;
    assert_eq!(phase(&run), Phase::Succeeded);
    let outcome = result(&run).outcome.clone().expect("an outcome");
    assert!(outcome.leaked >= 1, "{outcome:?}");
    assert_eq!(processes_with("32.3"), 0);
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_ignores_term_is_killed_after_the_grace() {
    let mut cluster = Cluster::start(Options::default()).await;
    let line =
        "trap '' TERM; (setsid sh -c 'trap \"\" TERM; sleep 33.1' &) ; echo ready; sleep 33.1; sleep 33.1";
    let name = cluster.submit(shell("stubborn", line, "limits: { grace: 300ms }"), &[]).await;
    cluster.until(&name, |run| phase(run) == Phase::Running).await;
    eventually("both processes to run", async || processes_with("33.1") >= 2).await;
    cluster.client.cancel(&namespace(), &name).await.expect("cancelled");
    let run = cluster.end(&name).await;
    assert_eq!(phase(&run), Phase::Cancelled);
    assert_eq!(result(&run).end, AttemptEnd::Cancelled);
    assert!(result(&run).kill_micros.is_some(), "{:?}", result(&run));
    assert_eq!(processes_with("33.1"), 0);
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_at_a_limit_ends_and_names_the_limit() {
    let mut cluster = Cluster::start(Options { slots: 5, ..Options::default() }).await;
    for (name, line, limits, limit) in [
        ("memory", "head -c 300m /dev/zero | tail -n 1; sleep 60", "memory: 64Mi", LimitName::Memory),
        ("disk", "head -c 60m /dev/zero > big; sleep 60", "disk: 20Mi", LimitName::Disk),
        (
            "threads",
            "python3 -c 'import threading, time\nfor i in range(9): threading.Thread(target=time.sleep, args=(60,)).start()'",
            "processes: 4",
            LimitName::Processes,
        ),
        ("processes", "for i in 1 2 3 4 5 6; do sleep 60 & done; wait", "processes: 4", LimitName::Processes),
        ("cpu", "while :; do :; done", "cpu: 1s", LimitName::Cpu),
        ("file", "exec head -c 9m /dev/zero > big", "fileSize: 1Mi", LimitName::FileSize),
    ] {
        let run = cluster
            .run(shell(name, line, &format!("limits: {{ {limits}, timeout: 30s, grace: 100ms }}")))
            .await;
        assert_eq!(phase(&run), Phase::Failed, "{name}: {:?}", run.status);
        let verdict = result(&run).outcome.as_ref().map(|outcome| outcome.verdict);
        assert_eq!(verdict, Some(Verdict::LimitExceeded(limit)), "{name}");
        assert_eq!(runtimed_api::exit::of(run.status.as_ref().expect("a status")), Some(123));
    }
    assert!(cluster.drain().is_empty());
}
