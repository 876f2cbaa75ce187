//! Any bytes as a patch: nothing panics, and what is accepted names and makes only paths that a tree may have.
#![no_main]

use std::sync::OnceLock;

use git2::{Oid, Repository};
use libfuzzer_sys::fuzz_target;
use runtimed_patch::{Enforce, Limits, PathPolicy, Snapshot, TreeId, check, parse};

/// Small bounds: what is slow only for being large is of no interest.
fn limits() -> Limits {
    Limits { max_bytes: 1 << 16, max_files: 64, max_expanded_bytes: 1 << 20, ..Limits::default() }
}

/// A store with one tree: `file` (three lines), `dir/x`, and `link`, which leads to `dir`. Each input has a handle of its own,
/// for new objects stay in its memory.
fn store() -> (Repository, TreeId) {
    static STORE: OnceLock<(tempfile::TempDir, TreeId)> = OnceLock::new();
    let (place, tree) = STORE.get_or_init(|| {
        let place = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(place.path()).unwrap();
        let blob = |text: &str| repo.blob(text.as_bytes()).unwrap();
        let directory = |entries: &[(&str, Oid, i32)]| {
            let mut directory = repo.treebuilder(None).unwrap();
            for (name, id, mode) in entries {
                directory.insert(name, *id, *mode).unwrap();
            }
            directory.write().unwrap()
        };
        let inner = directory(&[("x", blob("x\n"), 0o100_755)]);
        let root = directory(&[
            ("file", blob("one\ntwo\nthree\n"), 0o100_644),
            ("link", blob("dir"), 0o120_000),
            ("dir", inner, 0o040_000),
        ]);
        (place, TreeId::new(root))
    });
    (Repository::open_bare(place.path()).unwrap(), *tree)
}

fuzz_target!(|bytes: &[u8]| {
    let limits = limits();
    let Ok(parsed) = parse(bytes, &limits) else { return };
    for path in parsed.paths() {
        path.judge().unwrap();
    }
    let (repo, tree) = store();
    let permissive = PathPolicy::new(true, [], []).unwrap();
    let stack = [parsed];
    let strict = check(&repo, tree, &stack, &PathPolicy::default(), Enforce::All, &limits);
    let Ok(checked) = check(&repo, tree, &stack, &permissive, Enforce::All, &limits) else {
        assert!(strict.is_err(), "a stricter policy accepts no more");
        return;
    };
    if let Ok(strict) = strict {
        assert_eq!(strict.tree, checked.tree);
    }
    // Readable as a whole: every entry is of a known mode, at a path of bounded length.
    Snapshot::of_tree(&repo, checked.tree).unwrap();
});
