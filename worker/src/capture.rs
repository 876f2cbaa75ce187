//! The capture: what the command changed, as a Patch. It runs in a child of its own, after the command's tree is dead.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::BorrowedFd;

use runtimed_api::ids::TreeId;
use runtimed_api::link::{Capture, PatchFacts, Trees};
use runtimed_api::problem::Code;
use runtimed_patch as patch;
use rustix::fs::{RawDir, SeekFrom};

use crate::baseline::snapshot_path;
use crate::failure::{Failure, storage};
use crate::fetch::store::{self, git_failure};
use crate::report::Collected;

/// Whether a directory has no entry: then a workspace that began empty has no Patch, and nobody needs to look closer.
pub(crate) fn is_empty(directory: BorrowedFd<'_>) -> bool {
    let mut space = [std::mem::MaybeUninit::uninit(); 1024];
    let mut listing = RawDir::new(directory, &mut space);
    let mut empty = true;
    while let Some(entry) = listing.next() {
        empty = matches!(entry.as_ref().map(|entry| entry.file_name().to_bytes()), Ok(b"." | b".."));
        if !empty {
            break;
        }
    }
    // The capture child lists it from the start again.
    rustix::fs::seek(directory, SeekFrom::Start(0)).is_ok() && empty
}

/// The body of the capture child: writes the Patch to `out`.
pub(crate) fn capture(
    asked: &Capture,
    trees: &Trees,
    baseline: Option<&TreeId>,
    workspace: BorrowedFd<'_>,
    out: BorrowedFd<'_>,
) -> Result<Collected, Failure> {
    let snapshot = snapshot(trees, baseline)?;
    let ignored = if asked.include_ignored { patch::Ignored::Include } else { patch::Ignored::Skip };
    let options = patch::CaptureOptions {
        ignored,
        max_patch_bytes: asked.max_bytes,
        max_files: usize::try_from(asked.max_files).unwrap_or(usize::MAX),
        max_changed_bytes: asked.max_changed_bytes,
        reveal: asked.reveal,
        ..patch::CaptureOptions::default()
    };
    let open = || git2::Repository::open_bare(store::path(trees));
    let out = out.try_clone_to_owned().map_err(|error| storage("write the patch", &error))?;
    let mut out = BufWriter::new(File::from(out));
    let captured = patch::capture(workspace, &snapshot, &options, open, &mut out).map_err(failure)?;
    out.flush().map_err(|error| storage("write the patch", &error))?;
    let patch = (captured.base != captured.result).then(|| facts(&captured)).transpose()?;
    Ok(Collected { patch, notes: notes(&captured) })
}

/// What the workspace held when the command began.
fn snapshot(trees: &Trees, baseline: Option<&TreeId>) -> Result<patch::Snapshot, Failure> {
    let Some(baseline) = baseline else {
        let store = store::open_or_create(trees)?;
        let empty = patch::Snapshot::of_tree(&store, patch::TreeId::empty());
        return empty
            .map_err(|error| failed(format!("the object store cannot be used: {}", error.message())));
    };
    let bytes = std::fs::read(snapshot_path(trees))
        .map_err(|error| storage("read what was in the workspace", &error))?;
    let snapshot = patch::Snapshot::from_bytes(&bytes).map_err(|error| failed(error.to_string()))?;
    if snapshot.tree().to_string() != baseline.as_str() {
        return Err(failed("what was noted of the workspace is not its Baseline".to_owned()));
    }
    Ok(snapshot)
}

fn facts(captured: &patch::Captured) -> Result<PatchFacts, Failure> {
    let id =
        |tree: patch::TreeId| TreeId::try_from(tree.to_string()).map_err(|error| failed(error.to_string()));
    Ok(PatchFacts {
        size: captured.bytes,
        revealed: captured.revealed,
        files: u32::try_from(captured.files).unwrap_or(u32::MAX),
        insertions: captured.insertions,
        deletions: captured.deletions,
        base: id(captured.base)?,
        result: id(captured.result)?,
    })
}

/// A sentence for each thing that was left out, the count of the rest, and the count of what is ignored.
fn notes(captured: &patch::Captured) -> Vec<String> {
    let said = |skipped: &patch::Skipped| {
        let why = match skipped.reason {
            patch::SkipReason::NestedRepository => "a repository that the command made is not in the patch",
            patch::SkipReason::UnusablePath => "no tree may have such a path",
            patch::SkipReason::SpecialFile => "sockets, pipes and devices are not in the patch",
            patch::SkipReason::Unreadable => "it may not be read",
        };
        format!("{}: {why}", skipped.path)
    };
    let mut notes: Vec<_> = captured.skipped.iter().take(MAX_SKIPPED).map(said).collect();
    let told = u64::try_from(notes.len()).unwrap_or(u64::MAX);
    if let more @ 1.. = captured.skipped_total.saturating_sub(told) {
        notes.push(format!("{more} more were left out of the patch"));
    }
    if captured.ignored_total > 0 {
        notes.push(format!("{} ignored files and directories are not in the patch", captured.ignored_total));
    }
    notes
}

/// Left-out files that are named; two notes are kept for the counts.
const MAX_SKIPPED: usize = 98;

fn failure(error: patch::CaptureError) -> Failure {
    use patch::CaptureError as E;
    match error {
        E::TooManyEntries(_) | E::TooManyFiles(_) | E::ContentTooLarge { .. } | E::PatchTooLarge(_) => {
            failed(format!("there is no patch: {error}"))
                .lasting()
                .hint("ignore what need not be in it with .gitignore, or keep it as artifacts")
        }
        E::Io { path, source } => storage(&format!("read {path} in the workspace"), &source),
        E::Write(error) => storage("write the patch", &error),
        E::Store(error) if error.class() == git2::ErrorClass::NoMemory => {
            git_failure("make the patch", &error)
        }
        E::Store(error) => failed(format!("the patch could not be made: {}", error.message())),
    }
}

fn failed(message: String) -> Failure {
    Failure::fault(Code::CaptureFailed, message)
}
