//! Steps 6 and 7, the daemon's part: before the worker sees a prior patch, its bytes are those that were named, and the
//! controller has vouched for them as the Runtime requires.

use bytes::Bytes;
use futures_util::FutureExt as _;
use jiff::Timestamp;
use runtimed_api::digest::Digest;
use runtimed_api::ids::TreeId;
use runtimed_api::link::PriorPatch;
use runtimed_api::problem::{Code, Problem};
use runtimed_api::provenance::{Distrust, KeyHistory};
use runtimed_api::rule::{Refusal, Rule};
use runtimed_api::run::spec;
use runtimed_api::runtime::Provenance;
use runtimed_api::session::LeasedPatch;
use runtimed_client::ClientError;

use super::again::again;
use super::workspace::{Workspace, blocking};
use super::{Attempt, Ended};
use crate::keys;

/// Fetches and verifies the prior patches, and puts them where the worker's apply phase can read them.
pub(super) async fn prior_patches(
    attempt: &Attempt,
    workspace: &Workspace,
) -> Result<Vec<PriorPatch>, Ended> {
    let asked = &attempt.lease.run.spec.prior_patches;
    if asked.len() != attempt.lease.patches.len() {
        return Err(
            Problem::new(Code::Internal, "the lease has not the prior patches that the Run names").into()
        );
    }
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let config = &attempt.daemon.config;
    let file = config.controller.as_ref().and_then(|controller| controller.keys_file.clone());
    let trusted = match (config.patches.require, file) {
        (Provenance::Signed, Some(file)) => blocking(move || keys::read(&file)).await??,
        _ => attempt.keys.clone(),
    };
    let most = config.patches.max_bytes.0;
    let mut patches = Vec::new();
    for (index, (asked, patch)) in asked.iter().zip(&attempt.lease.patches).enumerate() {
        let subject = format!("spec.priorPatches[{index}]");
        let bytes = blob(attempt, &patch.digest, most).await.map_err(|error| match error {
            ClientError::TooLong { .. } => {
                let message =
                    format!("{} has more than the {most} bytes that the Runtime allows", patch.label);
                Ended::from(Refusal::new(Rule::PATCH_TOO_LARGE, subject.clone(), message))
            }
            error => {
                let message = format!("prior patch {} cannot be fetched: {error}", patch.label);
                Problem::new(Code::StorageFailed, message).into()
            }
        })?;
        let named = asked.digest.unwrap_or(patch.digest);
        if named != patch.digest || Digest::of(&bytes) != named {
            let message = format!("the bytes of {} are not those of its digest", patch.label);
            return Err(Refusal::new(Rule::PATCH_DIGEST, subject, message).into());
        }
        let (base, result) =
            trees(attempt, asked, patch, &trusted).map_err(|it| it.refusal(subject, &patch.label))?;
        let path = workspace.put_private(&format!("prior-{index}.patch"), &bytes)?;
        patches.push(PriorPatch { path, label: patch.label.clone(), base, result });
    }
    Ok(patches)
}

/// The largest upload that a Run may start from, in bytes.
const MAX_SOURCE: u64 = 64 * 1024 * 1024;

/// Fetches the upload that the Run starts from, and puts it where the worker's apply phase can read it.
pub(super) async fn uploaded(
    attempt: &Attempt,
    workspace: &Workspace,
    digest: &Digest,
) -> Result<String, Ended> {
    let unreachable = |error: ClientError| {
        Problem::new(Code::StorageFailed, format!("the uploaded source cannot be fetched: {error}"))
    };
    let bytes = blob(attempt, digest, MAX_SOURCE).await.map_err(unreachable)?;
    if Digest::of(&bytes) != *digest {
        let message = "the bytes of the uploaded source are not those of its digest";
        return Err(Refusal::new(Rule::SOURCE_UNKNOWN, "spec.source", message).into());
    }
    Ok(workspace.put_private("source", &bytes)?)
}

/// A blob of at most `most` bytes.
async fn blob(attempt: &Attempt, digest: &Digest, most: u64) -> Result<Bytes, ClientError> {
    let (client, token) = (&attempt.daemon.controller, &attempt.lease.token);
    again(|| async { client.get_blob(digest, token, most).await?.bytes().await }.boxed()).await
}

/// The trees that the worker holds a patch to, as far as it is vouched for as required.
fn trees(
    attempt: &Attempt,
    asked: &spec::PriorPatch,
    patch: &LeasedPatch,
    trusted: &KeyHistory,
) -> Result<(Option<TreeId>, Option<TreeId>), Distrust> {
    match attempt.daemon.config.patches.require {
        Provenance::Signed => {
            let statement = patch.statement.as_ref().ok_or(Distrust::Unsigned)?;
            let vouched = statement.verify(trusted, Timestamp::now())?;
            vouched.covers(&patch.digest, &attempt.key().namespace, asked.run.as_ref())?;
            Ok(vouched.trees().map(|(base, result)| (base.clone(), result.clone())).unzip())
        }
        Provenance::Digest => Ok((patch.base.clone(), patch.result.clone())),
        Provenance::None => Ok((None, None)),
    }
}
