//! Logs: live through the proxy, and from the store.

use std::future;

use axum::Router;
use axum::extract::Query;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use runtimed_api::log::{self, Body, LogEvent, Record, Stream};
use runtimed_api::problem::Code;
use runtimed_api::run::status::{AttemptEnd, AttemptResult, LogSummary};
use runtimed_api::session::SecretText;
use runtimed_client::controller::{LogOf, LogQuery};
use runtimed_client::listen::{Listener, serve};
use tokio::sync::watch;

use crate::harness::{
    ALICE, DAEMON, Daemon, OTHER_DAEMON, Server, completed, default, finished, run, secret, until_over,
};

/// Two segments: `one\ntwo\n` with `err\n` between them, then `three\n`.
fn segments() -> Vec<(Vec<u8>, u64)> {
    let text = |stream, bytes| Record { micros: 1_000_000, body: Body::Text(stream, bytes) };
    let mut first = log::header(0, 1).to_vec();
    log::append(&mut first, text(Stream::Stdout, b"one\n"));
    log::append(&mut first, text(Stream::Stderr, b"err\n"));
    log::append(&mut first, text(Stream::Stdout, b"two\n"));
    let mut second = log::header(12, 4).to_vec();
    log::append(&mut second, Record { micros: 2_000_000, body: Body::Gap(9) });
    log::append(&mut second, text(Stream::Stdout, b"three\n"));
    vec![(first, 0), (second, 12)]
}

async fn text(server: &Server, query: &str) -> String {
    let answer = answer(server, query, "").await;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).expect("a body")
}

