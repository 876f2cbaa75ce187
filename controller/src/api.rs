//! The boundary of the network: each handler checks who asks and what, translates, forwards, and nothing else.

mod answer;
mod artifacts;
mod audit;
mod blobs;
mod body;
mod events;
mod health;
mod keys;
mod logs;
mod patches;
mod query;
mod read;
mod runs;
mod sessions;
mod sources;
mod span;
mod submit;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post, put};
use runtimed_client::daemon::Daemon;
use runtimed_client::logs::compression;
use runtimed_store::BlobStore;
use tokio_util::sync::CancellationToken;

use crate::arrivals::Arrivals;
use crate::audit::Audit;
use crate::auth::{AttemptTokens, Authority};
use crate::engine::{Clock, Engine};
use crate::metrics::Metrics;
use crate::runtimes::Catalogue;
use crate::signing::Signing;
use crate::store::Store;
use crate::uploads::Uploads;

/// What the handlers forward to.
#[derive(Debug)]
pub struct App {
    /// Changes.
    pub engine: Engine,
    /// Reads.
    pub store: Arc<dyn Store>,
    /// Results.
    pub blobs: BlobStore,
    /// People and daemons.
    pub authority: Authority,
    /// Attempts.
    pub tokens: AttemptTokens,
    /// Vouches for patches.
    pub signing: Arc<Signing>,
    /// The Runtimes.
    pub runtimes: Catalogue,
    /// Who did what.
    pub audit: Audit,
    /// What is counted.
    pub metrics: Metrics,
    /// Large results on their way.
    pub arrivals: Arrivals,
    /// How much people may upload.
    pub uploads: Arc<Uploads>,
    /// How long a lease holds without a renewal.
    pub lease: Duration,
    /// What daemons measure the age of a lease by.
    pub clock: Clock,
    /// The authorities that daemons' certificates are of; the system's without it.
    pub daemon_ca: Option<PathBuf>,
    /// Cancelled when the controller stops: what has no end of its own ends then.
    pub stopping: CancellationToken,
    /// Connections to daemons, by address.
    pub daemons: Mutex<HashMap<String, Daemon>>,
}

type Shared = axum::extract::State<Arc<App>>;

/// Every route.
pub fn router(app: App) -> Router {
    let run = "/v1/namespaces/{namespace}/runs/{name}";
    let app = Arc::new(app);
    Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .route("/v1/keys", get(keys::keys))
        .route("/v1/runtimes", get(runs::runtimes))
        .route("/v1/audit", get(audit::read))
        .route("/v1/namespaces/{namespace}/runs", post(submit::submit).get(runs::list))
        .route(run, get(runs::get).delete(runs::delete))
        .route(&format!("{run}/cancel"), post(runs::cancel))
        .route(&format!("{run}/events"), get(events::events))
        .route(&format!("{run}/logs"), get(logs::logs).layer(compression()))
        .route(&format!("{run}/artifacts"), get(artifacts::manifest))
        .route(&format!("{run}/artifacts/{{*path}}"), get(artifacts::artifact))
        .route(&format!("{run}/patch"), get(patches::of_run))
        .route("/v1/namespaces/{namespace}/patches/{digest}", put(patches::upload).get(patches::get))
        .route("/v1/namespaces/{namespace}/sources/{digest}", put(sources::upload))
        .route("/v1/blobs/{digest}", put(blobs::put).get(blobs::get))
        .route("/v1/blobs/{digest}/arrived", get(blobs::arrived))
        .route("/v1/logs/{offset}", put(logs::put))
        .route("/v1/artifacts/{name}", get(artifacts::leased_manifest))
        .route("/v1/artifacts/{name}/{digest}", get(artifacts::leased_file))
        .route("/v1/sessions", post(sessions::open))
        .route("/v1/sessions/{id}/lease", post(sessions::lease))
        .route("/v1/sessions/{id}/renew", post(sessions::renew))
        .route("/v1/sessions/{id}/drain", post(sessions::drain))
        .route("/v1/sessions/{id}/reports", post(sessions::reports))
        .fallback(answer::no_such_route)
        .method_not_allowed_fallback(answer::no_such_method)
        // Each handler that takes a body bounds it by what the body is.
        .layer(DefaultBodyLimit::disable())
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&app), audit::record))
        .with_state(app)
}
