//! Runs: looking, listing, cancelling, removing; and the Runtimes there are.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use runtimed_api::ids::Namespace;
use runtimed_api::run::status::Phase;
use runtimed_api::run::{Run, RunList};
use runtimed_api::runtime::Runtime;
use runtimed_api::tokens::Role;

use super::Shared;
use super::answer::{Answer, invalid};
use crate::auth::allow;
use crate::store::Query;

/// Runs on a page, without a limit and at most.
const PAGE: (usize, usize) = (100, 500);

pub(super) async fn get(
    State(app): Shared,
    Path(path): Path<(String, String)>,
    headers: HeaderMap,
) -> Answer<Json<Run>> {
    let asked = app.asked(&headers, path, Role::Observer)?;
    Ok(Json(app.run(&asked.key).await?))
}

pub(super) async fn cancel(
    State(app): Shared,
    Path(path): Path<(String, String)>,
    headers: HeaderMap,
) -> Answer<Json<Run>> {
    let asked = app.asked(&headers, path, Role::Submitter)?;
    tracing::info!(by = %asked.person.subject, run = %asked.key, "cancel");
    Ok(Json(app.engine.cancel(asked.key, asked.person.subject).await?))
}

/// Removes a Run: at once when it is over, else when its cancel has ended it.
pub(super) async fn delete(
    State(app): Shared,
    Path(path): Path<(String, String)>,
    headers: HeaderMap,
) -> Answer<Json<Run>> {
    let asked = app.asked(&headers, path, Role::Admin)?;
    tracing::info!(by = %asked.person.subject, run = %asked.key, "delete");
    Ok(Json(app.engine.delete(asked.key, asked.person.subject).await?))
}

pub(super) async fn list(
    State(app): Shared,
    Path(namespace): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answer<Json<RunList>> {
    let person = app.authority.person(&headers)?;
    let namespace: Namespace = namespace.parse()?;
    allow(&person, Role::Observer, &namespace)?;
    let mut query = selection(query.as_deref().unwrap_or_default())?;
    query.namespace = Some(namespace);
    let page = app.store.list(query).await?;
    let records = page.runs.into_iter().map(|(record, _)| record).collect();
    let items = app.engine.refresh(records).await?;
    Ok(Json(RunList { items, next: page.next.map(String::from) }))
}

/// The Runtimes that the asker may use.
pub(super) async fn runtimes(State(app): Shared, headers: HeaderMap) -> Answer<Json<Vec<Runtime>>> {
    let person = app.authority.person(&headers)?;
    let runtimes = app.runtimes.now();
    let usable = runtimes.all().filter(|runtime| person.may_run_on(&runtime.metadata.name));
    Ok(Json(usable.cloned().collect()))
}

/// `label=key=value` (any number), `phase=`, `limit=`, `continue=`.
fn selection(query: &str) -> Answer<Query> {
    let pairs: Vec<(String, String)> =
        serde_urlencoded(query).map_err(|error| invalid(format!("the query cannot be read: {error}")))?;
    let mut wanted = Query { limit: PAGE.0, ..Query::default() };
    let mut labels = BTreeMap::new();
    for (key, value) in pairs {
        match key.as_str() {
            "label" => {
                let (label, text) =
                    value.split_once('=').ok_or_else(|| invalid("a label is written label=key=value"))?;
                labels.insert(label.to_owned(), text.to_owned());
            }
            "phase" => {
                let phase: Phase = serde_json::from_value(value.as_str().into())
                    .map_err(|_| invalid(format!("{value:?} is not a phase, such as Running")))?;
                wanted.phase = Some(phase);
            }
            "limit" => {
                let limit: usize = value.parse().map_err(|_| invalid("limit is a number from 1 to 500"))?;
                wanted.limit = limit.clamp(1, PAGE.1);
            }
            "continue" => wanted.before = Some(value.parse()?),
            other => {
                return Err(invalid(format!(
                    "the query knows label, phase, limit and continue, not {other:?}"
                )));
            }
        }
    }
    wanted.labels = labels;
    Ok(wanted)
}

fn serde_urlencoded(query: &str) -> Result<Vec<(String, String)>, String> {
    let uri: axum::http::Uri = format!("/?{query}").parse().map_err(|_| "it is not a query".to_owned())?;
    axum::extract::Query::try_from_uri(&uri)
        .map(|axum::extract::Query(pairs)| pairs)
        .map_err(|e| e.to_string())
}
