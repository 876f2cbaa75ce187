//! What is known of a Run that is on this daemon.

use std::path::Path;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path as UrlPath, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use runtimed_api::digest::Digest;
use runtimed_api::enforcement::Tier;
use runtimed_api::problem::{Code, Problem};
use runtimed_client::content::{self, Plan};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use super::{Refused, Shared, auth};

/// What the pod is and enforces.
pub(super) async fn posture(State(shared): State<Shared>, headers: HeaderMap) -> Result<Response, Refused> {
    auth::person(&shared.daemon, &headers)?;
    let daemon = &shared.daemon;
    let support = runtimed_sandbox::support::Support::probe();
    let isolation = daemon.isolation;
    let namespaces = match (isolation.tier, isolation.missing) {
        (Tier::Namespaces, _) => "allowed".to_owned(),
        (_, Some(missing)) => missing.to_string(),
        (_, None) => "not asked for".to_owned(),
    };
    let media = |root: &runtimed_sandbox::tree::Root| root.medium().to_string();
    let posture = json!({
        "daemon": daemon.name,
        "runtime": daemon.config.runtime,
        "build": daemon.build,
        "slots": daemon.config.slots,
        "tier": isolation.tier,
        "ownProc": isolation.own_proc,
        "profile": daemon.config.ceiling.profile,
        "landlockAbi": support.landlock_abi(),
        "userNamespaces": namespaces,
        "stagingMedium": media(&daemon.roots.tmp),
        "ready": daemon.readiness.is_ready(),
    });
    Ok(Json(posture).into_response())
}

/// Where the newest attempt at a Run is.
pub(super) async fn run(
    State(shared): State<Shared>,
    UrlPath((namespace, name)): UrlPath<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let live = auth::attempt(&shared.daemon, &headers, &namespace, &name)?;
    let now = live.now();
    let facts = live.log.facts();
    let answer = json!({
        "attempt": live.key,
        "step": now.step,
        "stopping": live.stopping().is_some(),
        "lastOutput": live.log.last_output(),
        "log": { "bytes": facts.bytes, "records": facts.records, "dropped": facts.dropped },
        "patch": now.patch,
    });
    Ok(Json(answer).into_response())
}

/// The list of artifacts, once collected.
pub(super) async fn manifest(
    State(shared): State<Shared>,
    UrlPath((namespace, name)): UrlPath<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let live = auth::attempt(&shared.daemon, &headers, &namespace, &name)?;
    match live.now().manifest {
        Some(manifest) => Ok(Json(&*manifest).into_response()),
        None => Err(missing("no artifacts are collected yet").into()),
    }
}

/// One artifact.
pub(super) async fn artifact(
    State(shared): State<Shared>,
    UrlPath((namespace, name, path)): UrlPath<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let live = auth::attempt(&shared.daemon, &headers, &namespace, &name)?;
    let manifest = live.now().manifest.ok_or_else(|| missing("no artifacts are collected yet"))?;
    let file =
        manifest.files.iter().find(|file| file.path == path).ok_or_else(|| missing("no such artifact"))?;
    send(&live.spool.join(file.digest.hex()), &file.content_type, &file.digest, &headers).await
}

/// The captured patch.
pub(super) async fn patch(
    State(shared): State<Shared>,
    UrlPath((namespace, name)): UrlPath<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let live = auth::attempt(&shared.daemon, &headers, &namespace, &name)?;
    let digest = live.now().patch.ok_or_else(|| missing("no patch is captured"))?;
    send(&live.spool.join("patch"), "text/x-diff", &digest, &headers).await
}

async fn send(
    path: &Path,
    content_type: &str,
    digest: &Digest,
    headers: &HeaderMap,
) -> Result<Response, Refused> {
    let gone = |_| missing("it is gone: the controller has it");
    let mut file = tokio::fs::File::open(path).await.map_err(gone)?;
    let size = file.metadata().await.map_err(gone)?.len();
    let plan = content::plan(headers, digest, size);
    let (start, length) = match &plan {
        Plan::Whole => (0, size),
        Plan::Part(part) => (part.start, part.end - part.start),
        Plan::Unchanged | Plan::Beyond => (0, 0),
    };
    file.seek(std::io::SeekFrom::Start(start)).await.map_err(gone)?;
    let body = Body::from_stream(ReaderStream::with_capacity(file.take(length), 64 * 1024));
    Ok(content::answer(&plan, digest, size, content_type, body))
}

fn missing(why: &str) -> Problem {
    Problem::new(Code::NotFound, why)
}
