//! Trees as files: exactly, and never anywhere else.

use std::{
    fs,
    io::Write as _,
    os::{
        fd::AsFd as _,
        unix::fs::{PermissionsExt as _, symlink},
    },
};

use runtimed_patch::{CheckoutError, Rule, Stage, TreeId, checkout};
use tempfile::TempDir;

use crate::{git::Git, workspace::Workspace};

#[test]
fn a_checkout_is_the_tree_byte_for_byte() {
    let workspace = Workspace::new(|git| {
        git.write(".gitattributes", "* text=auto eol=crlf ident\n");
        git.write("text", "$Id$\nline\r\n");
        git.write("a/b/c", "x");
        git.write("a/b-c", "y");
        git.write("a/b.d/e", "");
        git.write("tool", "run\n");
        fs::set_permissions(git.join("tool"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("/etc/passwd", git.join("link")).unwrap();
        git.run(["config", "core.autocrlf", "true"]);
    });
    assert_eq!(fs::read(workspace.join("text")).unwrap(), b"$Id$\nline\n".to_vec());
    assert_eq!(fs::read_link(workspace.join("link")).unwrap().to_str(), Some("/etc/passwd"));
    assert_eq!(fs::metadata(workspace.join("tool")).unwrap().permissions().mode() & 0o100, 0o100);
    let (captured, _) = workspace.capture();
    assert_eq!(captured.files, 0);
}

/// Writes a tree object that git itself would not make.
fn raw_tree(git: &Git, entries: &[(&str, &str, &str)]) -> TreeId {
    let mut object = Vec::new();
    for (mode, name, id) in entries {
        write!(object, "{mode} {name}\0").unwrap();
        object.extend(git2::Oid::from_str(id).unwrap().as_bytes());
    }
    let arguments = ["hash-object", "-t", "tree", "-w", "--literally", "--stdin"];
    String::from_utf8(git.run_with(arguments, &object)).unwrap().parse().unwrap()
}

#[test]
fn a_tree_that_would_write_elsewhere_is_refused() {
    let git = Git::new();
    let blob = String::from_utf8(git.run_with(["hash-object", "-w", "--stdin"], b"x\n")).unwrap();
    let inner = raw_tree(&git, &[("100644", "x", &blob)]).to_string();
    for (entry, rule) in [
        (("40000", "..", inner.as_str()), Rule::Traversal),
        (("40000", ".git", inner.as_str()), Rule::PathDotGit),
        (("100644", ".GIT", blob.as_str()), Rule::PathDotGit),
        (("160000", "sub", blob.as_str()), Rule::Gitlink),
    ] {
        let tree = raw_tree(&git, &[entry]);
        let dir = TempDir::new().unwrap();
        let destination = dir.path().join("outer/ws");
        fs::create_dir(dir.path().join("outer")).unwrap();
        let stage = Stage::new(&destination).unwrap();
        match checkout(&git.repo(), tree, stage.open().unwrap().as_fd()) {
            Err(CheckoutError::Refused(refusal)) => assert_eq!(refusal.rule, rule),
            other => panic!("{entry:?}: {other:?}"),
        }
        drop(stage);
        assert_eq!(fs::read_dir(dir.path().join("outer")).unwrap().count(), 0);
    }
}

#[test]
fn a_stage_is_all_or_nothing() {
    let dir = TempDir::new().unwrap();
    let destination = dir.path().join("ws");
    let stage = Stage::new(&destination).unwrap();
    fs::write(stage.path().join("file"), "x").unwrap();
    assert!(!destination.exists());
    // What a crash left is replaced.
    std::mem::forget(stage);
    let stage = Stage::new(&destination).unwrap();
    fs::write(stage.path().join("new"), "x").unwrap();
    stage.publish().unwrap();
    assert!(destination.join("new").exists() && !destination.join("file").exists());
    let stage = Stage::new(&destination).unwrap();
    assert!(stage.publish().is_err(), "there is something at the destination");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
