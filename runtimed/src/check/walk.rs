//! Walking the files of a container, within bounds and without leaving a file system.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Calls `each` for everything beneath `top`, itself included, that is on the same file system and not beneath one of
/// `except`, up to `most` of it. Links are not followed. Returns whether all was seen.
pub(super) fn walk(
    top: &Path,
    except: &BTreeSet<PathBuf>,
    most: usize,
    mut each: impl FnMut(&Path, &Metadata),
) -> bool {
    let Ok(first) = fs::symlink_metadata(top) else { return false };
    let device = first.dev();
    let mut pending = vec![(top.to_owned(), first)];
    let (mut whole, mut seen) = (true, 0_usize);
    while let Some((path, metadata)) = pending.pop() {
        each(&path, &metadata);
        seen += 1;
        if seen >= most {
            return false;
        }
        if !metadata.is_dir() {
            continue;
        }
        // Nobody but its owner enters it, so that nothing beneath it is open to anybody else.
        let Ok(entries) = fs::read_dir(&path) else {
            whole = false;
            continue;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            if metadata.dev() == device && !except.contains(&path) {
                pending.push((path, metadata));
            }
        }
    }
    whole
}