async fn answer(server: &Server, query: &str, extra: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let address = server.url.trim_start_matches("http://");
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("connected");
    let request = format!(
        "GET /v1/namespaces/default/runs/a/logs?{query} HTTP/1.0\r\nauthorization: Bearer {ALICE}\r\n{extra}\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("received");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_log_is_read_from_the_store_in_every_way() {
    let server = Server::start();
    let alice = server.client(ALICE);
    alice.submit(&default(), &run("a", "")).await.expect("submitted");
    let daemon = server.daemon("d1", 1).await;
    let lease = daemon.lease().await;
    let name = "a".parse().expect("a name");
    for (bytes, offset) in segments() {
        // It has grown since it was sent first: what is sent last is what counts.
        let first = bytes[..24].to_vec();
        for bytes in [first, bytes] {
            let of = LogOf::Lease(&lease.token);
            daemon.client.put_log(offset, bytes.into(), of).await.expect("stored");
        }
    }
    // The daemon has no address and is as good as gone; what it has sent is there.
    assert!(text(&server, "").await.ends_with("three\n"));
    assert!(text(&server, "tail=1").await.ends_with("three\n"));
    let wrong = segments().swap_remove(1).0;
    let refused = daemon.client.put_log(13, wrong.into(), LogOf::Lease(&lease.token)).await;
    assert!(refused.expect_err("refused").to_string().contains("begins at 12"));
    let log = LogSummary { bytes: 20, records: 5, dropped: 9 };
    daemon.report(vec![finished(&lease, 1, AttemptResult { log, ..completed(0) })]).await;
    until_over(&alice, "a").await;

    let gap = "\n[9 bytes of the log are missing here]\n";
    // Two bytes never came, and the result says that they were there.
    let end = "\n[2 bytes of the log are missing here]\n";
    assert_eq!(text(&server, "").await, format!("one\nerr\ntwo\n{gap}three\n{end}"));
    assert_eq!(text(&server, "stream=stderr").await, format!("err\n{gap}{end}"));
    assert_eq!(text(&server, "offset=5").await, format!("rr\ntwo\n{gap}three\n{end}"));
    assert_eq!(text(&server, "offset=13").await, format!("hree\n{end}"));
    assert_eq!(text(&server, "offset=99").await, "");
    assert_eq!(text(&server, "tail=1").await, format!("{gap}three\n{end}"));
    assert_eq!(text(&server, "tail=2").await, format!("two\n{gap}three\n{end}"));
    assert_eq!(text(&server, "tail=2&stream=stdout").await, format!("two\n{gap}three\n{end}"));
    assert_eq!(text(&server, "tail=9").await, format!("one\nerr\ntwo\n{gap}three\n{end}"));
    assert_eq!(text(&server, "tail=0").await, end);
    let stamped = "1970-01-01T00:00:01.000000Z ";
    assert_eq!(text(&server, "stream=stderr&timestamps=true").await, format!("{stamped}err\n{gap}{end}"));
    assert!(text(&server, "attempt=2").await.contains("there is no attempt 2"));
    assert!(text(&server, "frobnicate=1").await.contains("frobnicate"));

    let followed = LogQuery { follow: true, ..LogQuery::default() };
    let events = alice.logs(&default(), &name, &followed).await.expect("a stream");
    let events: Vec<LogEvent> = events.try_collect().await.expect("it ends well");
    let seen: Vec<_> = events.iter().map(|event| (event.next, event.stream, event.dropped)).collect();
    assert_eq!(
        seen,
        [
            (4, Some(Stream::Stdout), None),
            (8, Some(Stream::Stderr), None),
            (12, Some(Stream::Stdout), None),
            (12, None, Some(9)),
            (18, Some(Stream::Stdout), None),
            (20, None, Some(2)),
        ]
    );
    let resumed = LogQuery { offset: Some(12), ..LogQuery::default() };
    let events = alice.logs(&default(), &name, &resumed).await.expect("a stream");
    let events: Vec<LogEvent> = events.try_collect().await.expect("it ends well");
    assert_eq!(events.iter().flat_map(LogEvent::bytes).collect::<Vec<_>>(), b"three\n");

    let head = |extra: &str| {
        let (extra, server) = (extra.to_owned(), &server);
        async move { answer(server, "", &extra).await }
    };
    let part = head("Range: bytes=4-7\r\n").await;
    assert!(part.starts_with("HTTP/1.0 206") && part.ends_with("\r\n\r\nerr\n"), "{part}");
    assert!(part.contains("content-range: bytes 4-7/18") && part.contains("content-length: 4"), "{part}");
    let beyond = head("Range: bytes=18-\r\n").await;
    assert!(beyond.starts_with("HTTP/1.0 416") && beyond.contains("content-range: bytes */18"), "{beyond}");
    let since = text(&server, "since=1970-01-01T00:00:02Z").await;
    assert_eq!(since, format!("{gap}{end}"));
    let packed = head("Accept-Encoding: gzip\r\n").await;
    assert!(packed.contains("content-encoding: gzip"), "{packed}");
    let events = head("Accept: text/event-stream\r\nLast-Event-ID: 12\r\nAccept-Encoding: gzip\r\n").await;
    assert!(!events.contains("content-encoding") && events.contains("id: 18"), "{events}");
    assert!(
        !events.contains("id: 8") && events.ends_with("event: end\ndata: {\"closed\":true}\n\n"),
        "{events}"
    );
}

#[tokio::test]
async fn what_a_daemon_left_of_a_log_is_taken_from_that_daemon_alone() {
    let server = Server::start();
    let alice = server.client(ALICE);
    alice.submit(&default(), &run("a", "")).await.expect("submitted");
    let daemon = server.daemon("d1", 1).await;
    let lease = daemon.lease().await;
    let (whole, _) = segments().swap_remove(0);
    let (shorter, own) = (whole[..24].to_vec(), secret("d1"));
    let put = |token: &str, secret: &SecretText, bytes: &[u8]| {
        let (client, secret, bytes) = (server.client(token), secret.clone(), bytes.to_vec());
        let attempt = lease.attempt.clone();
        async move {
            let put = client.put_log(0, bytes.into(), LogOf::Left(&attempt, &secret)).await;
            put.map_err(|error| error.code()).err()
        }
    };
    // It died, and its next life finds what is left, before or after the lease has run out.
    for _ in 0..2 {
        assert_eq!(put(DAEMON, &own, &whole).await, None);
        assert_eq!(put(DAEMON, &own, &shorter).await, None, "answered as kept");
        let forged = shorter.iter().chain(&whole[24..]).chain(&whole[24..]).copied().collect::<Vec<u8>>();
        assert_eq!(put(DAEMON, &secret("another daemon"), &forged).await, Some(Some(Code::Forbidden)));
        assert_eq!(put(OTHER_DAEMON, &own, &forged).await, Some(Some(Code::StaleFence)));
        assert_eq!(text(&server, "attempt=1").await, "one\nerr\ntwo\n");
        // The second time it is answered, and changes nothing.
        daemon.report(vec![finished(&lease, 1, AttemptResult::bare(AttemptEnd::Lost))]).await;
        until_over(&alice, "a").await;
    }
    // A log that is known to be whole, and is here to its end, is closed to everybody.
    alice.submit(&default(), &run("b", "")).await.expect("submitted");
    let lease = daemon.lease().await;
    let log = LogSummary { bytes: 12, records: 3, dropped: 0 };
    daemon.report(vec![finished(&lease, 1, AttemptResult { log, ..completed(0) })]).await;
    until_over(&alice, "b").await;
    let put =
        async || daemon.client.put_log(0, whole.clone().into(), LogOf::Left(&lease.attempt, &own)).await;
    put().await.expect("the result came before the log");
    assert_eq!(put().await.expect_err("refused").code(), Some(Code::StaleFence));
}

/// The endpoint of a daemon that wants this read token: an event now, and another when it is told.
fn endpoint(token: watch::Receiver<String>, more: watch::Receiver<bool>) -> Router {
    let handler = move |headers: HeaderMap, Query(query): Query<Vec<(String, String)>>| {
        let (mut token, mut more) = (token.clone(), more.clone());
        async move {
            // The proxy may be faster than the answer that brings the daemon its lease.
            let expected = token.wait_for(|token| !token.is_empty()).await.expect("told").clone();
            let expected = format!("Bearer {expected}");
            let given = headers.get("authorization").and_then(|value| value.to_str().ok());
            assert_eq!(given, Some(expected.as_str()));
            assert!(query.contains(&("attempt".to_owned(), "1".to_owned())), "{query:?}");
            assert!(query.contains(&("follow".to_owned(), "true".to_owned())), "{query:?}");
            let event = |bytes: &'static [u8], next| {
                let record = Record { micros: 1, body: Body::Text(Stream::Stdout, bytes) };
                let data = serde_json::to_string(&LogEvent::of(1, &record, next)).expect("JSON");
                Bytes::from(format!("event: stdout\nid: {next}\ndata: {data}\n\n"))
            };
            let first = event(b"hello\n", 6);
            let rest = async move {
                more.wait_for(|more| *more).await.expect("told");
                [event(b"bye\n", 10), Bytes::from_static(b"event: end\ndata: {}\n\n")].concat().into()
            };
            let body = futures_util::stream::iter([first])
                .chain(futures_util::stream::once(rest))
                .map(Ok::<Bytes, std::io::Error>);
            ([("content-type", "text/event-stream")], axum::body::Body::from_stream(body)).into_response()
        }
    };
    Router::new().route("/v1/namespaces/default/runs/a/logs", get(handler))
}

