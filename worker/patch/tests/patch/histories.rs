//! Patches applied where they were not made: to trees that have moved on. git and we must do the same, be it the same
//! result or a refusal; every exception is in [`is_stricter`], with its reason.

use proptest::{
    collection::vec,
    prelude::{Just, ProptestConfig, Strategy, prop_oneof},
    proptest,
    sample::{Index, select},
};
use runtimed_patch::{CheckError, Refusal, Rule, TreeId};

use crate::git::{Git, check_with, permissive};

const FILES: [&str; 3] = ["src/main.c", "src/deep/er/util.c", "README"];

/// An edit as people make them: a few neighbouring lines of one file.
#[derive(Debug, Clone)]
struct Edit {
    file: &'static str,
    at: Index,
    remove: usize,
    insert: Vec<&'static str>,
    /// Deletes the file, or makes it anew from the inserted lines.
    whole: bool,
}

/// Lines of few kinds, so that contexts repeat and a hunk may match in several places.
fn line() -> impl Strategy<Value = &'static str> {
    select(vec!["{", "}", "", "    return 0;", "    x += 1;", "    call(x);", "int f(void)", "/* note */"])
}

fn edit() -> impl Strategy<Value = Edit> {
    let whole = prop_oneof![12 => Just(false), 1 => Just(true)];
    (select(FILES.to_vec()), proptest::prelude::any::<Index>(), 0..4_usize, vec(line(), 0..4), whole)
        .prop_map(|(file, at, remove, insert, whole)| Edit { file, at, remove, insert, whole })
}

fn perform(git: &Git, edit: &Edit) {
    let path = git.join(edit.file);
    let Ok(text) = std::fs::read_to_string(&path) else {
        git.write(edit.file, edit.insert.join("\n"));
        return;
    };
    if edit.whole {
        std::fs::remove_file(path).unwrap();
        return;
    }
    let mut lines = text.lines().collect::<Vec<_>>();
    let at = edit.at.index(lines.len() + 1);
    let end = (at + edit.remove).min(lines.len());
    lines.splice(at..end, edit.insert.iter().copied());
    let end = if edit.remove == 3 { "" } else { "\n" };
    git.write(edit.file, lines.join("\n") + end);
}

/// Where we refuse and git does not.
///
/// 1. A hunk without any context, at the end of a file whose last line has no newline: git glues the new line to the
///    old one. We refuse, for no line of the patch says so.
/// 2. A hunk whose own place is gone, and whose context is also somewhere before the hunk that precedes it: git puts it
///    there. We keep hunks in their order.
fn is_stricter(git: &Git, style: &[&str], moved: TreeId, patch: &[u8], refusal: &Refusal) -> bool {
    let Some(file) = refusal.file.as_ref().map(ToString::to_string) else { return false };
    if refusal.rule != Rule::DoesNotApply {
        return false;
    }
    let content = git.try_run(["cat-file", "-p", &format!("{moved}:{file}")], b"").stdout;
    (style == ["-U0"] && !content.ends_with(b"\n")) || !applied_lines(git, moved, patch, &file).is_sorted()
}

/// The lines at which git applies the hunks of a file, by its own account.
fn applied_lines(git: &Git, moved: TreeId, patch: &[u8], file: &str) -> Vec<u64> {
    let text = String::from_utf8(patch.to_vec()).unwrap();
    let section = text.split("diff --git ").find(|section| section.starts_with(&format!("a/{file} ")));
    let starts = section.unwrap_or_default().lines().filter_map(|line| line.strip_prefix("@@ -"));
    let number = |text: &str| text.split([',', ' ']).next()?.parse::<u64>().ok();
    let mut lines = starts.filter_map(|line| number(line.split_once('+')?.1)).collect::<Vec<_>>();
    git.run(["read-tree", &moved.to_string()]);
    let told = git.try_run(["apply", "--cached", "--check", "--verbose", "-"], patch).stderr;
    let told = String::from_utf8(told).unwrap();
    let told = told.split("Checking patch ").find(|part| part.starts_with(&format!("{file}...")));
    for moved in told.unwrap_or_default().lines().filter_map(|line| line.strip_prefix("Hunk #")) {
        let (hunk, rest) = moved.split_once(" succeeded at ").unwrap();
        lines[hunk.parse::<usize>().unwrap() - 1] = number(rest).unwrap();
    }
    lines
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn git_and_we_agree_on_a_tree_that_has_moved_on(
        start in vec(line(), 30..60),
        ours in vec(edit(), 1..5),
        theirs in vec(edit(), 0..5),
    ) {
        let git = Git::new();
        FILES.iter().for_each(|file| git.write(file, start.join("\n") + "\n"));
        let base = git.tree();
        ours.iter().for_each(|edit| perform(&git, edit));
        let changed = git.tree();
        git.run(["read-tree", "-u", "--reset", &base.to_string()]);
        theirs.iter().for_each(|edit| perform(&git, edit));
        let moved = git.tree();
        for style in [&["--no-renames"][..], &["-U1"], &["-U0"], &["--find-renames", "--full-index"]] {
            let patch = git.diff(base, changed, style);
            if patch.is_empty() {
                continue;
            }
            let expected = git.apply(moved, &patch);
            match (check_with(&git, moved, &[&patch], &permissive()), expected) {
                (Ok(checked), Ok(tree)) => assert_eq!(checked.tree, tree, "{}", patch.escape_ascii()),
                (Err(_), Err(_)) => {}
                (Err(CheckError::Refused(refusal)), Ok(_)) if is_stricter(&git, style, moved, &patch, &refusal) => {}
                (we, they) => panic!("we {we:?}\ngit {they:?}\n{}", String::from_utf8_lossy(&patch)),
            }
        }
    }
}
