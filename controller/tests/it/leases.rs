//! Leases, fences, expiry, and what is said twice.

use std::time::Duration;

use runtimed_api::problem::Code;
use runtimed_api::run::status::Phase;
use runtimed_api::session::{OrderKind, Report, ReportAnswer, ReportEvent};

use crate::harness::{
    ADMIN, ALICE, OTHER_DAEMON, Server, completed, default, exited, finished, phase, run, status, until_over,
};

fn rejected(answers: &[ReportAnswer]) -> Vec<Option<Code>> {
    let code = |answer: &ReportAnswer| match answer {
        ReportAnswer::Applied => None,
        ReportAnswer::Rejected(problem) => Some(problem.code),
    };
    answers.iter().map(code).collect()
}

#[tokio::test]
async fn a_daemon_that_goes_silent_loses_its_lease_and_its_fence_is_stale() {
    let server = Server::start_with("1s");
    let alice = server.client(ALICE);
    let more = r#","retry":{"maxAttempts":2,"backoff":"1ms","on":["Lost"]}"#;
    alice.submit(&default(), &run("a", more)).await.expect("submitted");
    let silent = server.daemon("d1", 1).await;
    let first = silent.lease().await;
    let other = server.daemon("d2", 1).await;
    let second = other.lease_alive().await;
    assert!(second.attempt.fence > first.attempt.fence);
    assert_eq!(second.attempt.attempt.0, 2);

    // The old self comes back and reports: nothing of it counts.
    let old = server.daemon("d1", 1).await;
    let answers = old.report(vec![exited(&first, 1, 0), finished(&first, 2, completed(0))]).await;
    assert_eq!(rejected(&answers), [Some(Code::StaleFence), Some(Code::StaleFence)]);
    let renewed = old.renew(std::slice::from_ref(&first.attempt)).await;
    assert_eq!(renewed.orders.first().map(|order| order.order), Some(OrderKind::Abandon));

    other.complete(&second, 3).await;
    let over = until_over(&alice, "a").await;
    assert_eq!(phase(&over), Phase::Failed);
    let first = &status(&over).attempts[0];
    let reason = first.result.as_ref().and_then(|result| result.reason.as_deref());
    assert_eq!(reason, Some("daemon d1 went away: it did not renew its lease"));
}

#[tokio::test]
async fn a_daemon_that_does_not_renew_is_handed_nothing() {
    let server = Server::start_with("300ms");
    let alice = server.client(ALICE);
    // A second slot: the first poll, given up below, may still count when the next one comes.
    let frozen = server.daemon("d1", 2).await;
    // Its poll stays open, as that of a stopped process does, past the lease period.
    let polled = tokio::time::timeout(std::time::Duration::from_millis(400), frozen.lease()).await;
    assert!(polled.is_err(), "nothing was submitted");
    let polling = frozen.lease_within(std::time::Duration::from_secs(5));
    let submitted = async {
        alice.submit(&default(), &run("a", "")).await.expect("submitted");
        server.daemon("d2", 1).await.lease_alive().await
    };
    let (nothing, lease) = tokio::join!(polling, submitted);
    assert!(nothing.is_none());
    assert_eq!(lease.attempt.attempt.0, 1);
}

#[tokio::test]
async fn why_a_daemon_declined_is_shown_while_the_run_waits() {
    let server = Server::start();
    let alice = server.client(ALICE);
    alice.submit(&default(), &run("a", "")).await.expect("submitted");
    let daemon = server.daemon("d1", 1).await;
    let lease = daemon.lease().await;
    let event = ReportEvent::Declined("its journal fails".to_owned());
    let declined = Report { event, ..exited(&lease, 1, 0) };
    assert_eq!(rejected(&daemon.report(vec![declined]).await), [None]);
    let waiting = alice.get(&default(), &"a".parse().expect("a name")).await.expect("there");
    assert_eq!(phase(&waiting), Phase::Pending);
    let reason = status(&waiting).reason.as_deref().expect("a reason");
    assert!(reason.starts_with("daemon d1 declined it: its journal fails; "), "{reason}");
    daemon.complete(&daemon.lease_alive().await, 0).await;
    assert_eq!(phase(&until_over(&alice, "a").await), Phase::Succeeded);
}

#[tokio::test]
async fn renewals_keep_a_lease() {
    let server = Server::start_with("600ms");
    let alice = server.client(ALICE);
    alice.submit(&default(), &run("a", "")).await.expect("submitted");
    let daemon = server.daemon("d1", 1).await;
    let lease = daemon.lease().await;
    // Each answer takes a third of the lease: in all, three leases go by.
    for _ in 0..9 {
        assert!(daemon.renew(std::slice::from_ref(&lease.attempt)).await.orders.is_empty());
    }
    daemon.complete(&lease, 0).await;
    assert_eq!(phase(&until_over(&alice, "a").await), Phase::Succeeded);
}

