//! Good patches with something wrong in them. Nothing may panic, and whatever is accepted must be what git makes of it.

use proptest::{
    prelude::{Just, ProptestConfig, Strategy, any, prop_oneof},
    sample::{Index, select},
    test_runner::{TestCaseError, TestRunner},
};

use crate::git::{Git, check_with, permissive};

#[derive(Debug, Clone)]
enum Mutation {
    Byte(Index, u8),
    Truncate(Index),
    RemoveLine(Index),
    RepeatLine(Index),
    SwapLines(Index, Index),
    /// Replaces every occurrence of one text by another.
    Replace(&'static str, &'static str),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let texts = select(vec![
        "100644",
        "100755",
        "120000",
        "text",
        "dir/moved",
        "a/",
        "b/",
        "@@ -",
        ",",
        "rename",
        "+",
    ]);
    let others = select(vec![
        "160000", "100755", "120000", "tool", ".git/x", "../x", "dir", "", "0", "copy", "-", " ",
    ]);
    prop_oneof![
        4 => (any::<Index>(), select(b"\n\r\t\0 +-@\\\"0179azAZ/.".to_vec())).prop_map(|(at, byte)| Mutation::Byte(at, byte)),
        1 => any::<Index>().prop_map(Mutation::Truncate),
        3 => any::<Index>().prop_map(Mutation::RemoveLine),
        2 => any::<Index>().prop_map(Mutation::RepeatLine),
        2 => (any::<Index>(), any::<Index>()).prop_map(|(one, other)| Mutation::SwapLines(one, other)),
        2 => (texts, others).prop_map(|(text, other)| Mutation::Replace(text, other)),
    ]
}

fn mutate(patch: &[u8], mutation: &Mutation) -> Vec<u8> {
    let mut lines = patch.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>();
    match mutation {
        Mutation::Byte(at, byte) => {
            let mut patch = patch.to_vec();
            let at = at.index(patch.len());
            patch[at] = *byte;
            return patch;
        }
        Mutation::Truncate(at) => return patch[..at.index(patch.len())].to_vec(),
        Mutation::RemoveLine(at) => drop(lines.remove(at.index(lines.len()))),
        Mutation::RepeatLine(at) => {
            let at = at.index(lines.len());
            lines.insert(at, lines[at].clone());
        }
        Mutation::SwapLines(one, other) => {
            let (one, other) = (one.index(lines.len()), other.index(lines.len()));
            lines.swap(one, other);
        }
        Mutation::Replace(text, other) => {
            return String::from_utf8_lossy(patch).replace(text, other).into_bytes();
        }
    }
    lines.concat()
}

#[test]
fn a_damaged_patch_is_refused_or_is_what_git_makes_of_it() {
    let git = Git::new();
    let text = (0..30).map(|line| format!("line {}\n", line % 7)).collect::<String>();
    git.write("text", &text);
    git.write("tool", "#!/bin/sh\n");
    git.write("binary", b"\0\x01".repeat(100));
    git.write("gone", "x\ny\n");
    git.write("moved", format!("{text}moved\n"));
    let base = git.tree();
    git.write("text", text.replacen("line 3", "LINE", 2));
    git.write("binary", b"\0\x02".repeat(90));
    std::fs::remove_file(git.join("gone")).unwrap();
    git.write("dir/moved", format!("{text}moved to\n"));
    std::fs::remove_file(git.join("moved")).unwrap();
    git.write("new file", "no newline");
    git.write("empty", "");
    git.run(["update-index", "--add", "--chmod=+x", "tool"]);
    git.run(["config", "core.fileMode", "false"]);
    let result = git.tree();
    let styles: [&[&str]; 4] = [&["--no-renames"], &["--find-renames"], &["--full-index", "-U1"], &["-U0"]];
    let patches = styles.map(|style| git.diff(base, result, style));

    let mut config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    // Most cases cost no process.
    config.cases *= 4;
    let more = prop_oneof![3 => Just(None), 1 => mutation().prop_map(Some)];
    let cases = (0..patches.len(), mutation(), more);
    let checked = TestRunner::new(config).run(&cases, |(style, first, second)| {
        let mut patch = mutate(&patches[style], &first);
        if let Some(second) = second.filter(|_| !patch.is_empty()) {
            patch = mutate(&patch, &second);
        }
        let Ok(ours) = check_with(&git, base, &[&patch], &permissive()) else { return Ok(()) };
        let theirs = git.apply(base, &patch);
        if patch.is_empty() || theirs == Ok(ours.tree) {
            return Ok(());
        }
        Err(TestCaseError::fail(format!("we {ours:?}\ngit {theirs:?}\n{}", String::from_utf8_lossy(&patch))))
    });
    checked.unwrap_or_else(|error| panic!("{error}"));
}
