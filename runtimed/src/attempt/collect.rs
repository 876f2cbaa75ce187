//! Step 11 but for the worker's part: the patch is judged, outputs and artifacts are read, after the tree is dead.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use runtimed_api::digest::Digest;
use runtimed_api::link::{PatchFacts, layout};
use runtimed_api::manifest::Manifest;
use runtimed_api::problem::{Chain, Code, Problem};
use runtimed_api::rule::{Refusal, Rule};
use runtimed_api::run::limits::Limits;
use runtimed_api::run::status::{ArtifactSummary, Patch};
use runtimed_sandbox::beneath::{self, BeneathError};

use super::workspace::{Workspace, blocking};
use super::{Attempt, storage};
use crate::redact::Redactor;
use crate::{artifacts, outputs};

/// Where the patch is in the spool.
pub(super) const PATCH: &str = "patch";

/// How long artifacts may be collected.
const COLLECT: Duration = Duration::from_secs(600);

/// The spool of an attempt, made when it is needed.
pub(super) fn spool(attempt: &Attempt) -> Result<&Path, Problem> {
    let path = &attempt.live.spool;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| storage("the spool cannot be made", &error))?;
    Ok(path)
}

/// The file that takes the patch's bytes: none on a disk where there is nothing to take, for the inodes of a file system
/// with a journal are dear when many come and go (ext4 passes over each that was freed in the last seconds).
pub(super) fn patch_file(attempt: &Attempt, workspace: &Workspace) -> Result<File, Problem> {
    let nothing = attempt.result.baseline.is_none() && is_empty(workspace, layout::WORKSPACE);
    let path = if nothing { PathBuf::from("/dev/null") } else { spool(attempt)?.join(PATCH) };
    let opened = OpenOptions::new().create(true).truncate(true).read(true).write(true).mode(0o600).open(path);
    opened.map_err(|error| storage("the spool cannot be written", &error))
}

/// Takes the captured patch in: its bytes are hashed and searched for secrets here, and nothing else is believed. What the
/// worker wrote behind them was for the search alone, and does not stay.
pub(super) fn patch(attempt: &mut Attempt, mut file: File, facts: Option<PatchFacts>) -> Result<(), Problem> {
    let Some(facts) = facts else { return Ok(()) };
    let PatchFacts { size, revealed, files, insertions, deletions, base, result } = facts;
    let unread = |error: io::Error| storage("the patch cannot be read", &error);
    let written = file.metadata().map_err(unread)?.len();
    if size > attempt.daemon.config.patches.max_bytes.0
        || written.checked_sub(size) != Some(revealed.unwrap_or(0))
    {
        return Err(Problem::new(Code::CaptureFailed, "the patch is not as long as the worker said"));
    }
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.by_ref().take(size).read_to_end(&mut bytes)).map_err(unread)?;
    // The file stands behind the patch now.
    let found = secret_in(&attempt.redactor, &bytes, revealed.map(|_| &mut file)).map_err(unread)?;
    file.set_len(size).map_err(|error| storage("the patch cannot be cut", &error))?;
    let withheld = found.map(|why| {
        Refusal::new(Rule::PATCH_CONTAINS_SECRET, "patch", why)
            .hint("keep the command from writing the secret into the workspace")
    });
    let digest = withheld.is_none().then(|| Digest::of(&bytes));
    attempt.live.set(|now| now.patch = digest);
    attempt.result.patch = Some(Patch { digest, size, files, insertions, deletions, base, result, withheld });
    Ok(())
}

/// Why a patch may not be kept for the secrets of its Run. What cannot be read in it is in `revealed`; without that, a
/// patch of binary files is not kept at all.
fn secret_in(
    redactor: &Redactor,
    patch: &[u8],
    revealed: Option<impl Read>,
) -> io::Result<Option<&'static str>> {
    const BINARY: &[u8] = b"\nGIT binary patch\n";
    if redactor.needles().is_none() {
        return Ok(None);
    }
    const HOLDS: &str = "it holds a staged secret, so it was not kept";
    if redactor.finds_in(patch) || [b'+', b'-'].iter().any(|mark| redactor.finds_in(&side(patch, *mark))) {
        return Ok(Some(HOLDS));
    }
    let Some(revealed) = revealed else {
        let binary = patch.windows(BINARY.len()).any(|window| window == BINARY);
        return Ok(binary.then_some(
            "it changes binary files that are too large to be searched for the staged secrets, so it was not kept",
        ));
    };
    Ok(redactor.finds_in_stream(revealed)?.then_some(HOLDS))
}

/// The lines that the files have after a patch (`+`) or before it (`-`), without what the patch puts before each: an encoding that is
/// broken into lines is in those alone.
fn side(patch: &[u8], mark: u8) -> Vec<u8> {
    let lines = patch.split_inclusive(|byte| *byte == b'\n');
    let content = lines.filter_map(|line| {
        let (first, content) = line.split_first()?;
        (*first == mark || *first == b' ').then_some(content)
    });
    content.flatten().copied().collect()
}

