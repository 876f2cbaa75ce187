//! A server that speaks the controller's protocol and breaks its connections on cue.

use std::convert::Infallible;
use std::future;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::StreamExt as _;
use runtimed_api::log::{Body as Text, LogEvent, Record, Stream};
use runtimed_api::manifest::Manifest;
use runtimed_api::run::Run;
use runtimed_client::listen::{Listener, serve};
use serde_json::{Value, json};
use tokio::sync::watch;

/// What the server does.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script {
    /// The log, record by record.
    pub(crate) log: Vec<(Stream, &'static str)>,
    /// The connection breaks after each record.
    pub(crate) cut: bool,
    /// The log goes on until the Run is over.
    pub(crate) endless: bool,
    /// A cancellation ends the Run.
    pub(crate) obeys: bool,
    /// The artifacts, and the bytes that each comes with.
    pub(crate) manifest: Manifest,
    pub(crate) bytes: &'static str,
}

/// The server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) url: String,
    shared: Arc<Shared>,
    runtime: tokio::runtime::Runtime,
}

#[derive(Debug)]
struct Shared {
    script: Script,
    run: watch::Sender<Run>,
    seen: watch::Sender<Vec<String>>,
    connections: Mutex<u32>,
}

impl Server {
    /// A server whose Run is running.
    pub(crate) fn start(script: Script) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let shared = Arc::new(Shared {
            script,
            run: watch::Sender::new(run("Running", &Value::Null)),
            seen: watch::Sender::new(Vec::new()),
            connections: Mutex::new(0),
        });
        let of_run = "/v1/namespaces/default/runs/{name}";
        let router = Router::new()
            .route("/v1/namespaces/default/runs", post(async |State(it): State<Arc<Shared>>| Json(it.run())))
            .route(of_run, get(async |State(it): State<Arc<Shared>>| Json(it.run())))
            .route(&format!("{of_run}/events"), get(events))
            .route(&format!("{of_run}/logs"), get(logs))
            .route(&format!("{of_run}/cancel"), post(cancel))
            .route(
                &format!("{of_run}/artifacts"),
                get(async |State(it): State<Arc<Shared>>| Json(it.script.manifest.clone())),
            )
            .route(
                &format!("{of_run}/artifacts/{{*path}}"),
                get(async |State(it): State<Arc<Shared>>, Path(_): Path<(String, String)>| it.script.bytes),
            )
            .with_state(Arc::clone(&shared));
        let listener = Listener::bind("127.0.0.1:0".parse().expect("an address"), None).expect("bound");
        let url = listener.url();
        runtime.spawn(serve(listener, router, future::pending()));
        Self { url, shared, runtime }
    }

    /// Waits until something has been seen.
    pub(crate) fn wait_for(&self, what: &str) {
        let mut seen = self.shared.seen.subscribe();
        let wait = seen.wait_for(|seen| seen.iter().any(|seen| seen == what));
        self.runtime.block_on(wait).expect("the server lives");
    }

    /// Ends the Run with that code.
    pub(crate) fn end(&self, code: u8) {
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        self.shared.run.send_replace(run(phase, &json!({ "kind": "Exited", "code": code })));
    }
}

impl Shared {
    fn run(&self) -> Run {
        self.run.borrow().clone()
    }

    fn saw(&self, what: &str) {
        self.seen.send_modify(|seen| seen.push(what.to_owned()));
    }
}

/// The Run in a phase, with one attempt that ended so.
fn run(phase: &str, verdict: &Value) -> Run {
    let end = match phase {
        "Cancelled" => "Cancelled",
        _ => "Completed",
    };
    let result = match (phase, verdict) {
        ("Running", _) => Value::Null,
        (_, Value::Null) => json!({ "end": end }),
        _ => json!({ "end": end, "outcome": { "verdict": verdict } }),
    };
    let mut attempt = json!({ "number": 1, "fence": 1, "daemon": "d", "startedAt": "2026-01-02T03:04:05Z", "result": result });
    if result.is_null() {
        attempt.as_object_mut().expect("an object").remove("result");
    }
    serde_json::from_value(json!({
        "apiVersion": "runtimed.dev/v1alpha1", "kind": "Run",
        "metadata": { "name": "fix-typo", "namespace": "default", "creationTimestamp": "2026-01-02T03:04:05Z" },
        "spec": { "runtime": "bash", "command": ["make"] },
        "status": { "phase": phase, "since": "2026-01-02T03:04:05Z", "requestedBy": "me", "fence": 1, "attempts": [attempt] },
    }))
    .expect("a Run")
}

