//! Random trees and random edits: capture, our check and git must agree, both ways.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{PermissionsExt as _, symlink},
    },
    path::Path,
};

use proptest::{
    collection::vec,
    prelude::{Just, ProptestConfig, Strategy, any, prop_oneof},
    proptest,
    sample::{Index, select},
};

use crate::{
    git::{check_with, permissive},
    workspace::Workspace,
};

#[derive(Debug, Clone)]
enum Edit {
    Write(Name, Content),
    Symlink(Name, Name),
    Executable(Name),
    Remove(Name),
    Move(Name, Name),
    /// Replaces, removes or adds a line of a text.
    Line(Name, Index, Option<String>),
}

type Name = &'static [u8];

/// Few names, so that edits meet; files and directories share some.
const NAMES: &[Name] = &[
    b"a",
    b"a/b",
    b"a/b/c",
    b"a-b",
    b"b",
    b"dir/x y",
    b"dir/x y ",
    b"caf\xe9",
    b"dir/tab\there",
    b"z\n",
    b"dir/\"q\"",
];

#[derive(Debug, Clone)]
enum Content {
    Lines(Vec<String>, bool),
    Bytes(Vec<u8>),
}

impl Content {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Lines(lines, newline) => {
                let mut text = lines.join("\n");
                if *newline && !lines.is_empty() {
                    text.push('\n');
                }
                text.into_bytes()
            }
            Self::Bytes(bytes) => bytes.clone(),
        }
    }
}

fn content() -> impl Strategy<Value = Content> {
    let line = select(vec![
        "a",
        "b",
        "c",
        "",
        "-- ",
        "@@ -1 +1 @@",
        "+x",
        "-y",
        "\r",
        "\\ No newline",
        "diff --git a/a b/a",
    ]);
    prop_oneof![
        8 => (vec(line.prop_map(str::to_owned), 0..40), any::<bool>()).prop_map(|(lines, end)| Content::Lines(lines, end)),
        1 => vec(any::<u8>(), 0..200).prop_map(Content::Bytes),
        1 => (any::<u8>(), 1..5000_usize).prop_map(|(byte, len)| Content::Bytes([vec![0, byte], vec![byte; len]].concat())),
    ]
}

fn edit() -> impl Strategy<Value = Edit> {
    let name = || select(NAMES);
    let line = prop_oneof![Just(None), "[a-c]{0,3}".prop_map(Some)];
    prop_oneof![
        4 => (name(), content()).prop_map(|(name, content)| Edit::Write(name, content)),
        1 => (name(), name()).prop_map(|(name, target)| Edit::Symlink(name, target)),
        1 => name().prop_map(Edit::Executable),
        2 => name().prop_map(Edit::Remove),
        2 => (name(), name()).prop_map(|(from, to)| Edit::Move(from, to)),
        5 => (name(), any::<Index>(), line).prop_map(|(name, at, line)| Edit::Line(name, at, line)),
    ]
}

/// Does the edit if the tree allows it. Nothing here follows a symlink.
fn perform(root: &Path, edit: &Edit) {
    let path = |name: &Name| root.join(OsStr::from_bytes(name));
    let is_file = |path: &Path| path.symlink_metadata().is_ok_and(|metadata| metadata.is_file());
    match edit {
        Edit::Write(name, content) => {
            make_room(root, name);
            fs::write(path(name), content.bytes()).unwrap();
        }
        Edit::Symlink(name, target) => {
            make_room(root, name);
            symlink(OsStr::from_bytes(target), path(name)).unwrap();
        }
        Edit::Executable(name) if is_file(&path(name)) && is_plain(root, name) => {
            let mode = fs::metadata(path(name)).unwrap().permissions().mode() ^ 0o111;
            fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        Edit::Remove(name) if is_plain(root, name) => remove(&path(name)),
        Edit::Move(from, to) if is_plain(root, from) && is_file(&path(from)) && from != to => {
            let content = fs::read(path(from)).unwrap();
            remove(&path(from));
            make_room(root, to);
            fs::write(path(to), content).unwrap();
        }
        Edit::Line(name, at, line) if is_plain(root, name) && is_file(&path(name)) => {
            let text = fs::read(path(name)).unwrap();
            let mut lines = text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>();
            let at = at.index(lines.len());
            match line {
                Some(line) if line.len() == 1 => lines.insert(at, line.as_bytes().to_vec()),
                Some(line) => lines[at] = line.as_bytes().to_vec(),
                None => drop(lines.remove(at)),
            }
            fs::write(path(name), lines.join(&b"\n"[..])).unwrap();
        }
        _ => {}
    }
}

/// Whether no directory on the way is a symlink.
fn is_plain(root: &Path, name: Name) -> bool {
    let parents = Path::new(OsStr::from_bytes(name)).ancestors().skip(1);
    parents.into_iter().all(|parent| {
        let parent = root.join(parent);
        parent.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
    })
}

/// Removes what is at a path, and what is in its way, and makes its directories.
fn make_room(root: &Path, name: Name) {
    let path = root.join(OsStr::from_bytes(name));
    for parent in path.ancestors().skip(1).take_while(|parent| *parent != root) {
        if parent.symlink_metadata().is_ok_and(|metadata| !metadata.is_dir()) {
            remove(parent);
        }
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    remove(&path);
}

fn remove(path: &Path) {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn capture_check_and_git_agree(before in vec(edit(), 0..15), after in vec(edit(), 0..15)) {
        let workspace = Workspace::new(|git| before.iter().for_each(|edit| perform(git.path(), edit)));
        after.iter().for_each(|edit| perform(&workspace.path(), edit));
        let (captured, patch) = workspace.capture();
        assert_eq!(captured.result, workspace.git_tree());
        // The same two trees elsewhere, with other times and inodes, give the same bytes.
        let elsewhere = Workspace::new(|git| before.iter().for_each(|edit| perform(git.path(), edit)));
        after.iter().for_each(|edit| perform(&elsewhere.path(), edit));
        assert_eq!(elsewhere.capture().1, patch);

        // And back: what git writes, in its own styles, our check applies to the same tree.
        let (from, to) = (captured.base, captured.result);
        if from != to {
            for style in [&["--no-renames"][..], &["--find-renames"], &["--find-copies-harder", "-U1"], &["-R"]] {
                let (from, to) = if style == ["-R"] { (to, from) } else { (from, to) };
                let style = style.iter().copied().filter(|it| *it != "-R").collect::<Vec<_>>();
                let patch = workspace.git.diff(from, to, &style);
                let checked = check_with(&workspace.git, from, &[&patch], &permissive());
                let tree = checked.map(|checked| checked.tree);
                assert_eq!(tree.map_err(|error| error.to_string()), Ok(to), "{}", patch.escape_ascii());
            }
        }
    }
}