/// Reads outputs and artifacts. What cannot be read becomes a warning: the Outcome stands.
pub(super) async fn collect(attempt: &mut Attempt, limits: &Limits, workspace: &Workspace) {
    match beneath::read_capped(workspace.home.fd(), &outputs_path(), outputs::MAX_BYTES) {
        Ok(bytes) => match outputs::parse(&bytes) {
            Ok(outputs) if outputs.keys().any(|key| attempt.redactor.finds_in(key.as_bytes())) => {
                let refused = "outputs were refused: a key holds a staged secret";
                attempt.result.warnings.push(refused.to_owned());
            }
            Ok(outputs) => attempt.result.outputs = outputs,
            Err(error) => attempt.result.warnings.push(error.to_string()),
        },
        Err(BeneathError::Missing { .. }) => {}
        Err(error) => attempt.result.warnings.push(format!("outputs were refused: {}", Chain(&error))),
    }
    if let Err(problem) = collect_artifacts(attempt, limits, workspace).await {
        attempt.result.warnings.push(format!("artifacts were not collected: {problem}"));
    }
}

async fn collect_artifacts(
    attempt: &mut Attempt,
    limits: &Limits,
    workspace: &Workspace,
) -> Result<(), Problem> {
    let globs = attempt.lease.run.spec.artifacts.paths.clone();
    if globs.is_empty() && is_empty(workspace, layout::ARTIFACTS) {
        return Ok(());
    }
    let failed = |error: &(dyn std::error::Error + 'static)| storage("artifacts cannot be spooled", error);
    let place = spool(attempt)?.to_owned();
    let whole = workspace.whole.as_ref().map(|whole| whole.workspace.fd().try_clone_to_owned());
    let places = artifacts::Places {
        tree: workspace.workspace.fd().try_clone_to_owned().map_err(|error| failed(&error))?,
        workspace: whole.transpose().map_err(|error| failed(&error))?,
    };
    let redactor = attempt.redactor.clone();
    // A Run gets no more of the daemon's disk than of its own.
    let most = limits.disk.map_or(u64::MAX, |disk| disk.0);
    let enough = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&enough);
    let mut collecting =
        std::pin::pin!(blocking(move || artifacts::collect(&places, &globs, &redactor, &place, most, &told)));
    let manifest = tokio::select! {
        manifest = &mut collecting => manifest,
        () = attempt.live.hurried() => stop(&enough, collecting).await,
        () = tokio::time::sleep(COLLECT) => stop(&enough, collecting).await,
    }?;
    let manifest = manifest.map_err(|error| failed(&error))?;
    if manifest.files.is_empty() && manifest.skipped.is_empty() {
        return Ok(());
    }
    attempt.result.artifacts = Some(summary(&manifest, &attempt.live.spool)?);
    attempt.live.set(|now| now.manifest = Some(Arc::new(manifest)));
    Ok(())
}

/// Has the collection stop, which it does between two pieces of a file, and waits for that.
async fn stop<T>(enough: &AtomicBool, collecting: impl Future<Output = T>) -> T {
    enough.store(true, Ordering::Relaxed);
    collecting.await
}

/// Writes the manifest into the spool, under its digest like every other blob.
fn summary(manifest: &Manifest, spool: &Path) -> Result<ArtifactSummary, Problem> {
    let json = serde_json::to_vec(manifest).map_err(|error| {
        Problem::new(Code::CaptureFailed, format!("the manifest cannot be written: {error}"))
    })?;
    let digest = Digest::of(&json);
    fs::write(spool.join(digest.hex()), &json)
        .map_err(|error| storage("the manifest cannot be spooled", &error))?;
    Ok(ArtifactSummary {
        manifest: digest,
        count: u32::try_from(manifest.files.len()).unwrap_or(u32::MAX),
        bytes: manifest.files.iter().map(|file| file.size).sum(),
        skipped: u32::try_from(manifest.skipped.len()).unwrap_or(u32::MAX),
    })
}

/// Whether a directory of the workspace tree has nothing in it, as far as it can be seen.
fn is_empty(workspace: &Workspace, directory: &str) -> bool {
    let limits = beneath::Limits { entries: 2, depth: 1 };
    beneath::walk(workspace.workspace.fd(), Path::new(directory), limits)
        .is_ok_and(|mut walk| walk.next().is_none())
}

fn outputs_path() -> PathBuf {
    Path::new(layout::OUTPUTS_DIR).join(layout::OUTPUTS_FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoding_in_lines_is_found_in_what_a_patch_adds_and_takes_away() {
        let secret: String =
            (0..90_u32).map(|i| char::from(b'!' + u8::try_from(i * 7 % 90).unwrap_or(0))).collect();
        let redactor = Redactor::default();
        redactor.register(&[("x", secret.as_bytes())]).expect("registers");
        let encoded = secret.bytes().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>();
        let lines: Vec<String> = encoded.chunks(30).map(<[String]>::concat).collect();
        assert_eq!(lines.len(), 3);
        let patch = |marks: [&str; 3], other: &str| {
            let hunk: String =
                marks.iter().zip(&lines).map(|(mark, line)| format!("{mark}{line}\n{other}")).collect();
            format!("diff --git a/t b/t\n--- a/t\n+++ b/t\n@@ -1,3 +1,3 @@\n{hunk}")
        };
        let found = |patch: String| {
            secret_in(&redactor, patch.as_bytes(), Some(io::empty())).expect("it is read").is_some()
        };
        // New lines, removed ones, some that were there before, and others between that are of the other side.
        for (marks, other) in [
            (["+", "+", "+"], ""),
            (["-", "-", "-"], ""),
            (["+", " ", "+"], ""),
            (["+", "+", "+"], "-something\n"),
        ] {
            assert!(found(patch(marks, other)), "{}", patch(marks, other));
        }
        assert!(!found(patch(["+", "-", "+"], "")), "neither side has it");
        assert!(!found(patch(["+", "+", "+"], "+something\n")));
    }
}
