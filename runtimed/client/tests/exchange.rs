//! The clients against real servers on loopback.

use std::future;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use futures_util::{StreamExt as _, TryStreamExt as _};
use runtimed_api::digest::Digest;
use runtimed_api::ids::{Namespace, RunName, SessionId};
use runtimed_api::log::{Body as Text, LogEvent, Record, Stream};
use runtimed_api::problem::{Code, Problem};
use runtimed_api::run::Run;
use runtimed_api::run::status::Phase;
use runtimed_api::session::{SecretText, Submission};
use runtimed_client::controller::{Blob, Controller, ListQuery, LogQuery};
use runtimed_client::listen::{HEADER_TIMEOUT, ListenError, Listener, MAX_HEAD, MAX_NEIGHBOURS, serve};
use runtimed_client::{ClientError, Endpoint};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};

fn run() -> Run {
    let text = r#"{"apiVersion":"runtimed.dev/v1alpha1","kind":"Run","metadata":{"name":"a"},
        "spec":{"runtime":"local","command":["true"]}}"#;
    serde_json::from_str(text).expect("a Run")
}

fn default() -> Namespace {
    "default".parse().expect("a namespace")
}

fn name() -> RunName {
    "a".parse().expect("a name")
}

/// Serves `router` for as long as the test runs.
fn start(router: Router) -> Controller {
    let listener = Listener::bind("127.0.0.1:0".parse().expect("an address"), None).expect("bound");
    let url = listener.url();
    tokio::spawn(serve(listener, router, future::pending()));
    Controller::new(&Endpoint::new(url)).expect("a client")
}

