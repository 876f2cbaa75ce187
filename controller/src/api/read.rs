//! What several handlers look up.

use axum::http::HeaderMap;
use runtimed_api::digest::Digest;
use runtimed_api::ids::{Namespace, RunName};
use runtimed_api::run::Run;
use runtimed_api::run::status::{AttemptStatus, RunStatus};
use runtimed_api::tokens::{PersonToken, Role};

use super::App;
use super::answer::{Answer, invalid, not_found};
use crate::auth::allow;
use crate::core::{Blobs, RunKey};
use crate::store::Key;

/// Who asks, for which Run.
pub(super) struct Asked {
    pub(super) person: PersonToken,
    pub(super) key: RunKey,
}

impl App {
    /// Checks a request about one Run.
    pub(super) fn asked(&self, headers: &HeaderMap, path: (String, String), role: Role) -> Answer<Asked> {
        let person = self.authority.person(headers)?;
        let namespace: Namespace = path.0.parse()?;
        allow(&person, role, &namespace)?;
        let name: RunName = path.1.parse()?;
        Ok(Asked { person, key: RunKey { namespace, name } })
    }

    /// A Run as it is now.
    pub(super) async fn run(&self, key: &RunKey) -> Answer<Run> {
        if let Some(run) = self.engine.view(key.clone()).await? {
            return Ok(run);
        }
        let stored = self.store.get(Key::run(key)).await?;
        let record = stored.as_ref().and_then(|stored| stored.object.run());
        let record = record.ok_or_else(|| not_found(format!("there is no Run {key}")))?;
        // It may have been submitted anew since the engine was asked.
        let mut runs = self.engine.refresh(vec![record.clone()]).await?;
        runs.pop().ok_or_else(|| not_found(format!("there is no Run {key}")))
    }
}

/// The status of a Run that the controller gave out: it always has one.
pub(super) fn status(run: &Run) -> Answer<&RunStatus> {
    run.status.as_ref().ok_or_else(|| not_found("the Run has no status"))
}

/// Where the results of a Run are kept.
pub(super) fn place(run: &Run) -> Answer<Blobs> {
    run.metadata.uid.clone().map(Blobs::Run).ok_or_else(|| not_found("the Run has no uid"))
}

/// The attempt of this number; the newest that `wanted` holds of, without one.
pub(super) fn attempt(
    status: &RunStatus,
    number: Option<u32>,
    wanted: impl Fn(&AttemptStatus) -> bool,
) -> Answer<Option<&AttemptStatus>> {
    match number {
        Some(number) => {
            let found = status.attempts.iter().find(|attempt| attempt.number.0 == number);
            found.map(Some).ok_or_else(|| not_found(format!("there is no attempt {number}")))
        }
        None => Ok(status.attempts.iter().rev().find(|attempt| wanted(attempt))),
    }
}

/// A digest in a path.
pub(super) fn digest(text: &str) -> Answer<Digest> {
    text.parse().map_err(|error: runtimed_api::ids::InvalidId| invalid(error.to_string()))
}
