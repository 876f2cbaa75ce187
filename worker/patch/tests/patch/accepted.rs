//! What must apply, with the tree that git gets.

use std::os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _};

use runtimed_patch::TreeId;

use crate::git::{Git, check_with, permissive};

/// Makes two trees, asks git for the patch between them in several styles, and applies each.
fn round_trip(before: impl FnOnce(&Git), after: impl FnOnce(&Git)) -> (Git, TreeId, TreeId) {
    let git = Git::new();
    before(&git);
    let base = git.tree();
    after(&git);
    let result = git.tree();
    for style in [
        &["--no-renames", "--full-index"][..],
        &["--find-renames", "--full-index"],
        &["--find-copies-harder", "--full-index"],
        &["--find-renames"],
        &["--no-renames", "-U0"],
        &["--no-renames", "-U1"],
    ] {
        let patch = git.diff(base, result, style);
        // Without context git's own rules anchor hunks at the ends, unless asked not to.
        match (git.apply(base, &patch), check_with(&git, base, &[&patch], &permissive())) {
            (Ok(tree), Ok(checked)) => assert_eq!((tree, checked.tree), (result, result), "{style:?}"),
            (Err(_), Err(_)) if style.contains(&"-U0") => {}
            (theirs, ours) => panic!("{style:?}: git {theirs:?}, ours {ours:?}\n{}", patch.escape_ascii()),
        }
    }
    (git, base, result)
}