fn sse(body: Body) -> Response {
    ([(CONTENT_TYPE, "text/event-stream")], body).into_response()
}

async fn events(State(it): State<Arc<Shared>>) -> Response {
    let told = tokio_stream(it.run.subscribe());
    sse(Body::from_stream(
        told.map(|run| {
            Ok::<_, Infallible>(format!("data: {}\n\n", serde_json::to_string(&run).expect("JSON")))
        }),
    ))
}

/// Each value of a channel, beginning with the present one.
fn tokio_stream(mut runs: watch::Receiver<Run>) -> impl futures_util::Stream<Item = Run> {
    runs.mark_changed();
    futures_util::stream::unfold(runs, async |mut runs| {
        runs.changed().await.ok()?;
        let run = runs.borrow_and_update().clone();
        Some((run, runs))
    })
}

async fn logs(State(it): State<Arc<Shared>>, Query(query): Query<Vec<(String, String)>>) -> Response {
    let offset =
        query.iter().find(|(key, _)| key == "offset").and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
    let connection = {
        let mut connections = it.connections.lock().expect("no panic");
        *connections += 1;
        *connections
    };
    if it.script.cut && connection % 3 == 1 {
        // Not even the head of an answer, now and then.
        return (StatusCode::SERVICE_UNAVAILABLE, Json(problem())).into_response();
    }
    let mut at = 0;
    let mut pieces: Vec<Result<Bytes, std::io::Error>> = Vec::new();
    for (stream, text) in &it.script.log {
        let next = at + text.len() as u64;
        if at >= offset {
            let record = Record { micros: 1, body: Text::Text(*stream, text.as_bytes()) };
            let event = serde_json::to_string(&LogEvent::of(1, &record, next)).expect("JSON");
            pieces.push(Ok(format!("event: log\nid: {next}\ndata: {event}\n\n").into()));
            if it.script.cut {
                break;
            }
        }
        at = next;
    }
    let whole = pieces.is_empty() || !it.script.cut;
    it.saw("log");
    if it.script.endless {
        let mut runs = it.run.subscribe();
        let end = async move {
            let over = |run: &Run| run.status.as_ref().is_some_and(|status| status.phase.is_terminal());
            runs.wait_for(over).await.map_err(std::io::Error::other)?;
            Ok("event: end\ndata: {}\n\n".into())
        };
        return sse(Body::from_stream(
            futures_util::stream::iter(pieces).chain(futures_util::stream::once(end)),
        ));
    }
    if whole {
        pieces.push(Ok("event: end\ndata: {}\n\n".into()));
    } else {
        // In the middle of an event, and once what was written before is on its way.
        pieces.push(Ok("event: log\ndata: {\"attem".into()));
        let cut = async {
            tokio::task::yield_now().await;
            Err(std::io::Error::other("cut"))
        };
        return sse(Body::from_stream(
            futures_util::stream::iter(pieces).chain(futures_util::stream::once(cut)),
        ));
    }
    sse(Body::from_stream(futures_util::stream::iter(pieces)))
}

async fn cancel(State(it): State<Arc<Shared>>) -> Json<Run> {
    it.saw("cancel");
    if it.script.obeys {
        it.run.send_replace(run("Cancelled", &Value::Null));
    }
    Json(it.run())
}

fn problem() -> runtimed_api::problem::Problem {
    runtimed_api::problem::Problem::new(runtimed_api::problem::Code::Unavailable, "starting")
}
