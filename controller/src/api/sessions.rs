//! What daemons say: Sessions, leases, renewals, reports.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::future::try_join_all;
use runtimed_api::ids::{RunName, SessionId};
use runtimed_api::problem::{Code, Problem};
use runtimed_api::session::{
    LeaseRequest, OpenSession, Renew, Renewed, Report, ReportAnswer, Reported, Reports, Session,
};
use tokio::time::timeout;

use super::answer::{Answer, Failure, invalid, not_found};
use super::audit::Rejected;
use super::{Shared, body};
use crate::core::RunKey;

/// A body that holds a few words.
const SMALL: usize = 16 * 1024;
/// The largest renewal: every slot of the largest daemon.
const MAX_RENEWAL: usize = 1024 * 1024;
/// The largest batch of reports, in bytes, and in reports.
const MAX_REPORTS: (usize, usize) = (8 * 1024 * 1024, 64);
/// The longest wait for a Run.
const MAX_WAIT: Duration = Duration::from_secs(30);

pub(super) async fn open(
    State(app): Shared,
    headers: HeaderMap,
    body: Body,
) -> Answer<(StatusCode, Json<Session>)> {
    let at_millis = Some(app.clock.millis());
    let token = app.authority.daemon(&headers)?;
    let open: OpenSession = body::json(body, SMALL).await?;
    if open.runtime != token.runtime {
        let message = format!("the token is of Runtime {}, not of {}", token.runtime, open.runtime);
        return Err(Failure(Problem::new(Code::Forbidden, message)));
    }
    let missing = || not_found(format!("the controller knows no Runtime {}", open.runtime));
    let runtime = app.runtimes.now().get(&open.runtime).cloned().ok_or_else(missing)?;
    let id = app.engine.open_session(open).await?;
    let lease_millis = u64::try_from(app.lease.as_millis()).unwrap_or(u64::MAX);
    let keys = app.signing.history().clone();
    Ok((StatusCode::CREATED, Json(Session { id, lease_millis, runtime, keys, at_millis })))
}

/// Waits for a Run; 204 when there was none.
pub(super) async fn lease(
    State(app): Shared,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    let token = app.authority.daemon(&headers)?;
    let id: SessionId = id.parse()?;
    let request: LeaseRequest = body::json(body, SMALL).await?;
    let wait = Duration::from_millis(request.wait_millis).min(MAX_WAIT);
    let mut waiting = app.engine.wait_for_run(id, token.runtime).await?;
    let mut lease = timeout(wait, &mut waiting).await.ok().and_then(Result::ok);
    if lease.is_none() {
        // Closed first: a lease that comes now fails to be sent and goes to another slot; one that came is taken.
        waiting.close();
        lease = waiting.try_recv().ok();
    }
    match lease {
        Some(lease) => Ok(Json(lease).into_response()),
        None => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}

/// Renews the leases of a daemon; answers when there is something to do, or after a third of the lease period.
pub(super) async fn renew(
    State(app): Shared,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Json<Renewed>> {
    let at_millis = Some(app.clock.millis());
    let token = app.authority.daemon(&headers)?;
    let id: SessionId = id.parse()?;
    let renew: Renew = body::json(body, MAX_RENEWAL).await?;
    let waiting = app.engine.renew(id, token.runtime, renew).await?;
    match timeout(app.lease / 3, waiting).await {
        Ok(Ok(renewed)) => Ok(Json(Renewed { at_millis, ..renewed? })),
        Ok(Err(_)) | Err(_) => Ok(Json(Renewed { at_millis, ..Renewed::default() })),
    }
}

/// Hands nothing more to a daemon that ends.
pub(super) async fn drain(
    State(app): Shared,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Answer<StatusCode> {
    let token = app.authority.daemon(&headers)?;
    app.engine.drain_session(id.parse()?, token.runtime).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Applies reports; all of one Run as one change, those of several at once.
pub(super) async fn reports(
    State(app): Shared,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer<(Extension<Rejected>, Json<Reported>)> {
    let token = app.authority.daemon(&headers)?;
    let id: SessionId = id.parse()?;
    let Reports { reports } = body::json(body, MAX_REPORTS.0).await?;
    if reports.len() > MAX_REPORTS.1 {
        return Err(invalid(format!("at most {} reports at once", MAX_REPORTS.1)));
    }
    let runs: Vec<RunName> = reports.iter().map(|report| report.attempt.name.clone()).collect();
    let mut by_run: BTreeMap<RunKey, Vec<(usize, Report)>> = BTreeMap::new();
    for (index, report) in reports.into_iter().enumerate() {
        let key = RunKey { namespace: report.attempt.namespace.clone(), name: report.attempt.name.clone() };
        by_run.entry(key).or_default().push((index, report));
    }
    let applied = by_run.into_iter().map(|(key, reports)| {
        let (places, reports): (Vec<usize>, Vec<Report>) = reports.into_iter().unzip();
        let answers = app.engine.report(id.clone(), token.runtime.clone(), key, reports);
        async move { answers.await.map(|answers| places.into_iter().zip(answers)) }
    });
    let mut answers: Vec<(usize, ReportAnswer)> =
        try_join_all(applied).await?.into_iter().flatten().collect();
    answers.sort_by_key(|(place, _)| *place);
    let answers: Vec<ReportAnswer> = answers.into_iter().map(|(_, answer)| answer).collect();
    Ok((Extension(Rejected::of(&answers, &runs)), Json(Reported { answers })))
}