fn executable(git: &Git, name: &str) {
    std::fs::set_permissions(git.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn bytes(seed: u32, len: usize) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(len).collect()
}

#[test]
fn text_binary_new_deleted_and_empty_files() {
    round_trip(
        |git| {
            git.write("text", "one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\n");
            git.write("crlf", "one\r\ntwo\r\n");
            git.write("no-newline", "one\ntwo");
            git.write("latin1", b"caf\xe9\nna\xefve\n");
            git.write("binary", bytes(1, 5000));
            git.write("gone/deep/file", "x\n");
            git.write("gone-empty", "");
            git.write("becomes-empty", "content\n");
            git.write("was-empty", "");
            git.write("blob to text", b"\0\0\0");
        },
        |git| {
            git.write("text", "zero\none\ntwo\nthree\nfour\nFIVE\nsix\nseven\neight\nnine\n");
            git.write("crlf", "one\r\n2\r\nthree\n");
            git.write("no-newline", "one\n2");
            git.write("latin1", b"caf\xe8\nna\xefve\n\xff");
            let mut binary = bytes(1, 5000);
            binary[2000] ^= 1;
            git.write("binary", binary);
            git.write("new binary", bytes(2, 300));
            std::fs::remove_dir_all(git.join("gone")).unwrap();
            std::fs::remove_file(git.join("gone-empty")).unwrap();
            git.write("becomes-empty", "");
            git.write("was-empty", "now not\n");
            git.write("new-empty", "");
            git.write("new empty with spaces ", "");
            git.write("blob to text", "text\n");
        },
    );
}

#[test]
fn modes_renames_and_copies() {
    let body = (0..40).map(|line| format!("line {line}\n")).collect::<String>();
    round_trip(
        |git| {
            for name in ["tool", "plain", "copied", "moved exactly", "moved and changed"] {
                git.write(name, format!("{name}\n{body}"));
            }
            executable(git, "tool");
            executable(git, "moved exactly");
            git.write("becomes-executable", "x\n");
        },
        |git| {
            executable(git, "becomes-executable");
            std::fs::create_dir(git.join("bin")).unwrap();
            std::fs::rename(git.join("tool"), git.join("bin/tool")).unwrap();
            std::fs::rename(git.join("moved exactly"), git.join("elsewhere")).unwrap();
            std::fs::rename(git.join("moved and changed"), git.join("bin/changed")).unwrap();
            git.write("bin/changed", format!("moved and changed\nmore\n{body}"));
            executable(git, "bin/changed");
            std::fs::copy(git.join("copied"), git.join("copy")).unwrap();
            git.write("plain", format!("plain\n{body}end\n"));
        },
    );
}

#[test]
fn names_of_any_bytes() {
    let names: [&[u8]; 10] = [
        b"caf\xc3\xa9",
        b"\xff\xfe bytes",
        b"tab\there",
        b"new\nline",
        b"quote\"d",
        b"back\\slash",
        b"end space ",
        b"a b/a b/a b",
        b" lead",
        b"mid  dle b/x",
    ];
    let write = |git: &Git, suffix: &[u8]| {
        for name in names {
            git.write(std::ffi::OsStr::from_bytes(name), [b"content\n", name, suffix].concat());
            git.write(std::ffi::OsStr::from_bytes(&[b"bin", name].concat()), [b"\0", name, suffix].concat());
        }
    };
    round_trip(|git| write(git, b"1"), |git| write(git, b"2"));
    round_trip(|_| {}, |git| write(git, b"2"));
    round_trip(
        |git| write(git, b"1"),
        |git| {
            for name in names {
                let from = git.join(std::ffi::OsStr::from_bytes(name));
                let to = git.join(std::ffi::OsStr::from_bytes(&[b"moved/", name].concat()));
                std::fs::create_dir_all(to.parent().unwrap()).unwrap();
                std::fs::rename(from, to).unwrap();
            }
        },
    );
}

#[test]
fn a_file_becomes_a_directory_and_a_symlink_a_file() {
    use std::os::unix::fs::symlink;
    round_trip(
        |git| {
            git.write("file", "x\n");
            git.write("dir/inner", "y\n");
            symlink("dir", git.join("link")).unwrap();
            symlink("file", git.join("retargeted")).unwrap();
        },
        |git| {
            std::fs::remove_file(git.join("file")).unwrap();
            git.write("file/now/below", "x\n");
            std::fs::remove_dir_all(git.join("dir")).unwrap();
            git.write("dir", "a file\n");
            std::fs::remove_file(git.join("link")).unwrap();
            git.write("link/below", "was a symlink\n");
            std::fs::remove_file(git.join("retargeted")).unwrap();
            symlink("dir", git.join("retargeted")).unwrap();
        },
    );
}

#[test]
fn several_mails_in_one_file_apply_in_turn() {
    let git = Git::new();
    git.write("a", "1\n2\n3\n");
    git.run(["add", "."]);
    git.run(["commit", "-qm", "first"]);
    let base = git.tree();
    git.write("a", "1\n2\n3\n4\n");
    git.run(["commit", "-qam", "second\n\nA body -- with dashes\n--- and more\n"]);
    git.run(["mv", "a", "b"]);
    git.write("b", "0\n1\n2\n3\n4\n");
    git.run(["commit", "-qam", "third"]);
    let mails = git.run(["format-patch", "--stdout", "--binary", "-2"]);
    let checked = check_with(&git, base, &[&mails], &permissive()).unwrap();
    assert_eq!(checked.tree, git.tree());
    assert_eq!((checked.per_patch[0].files, checked.per_patch[0].insertions), (2, 2));
}

#[test]
fn a_stack_applies_to_the_result_of_the_patch_before() {
    let git = Git::new();
    git.write("a", "1\n");
    let base = git.tree();
    git.write("a", "2\n");
    let middle = git.tree();
    git.write("a", "3\n");
    let end = git.tree();
    let patches = [git.diff(base, middle, &[]), git.diff(middle, end, &[])];
    let before = std::fs::read_dir(git.join(".git/objects")).unwrap().count();
    let checked = check_with(&git, base, &[&patches[0], &patches[1]], &permissive()).unwrap();
    assert_eq!((checked.per_patch[0].tree, checked.tree), (middle, end));
    assert_eq!(
        std::fs::read_dir(git.join(".git/objects")).unwrap().count(),
        before,
        "a check writes nothing"
    );
    assert_eq!(
        check_with(&git, base, &[b""], &permissive()).unwrap().tree,
        base,
        "an empty patch changes nothing"
    );
}