#[tokio::test]
async fn a_followed_log_waits_for_the_run_and_comes_from_its_daemon() {
    let server = Server::start();
    let alice = server.client(ALICE);
    let name = "a".parse().expect("a name");
    alice.submit(&default(), &run("a", "")).await.expect("submitted");
    let follow = LogQuery { follow: true, ..LogQuery::default() };
    let mut events = alice.logs(&default(), &name, &follow).await.expect("a stream");

    let (token, expected) = watch::channel(String::new());
    let (more, told) = watch::channel(false);
    let listener = Listener::bind("127.0.0.1:0".parse().expect("an address"), None).expect("bound");
    let address = listener.url();
    tokio::spawn(serve(listener, endpoint(expected, told), future::pending()));
    let daemon = Daemon::connect(server.client(DAEMON), "d1", 1, Some(address)).await;
    // The endpoint learns the token from the lease, as a daemon does.
    let lease = daemon.lease().await;
    token.send_replace(lease.read_token.expose().to_owned());

    let first = events.next().await.expect("it comes").expect("an event");
    assert_eq!(first.bytes(), b"hello\n");
    more.send_replace(true);
    assert_eq!(events.next().await.expect("it comes").expect("an event").bytes(), b"bye\n");
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_daemon_without_an_address_is_named_as_the_reason() {
    let server = Server::start();
    let alice = server.client(ALICE);
    alice.submit(&default(), &run("a", "")).await.expect("submitted");
    let daemon = server.daemon("d1", 1).await;
    let _lease = daemon.lease().await;
    let name = "a".parse().expect("a name");
    let Err(error) = alice.logs(&default(), &name, &LogQuery::default()).await else {
        panic!("there is no log yet");
    };
    assert!(error.to_string().contains("cannot be had from its daemon"), "{error}");
}
