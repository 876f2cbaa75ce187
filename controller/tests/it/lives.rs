//! Whole lives of Runs.

use std::time::Duration;

use runtimed_api::exit;
use runtimed_api::ids::AttemptNumber;
use runtimed_api::problem::Code;
use runtimed_api::run::status::{AttemptEnd, AttemptResult, Phase};
use runtimed_api::session::{OrderKind, ReportAnswer};

use crate::harness::{
    ADMIN, ALICE, Server, completed, default, exited, finished, phase, run, status, until, until_over,
};

#[tokio::test]
async fn a_run_goes_from_submission_to_its_end() {
    let server = Server::start();
    let alice = server.client(ALICE);
    let submitted = alice.submit(&default(), &run("a", "")).await.expect("submitted");
    assert_eq!(phase(&submitted), Phase::Pending);
    assert_eq!(status(&submitted).requested_by, "alice");
    let waiting = alice.get(&default(), &"a".parse().expect("a name")).await.expect("there");
    assert_eq!(status(&waiting).reason.as_deref(), Some("no daemon of Runtime bash is connected"));

    let daemon = server.daemon("d1", 1).await;
    assert_eq!(daemon.opened.lease_millis, 15_000);
    let lease = daemon.lease().await;
    assert_eq!(lease.run.spec.command, ["true"]);
    assert_eq!(lease.run.status, None);
    assert_eq!(lease.requested_by, "alice");
    let running = until(&alice, "a", |run| phase(run) != Phase::Pending).await;
    assert_eq!(phase(&running), Phase::Running);

    let answers = daemon.report(vec![exited(&lease, 1, 7)]).await;
    assert!(matches!(answers[..], [ReportAnswer::Applied]));
    let finishing = until(&alice, "a", |run| phase(run) != Phase::Running).await;
    assert_eq!(phase(&finishing), Phase::Finishing);
    daemon.report(vec![finished(&lease, 2, completed(7))]).await;

    let over = until_over(&alice, "a").await;
    assert_eq!(phase(&over), Phase::Failed);
    assert_eq!(status(&over).reason.as_deref(), Some("the command exited with 7"));
    assert_eq!(exit::of(status(&over)), Some(7));
    assert!(status(&over).finished_at.is_some());
}

#[tokio::test]
async fn a_slot_that_waits_gets_the_next_run_at_once() {
    let server = Server::start();
    let alice = server.client(ALICE);
    let daemon = server.daemon("d1", 1).await;
    let (lease, submitted) = tokio::join!(daemon.lease(), async {
        alice.submit(&default(), &run("a", "")).await.expect("submitted")
    });
    assert_eq!(lease.attempt.name.as_str(), "a");
    assert_eq!(phase(&submitted), Phase::Pending);
    let empty = daemon.lease_within(Duration::from_millis(20)).await;
    assert!(empty.is_none());
    let second = alice.submit(&default(), &run("b", "")).await.expect("submitted");
    assert_eq!(status(&second).reason.as_deref(), Some("1 daemon, 0 free slots"));
}

#[tokio::test]
async fn what_fails_twice_and_then_passes_succeeds_at_the_third_attempt() {
    let server = Server::start();
    let alice = server.client(ALICE);
    let more = r#","retry":{"maxAttempts":5,"backoff":"1ms","on":["Failed"]}"#;
    alice.submit(&default(), &run("a", more)).await.expect("submitted");
    let daemon = server.daemon("d1", 1).await;
    let mut fences = Vec::new();
    for code in [1, 1, 0] {
        let lease = daemon.lease().await;
        fences.push(lease.attempt.fence.0);
        daemon.complete(&lease, code).await;
    }
    let over = until_over(&alice, "a").await;
    assert_eq!(phase(&over), Phase::Succeeded);
    assert_eq!(fences, [1, 2, 3]);
    let attempts = &status(&over).attempts;
    assert_eq!(attempts.last().map(|attempt| attempt.number), Some(AttemptNumber(3)));
    assert!(attempts.iter().all(|attempt| attempt.result.is_some()));
}

#[tokio::test]
async fn a_pending_run_is_cancelled_at_once() {
    let server = Server::start();
    let alice = server.client(ALICE);
    alice.submit(&default(), &run("a", "")).await.expect("submitted");
    let name = "a".parse().expect("a name");
    let cancelled = alice.cancel(&default(), &name).await.expect("cancelled");
    assert_eq!(phase(&cancelled), Phase::Cancelled);
    let daemon = server.daemon("d1", 1).await;
    assert!(daemon.lease_within(Duration::from_millis(20)).await.is_none());
    let again = alice.cancel(&default(), &name).await.expect("answered");
    assert_eq!(again, cancelled);
}

#[tokio::test]
async fn a_running_run_is_cancelled_by_an_order_and_not_tried_again() {
    let server = Server::start();
    let alice = server.client(ALICE);
    let more = r#","retry":{"maxAttempts":3,"backoff":"1ms"}"#;
    alice.submit(&default(), &run("a", more)).await.expect("submitted");
    let daemon = server.daemon("d1", 1).await;
    let lease = daemon.lease().await;
    let name = "a".parse().expect("a name");
    let attempts = [lease.attempt.clone()];
    let (renewed, cancelled) = tokio::join!(daemon.renew(&attempts), async {
        alice.cancel(&default(), &name).await.expect("asked")
    });
    assert!(status(&cancelled).cancel_requested);
    assert_eq!(phase(&cancelled), Phase::Running);
    let order = match &renewed.orders[..] {
        [order] => order.clone(),
        // The renewal came and was answered before the cancel: the next one learns of it.
        _ => daemon.renew(&attempts).await.orders.remove(0),
    };
    assert_eq!((order.order, &order.attempt), (OrderKind::Cancel, &lease.attempt));
    daemon.report(vec![finished(&lease, 1, AttemptResult::bare(AttemptEnd::Cancelled))]).await;
    let over = until_over(&alice, "a").await;
    assert_eq!(phase(&over), Phase::Cancelled);
    assert_eq!(status(&over).attempts.len(), 1);
}

