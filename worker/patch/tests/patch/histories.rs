//! Patches applied where they were not made: to trees that have moved on. git and we must do the same, be it the same
//! result or a refusal; every exception is in [`stricter`], with its reason.

use proptest::{
    collection::vec,
    prelude::{Just, ProptestConfig, Strategy, prop_oneof},
    proptest,
    sample::{Index, select},
};
use runtimed_patch::CheckError;

use crate::{
    git::{Git, check_with, permissive},
    stricter::stricter,
};

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
                (Err(CheckError::Refused(refusal)), Ok(_)) if stricter(&git, style, moved, &patch, &refusal).is_some() => {}
                (we, they) => panic!("we {we:?}\ngit {they:?}\n{}", String::from_utf8_lossy(&patch)),
            }
        }
    }
}
