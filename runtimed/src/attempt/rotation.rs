//! Secrets whose source changes while the command runs.
//!
//! The new value is registered for masking first, then renamed into the place of the staged copy; old values stay
//! registered for ever. A value that fails its checks leaves the former one in place, and the result says so. The
//! variable that a secret was delivered in keeps the value that the command began with: nothing can change it.

use runtimed_api::digest::Digest;
use runtimed_api::ids::SecretName;
use runtimed_sandbox::staging::StagedName;
use tokio::sync::watch;

use super::Attempt;
use super::workspace::Workspace;
use crate::secrets::{self, Source, Staged};

/// Changes of one attempt's secrets that are taken: each leaves the needles of its value behind.
const MAX_CHANGES: u32 = 256;
/// Failures that the result tells of.
const MAX_WARNINGS: u32 = 32;

/// The staged secrets of an attempt that may change.
#[derive(Debug)]
pub(super) struct Rotation {
    changes: watch::Receiver<u64>,
    secrets: Vec<Rotating>,
    /// Bytes of values that may still be registered.
    room: usize,
    changed: u32,
    warned: u32,
}

#[derive(Debug)]
struct Rotating {
    source: Source,
    file: StagedName,
    mode: u32,
    /// Of the value that is staged, which itself is not kept here.
    last: Digest,
    /// Why it could not be used, so that it is said once.
    failure: Option<String>,
}

impl Rotation {
    /// Watches the sources of what is staged. The first look is due at once: a source may have changed since it was read.
    pub(super) fn begin(attempt: &mut Attempt, staged: &[Staged]) -> Self {
        let notices = &attempt.daemon.notices;
        let mut changes = notices.changes();
        let mut secrets = Vec::new();
        for secret in staged {
            let Some(source) = secret.source.clone() else { continue };
            let Ok(file) = secret.file.parse() else { continue };
            if let Err(error) = notices.watch_source(&source.path) {
                let name = &source.name;
                let warning = format!("secret {name} is not replaced when its source changes: {error}");
                attempt.result.warnings.push(warning);
            }
            let last = Digest::of(secret.value.expose());
            secrets.push(Rotating { source, file, mode: secret.mode, last, failure: None });
        }
        changes.mark_changed();
        let used: usize = staged.iter().map(|secret| secret.value.expose().len()).sum();
        Self { changes, secrets, room: secrets::MAX_TOGETHER.saturating_sub(used), changed: 0, warned: 0 }
    }

    /// Returns when a source may have changed.
    pub(super) async fn due(&mut self) {
        if self.secrets.is_empty() || self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Looks at every source, and puts new values in the place of the old.
    pub(super) fn apply(&mut self, attempt: &mut Attempt, workspace: &mut Workspace) {
        for index in 0..self.secrets.len() {
            let Some(secret) = self.secrets.get(index) else { continue };
            let (source, name) = (secret.source.clone(), secret.source.name.clone());
            let outcome = self.look(index, attempt, workspace);
            let Some(secret) = self.secrets.get_mut(index) else { continue };
            // The links may lead elsewhere now.
            if attempt.daemon.notices.watch_source(&source.path).is_err() {
                tracing::warn!(secret = %name, "a secret's source cannot be watched any more");
            }
            match outcome {
                Ok(()) => secret.failure = None,
                Err(why) if secret.failure.as_ref() == Some(&why) => {}
                Err(why) if self.warned < MAX_WARNINGS => {
                    self.warned += 1;
                    tracing::warn!(secret = %name, why, "a secret was not replaced");
                    attempt.result.warnings.push(kept(&name, &why));
                    secret.failure = Some(why);
                }
                Err(_) => {}
            }
        }
    }

    fn look(&mut self, index: usize, attempt: &Attempt, workspace: &mut Workspace) -> Result<(), String> {
        let Some(secret) = self.secrets.get_mut(index) else { return Ok(()) };
        let value = secrets::read_source(&secret.source).map_err(|problem| problem.message)?;
        let digest = Digest::of(value.expose());
        if secret.last == digest {
            return Ok(());
        }
        if self.changed == MAX_CHANGES || value.expose().len() > self.room {
            return Err("it changed too often, or to too long values, for one Run".to_owned());
        }
        self.changed += 1;
        self.room -= value.expose().len();
        let name = secret.source.name.as_str();
        // Before the command can read it, it is masked.
        attempt
            .redactor
            .register(&[(name, value.expose())])
            .map_err(|_| "its new value cannot be masked beside the others".to_owned())?;
        workspace.rotate(&secret.file, &value, secret.mode).map_err(|error| error.to_string())?;
        tracing::info!(secret = name, "a secret was replaced");
        secret.last = digest;
        Ok(())
    }
}

fn kept(name: &SecretName, why: &str) -> String {
    format!("secret {name} changed at its source, and the command keeps the former value: {why}")
}