/// What a server says to these bytes, until it closes the connection.
async fn said_to(bytes: &[u8]) -> String {
    let listener = Listener::bind("127.0.0.1:0".parse().expect("an address"), None).expect("bound");
    let address = listener.local_addr();
    let server = tokio::spawn(serve(listener, Router::new(), future::pending()));
    let (mut from, mut to) = TcpStream::connect(address).await.expect("connected").into_split();
    // It may close before it has taken all.
    let (_sent, answer) = tokio::join!(to.write_all(bytes), async {
        let mut answer = Vec::new();
        let _reset = from.read_to_end(&mut answer).await;
        answer
    });
    server.abort();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_head_is_bounded_in_bytes_and_in_number() {
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(2 * MAX_HEAD));
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: x\r\n".repeat(200));
    for head in [long, many] {
        let answer = said_to(head.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
}

#[tokio::test]
async fn a_head_that_does_not_come_is_not_waited_for() {
    let began = std::time::Instant::now();
    assert_eq!(said_to(b"GET / HTTP/1.1\r\nHost").await, "");
    assert!(began.elapsed() >= HEADER_TIMEOUT, "{:?}", began.elapsed());
}

fn event(text: &str, next: u64) -> LogEvent {
    let record = Record { micros: 1, body: Text::Text(Stream::Stdout, text.as_bytes()) };
    LogEvent::of(1, &record, next)
}

fn sse(event: &LogEvent) -> String {
    format!("event: stdout\nid: {}\ndata: {}\n\n", event.next, serde_json::to_string(event).expect("JSON"))
}

#[tokio::test]
async fn a_submission_carries_the_token_and_brings_the_run() {
    let router = Router::new().route(
        "/v1/namespaces/{ns}/runs",
        post(async |Path(ns): Path<String>, headers: HeaderMap, Json(submission): Json<Submission>| {
            let mut run = submission.run;
            run.metadata.labels.insert("namespace".to_owned(), ns);
            let token = headers[AUTHORIZATION].to_str().expect("text").to_owned();
            run.metadata.labels.insert("token".to_owned(), token);
            Json(run)
        })
        .get(async |Query(query): Query<Vec<(String, String)>>| {
            let problem = Problem::new(Code::RateLimited, format!("{query:?}"));
            (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, "3")], Json(problem))
        }),
    );
    let controller = start(router).with_token(SecretText::new("open-sesame".to_owned()));
    let submission = Submission { run: run(), secrets: Default::default() };
    let run = controller.submit(&default(), &submission).await.expect("a Run");
    assert_eq!(run.metadata.labels["namespace"], "default");
    assert_eq!(run.metadata.labels["token"], "Bearer open-sesame");

    let query = ListQuery {
        labels: vec![("team".to_owned(), "a&b".to_owned())],
        phase: Some(Phase::Failed),
        limit: Some(7),
        next: Some("x=y".to_owned()),
    };
    match controller.list(&default(), &query).await {
        Err(error @ ClientError::Problem { status: 429, retry_after: Some(wait), .. }) => {
            assert_eq!(wait, Duration::from_secs(3));
            assert!(error.is_retryable());
            let expected = [("label", "team=a&b"), ("phase", "Failed"), ("limit", "7"), ("continue", "x=y")];
            assert_eq!(error.to_string(), format!("{expected:?}"));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_token_that_no_header_carries_is_not_shown() {
    let controller = start(Router::new()).with_token(SecretText::new("hunter22\n".to_owned()));
    let error = controller.runtimes().await.expect_err("refused");
    assert!(matches!(error, ClientError::Token));
    assert!(!format!("{error} {error:?} {controller:?}").contains("hunter22"));
}

#[tokio::test]
async fn answers_that_are_none_of_ours() {
    let runs = "/v1/namespaces/default/runs/{name}";
    let router = Router::new()
        .route(runs, get(async || (StatusCode::FOUND, [(LOCATION, "/elsewhere")])))
        .route("/v1/runtimes", get(async || "hello"))
        .fallback(async || (StatusCode::BAD_GATEWAY, "<html>"));
    let controller = start(router);
    let error = controller.get(&default(), &name()).await.expect_err("a redirect");
    assert!(error.to_string().contains("a redirect, HTTP 302"), "{error}");
    assert!(!error.is_retryable());
    let error = controller.runtimes().await.expect_err("no JSON");
    assert!(error.to_string().contains("not of this protocol"), "{error}");
    let error = controller.manifest(&default(), &name()).await.expect_err("HTML");
    assert!(error.to_string().contains("HTTP 502"), "{error}");
}

#[tokio::test]
async fn nobody_there_is_said_with_the_cause() {
    let listener = Listener::bind("127.0.0.1:0".parse().expect("an address"), None).expect("bound");
    let url = listener.url();
    drop(listener);
    let controller = Controller::new(&Endpoint::new(&url)).expect("a client");
    let error = controller.runtimes().await.expect_err("refused");
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!("{url}/v1/runtimes cannot be reached: Connection refused (os error 111)")
    );
}

#[tokio::test]
async fn a_log_ends_with_its_end_and_not_with_its_connection() {
    let logs = "/v1/namespaces/default/runs/a/logs";
    let router = Router::new().route(
        logs,
        get(async |Query(query): Query<Vec<(String, String)>>| {
            let resumed = query.iter().any(|(key, value)| key == "offset" && value == "5");
            let body = if resumed {
                format!(": still there\n\n{}event: end\ndata: {{}}\n\n", sse(&event("world\n", 11)))
            } else {
                sse(&event("hello", 5))
            };
            ([(CONTENT_TYPE, "text/event-stream")], body)
        }),
    );
    let controller = start(router);
    let query = LogQuery { follow: true, ..LogQuery::default() };
    let mut log = controller.logs(&default(), &name(), &query).await.expect("a log");
    let first = log.next().await.expect("an event").expect("good");
    assert_eq!((first.bytes(), first.next), (b"hello".to_vec(), 5));
    let cut = log.next().await.expect("an error").expect_err("cut off");
    assert!(matches!(&cut, ClientError::Unreachable { why, .. } if why == "the stream was cut off"), "{cut}");

    let query = LogQuery { offset: Some(first.next), ..query };
    let log = controller.logs(&default(), &name(), &query).await.expect("a log");
    let rest: Vec<_> = log.try_collect().await.expect("a good end");
    assert_eq!(rest, [event("world\n", 11)]);
}

#[tokio::test]
async fn a_problem_within_a_stream_is_the_streams_error() {
    let problem = Problem::new(Code::Unavailable, "the daemon went away");
    let data = serde_json::to_string(&problem).expect("JSON");
    let body = format!("{}event: problem\ndata: {data}\n\n", sse(&event("x", 1)));
    let router = Router::new().route(
        "/v1/namespaces/default/runs/a/logs",
        get(async move || ([(CONTENT_TYPE, "text/event-stream")], body.clone())),
    );
    let log = start(router).logs(&default(), &name(), &LogQuery::default()).await.expect("a log");
    let events: Vec<_> = log.collect().await;
    assert_eq!(events.len(), 2);
    let error = events[1].as_ref().expect_err("the problem");
    assert_eq!(error.code(), Some(Code::Unavailable));
}

#[tokio::test]
async fn an_event_without_bound_is_cut() {
    let endless =
        futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 4096])));
    let router = Router::new().route(
        "/v1/namespaces/default/runs/a/events",
        get(async move || {
            ([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(endless.clone())).into_response()
        }),
    );
    let mut runs = start(router).events(&default(), &name()).await.expect("a stream");
    let error = runs.next().await.expect("an error").expect_err("too long");
    assert!(matches!(error, ClientError::Protocol { .. }), "{error:?}");
    assert!(runs.next().await.is_none());
}

