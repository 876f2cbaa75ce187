//! Patches on a person's own repository.

use std::fs;
use std::path::Path;

use git2::{Repository, Signature};

use crate::process::run_in;

const PATCH: &str = "diff --git a/file b/file
index 5626abf..814f4a4 100644
--- a/file
+++ b/file
@@ -1 +1,2 @@
 one
+two
";
const ELSEWHERE: &str = "diff --git a/../x b/../x
new file mode 100644
index 0000000..814f4a4
--- /dev/null
+++ b/../x
@@ -0,0 +1 @@
+two
";
const CI: &str = "diff --git a/.github/workflows/a.yml b/.github/workflows/a.yml
new file mode 100644
index 0000000..f719efd
--- /dev/null
+++ b/.github/workflows/a.yml
@@ -0,0 +1 @@
+two
";

/// A repository whose one commit has `file` with one line.
fn repository(dir: &Path) {
    let repository = Repository::init(dir).expect("a repository");
    fs::write(dir.join("file"), "one\n").expect("written");
    let mut index = repository.index().expect("an index");
    index.add_path(Path::new("file")).expect("added");
    index.write().expect("written");
    let tree = repository.find_tree(index.write_tree().expect("a tree")).expect("a tree");
    let who = Signature::now("A", "a@h.example").expect("a signature");
    repository.commit(Some("HEAD"), &who, &who, "one", &tree, &[]).expect("a commit");
}

#[test]
fn a_patch_is_checked_and_then_applied() {
    let dir = tempfile::tempdir().expect("a directory");
    repository(dir.path());
    fs::write(dir.path().join("fix.patch"), PATCH).expect("written");
    let said = run_in(dir.path(), &["patch", "check", "fix.patch"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.err.contains("applies: 1 file, +1 −0"), "{said:?}");
    assert_eq!(fs::read_to_string(dir.path().join("file")).expect("there"), "one\n", "nothing is written");

    let said = run_in(dir.path(), &["patch", "apply", "fix.patch"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(fs::read_to_string(dir.path().join("file")).expect("there"), "one\ntwo\n");
}

#[test]
fn a_change_of_ones_own_is_not_overwritten() {
    let dir = tempfile::tempdir().expect("a directory");
    repository(dir.path());
    fs::write(dir.path().join("fix.patch"), PATCH).expect("written");
    fs::write(dir.path().join("file"), "mine\n").expect("written");
    let said = run_in(dir.path(), &["patch", "apply", "fix.patch"]);
    assert_eq!(said.code, Some(121), "{said:?}");
    assert_eq!(fs::read_to_string(dir.path().join("file")).expect("there"), "mine\n");
}

#[test]
fn a_stack_applies_as_a_whole_or_not_at_all() {
    let dir = tempfile::tempdir().expect("a directory");
    repository(dir.path());
    fs::write(dir.path().join("one.patch"), PATCH).expect("written");
    let second = PATCH.replace("@@ -1 +1,2 @@\n one\n+two", "@@ -1,2 +1,3 @@\n one\n two\n+three");
    let second = second.replace("index 5626abf..814f4a4 100644\n", "");
    fs::write(dir.path().join("two.patch"), second).expect("written");
    let text = || fs::read_to_string(dir.path().join("file")).expect("there");
    let said = run_in(dir.path(), &["patch", "apply", "two.patch", "one.patch"]);
    assert!(said.code == Some(121) && said.err.contains("two.patch: "), "{said:?}");
    assert_eq!(text(), "one\n");
    let said = run_in(dir.path(), &["patch", "apply", "one.patch", "two.patch"]);
    assert_eq!((said.code, text().as_str()), (Some(0), "one\ntwo\nthree\n"), "{said:?}");
}

/// What a Run was sent need not be committed, and so its patch applies to the files as they are.
#[test]
fn a_patch_applies_to_files_that_are_not_committed() {
    let dir = tempfile::tempdir().expect("a directory");
    repository(dir.path());
    let at = |name: &str| dir.path().join(name);
    fs::write(at("fix.patch"), PATCH.replace("file", "untracked")).expect("written");
    fs::write(at("untracked"), "one\n").expect("written");
    fs::write(at("file"), "mine\n").expect("written");
    let said = run_in(dir.path(), &["patch", "apply", "fix.patch"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(fs::read_to_string(at("untracked")).expect("there"), "one\ntwo\n");
    assert_eq!(fs::read_to_string(at("file")).expect("there"), "mine\n", "not in the patch");
    // Through a symlink nothing is read and nothing is written.
    fs::remove_file(at("untracked")).expect("removed");
    std::os::unix::fs::symlink("file", at("untracked")).expect("linked");
    let said = run_in(dir.path(), &["patch", "apply", "fix.patch"]);
    assert_eq!(said.code, Some(121), "{said:?}");
    assert_eq!(fs::read_to_string(at("file")).expect("there"), "mine\n");
}

#[test]
fn a_refused_patch_is_named_by_its_rule() {
    let dir = tempfile::tempdir().expect("a directory");
    repository(dir.path());
    let check = |text: &str| {
        fs::write(dir.path().join("fix.patch"), text).expect("written");
        run_in(dir.path(), &["patch", "check", "fix.patch"])
    };
    let said = check(ELSEWHERE);
    assert!(said.code == Some(121) && said.err.contains("patch.traversal"), "{said:?}");
    let said = check("no patch at all\n");
    assert!(said.code == Some(121) && said.err.contains("patch.malformed"), "{said:?}");
    // On a person's own repository a policy's rule is a warning.
    let said = check(CI);
    assert!(said.code == Some(0) && said.err.contains("patch.protected-path"), "{said:?}");
    let nowhere = tempfile::tempdir().expect("a directory");
    fs::write(nowhere.path().join("fix.patch"), PATCH).expect("written");
    let said = run_in(nowhere.path(), &["patch", "check", "fix.patch"]);
    assert!(said.code == Some(120) && said.err.contains("no git repository"), "{said:?}");
}
