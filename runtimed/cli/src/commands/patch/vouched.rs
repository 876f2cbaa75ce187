//! Holds a Run's Patch to the controller's signed statement, before a person uses it.

use jiff::Timestamp;
use runtimed_api::digest::Digest;
use runtimed_api::ids::RunName;
use runtimed_api::provenance::Origin;

use super::super::Session;
use crate::failure::Failure;
use crate::output::Output;

/// Verifies the bytes, and says who made them.
pub(super) async fn verify(
    session: &Session,
    name: &RunName,
    bytes: &[u8],
    output: &Output,
) -> Result<(), Failure> {
    let run = session.controller.get(&session.namespace, name).await?;
    let mut attempts = run.status.iter().flat_map(|status| status.attempts.iter().rev());
    let made = attempts.find(|it| it.result.as_ref().is_some_and(|result| result.patch.is_some()));
    let Some(statement) = made.and_then(|attempt| attempt.statement.as_ref()) else {
        output.note("note", &format!("the controller has signed no statement about the patch of {name}"));
        return Ok(());
    };
    let keys = session.controller.keys().await?;
    let vouched = statement.verify(&keys, Timestamp::now()).and_then(|vouched| {
        vouched.covers(&Digest::of(bytes), &session.namespace, Some(name)).map(|()| vouched)
    });
    let vouched =
        vouched.map_err(|distrust| Failure::rules(vec![distrust.refusal("patch", name.as_str())]))?;
    if let Origin::Captured(made) = &vouched.statement().predicate.origin {
        let text = format!(
            "by Run {}, attempt {}, in Runtime {}, for {}; from tree {} to {}",
            made.run, made.attempt, made.runtime, made.requested_by, made.base, made.result
        );
        output.note("made", &text);
    }
    Ok(())
}