#[tokio::test]
async fn blobs_travel_with_their_size_and_within_their_bound() {
    let router = Router::new().route(
        "/v1/blobs/{digest}",
        put(async |Path(digest): Path<Digest>, headers: HeaderMap, body: Bytes| {
            assert_eq!(headers[CONTENT_LENGTH], body.len().to_string());
            assert_eq!(headers[AUTHORIZATION], "Bearer lease");
            let good = Digest::of(&body) == digest;
            if good { StatusCode::CREATED } else { StatusCode::IM_A_TEAPOT }
        })
        .get(async || {
            Body::from_stream(futures_util::stream::iter([Ok::<_, std::io::Error>("abc"), Ok("def")]))
        }),
    );
    let controller = start(router);
    let token = SecretText::new("lease".to_owned());
    let bytes = Bytes::from(vec![7; 1_000_000]);
    let digest = Digest::of(&bytes);
    controller.put_blob(&digest, 0, 1_000_000, Blob::Bytes(bytes.clone()), &token).await.expect("stored");

    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("blob");
    // A file that has grown since its digest was taken is cut at its size.
    std::fs::write(&path, [&bytes[..], b"more"].concat()).expect("written");
    let file = tokio::fs::File::open(&path).await.expect("opened");
    controller.put_blob(&digest, 0, 1_000_000, Blob::File(file), &token).await.expect("stored");

    let whole = controller.get_blob(&digest, &token, 6).await.expect("a blob");
    assert_eq!(whole.bytes().await.expect("all of it"), "abcdef");
    let error =
        controller.get_blob(&digest, &token, 5).await.expect("a blob").bytes().await.expect_err("too long");
    assert!(error.to_string().contains("more than 5 bytes"), "{error}");
}

#[tokio::test]
async fn no_lease_is_no_error_and_paths_are_encoded() {
    let router = Router::new()
        .route("/v1/sessions/s/lease", post(async || StatusCode::NO_CONTENT))
        .route("/v1/namespaces/default/runs/a/artifacts/{*path}", get(async |Path(path): Path<String>| path));
    let controller = start(router);
    let session: SessionId = "s".parse().expect("an id");
    assert!(controller.lease(&session, Duration::ZERO).await.expect("an answer").is_none());
    let path = "dist/a b?c%2f#ä.txt";
    let artifact = controller.artifact(&default(), &name(), path).await.expect("an artifact");
    assert_eq!(artifact.bytes().await.expect("bytes"), path);
}

#[tokio::test]
async fn a_listener_says_what_is_wrong() {
    let everywhere = "0.0.0.0:0".parse().expect("an address");
    let error = Listener::bind(everywhere, None).expect_err("refused");
    assert!(matches!(error, ListenError::PlainOffLoopback(_)), "{error}");
    let first = Listener::bind("127.0.0.1:0".parse().expect("an address"), None).expect("bound");
    let error = Listener::bind(first.local_addr(), None).expect_err("taken");
    let port = first.local_addr().port();
    assert!(error.to_string().starts_with(&format!("port {port} of 127.0.0.1 is taken")), "{error}");
}

/// Whoever is where the server is may hold its share of the places, and no more: the others are for peers from elsewhere.
#[tokio::test]
async fn neighbours_leave_places_for_others() {
    let listener = Listener::bind("127.0.0.1:0".parse().expect("an address"), None).expect("bound");
    let listener = listener.with_room_for_others();
    let address = listener.local_addr();
    let router = Router::new().route("/", get(async || "served"));
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(serve(listener, router, async move { drop(stopped.await) }));
    let ask = async || {
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("connected");
        // One that is closed already may refuse even this.
        let _closed = stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        let mut answer = String::new();
        let _closed = stream.read_to_string(&mut answer).await;
        answer
    };
    assert!(ask().await.ends_with("served"));
    let mut silent = Vec::new();
    for _ in 0..MAX_NEIGHBOURS {
        silent.push(tokio::net::TcpStream::connect(address).await.expect("connected"));
    }
    assert_eq!(ask().await, "", "closed at once");
    silent.clear();
    let answered = async {
        while !ask().await.ends_with("served") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), answered).await.expect("there is room again");
    stop.send(()).expect("listening");
    server.await.expect("no panic").expect("served");
}

#[tokio::test]
async fn a_shutdown_lets_a_request_finish_and_closes_idle_connections() {
    let (entered, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (inside, go) = (Arc::clone(&entered), Arc::clone(&finish));
    let slow = async move || {
        inside.notify_one();
        go.notified().await;
        Json(Vec::<()>::new())
    };
    let router = Router::new().route("/v1/runtimes", get(slow));
    let listener = Listener::bind("127.0.0.1:0".parse().expect("an address"), None).expect("bound");
    let (url, address) = (listener.url(), listener.local_addr());
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(serve(listener, router, async move { drop(stopped.await) }));

    // One connection that never says anything, one with a request under way.
    let _silent = tokio::net::TcpStream::connect(address).await.expect("connected");
    let controller = Controller::new(&Endpoint::new(url)).expect("a client");
    let request = tokio::spawn(async move { controller.runtimes().await });
    entered.notified().await;
    stop.send(()).expect("listening");
    finish.notify_one();
    assert!(request.await.expect("no panic").expect("an answer").is_empty());
    server.await.expect("no panic").expect("served");
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}
