//! One hostile patch for each rule, and some that look harmless.

use std::os::unix::fs::symlink;

use runtimed_patch::{CheckError, Enforce, Limits, PathPolicy, Refusal, Rule, TreeId, check, parse};

use crate::git::{Git, check_with};

fn repository() -> (Git, TreeId) {
    let git = Git::new();
    git.write("file", "one\ntwo\nthree\n");
    git.write("tool", "run\n");
    git.write("dir/inner", "x\n");
    symlink("dir", git.join("link")).unwrap();
    let tree = git.tree();
    (git, tree)
}

fn refusal(stack: &[&[u8]]) -> Refusal {
    let (git, base) = repository();
    match check_with(&git, base, stack, &PathPolicy::default()) {
        Err(CheckError::Refused(refusal)) => refusal,
        other => panic!("expected a refusal of {}, got {other:?}", stack[0].escape_ascii()),
    }
}

fn refused(patch: impl AsRef<[u8]>) -> Rule {
    refusal(&[patch.as_ref()]).rule
}

fn new_file(path: &str, mode: &str) -> String {
    format!(
        "diff --git a/{path} b/{path}\nnew file mode {mode}\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+x\n"
    )
}

const CHANGE: &str = "--- a/file\n+++ b/file\n@@ -1,3 +1,3 @@\n-one\n+ONE\n two\n three\n";

#[test]
fn paths() {
    for (path, rule) in [
        ("../x", Rule::Traversal),
        ("dir/../../x", Rule::Traversal),
        ("/etc/passwd", Rule::Traversal),
        ("dir//x", Rule::Traversal),
        ("./x", Rule::Traversal),
        (".git/hooks/pre-commit", Rule::PathDotGit),
        ("dir/.GIT/config", Rule::PathDotGit),
        ("git~1/config", Rule::PathDotGit),
        (".git. /config", Rule::PathDotGit),
        (".github/workflows/x.yml", Rule::ProtectedPath),
        (".gitmodules", Rule::ProtectedPath),
        ("sub/.gitattributes", Rule::ProtectedPath),
        ("link/x", Rule::BeneathSymlink),
        ("file/x", Rule::DoesNotApply),
        ("file", Rule::DoesNotApply),
        ("dir", Rule::DoesNotApply),
    ] {
        assert_eq!(refused(new_file(path, "100644")), rule, "{path}");
    }
    assert_eq!(refused(new_file(&"x".repeat(300), "100644")), Rule::PathInvalid);
    let quoted = "diff --git \"a/.g\\342\\200\\214it/x\" \"b/.g\\342\\200\\214it/x\"\nnew file mode 100644\n\
                  index 0000000..e69de29\n";
    assert_eq!(refused(quoted), Rule::PathDotGit);
}

#[test]
fn modes_and_kinds() {
    assert_eq!(refused(new_file("x", "104755")), Rule::Mode);
    assert_eq!(refused(new_file("x", "100666")), Rule::Mode);
    assert_eq!(refused(new_file("x", "040000")), Rule::Mode);
    assert_eq!(refused(new_file("x", "120000")), Rule::Symlink);
    assert_eq!(refused(new_file("x", "160000")), Rule::Gitlink);
    assert_eq!(refused("diff --git a/file b/file\nold mode 100644\nnew mode 104755\n"), Rule::Mode);
    assert_eq!(refused("diff --git a/file b/file\nold mode 100644\nnew mode 120000\n"), Rule::Malformed);
}

#[test]
fn a_tracked_symlink_is_retargeted_without_a_mode_line() {
    let retarget = "diff --git a/link b/link\n--- a/link\n+++ b/link\n@@ -1 +1 @@\n-dir\n\\ No newline at end of file\n\
                    +/etc\n\\ No newline at end of file\n";
    assert_eq!(refused(retarget), Rule::Symlink);
    let (git, base) = repository();
    let allowing = PathPolicy::new(true, [], []).unwrap();
    let outside = check_with(&git, base, &[retarget.as_bytes()], &allowing).unwrap_err();
    assert!(matches!(outside, CheckError::Refused(Refusal { rule: Rule::SymlinkEscapes, .. })), "{outside}");
    let inside = retarget.replace("/etc", "file");
    check_with(&git, base, &[inside.as_bytes()], &allowing).unwrap();
}

