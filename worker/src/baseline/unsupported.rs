//! What a git source may hold that is not fetched: submodules, and files kept by Git LFS. Without them the workspace
//! would look whole and not be.

use git2::{ObjectType, Oid, Repository};
use runtimed_api::rule::Rule;

use super::small_blob;
use crate::failure::Failure;
use crate::fetch::store::git_failure;

/// Attributes files that are read.
const MAX_FILES: usize = 1000;
/// Bytes of one: as much as git reads.
const MAX_BYTES: usize = 100 << 20;
/// Entries of a tree that are looked at; more are refused when they are written out.
const MAX_ENTRIES: usize = 2_000_000;

/// Refuses a tree with a submodule, or with an attribute that gives a path to LFS.
pub(super) fn judge(store: &Repository, tree: Oid) -> Result<(), Failure> {
    let failed = |error: git2::Error| git_failure("read the source", &error);
    let mut pending = vec![(String::new(), tree)];
    let (mut entries, mut files) = (0, 0);
    while let Some((directory, id)) = pending.pop() {
        for entry in &store.find_tree(id).map_err(failed)? {
            entries += 1;
            let path = || format!("{directory}{}", String::from_utf8_lossy(entry.name_bytes()));
            match entry.kind() {
                Some(ObjectType::Commit) => {
                    return Err(unsupported(&path(), "submodules are not fetched"));
                }
                Some(ObjectType::Tree) => pending.push((path() + "/", entry.id())),
                Some(ObjectType::Blob) if entry.name_bytes() == b".gitattributes" && files < MAX_FILES => {
                    files += 1;
                    let content = small_blob(store, entry.id(), MAX_BYTES).map_err(failed)?;
                    if content.is_some_and(|content| names_lfs(&content)) {
                        return Err(unsupported(&path(), "it gives files to Git LFS, which are not fetched"));
                    }
                }
                _ => {}
            }
            if entries > MAX_ENTRIES {
                return Err(unsupported("", "the source has more than 2,000,000 files and directories"));
            }
        }
    }
    Ok(())
}

fn unsupported(path: &str, why: &str) -> Failure {
    let message = if path.is_empty() { why.to_owned() } else { format!("{path:?}: {why}") };
    Failure::refused(Rule::SOURCE_UNSUPPORTED, "spec.source.git", message)
}

/// Whether a line, which is no comment, sets the attribute `filter=lfs`.
fn names_lfs(content: &[u8]) -> bool {
    let lines = content.split(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"#"));
    let mut words = lines.flat_map(|line| line.split(u8::is_ascii_whitespace).skip(1));
    words.any(|word| word == b"filter=lfs")
}

#[cfg(test)]
mod tests {
    use super::names_lfs;

    #[test]
    fn only_a_set_attribute_counts() {
        assert!(names_lfs(b"* text\n*.bin filter=lfs diff=lfs merge=lfs -text\r\n"));
        for other in
            [&b"# *.bin filter=lfs\n"[..], b"filter=lfs\n", b"*.bin -filter\n", b"*.bin filter=lfsx\n", b""]
        {
            assert!(!names_lfs(other), "{}", String::from_utf8_lossy(other));
        }
    }
}
