//! The artifacts of an earlier Run: brought and verified by the daemon, which has the lease's token, and read as a source
//! only in the worker's apply phase, which has nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use runtimed_api::digest::Digest;
use runtimed_api::ids::RunName;
use runtimed_api::link::FetchedArtifacts;
use runtimed_api::problem::{Code, Problem};
use runtimed_api::rule::{Refusal, Rule};
use runtimed_client::ClientError;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use super::super::again::again;
use super::super::storage;
use super::super::workspace::Workspace;
use super::{Attempt, Ended};
use crate::room;

/// Files that come at once.
const AT_ONCE: usize = 8;

/// Brings every file, each held to its digest, to where the worker's apply phase can read them. They are kept under
/// `name`; a refusal is about `subject`.
pub(super) async fn bring(
    attempt: &Attempt,
    workspace: &Workspace,
    run: &RunName,
    name: &str,
    subject: &str,
) -> Result<FetchedArtifacts, Ended> {
    let (client, token) = (&attempt.daemon.controller, &attempt.lease.token);
    let manifest = again(|| client.get_artifacts(run, token).boxed())
        .await
        .map_err(|error| told(run, subject, &error))?;
    let files = workspace.private_dir(name)?;
    let sizes: BTreeMap<Digest, u64> =
        manifest.files.iter().map(|artifact| (artifact.digest, artifact.size)).collect();
    let total = sizes.values().fold(0_u64, |total, size| total.saturating_add(*size));
    room::check(&files, total).map_err(|error| storage("the artifacts have no room", &error))?;
    let bring =
        |(digest, size): (Digest, u64)| one(attempt, run, digest, size, files.join(digest.hex()), subject);
    futures_util::stream::iter(sizes.into_iter().map(bring))
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    let json = serde_json::to_vec(&manifest).map_err(|error| {
        Problem::new(Code::SourceFailed, format!("the list of artifacts cannot be kept: {error}"))
    })?;
    let manifest = workspace.put_private(&format!("{name}.json"), &json)?;
    Ok(FetchedArtifacts { manifest, files: files.to_string_lossy().into_owned() })
}

async fn one(
    attempt: &Attempt,
    run: &RunName,
    digest: Digest,
    size: u64,
    to: PathBuf,
    subject: &str,
) -> Result<(), Ended> {
    let writing = |error: io::Error| storage("an artifact cannot be written", &error);
    let written = again(|| write(attempt, run, &digest, size, &to).boxed()).await;
    let found = written.map_err(|error| told(run, subject, &error))?.map_err(writing)?;
    if found != digest {
        let message = format!("the bytes of an artifact of {run} are not those of its digest");
        return Err(Refusal::new(Rule::SOURCE_ARTIFACTS, subject, message).into());
    }
    Ok(())
}

/// Writes an artifact from its beginning, and gives the digest of what has come.
async fn write(
    attempt: &Attempt,
    run: &RunName,
    digest: &Digest,
    size: u64,
    to: &Path,
) -> Result<io::Result<Digest>, ClientError> {
    let (client, token) = (&attempt.daemon.controller, &attempt.lease.token);
    let mut pieces = client.get_artifact(run, digest, token, size).await?;
    let mut file = match tokio::fs::File::create(to).await {
        Ok(file) => file,
        Err(error) => return Ok(Err(error)),
    };
    let mut hash = Sha256::new();
    while let Some(piece) = pieces.try_next().await? {
        hash.update(&piece);
        if let Err(error) = file.write_all(&piece).await {
            return Ok(Err(error));
        }
    }
    Ok(file.flush().await.map(|()| Digest::from_bytes(hash.finalize().into())))
}

/// What is not there is refused; everything else may be there later.
fn told(run: &RunName, subject: &str, error: &ClientError) -> Ended {
    match error {
        ClientError::Problem { problem, .. } if problem.code == Code::NotFound => {
            Refusal::new(Rule::SOURCE_ARTIFACTS, subject, problem.message.clone())
                .hint("name a Run of this namespace that has artifacts, and is still kept")
                .into()
        }
        error => {
            let message = format!("the artifacts of {run} cannot be fetched: {error}");
            Problem::new(Code::SourceUnreachable, message).into()
        }
    }
}
