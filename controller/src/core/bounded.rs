//! Keeps a stored Run within its bound, whatever its daemons reported.

use runtimed_api::MAX_OBJECT_BYTES;
use runtimed_api::run::status::AttemptResult;
use serde::Serialize;

use super::record::Record;

/// Said in an attempt's warnings where something was left out.
const LEFT_OUT: &str = "details of this attempt were left out: the stored Run is at its bound of 256 KiB";

/// Leaves out what is told least missed, the newest attempt last, until the status is within [`MAX_OBJECT_BYTES`]. The
/// spec was bounded by the same figure when it was submitted. What leads to results
/// (patch, artifacts) stays.
pub(super) fn fit(record: &mut Record) {
    let attempts = &record.status.attempts;
    // Most statuses are some hundred bytes: only a look at the parts that can be large is made for those.
    if attempts.len() <= 4 && attempts.iter().all(|attempt| small(attempt.result.as_ref())) {
        return;
    }
    let mut total = size(&record.status);
    let mut results: Vec<&mut AttemptResult> =
        record.status.attempts.iter_mut().filter_map(|attempt| attempt.result.as_mut()).collect();
    let Some((newest, older)) = results.split_last_mut() else { return };
    for lighten in [details, everything] {
        shed(older, lighten, &mut total);
    }
    for lighten in [details, everything] {
        shed(std::slice::from_mut(newest), lighten, &mut total);
    }
}

fn shed(results: &mut [&mut AttemptResult], lighten: fn(&mut AttemptResult), total: &mut usize) {
    for result in results {
        if *total <= MAX_OBJECT_BYTES {
            return;
        }
        let before = size(*result);
        lighten(result);
        if result.warnings.iter().all(|warning| warning != LEFT_OUT) {
            result.warnings.push(LEFT_OUT.to_owned());
        }
        *total = (*total + size(*result)).saturating_sub(before);
    }
}

fn size(part: &impl Serialize) -> usize {
    serde_json::to_vec(part).map_or(usize::MAX / 2, |bytes| bytes.len())
}

fn small(result: Option<&AttemptResult>) -> bool {
    result.is_none_or(|result| {
        let lists = result.outputs.len()
            + result.warnings.len()
            + result.refusals.len()
            + result.uploads_incomplete.len()
            + result.env_deliveries.len();
        let text = result.reason.as_ref().map_or(0, String::len)
            + result.outputs.values().map(String::len).sum::<usize>()
            + result.warnings.iter().map(String::len).sum::<usize>()
            + result.fault.as_ref().map_or(0, |fault| fault.message.len())
            + result.scrub.as_ref().map_or(0, |scrub| scrub.problems.iter().map(String::len).sum());
        lists <= 64 && text <= 16 * 1024 && result.steps.len() <= 32
    })
}

fn details(result: &mut AttemptResult) {
    result.steps.clear();
    result.enforcement = None;
    result.env_deliveries.clear();
    result.outputs.clear();
    result.refusals.truncate(4);
    result.uploads_incomplete.truncate(16);
    result.warnings.truncate(16);
    if let Some(scrub) = &mut result.scrub {
        scrub.problems.truncate(4);
    }
}

fn everything(result: &mut AttemptResult) {
    let reason = result.reason.take().map(|reason| reason.chars().take(200).collect());
    *result = AttemptResult {
        reason,
        outcome: result.outcome.take(),
        patch: result.patch.take(),
        artifacts: result.artifacts.take(),
        commit: result.commit.take(),
        baseline: result.baseline.take(),
        log: std::mem::take(&mut result.log),
        ..AttemptResult::bare(result.end)
    };
}
