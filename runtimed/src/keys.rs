//! The controller's public keys in a file, for a pod that does not take the controller's own word for them.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use runtimed_api::parse;
use runtimed_api::problem::{Code, Problem};
use runtimed_api::provenance::KeyHistory;

/// The largest file, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Reads the file, as `GET /v1/keys` gives it. It is read for each use, so that a key that is taken out is out at once.
///
/// # Errors
/// It cannot be read, or is not such a file.
pub(crate) fn read(path: &Path) -> Result<KeyHistory, Problem> {
    let unusable = |why: String| {
        let message = format!("the controller's keys in {} cannot be used: {why}", path.display());
        Problem::new(Code::Internal, message).hint("the operator can fetch them anew from /v1/keys")
    };
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|error| unusable(error.to_string()))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(unusable("the file is larger than 1 MiB".to_owned()));
    }
    parse::json(&bytes).map_err(|error| unusable(error.to_string()))
}
