//! The summary of a job, for the container's termination message and for a directory of results.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Context as _;
use runtimed_api::run::status::AttemptResult;
use serde_json::{Map, Value, json};

use crate::args::Failure;

/// What Kubernetes takes of a termination message (`terminationMessagePath`).
const MOST: usize = 4096;

/// Where Kubernetes looks for a summary.
#[derive(Debug)]
pub(super) struct Place(io::Result<fs::File>);

/// Opens it; a container that was started by something else has no such file.
pub(super) fn open(path: &Path) -> Place {
    Place(fs::OpenOptions::new().write(true).truncate(true).open(path))
}

impl Place {
    pub(super) fn write(&mut self, text: &str) {
        let error = match &mut self.0 {
            Ok(file) => file.write_all(text.as_bytes()).err(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(io::Error::from(error.kind())),
        };
        if let Some(error) = error {
            tracing::warn!(%error, "the summary cannot be written");
        }
    }
}

/// The summary of a job that came to its end.
pub(super) fn of(run: Option<&str>, code: u8, result: Option<&AttemptResult>) -> String {
    let mut facts = Map::new();
    facts.insert("exitCode".to_owned(), code.into());
    let mut add = |name: &str, value: Value| {
        if !value.is_null() {
            facts.insert(name.to_owned(), value);
        }
    };
    add("run", json!(run));
    match result {
        None => add("reason", "told to end before there was a Run".into()),
        Some(result) => {
            add("end", json!(result.end));
            add("reason", json!(result.reason));
            add("outcome", json!(result.outcome));
            add("fault", json!(result.fault.as_ref().map(|fault| fault.code)));
            add("scrub", json!(result.scrub.as_ref().map(|scrub| scrub.verified)));
            add("tier", json!(result.enforcement.as_ref().map(|enforcement| enforcement.tier)));
            add("commit", json!(result.commit));
            add("patch", json!(result.patch.as_ref().and_then(|patch| patch.digest)));
            add("artifacts", json!(result.artifacts.as_ref().map(|artifacts| artifacts.count)));
            add("warnings", json!((!result.warnings.is_empty()).then_some(&result.warnings)));
            add("outputs", json!((!result.outputs.is_empty()).then_some(&result.outputs)));
        }
    }
    fitted(facts)
}

/// The summary of a job that could not be done.
pub(super) fn of_failure(failure: &Failure) -> String {
    let reason = format!("{:#}", failure.error);
    fitted(Map::from_iter([
        ("exitCode".to_owned(), failure.exit.code().into()),
        ("reason".to_owned(), reason.into()),
    ]))
}

/// As text that is short enough: what a Run can make long is left out first.
fn fitted(mut facts: Map<String, Value>) -> String {
    let mut text = Value::Object(facts.clone()).to_string();
    for long in ["outputs", "warnings", "reason"] {
        if text.len() <= MOST {
            break;
        }
        if let Some(value) = facts.get_mut(long) {
            let short = value.as_str().map(|text| text.chars().take(500).collect::<String>());
            *value = short.map_or_else(|| "too long for this summary".into(), Value::from);
        }
        text = Value::Object(facts.clone()).to_string();
    }
    text
}

/// Keeps the whole result in the directory that takes the rest as well.
pub(super) fn keep(dir: &Path, result: &AttemptResult) -> anyhow::Result<()> {
    let keep = || -> io::Result<()> {
        fs::create_dir_all(dir)?;
        let fresh = dir.join("result.json.new");
        let mut file = fs::File::create(&fresh)?;
        serde_json::to_writer_pretty(&mut file, result)?;
        file.flush()?;
        file.sync_all()?;
        fs::rename(fresh, dir.join("result.json"))
    };
    keep().with_context(|| format!("the result cannot be kept in {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtimed_api::run::status::AttemptEnd;

    #[test]
    fn a_summary_fits_whatever_the_run_wrote() {
        let mut result = AttemptResult::bare(AttemptEnd::Completed);
        result.outputs = (0..64).map(|i| (format!("k{i}"), "v".repeat(1000))).collect();
        result.warnings = vec!["w".repeat(300); 100];
        result.reason = Some("\u{1}".repeat(1000));
        let text = of(Some("default/x"), 7, Some(&result));
        assert!(text.len() <= MOST, "{}", text.len());
        let read: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(read["exitCode"], 7);
        let failure = Failure::usage(anyhow::anyhow!("{}", "ü".repeat(5000)));
        let text = of_failure(&failure);
        assert!(text.len() <= MOST, "{}", text.len());
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON")["exitCode"], 120);
    }
}