#[tokio::test]
async fn what_is_said_twice_is_answered_and_changes_nothing() {
    let server = Server::start_with("1s");
    let alice = server.client(ALICE);
    alice.submit(&default(), &run("a", "")).await.expect("submitted");
    let daemon = server.daemon("d1", 1).await;
    let lease = daemon.lease().await;
    daemon.complete(&lease, 0).await;
    let over = until_over(&alice, "a").await;
    let answers = daemon.report(vec![exited(&lease, 1, 9), finished(&lease, 2, completed(9))]).await;
    assert_eq!(rejected(&answers), [None, None]);
    let late = daemon.report(vec![finished(&lease, 3, completed(9))]).await;
    assert_eq!(rejected(&late), [Some(Code::StaleFence)]);
    assert_eq!(alice.get(&default(), &"a".parse().expect("a name")).await.expect("there"), over);
    // A renewal that crossed the report is told nothing.
    assert!(daemon.renew(std::slice::from_ref(&lease.attempt)).await.orders.is_empty());
}

#[tokio::test]
async fn a_daemon_cannot_speak_for_another() {
    let server = Server::start();
    let alice = server.client(ALICE);
    alice.submit(&default(), &run("a", "")).await.expect("submitted");
    let daemon = server.daemon("d1", 1).await;
    let lease = daemon.lease().await;
    let neighbour = server.daemon("d2", 1).await;
    let answers = neighbour.report(vec![finished(&lease, 1, completed(0))]).await;
    assert_eq!(rejected(&answers), [Some(Code::Forbidden)]);
    // Whoever has the Runtime's token can say that it is `d1`: it does not become it.
    let pretender = server.pretender("d1").await;
    let both = vec![exited(&lease, 1, 0), finished(&lease, 2, completed(0))];
    assert_eq!(rejected(&pretender.report(both).await), [Some(Code::Forbidden); 2]);
    let renewed = pretender.renew(std::slice::from_ref(&lease.attempt)).await;
    assert_eq!(renewed.orders.first().map(|order| order.order), Some(OrderKind::Abandon));
    assert!(daemon.lease_within(Duration::ZERO).await.is_none(), "the Session of the true one goes on");
    // Each of these refusals is written down, by code and not by report.
    let (_, audit) = server.get("/v1/audit", ADMIN);
    let audit: serde_json::Value = serde_json::from_str(&audit).expect("JSON");
    let refused: Vec<_> = audit["items"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|entry| entry["path"].as_str().is_some_and(|path| path.ends_with("/reports")))
        .map(|entry| [&entry["subject"], &entry["code"], &entry["run"], &entry["status"]])
        .collect();
    let expected = serde_json::json!(["daemon of bash", "forbidden", "a", 403]);
    assert_eq!(serde_json::json!(refused), serde_json::json!([expected, expected]));
    // A token of another Runtime does not open the Session.
    let stranger = server.client(OTHER_DAEMON);
    let error = stranger.lease(&daemon.session, Duration::ZERO).await.expect_err("refused");
    assert_eq!(error.code(), Some(Code::SessionUnknown));
    let mut forged = lease.clone();
    forged.attempt.uid = "another".parse().expect("a uid");
    assert_eq!(
        rejected(&daemon.report(vec![finished(&forged, 1, completed(0))]).await),
        [Some(Code::NotFound)]
    );
    forged = lease;
    forged.attempt.name = "nothing".parse().expect("a name");
    assert_eq!(
        rejected(&daemon.report(vec![finished(&forged, 1, completed(0))]).await),
        [Some(Code::NotFound)]
    );
}

#[tokio::test]
async fn a_second_session_of_a_daemon_ends_the_first() {
    let server = Server::start();
    let first = server.daemon("d1", 1).await;
    let second = server.daemon("d1", 1).await;
    let error = first.client.lease(&first.session, Duration::ZERO).await.expect_err("refused");
    assert_eq!(error.code(), Some(Code::SessionUnknown));
    assert!(second.lease_within(Duration::ZERO).await.is_none());
    // One that only has the same name is another daemon.
    let other = server.pretender("d1").await;
    for daemon in [&second, &other] {
        assert!(daemon.lease_within(Duration::ZERO).await.is_none());
    }
    // No more slots wait than there are.
    let (one, two) = tokio::join!(
        second.client.lease(&second.session, Duration::from_millis(100)),
        second.client.lease(&second.session, Duration::from_millis(100))
    );
    let codes = [one, two].map(|answer| answer.err().and_then(|error| error.code()));
    assert!(codes.contains(&Some(Code::RateLimited)) && codes.contains(&None), "{codes:?}");
}

#[tokio::test]
async fn a_slot_that_went_away_costs_no_lease_period() {
    let server = Server::start();
    let alice = server.client(ALICE);
    let daemon = server.daemon("d1", 4).await;
    for _ in 0..3 {
        // Dropped while it waits.
        let wait = daemon.lease_within(Duration::from_secs(20));
        assert!(tokio::time::timeout(Duration::from_millis(10), wait).await.is_err());
    }
    alice.submit(&default(), &run("a", "")).await.expect("submitted");
    let lease = tokio::time::timeout(Duration::from_secs(5), daemon.lease()).await.expect("soon");
    daemon.complete(&lease, 0).await;
    assert_eq!(phase(&until_over(&alice, "a").await), Phase::Succeeded);
}