#[test]
fn a_later_patch_cannot_write_through_the_symlink_of_an_earlier_one() {
    let (git, base) = repository();
    let link = "diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+dir\n\
                \\ No newline at end of file\n";
    let through = new_file("l/x", "100644");
    let allowing = PathPolicy::new(true, [], []).unwrap();
    let error = check_with(&git, base, &[link.as_bytes(), through.as_bytes()], &allowing).unwrap_err();
    let CheckError::Refused(refusal) = error else { panic!("{error}") };
    assert_eq!((refusal.patch, refusal.rule), (1, Rule::BeneathSymlink));
    let both = format!("{link}{through}");
    let error = check_with(&git, base, &[both.as_bytes()], &allowing).unwrap_err();
    assert!(matches!(error, CheckError::Refused(_)), "{error}");
}

#[test]
fn what_is_not_a_patch() {
    let file = "diff --git a/file b/file\n";
    for garbage in [
        "garbage".to_owned(),
        "\n".to_owned(),
        CHANGE.to_owned(),
        file.to_owned(),
        format!("{file}{CHANGE}@@ -9 +9 @@ x\n"),
        format!("{file}--- a/file\n+++ b/file\n"),
        format!("{file}--- a/file\n+++ b/file\n@@ -1,9 +1,9 @@\n-one\n+ONE\n two\n three\n"),
        format!("{file}--- a/file\n+++ b/file\n@@ -1,2 +1,2 @@\n-one\n+ONE\n two\n three\n"),
        format!("{file}--- a/tool\n+++ b/file\n@@ -1 +1 @@\n-one\n+ONE\n"),
        format!("diff --git a/file b/tool\n{CHANGE}"),
        format!("diff --git file file\n{}", CHANGE.replace("a/", "").replace("b/", "")),
        format!("{file}similarity index 100%\nrename from file\n"),
        format!("{file}unknown header\n{CHANGE}"),
        format!("{file}deleted file mode 100644\n{CHANGE}"),
        format!("{file}{CHANGE}{file}{CHANGE}"),
        format!("{file}{CHANGE}{file}--- a/file\n+++ b/file\n@@ -1 +1 @@\n-x\n+y\n").replace('\n', "\r\n"),
        format!("{file}index 1111111..0000000 100644\n{CHANGE}"),
        format!("{file}index 1111111..2222222 100644\n"),
        format!("{file}deleted file mode 100644\n"),
        "diff --git a/x b/x\nnew file mode 100644\n".to_owned(),
        "diff --git a/x b/x\nnew file mode 100644\nindex 0000000..e69de29".to_owned(),
        "diff --git a/file b/x\nsimilarity index 90%\nrename from file\nrename to x\n".to_owned(),
        format!("{file}old mode 100644\nold mode 100644\nnew mode 100755\n"),
    ] {
        assert_eq!(refused(&garbage), Rule::Malformed, "{garbage}");
    }
}

#[test]
fn what_does_not_apply_names_the_file() {
    let file = "diff --git a/file b/file\n";
    for patch in [
        format!("{file}{}", CHANGE.replace("-one", "-uno")),
        format!("{file}{}", CHANGE.replace(" three", " drei")),
        format!("{file}index 1111111..2222222 100755\n{CHANGE}"),
        format!("{file}old mode 100755\nnew mode 100644\n"),
        format!("{file}deleted file mode 100644\n--- a/file\n+++ /dev/null\n@@ -1,2 +0,0 @@\n-one\n-two\n"),
        format!("{file}deleted file mode 100644\nindex e69de29..0000000\n"),
    ] {
        let refusal = refusal(&[patch.as_bytes()]);
        assert_eq!(
            (refusal.rule, refusal.file.unwrap().as_bytes()),
            (Rule::DoesNotApply, &b"file"[..]),
            "{patch}"
        );
    }
    let absent = format!("{file}{CHANGE}").replace("file", "absent");
    assert_eq!(refused(absent), Rule::DoesNotApply);
    assert_eq!(
        refused("diff --git a/file b/tool\nsimilarity index 100%\nrename from file\nrename to tool\n"),
        Rule::DoesNotApply
    );
}

