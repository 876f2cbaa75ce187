//! `GET /v1/keys`: what statements about patches are held to. Public keys are no secret, so no token is asked.

use axum::Json;
use axum::extract::State;
use runtimed_api::provenance::KeyHistory;

use super::Shared;

pub(super) async fn keys(State(app): Shared) -> Json<KeyHistory> {
    Json(app.signing.history().clone())
}
