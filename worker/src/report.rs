//! What a phase child tells the supervisor, over a pipe, once, before it ends.
//!
//! The child may have been taken over by what it parsed. So its report is bounded bytes of JSON of our own types, whose
//! ids are checked as they are read, and whose sentences are cut and cleaned.

use std::io::{PipeWriter, Write};

use runtimed_api::ids::TreeId;
use runtimed_api::link::PatchFacts;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, clean};

/// The most bytes that a report may have.
pub(crate) const MAX_REPORT: usize = 256 * 1024;

/// What every phase's result is: sentences for the reader of the Run's result among it.
pub(crate) trait Found: Serialize + DeserializeOwned {
    /// The sentences, to be cut and cleaned.
    fn notes(&mut self) -> &mut Vec<String>;
}

/// A fetch that succeeded.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fetched {
    pub(crate) content: Content,
    pub(crate) notes: Vec<String>,
}

/// What a fetch has brought into the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Content {
    /// The commit that was asked for, or that the ref names.
    Commit(TreeId),
    /// The tree of an archive.
    Tree(TreeId),
}

/// A workspace with its first content and every prior patch.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Applied {
    /// The Baseline.
    pub(crate) tree: TreeId,
    pub(crate) notes: Vec<String>,
}

/// A Patch that was written, or the news that nothing changed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Collected {
    pub(crate) patch: Option<PatchFacts>,
    pub(crate) notes: Vec<String>,
}

impl Found for Fetched {
    fn notes(&mut self) -> &mut Vec<String> {
        &mut self.notes
    }
}

impl Found for Applied {
    fn notes(&mut self) -> &mut Vec<String> {
        &mut self.notes
    }
}

impl Found for Collected {
    fn notes(&mut self) -> &mut Vec<String> {
        &mut self.notes
    }
}

/// Notes of one report that are kept.
const MAX_NOTES: usize = 100;

/// Writes the report; the child's exit code says whether that worked.
pub(crate) fn write<T: Found>(mut pipe: &PipeWriter, found: &Result<T, Failure>) -> i32 {
    let bytes = serde_json::to_vec(found).map_err(std::io::Error::from);
    i32::from(bytes.and_then(|bytes| pipe.write_all(&bytes)).is_err())
}

/// Reads a report that is complete; `None` if it is none.
pub(crate) fn read<T: Found>(bytes: &[u8]) -> Option<Result<T, Failure>> {
    let found: Result<T, Failure> = serde_json::from_slice(bytes).ok()?;
    Some(match found {
        Ok(mut found) => {
            found.notes().truncate(MAX_NOTES);
            found.notes().iter_mut().for_each(clean);
            Ok(found)
        }
        Err(failure) => Err(failure.cleaned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_is_none_is_no_report() {
        assert!(read::<Fetched>(br#"{"Ok":{"content":{"Commit":"../../etc/passwd"},"notes":[]}}"#).is_none());
        let id = "a".repeat(40);
        let good = format!(r#"{{"Ok":{{"content":{{"Commit":"{id}"}},"notes":["a\u001b[0m"]}}}}"#);
        let fetched = read::<Fetched>(good.as_bytes()).expect("a report").expect("found");
        assert_eq!(fetched.content, Content::Commit(id.parse().unwrap()));
        assert_eq!(fetched.notes, ["a\u{fffd}[0m"]);
    }

    #[test]
    fn notes_are_bounded() {
        let many = Ok(Applied { tree: "b".repeat(40).parse().unwrap(), notes: vec![String::from("n"); 500] });
        let bytes = serde_json::to_vec::<Result<Applied, Failure>>(&many).unwrap();
        assert_eq!(read::<Applied>(&bytes).unwrap().unwrap().notes.len(), MAX_NOTES);
    }
}