#[test]
fn a_result_that_is_not_what_the_patch_names_is_refused() {
    let (git, base) = repository();
    let id = String::from_utf8(git.run(["rev-parse", &format!("{base}:file")])).unwrap();
    let lie = format!("diff --git a/file b/file\nindex {id}..{} 100644\n{CHANGE}", "1".repeat(40));
    assert_eq!(refused(lie), Rule::Malformed);
}

#[test]
fn binary_changes() {
    let (git, base) = repository();
    git.write("binary", b"\0\x01\x02".repeat(1000));
    let result = git.tree();
    let text = String::from_utf8(git.diff(base, result, &["--full-index"])).unwrap();
    let lines = text.lines().collect::<Vec<_>>();
    for cut in 5..lines.len() - 4 {
        assert_eq!(refused(lines[..cut].join("\n")), Rule::Malformed, "{}", lines[..cut].join("\n"));
    }
    let damaged = text.replace("literal 3000", "literal 3001");
    assert_ne!(damaged, text);
    assert_eq!(refused(damaged), Rule::Malformed);
    let without = git.run(["diff-tree", "-p", &base.to_string(), &result.to_string()]);
    let without = refusal(&[without.as_ref()]);
    assert_eq!(without.rule, Rule::Malformed);
    assert!(without.message.contains("git diff --binary"), "{without}");
    git.write("binary", b"\0\x01\x02".repeat(999));
    let wrong_base = git.diff(result, git.tree(), &["--full-index"]);
    assert_eq!(refused(&wrong_base), Rule::DoesNotApply);
    let abbreviated = text.replace(&"0".repeat(40), "0000000");
    assert_eq!(refused(abbreviated), Rule::Malformed);
}

#[test]
fn limits() {
    let (git, base) = repository();
    let patch = new_file("a", "100644") + &new_file("b", "100644");
    let rule = |limits: Limits, stack: usize| {
        let parsed = match parse(patch.as_bytes(), &limits) {
            Ok(parsed) => vec![parsed; stack],
            Err(refusal) => return refusal.rule,
        };
        match check(&git.repo(), base, &parsed, &PathPolicy::default(), Enforce::All, &limits) {
            Err(CheckError::Refused(refusal)) => refusal.rule,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(rule(Limits { max_bytes: 100, ..Limits::default() }, 1), Rule::TooLarge);
    assert_eq!(rule(Limits { max_files: 1, ..Limits::default() }, 1), Rule::TooManyFiles);
    assert_eq!(rule(Limits { max_patches: 2, ..Limits::default() }, 3), Rule::TooManyPatches);
    assert_eq!(rule(Limits { max_expanded_bytes: 3, ..Limits::default() }, 1), Rule::TooLarge);
}

#[test]
fn a_small_patch_does_not_expand_without_bound() {
    let git = Git::new();
    let base = git.tree();
    git.write("zeros", vec![0; 8 << 20]);
    let patch = git.diff(base, git.tree(), &["--full-index"]);
    assert!(patch.len() < 64 << 10);
    let limits = Limits { max_expanded_bytes: 1 << 20, ..Limits::default() };
    let parsed = [parse(&patch, &limits).unwrap()];
    let error = check(&git.repo(), base, &parsed, &PathPolicy::default(), Enforce::All, &limits).unwrap_err();
    assert!(matches!(error, CheckError::Refused(Refusal { rule: Rule::TooLarge, .. })), "{error}");
}

#[test]
fn on_a_persons_own_repository_policy_warns_and_danger_is_refused() {
    let (git, base) = repository();
    let limits = Limits::default();
    let judge = |patch: &str| {
        let parsed = [parse(patch.as_bytes(), &limits).unwrap()];
        check(&git.repo(), base, &parsed, &PathPolicy::default(), Enforce::AlwaysOnly, &limits)
    };
    let checked = judge(&new_file(".github/x", "100644")).unwrap();
    assert_eq!(
        checked.warnings.iter().map(|warning| warning.rule).collect::<Vec<_>>(),
        [Rule::ProtectedPath]
    );
    assert!(judge(&new_file("x", "160000")).is_err());
}
