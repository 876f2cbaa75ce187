//! The log of an attempt that this daemon holds.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use runtimed_api::problem::{Code, Problem};
use runtimed_client::logs::{Asked, LogQuery, answer};

use super::{Refused, Shared, auth};
use crate::logs::LiveSource;

pub(super) async fn logs(
    State(shared): State<Shared>,
    Path((namespace, name)): Path<(String, String)>,
    query: Result<Query<LogQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let live = auth::attempt(&shared.daemon, &headers, &namespace, &name)?;
    let asked = Asked::read(query, &headers)?;
    let attempt = live.key.attempt.0;
    if asked.query.attempt.is_some_and(|wanted| wanted != attempt) {
        return Err(Problem::new(Code::NotFound, "that attempt is not on this daemon").into());
    }
    let source = LiveSource::new(std::sync::Arc::clone(&live.log), attempt, shared.closing.clone());
    answer(asked, source).await.map_err(|error| {
        tracing::error!(attempt = %live.key, %error, "a log cannot be read");
        Problem::new(Code::Internal, "the log cannot be read").into()
    })
}
