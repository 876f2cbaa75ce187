//! Leases, fences, expiry, and what is said twice.

use std::time::Duration;

use runtimed_api::problem::Code;
use runtimed_api::run::status::Phase;
use runtimed_api::session::{Lease, OpenSession, OrderKind, Report, ReportAnswer, ReportEvent};

use crate::harness::{
    ADMIN, ALICE, DAEMON, Daemon, OTHER_DAEMON, Server, completed, default, exited, finished, opening, phase,
    run, secret, status, until, until_over,
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

/// Asks for a Run, and breaks the connection when the controller has answered with one: the answer is lost.
async fn lose_a_lease(server: &Server, daemon: &Daemon, run_name: &str) {
    use std::io::Write as _;
    let address = server.url.trim_start_matches("http://");
    let mut stream = std::net::TcpStream::connect(address).expect("connects");
    let body = r#"{"waitMillis":20000}"#;
    let request = format!(
        "POST /v1/sessions/{}/lease HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {DAEMON}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        daemon.session,
        body.len(),
    );
    stream.write_all(request.as_bytes()).expect("sent");
    // The first byte of the answer: the controller takes the lease for given.
    let mut byte = [0];
    std::io::Read::read_exact(&mut stream, &mut byte).expect("an answer");
    drop(stream);
    let alice = server.client(ALICE);
    let held = alice.get(&default(), &run_name.parse().expect("a name")).await.expect("there");
    assert_eq!(phase(&held), Phase::Running);
}

/// Renews without naming anything until the Run is somebody's under another fence, and takes it.
async fn lease_anew(daemon: &Daemon) -> Lease {
    let renewing = async {
        let mut as_of = daemon.opened.at_millis;
        loop {
            as_of = daemon.renew_as_of(&[], as_of, false).await.at_millis;
        }
    };
    tokio::select! {
        lease = daemon.lease() => lease,
        () = renewing => unreachable!("it renews for ever"),
    }
}

#[tokio::test]
async fn a_lease_whose_answer_was_lost_is_handed_out_anew_and_costs_no_attempt() {
    let server = Server::start_with("3s");
    let alice = server.client(ALICE);
    alice.submit(&default(), &run("a", "")).await.expect("submitted");
    let daemon = server.daemon("d1", 2).await;
    lose_a_lease(&server, &daemon, "a").await;
    // As of before the hand-out nothing is known of it: the answer may be on its way.
    daemon.renew_as_of(&[], daemon.opened.at_millis, true).await;
    let held = alice.get(&default(), &"a".parse().expect("a name")).await.expect("there");
    assert_eq!((phase(&held), status(&held).fence.0), (Phase::Running, 1));
    let lease = lease_anew(&daemon).await;
    assert_eq!((lease.attempt.attempt.0, lease.attempt.fence.0), (1, 2));
    daemon.complete(&lease, 0).await;
    let over = until_over(&alice, "a").await;
    assert_eq!((phase(&over), status(&over).attempts.len()), (Phase::Succeeded, 1));
    // Whoever began it after all is refused.
    let mut late = lease;
    late.attempt.fence.0 = 1;
    let answers = daemon.report(vec![finished(&late, 3, completed(9))]).await;
    assert_eq!(rejected(&answers), [Some(Code::StaleFence)]);
}

#[tokio::test]
async fn a_lease_that_a_renewal_has_named_is_its_daemons_whatever_a_later_one_lacks() {
    let server = Server::start_with("1s");
    let alice = server.client(ALICE);
    alice.submit(&default(), &run("a", "")).await.expect("submitted");
    let daemon = server.daemon("d1", 1).await;
    let lease = daemon.lease().await;
    daemon.renew_as_of(std::slice::from_ref(&lease.attempt), daemon.opened.at_millis, true).await;
    daemon.renew_as_of(&[], Some(u64::MAX), true).await;
    // It ends as one that was begun, when its lease runs out.
    let over = until_over(&alice, "a").await;
    assert_eq!((phase(&over), status(&over).attempts.len()), (Phase::Lost, 1));
}

#[tokio::test]
async fn what_an_earlier_session_or_controller_gave_is_handed_out_anew_at_once() {
    // So long a period that no lease runs out here.
    let mut server = Server::start_with("600s");
    server.client(ALICE).submit(&default(), &run("a", "")).await.expect("submitted");
    let daemon = server.daemon("d1", 1).await;
    lose_a_lease(&server, &daemon, "a").await;
    // One that only has its name does not speak for it.
    let pretender = server.pretender("d1").await;
    pretender.renew_as_of(&[], Some(u64::MAX), true).await;
    let alice = server.client(ALICE);
    let held = alice.get(&default(), &"a".parse().expect("a name")).await.expect("there");
    assert_eq!(phase(&held), Phase::Running);
    // The daemon starts again, and its journal knows of nothing.
    for fence in [2, 3] {
        let daemon = server.daemon("d1", 1).await;
        daemon.renew_as_of(&[], daemon.opened.at_millis, true).await;
        lose_a_lease(&server, &daemon, "a").await;
        let held = server.client(ALICE).get(&default(), &"a".parse().expect("a name")).await.expect("there");
        assert_eq!((status(&held).fence.0, status(&held).attempts.len()), (fence, 1));
        // The next time it is the controller, which knows of no Session and of no lease that has arrived.
        server.restart();
    }
    let daemon = server.daemon("d1", 1).await;
    daemon.renew_as_of(&[], daemon.opened.at_millis, true).await;
    let lease = daemon.lease().await;
    assert_eq!((lease.attempt.attempt.0, lease.attempt.fence.0), (1, 4));
}

#[tokio::test]
async fn a_run_that_is_declined_stays_before_those_that_came_later() {
    let server = Server::start();
    let alice = server.client(ALICE);
    alice.submit(&default(), &run("first", "")).await.expect("submitted");
    let daemon = server.daemon("d1", 1).await;
    let lease = daemon.lease().await;
    alice.submit(&default(), &run("second", "")).await.expect("submitted");
    let declined = Report { event: ReportEvent::Declined("no room".to_owned()), ..exited(&lease, 1, 0) };
    assert_eq!(rejected(&daemon.report(vec![declined]).await), [None]);
    until(&alice, "first", |run| status(run).reason.as_ref().is_some_and(|why| why.ends_with("slots"))).await;
    assert_eq!(daemon.lease_alive().await.attempt.name.as_str(), "first");
}

#[tokio::test]
async fn no_more_daemons_of_a_runtime_are_connected_than_may_be() {
    use futures_util::stream::{self, StreamExt as _};
    const MOST: usize = 4096;
    let server = Server::start();
    let client = server.client(DAEMON);
    let open = async |index: usize| {
        let daemon = format!("d{index}").parse().expect("a name");
        client.open_session(&OpenSession { daemon, ..opening(None) }).await.map(drop)
    };
    let opened: Vec<_> = stream::iter(0..MOST).map(open).buffer_unordered(32).collect().await;
    assert!(opened.iter().all(Result::is_ok));
    let error = open(MOST).await.expect_err("refused");
    assert_eq!(error.code(), Some(Code::Unavailable));
    assert!(error.to_string().contains("4096 daemons of Runtime bash are connected"), "{error}");
    // One that is connected may come again; its place is its own.
    let secret = Some(secret("d1"));
    assert!(client.open_session(&opening(secret)).await.is_err());
    // Those of another Runtime have places of their own.
    let other = OpenSession { runtime: "other".parse().expect("a name"), ..opening(None) };
    server.client(OTHER_DAEMON).open_session(&other).await.expect("opened");
}
