//! What a capture takes in, what it leaves out, and what it does not believe.

use std::{
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{PermissionsExt as _, symlink},
        net::UnixListener,
    },
};

use runtimed_patch::{CaptureError, CaptureOptions, Ignored, SkipReason, TreeId};

use crate::workspace::Workspace;

fn set_mode(workspace: &Workspace, name: &str, mode: u32) {
    fs::set_permissions(workspace.join(name), fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn an_unchanged_workspace_costs_no_repository() {
    let workspace = Workspace::new(|git| {
        git.write(".gitignore", "*.o\n");
        for at in 0..50 {
            git.write(format!("dir{}/file{at}", at % 7), format!("content {at}\n"));
        }
    });
    let (captured, patch) = workspace.capture();
    assert_eq!((captured.files, captured.result, patch.len()), (0, captured.base, 0));
    assert_eq!(workspace.opened.get(), 0);
}

#[test]
fn changes_of_every_kind() {
    let workspace = Workspace::new(|git| {
        git.write("text", "one\ntwo\nthree\n");
        git.write("binary", b"\0\x01\x02".repeat(500));
        git.write("gone", "x\n");
        git.write("tool", "#!/bin/sh\n");
        git.write("file", "becomes a directory\n");
        git.write("dir/inner", "becomes a file\n");
        git.write("to link", "becomes a symlink\n");
        git.write("empty", "");
        symlink("text", git.join("link")).unwrap();
    });
    workspace.write("text", "one\n2\nthree\nfour");
    workspace.write("binary", b"\0\x01\x03".repeat(500));
    fs::remove_file(workspace.join("gone")).unwrap();
    set_mode(&workspace, "tool", 0o755);
    fs::remove_file(workspace.join("file")).unwrap();
    workspace.write("file/inner", "new\n");
    fs::remove_dir_all(workspace.join("dir")).unwrap();
    workspace.write("dir", "a file now\n");
    fs::remove_file(workspace.join("to link")).unwrap();
    symlink("text", workspace.join("to link")).unwrap();
    fs::remove_file(workspace.join("link")).unwrap();
    symlink("binary", workspace.join("link")).unwrap();
    workspace.write("empty", "no more\n");
    workspace.write("new empty", "");
    workspace.write(std::ffi::OsStr::from_bytes(b"caf\xe9 \t\"x\""), b"\xff\xfe\n");
    fs::hard_link(workspace.join("text"), workspace.join("second name")).unwrap();
    fs::create_dir(workspace.join("empty directory")).unwrap();

    let (captured, patch) = workspace.capture();
    assert_eq!(captured.result, workspace.git_tree());
    assert_eq!(captured.skipped, []);
    let (_, again) = workspace.capture();
    assert_eq!(patch, again);
}

#[test]
fn a_change_that_keeps_size_and_modification_time_is_seen() {
    let workspace = Workspace::new(|git| git.write("file", "one\n"));
    let modified = fs::metadata(workspace.join("file")).unwrap().modified().unwrap();
    workspace.write("file", "two\n");
    fs::File::options().write(true).open(workspace.join("file")).unwrap().set_modified(modified).unwrap();
    let (captured, _) = workspace.capture();
    assert_eq!(captured.files, 1);
}

#[test]
fn everything_may_go() {
    let workspace = Workspace::new(|git| git.write("a/b", "x\n"));
    fs::remove_dir_all(workspace.join("a")).unwrap();
    let (captured, _) = workspace.capture();
    assert_eq!((captured.result, captured.deletions), (TreeId::empty(), 1));
    let workspace = Workspace::of(workspace.git, TreeId::empty());
    workspace.write("a", "x\n");
    assert_eq!(workspace.capture().0.insertions, 1);
}

#[test]
fn the_workspaces_own_git_is_not_believed() {
    let workspace = Workspace::new(|git| {
        git.write("kept", "x\n");
        git.write("crlf", "a\r\n");
    });
    let marker = workspace.path().with_file_name("marker");
    let run = format!("touch {}; cat", marker.display());
    workspace.write(".git/HEAD", "ref: refs/heads/main\n");
    workspace.write(
        ".git/config",
        format!("[core]\n\tfsmonitor = {run}\n\tautocrlf = true\n[filter \"x\"]\n\tclean = {run}\n"),
    );
    workspace.write(".git/info/attributes", "* filter=x text=auto\n");
    workspace.write(".git/info/exclude", "*\n");
    workspace.write(".git/objects/info/alternates", "/nonexistent\n");
    workspace.write(".gitattributes", "* filter=x text=auto -diff\n*.txt binary\n");
    workspace.write("new.txt", "a\r\nb\r\n");
    workspace.write("kept", "y\r\n");
    let (captured, patch) = workspace.capture();
    assert_eq!((captured.files, captured.skipped.len()), (3, 0));
    assert!(String::from_utf8(patch).unwrap().contains("+a\r\n+b\r\n"));
    assert!(!marker.exists());
}

#[test]
fn nested_repositories_and_disguises_are_left_out_with_a_reason() {
    let workspace = Workspace::new(|git| git.write("a", "x\n"));
    workspace.write("vendor/lib/.git/HEAD", "ref: refs/heads/main\n");
    workspace.write("vendor/lib/src.c", "int x;\n");
    workspace.write("sub/.GIT/config", "x\n");
    workspace.write("GIT~1/config", "x\n");
    let (captured, _) = workspace.capture();
    assert_eq!(captured.files, 1);
    let skipped = captured.skipped.iter().map(|it| (it.path.to_string(), it.reason)).collect::<Vec<_>>();
    assert_eq!(
        skipped,
        [
            ("GIT~1".to_owned(), SkipReason::UnusablePath),
            ("sub/.GIT".to_owned(), SkipReason::UnusablePath),
            ("vendor/lib/.git".to_owned(), SkipReason::NestedRepository),
        ]
    );
}

#[test]
fn special_files_are_left_out_and_never_block() {
    let workspace = Workspace::new(|git| git.write("tracked", "x\n"));
    let _socket = UnixListener::bind(workspace.join("socket")).unwrap();
    fs::remove_file(workspace.join("tracked")).unwrap();
    for name in ["pipe", "tracked"] {
        rustix::fs::mkfifoat(rustix::fs::CWD, workspace.join(name), rustix::fs::Mode::from_raw_mode(0o644))
            .unwrap();
    }
    let (captured, _) = workspace.capture();
    assert_eq!((captured.files, captured.deletions), (1, 1), "the tracked file is gone");
    assert!(captured.skipped.iter().all(|skipped| skipped.reason == SkipReason::SpecialFile));
    assert_eq!(captured.skipped_total, 3);
}

#[test]
fn taken_permissions_are_given_back() {
    let workspace = Workspace::new(|git| {
        git.write("dir/kept", "x\n");
        git.write("file", "x\n");
    });
    workspace.write("dir/new", "y\n");
    workspace.write("file", "z\n");
    for mode in [0, 0o400, 0o200, 0o100] {
        set_mode(&workspace, "file", mode & 0o600);
        set_mode(&workspace, "dir", mode);
        let (captured, _) = workspace.capture();
        assert_eq!((captured.files, captured.skipped.len()), (2, 0));
    }
}

#[test]
fn a_deep_tree_is_left_out_and_not_followed() {
    let workspace = Workspace::new(|git| git.write("a", "x\n"));
    let mut path = workspace.path();
    for _ in 0..300 {
        path.push("d");
    }
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("file"), "x").unwrap();
    symlink(".", workspace.join("loop")).unwrap();
    let (captured, _) = workspace.capture();
    assert_eq!(captured.files, 1);
    assert_eq!(captured.skipped.iter().map(|it| it.reason).collect::<Vec<_>>(), [SkipReason::UnusablePath]);
}

#[test]
fn only_the_baselines_ignore_files_hide_anything() {
    let fill = |git: &crate::git::Git| {
        git.write(".gitignore", "*.o\n/target/\nlogs/*\n!logs/keep\n");
        git.write("tracked.o", "tracked although ignored\n");
        git.write("target/tracked", "x\n");
        git.write("sub/.gitignore", "!x.o\n");
    };
    let workspace = Workspace::new(fill);
    workspace.write("x.o", "ignored\n");
    workspace.write("tracked.o", "changed\n");
    workspace.write("target/tracked", "changed\n");
    workspace.write("target/new", "ignored\n");
    workspace.write("logs/a", "ignored\n");
    workspace.write("logs/keep", "kept\n");
    workspace.write("sub/x.o", "kept\n");
    workspace.write("new/.gitignore", "*\n");
    workspace.write("new/file", "kept\n");
    let (captured, patch) = workspace.capture();
    let text = String::from_utf8(patch).unwrap();
    let files = text.lines().filter_map(|line| line.strip_prefix("diff --git a/")).collect::<Vec<_>>();
    assert_eq!(files.len(), 6, "{files:?}");
    assert!(!text.contains("+ignored"));
    assert_eq!(captured.ignored_total, 3);

    let all = CaptureOptions { ignored: Ignored::Include, ..CaptureOptions::default() };
    assert_eq!(workspace.try_capture(&all).unwrap().0.result, workspace.git_tree());
}

#[test]
fn limits_have_clear_verdicts() {
    let workspace = Workspace::new(|git| git.write("a", "x\n"));
    workspace.write("b", "content of b\n");
    workspace.write("c", "content of c\n");
    let verdict = |options| workspace.try_capture(&options).unwrap_err();
    let options = CaptureOptions::default;
    assert!(matches!(
        verdict(CaptureOptions { max_entries: 2, ..options() }),
        CaptureError::TooManyEntries(2)
    ));
    assert!(matches!(verdict(CaptureOptions { max_files: 1, ..options() }), CaptureError::TooManyFiles(1)));
    assert!(matches!(
        verdict(CaptureOptions { max_patch_bytes: 99, ..options() }),
        CaptureError::PatchTooLarge(99)
    ));
    let too_large = verdict(CaptureOptions { max_changed_bytes: 20, ..options() });
    assert!(matches!(too_large, CaptureError::ContentTooLarge { limit: 20, .. }));
    fs::File::create(workspace.join("sparse")).unwrap().set_len(1 << 40).unwrap();
    assert!(matches!(verdict(options()), CaptureError::ContentTooLarge { .. }));
}