#[tokio::test]
async fn a_completed_command_keeps_its_outcome_when_cancelled() {
    let server = Server::start();
    let alice = server.client(ALICE);
    alice.submit(&default(), &run("a", "")).await.expect("submitted");
    let daemon = server.daemon("d1", 1).await;
    let lease = daemon.lease().await;
    daemon.report(vec![exited(&lease, 1, 0)]).await;
    let name = "a".parse().expect("a name");
    alice.cancel(&default(), &name).await.expect("asked");
    daemon.report(vec![finished(&lease, 2, completed(0))]).await;
    assert_eq!(phase(&until_over(&alice, "a").await), Phase::Succeeded);
    let still = alice.cancel(&default(), &name).await.expect("answered");
    assert_eq!(phase(&still), Phase::Succeeded);
}

#[tokio::test]
async fn a_run_waits_no_longer_than_it_may() {
    let server = Server::start();
    let alice = server.client(ALICE);
    alice.submit(&default(), &run("a", r#","limits":{"queue":"50ms"}"#)).await.expect("submitted");
    let over = until_over(&alice, "a").await;
    assert_eq!(phase(&over), Phase::TimedOut);
    assert_eq!(status(&over).reason.as_deref(), Some("no daemon took it within 50ms"));
}

#[tokio::test]
async fn a_finished_run_goes_after_its_time_and_a_deleted_one_at_once() {
    let server = Server::start();
    let admin = server.client(ADMIN);
    for (name, more) in [("short", r#","ttlAfterFinished":"1ms""#), ("kept", ""), ("doomed", "")] {
        admin.submit(&default(), &run(name, more)).await.expect("submitted");
    }
    let daemon = server.daemon("d1", 1).await;
    for _ in 0..2 {
        let lease = daemon.lease().await;
        daemon.complete(&lease, 0).await;
    }
    admin.delete(&default(), &"doomed".parse().expect("a name")).await.expect("deleted");
    for name in ["short", "doomed"] {
        let name = name.parse().expect("a name");
        let gone = async {
            loop {
                match admin.get(&default(), &name).await {
                    Ok(_) => tokio::task::yield_now().await,
                    Err(error) => break error,
                }
            }
        };
        let error = tokio::time::timeout(Duration::from_secs(10), gone).await.expect("removed");
        assert_eq!(error.code(), Some(Code::NotFound));
    }
    let kept = admin.get(&default(), &"kept".parse().expect("a name")).await.expect("there");
    assert_eq!(phase(&kept), Phase::Succeeded);
    // The name is free again.
    admin.submit(&default(), &run("short", "")).await.expect("submitted");
}

#[tokio::test]
async fn two_hundred_runs_at_once_over_two_daemons_end_as_they_should() {
    let server = Server::start();
    let alice = server.client(ALICE);
    let code = |name: &str| u8::try_from(name.bytes().map(usize::from).sum::<usize>() % 3).expect("small");
    let daemons = [server.daemon("d1", 8).await, server.daemon("d2", 8).await];
    let works = daemons.iter().flat_map(|daemon| std::iter::repeat_n(daemon, 8)).map(|daemon| async move {
        let mut done = 0;
        while let Some(lease) = daemon.lease_within(Duration::from_millis(500)).await {
            daemon.complete(&lease, code(lease.attempt.name.as_str())).await;
            done += 1;
        }
        done
    });
    let names: Vec<String> = (0..200).map(|index| format!("r{index}")).collect();
    let submissions = names.iter().map(|name| {
        let alice = alice.clone();
        async move { alice.submit(&default(), &run(name, "")).await.expect("submitted") }
    });
    let works = futures_util::future::join_all(works);
    let (done, _) = tokio::join!(works, futures_util::future::join_all(submissions));
    assert_eq!(done.iter().sum::<usize>(), 200);
    for name in &names {
        let over = alice.get(&default(), &name.parse().expect("a name")).await.expect("there");
        assert_eq!(exit::of(status(&over)), Some(code(name)), "{name}");
        assert_eq!(status(&over).attempts.len(), 1, "{name}");
    }
}

#[tokio::test]
async fn a_cancel_that_races_with_completion_gives_one_end_that_stays() {
    let server = Server::start();
    let alice = server.client(ALICE);
    let daemon = server.daemon("d1", 1).await;
    for index in 0..30 {
        let name = format!("r{index}");
        alice.submit(&default(), &run(&name, "")).await.expect("submitted");
        let lease = daemon.lease().await;
        let id = name.parse().expect("a name");
        let (cancelled, ()) = tokio::join!(
            async { alice.cancel(&default(), &id).await.expect("answered") },
            daemon.complete(&lease, 0)
        );
        let over = until_over(&alice, &name).await;
        assert_eq!(phase(&over), Phase::Succeeded, "the command had completed");
        if phase(&cancelled).is_terminal() {
            assert_eq!(cancelled, over);
        }
        assert_eq!(alice.cancel(&default(), &id).await.expect("answered"), over);
    }
}
