//! Step 7, the daemon's part: prior patches are fetched, and are the bytes that were named, before the worker sees them.

use runtimed_api::digest::Digest;
use runtimed_api::link::PriorPatch;
use runtimed_api::problem::{Code, Problem};
use runtimed_api::rule::{Refusal, Rule};
use runtimed_client::ClientError;

use super::workspace::Workspace;
use super::{Attempt, Ended};

/// Fetches and verifies the prior patches, and puts them where the worker's apply phase can read them.
pub(super) async fn prior_patches(
    attempt: &Attempt,
    workspace: &Workspace,
) -> Result<Vec<PriorPatch>, Ended> {
    let most = attempt.daemon.config.patches.max_bytes.0;
    let mut patches = Vec::new();
    for (index, patch) in attempt.lease.patches.iter().enumerate() {
        let subject = format!("spec.priorPatches[{index}]");
        let unreachable = |error: ClientError| {
            Problem::new(
                Code::StorageFailed,
                format!("prior patch {} cannot be fetched: {error}", patch.label),
            )
        };
        let client = &attempt.daemon.controller;
        let download =
            client.get_blob(&patch.digest, &attempt.lease.token, most).await.map_err(unreachable)?;
        let bytes = download.bytes().await.map_err(unreachable)?;
        if Digest::of(&bytes) != patch.digest {
            let message = format!("the bytes of {} are not those of its digest", patch.label);
            return Err(Refusal::new(Rule::PATCH_DIGEST, subject, message).into());
        }
        let path = workspace.put_private(&format!("prior-{index}.patch"), &bytes)?;
        let (base, result) = (patch.base.clone(), patch.result.clone());
        patches.push(PriorPatch { path, label: patch.label.clone(), base, result });
    }
    Ok(patches)
}
