//! Prior patches: all of them, or nothing.

use runtimed_api::ids::TreeId;
use runtimed_api::link::{PriorPatch, Source};
use tempfile::TempDir;

use crate::git::Repository;
use crate::harness::Daemon;
use crate::source::at;

struct Spool(TempDir);

impl Spool {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn patch(&self, name: &str, bytes: &str) -> PriorPatch {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        PriorPatch {
            path: path.to_str().unwrap().to_owned(),
            label: name.to_owned(),
            base: None,
            result: None,
        }
    }
}

/// Two patches on top of `main`, as git makes them, and the trees after each.
fn stack(repository: &Repository, spool: &Spool) -> (Vec<PriorPatch>, Vec<TreeId>) {
    let mut patches = Vec::new();
    let mut trees = vec![repository.id("main^{tree}").parse().unwrap()];
    for (name, content) in [("one", "third\n"), ("two", "fourth\n")] {
        repository.write("readme", content);
        repository.write(name, content);
        repository.git(&["add", "."]);
        patches.push(
            spool.patch(name, &(repository.git(&["diff", "--cached", "--binary", "--full-index"]) + "\n")),
        );
        trees.push(repository.git(&["write-tree"]).parse().unwrap());
        repository.git(&["commit", "-qm", name]);
    }
    repository.git(&["reset", "-q", "--hard", "HEAD~2"]);
    (patches, trees)
}

#[test]
fn a_stack_is_applied_and_its_trees_are_the_stated_ones() {
    let (repository, spool) = (Repository::new(), Spool::new());
    let (mut patches, trees) = stack(&repository, &spool);
    for (index, patch) in patches.iter_mut().enumerate() {
        patch.base = Some(trees[index].clone());
        patch.result = Some(trees[index + 1].clone());
    }
    let mut daemon = Daemon::new();
    daemon.assign_patched(Source::Git(at(repository.bare().to_str().unwrap(), None)), patches);
    let baseline = daemon.baseline();
    assert_eq!(baseline.tree.as_ref(), trees.last());
    assert_eq!(baseline.commit.unwrap().as_str(), repository.id("main"));
    let steps: Vec<_> = baseline.steps.iter().map(|step| step.step.as_str()).collect();
    assert_eq!(steps, ["source", "patches"]);
    let (_, stdout, captured, _) = daemon.complete(&["cat", "readme", "one", "two"]);
    assert_eq!(stdout, "fourth\nthird\nfourth\n");
    assert!(captured.patch.is_none(), "the Baseline holds the prior patches");
}

#[test]
fn an_empty_workspace_can_be_patched() {
    let spool = Spool::new();
    let patch = spool.patch("new", "diff --git a/x b/x\nnew file mode 100644\nindex 0000000..9daeafb\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+test\n");
    let mut daemon = Daemon::new();
    daemon.assign_patched(Source::Empty, vec![patch]);
    assert!(daemon.baseline().tree.is_some());
    assert_eq!(daemon.complete(&["cat", "x"]).1, "test\n");
}

#[test]
fn one_bad_patch_refuses_all_and_leaves_the_workspace_as_it_was() {
    let (repository, spool) = (Repository::new(), Spool::new());
    let (good, trees) = stack(&repository, &spool);
    let [one, two] = <[PriorPatch; 2]>::try_from(good).unwrap();
    let other: TreeId = "1234567890123456789012345678901234567890".parse().unwrap();
    let outside = "diff --git a/../x b/../x\nnew file mode 100644\nindex 0000000..9daeafb\n--- /dev/null\n+++ b/../x\n@@ -0,0 +1 @@\n+test\n";
    let link = "diff --git a/l b/l\nnew file mode 120000\nindex 0000000..9daeafb\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+/etc/passwd\n\\ No newline at end of file\n";
    for (stack, rule) in [
        (vec![one.clone(), spool.patch("garbage", "no patch at all")], "patch.malformed"),
        (vec![one.clone(), spool.patch("outside", outside)], "patch.traversal"),
        (vec![one.clone(), spool.patch("link", link)], "patch.symlink"),
        (vec![two.clone()], "patch.does-not-apply"),
        (vec![PriorPatch { base: Some(other.clone()), ..one.clone() }], "patch.base-mismatch"),
        (
            vec![one.clone(), PriorPatch { base: Some(trees[0].clone()), ..two.clone() }],
            "patch.base-mismatch",
        ),
        (vec![PriorPatch { result: Some(other), ..one.clone() }], "patch.tree-mismatch"),
    ] {
        let mut daemon = Daemon::new();
        daemon.assign_patched(Source::Git(at(repository.bare().to_str().unwrap(), None)), stack);
        assert_eq!(daemon.refused(), [rule]);
        assert_eq!(daemon.exit_code(), 0);
        assert!(daemon.trees.files().is_empty(), "{rule}");
    }
}
