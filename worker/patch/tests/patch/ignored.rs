//! `.gitignore` rules: what git adds without force is what a capture takes.

use proptest::{
    collection::vec,
    prelude::{ProptestConfig, Strategy},
    proptest,
    sample::select,
};

use crate::{git::Git, workspace::Workspace};

/// Pieces that patterns are made of; together they reach every rule of the format but bytes that are no UTF-8.
const PIECES: &[&str] = &[
    "a", "b", "*", "**", "/", "?", "!", "#", "[ab]", "[!a]", "[", "\\", " ", "{a,b}", ".o", "a/", "/b",
    "\\*", "^",
];

const FILES: &[&str] = &[
    "a",
    "b",
    "a.o",
    "b/a",
    "b/b/a.o",
    "c/a/b/x",
    "c/b",
    "c/ab",
    "#a",
    "!b",
    "a b/a",
    "c/a ",
    "{a,b}",
    "c/a/b/a/b",
    "*a",
    "d/[",
];

fn pattern() -> impl Strategy<Value = String> {
    vec(select(PIECES), 1..5).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn git_and_we_ignore_the_same(
        root in vec(pattern(), 0..5),
        below in vec(pattern(), 0..3),
        tracked in vec(select(FILES), 0..3),
    ) {
        let workspace = Workspace::new(|git: &Git| {
            git.write(".gitignore", root.join("\n"));
            git.write("c/.gitignore", below.join("\n"));
            tracked.iter().filter(|file| !file.starts_with('a') && **file != "b").for_each(|file| git.write(file, "tracked\n"));
        });
        for file in FILES {
            let parents_are_directories = std::path::Path::new(file).ancestors().skip(1).all(|parent| !workspace.join(parent).is_file());
            if parents_are_directories && !workspace.join(file).is_dir() {
                workspace.write(file, "untracked or changed\n");
            }
        }
        let (captured, _) = workspace.capture();
        let theirs = workspace.git_tree_unforced();
        assert_eq!(captured.result, theirs, "{root:?} {below:?} {:?}", workspace.git.differences(captured.result, theirs));
    }
}
