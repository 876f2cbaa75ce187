//! Where a workspace's content comes from: git on this machine, and files written in the Run.

use runtimed_api::link::{Baseline, ExitStatus, Source};
use runtimed_api::run::source::{GitSource, InlineFile, InlineSource};

use crate::git::Repository;
use crate::harness::Daemon;

pub(crate) fn at(url: &str, reference: Option<&str>) -> GitSource {
    GitSource {
        url: url.to_owned(),
        reference: reference.map(str::to_owned),
        depth: None,
        sub_path: None,
        credential: None,
    }
}

fn fetched(repository: &Repository, reference: Option<&str>, depth: Option<u32>) -> (Daemon, Baseline) {
    let mut daemon = Daemon::new();
    let source = GitSource { depth, ..at(repository.bare().to_str().unwrap(), reference) };
    daemon.assign(Source::Git(source));
    let baseline = daemon.baseline();
    (daemon, baseline)
}

#[test]
fn head_branches_tags_and_commits_are_found() {
    let repository = Repository::new();
    let first = repository.id("side");
    for (reference, commit) in [
        (None, "main"),
        (Some("main"), "main"),
        (Some("side"), "side"),
        (Some("v1"), "side"),
        (Some("refs/tags/v1"), "side"),
        (Some(first.as_str()), "side"),
    ] {
        let (daemon, baseline) = fetched(&repository, reference, None);
        assert_eq!(baseline.commit.unwrap().as_str(), repository.id(commit), "{reference:?}");
        let tree = repository.id(&format!("{commit}^{{tree}}"));
        assert_eq!(baseline.tree.unwrap().as_str(), tree, "{reference:?}");
        let names: &[_] = if commit == "main" { &["link", "readme", "sub"] } else { &["readme", "sub"] };
        assert_eq!(daemon.trees.files(), names);
    }
}

#[test]
fn what_is_not_there_is_refused() {
    let repository = Repository::new();
    let blob = repository.id("main:readme");
    for reference in
        ["nothing", "refs/heads/nothing", "1234567890123456789012345678901234567890", blob.as_str()]
    {
        let mut daemon = Daemon::new();
        daemon.assign(Source::Git(at(repository.bare().to_str().unwrap(), Some(reference))));
        assert_eq!(daemon.refused(), ["source.ref-not-found"], "{reference}");
        assert_eq!(daemon.exit_code(), 0);
        assert!(daemon.trees.files().is_empty());
    }
    let mut daemon = Daemon::new();
    let nowhere = tempfile::tempdir().unwrap();
    daemon.assign(Source::Git(at(nowhere.path().to_str().unwrap(), None)));
    let problem = daemon.fault().problem;
    assert_eq!((problem.code.to_string().as_str(), problem.retryable), ("source-failed", false));
}

#[test]
fn the_command_finds_the_source_and_what_it_changes_is_the_patch() {
    let repository = Repository::new();
    let (daemon, baseline) = fetched(&repository, None, None);
    let (exited, stdout, captured, patch) = daemon.complete(&[
        "sh",
        "-c",
        "./sub/run && cat link && echo third > readme && rm sub/run && echo n > new",
    ]);
    assert_eq!((exited.status, stdout.as_str()), (ExitStatus::Code(0), "ran\nsecond\n"));
    let facts = captured.patch.unwrap();
    assert_eq!((facts.files, facts.base), (3, baseline.tree.unwrap()));
    assert_eq!(facts.size, u64::try_from(patch.len()).unwrap());
    // git applies it, and arrives at the tree that was told.
    let file = repository.work().join("../the.patch");
    std::fs::write(&file, patch).unwrap();
    repository.git(&["apply", "--index", file.to_str().unwrap()]);
    assert_eq!(repository.git(&["write-tree"]), facts.result.as_str());
}

#[test]
fn nothing_changed_is_no_patch() {
    let repository = Repository::new();
    let (daemon, _) = fetched(&repository, None, None);
    let (_, _, captured, patch) = daemon.complete(&["true"]);
    assert!(captured.patch.is_none() && patch.is_empty());
}

#[test]
fn a_depth_cuts_the_history_and_none_does_not() {
    let repository = Repository::new();
    for (depth, commits) in [(None, "1\n"), (Some(1), "1\n"), (Some(2), "2\n"), (Some(0), "2\n")] {
        let (daemon, _) = fetched(&repository, None, depth);
        let store = format!("{}/p/objects.git", daemon.trees.wire.workspace);
        let count =
            crate::git::git(std::path::Path::new(&store), &["rev-list", "--count", &repository.id("main")]);
        assert_eq!(count, commits.trim(), "{depth:?}");
    }
}

#[test]
fn submodules_and_lfs_are_refused() {
    let repository = Repository::new();
    let commit = repository.id("main");
    repository.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{commit},module")]);
    repository.git(&["commit", "-qm", "a submodule"]);
    repository.git(&["checkout", "-q", "-b", "lfs", "side"]);
    repository.write("deep/.gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n");
    repository.git(&["add", "."]);
    repository.git(&["commit", "-qm", "lfs"]);
    for reference in ["main", "lfs"] {
        let mut daemon = Daemon::new();
        daemon.assign(Source::Git(at(repository.bare().to_str().unwrap(), Some(reference))));
        assert_eq!(daemon.refused(), ["source.unsupported"], "{reference}");
        assert!(daemon.trees.files().is_empty());
    }
}

#[test]
fn a_sub_path_is_where_the_command_starts() {
    let repository = Repository::new();
    let (mut daemon, _) = fetched(&repository, None, None);
    let mut start = Daemon::start_frame(&["./run"]);
    start.directory = "sub".to_owned();
    daemon.send(&runtimed_api::link::Down::Start(start));
    daemon.started();
    assert_eq!(daemon.exited().status, ExitStatus::Code(0));
    assert_eq!(daemon.stdout(), "ran\n");
}

pub(crate) fn inline(files: &[(&str, &str, bool)]) -> Source {
    let file = |(path, content, executable): &(&str, &str, bool)| InlineFile {
        path: (*path).to_owned(),
        content: (*content).to_owned(),
        executable: *executable,
    };
    Source::Inline(InlineSource { files: files.iter().map(file).collect() })
}

#[test]
fn inline_files_are_written_and_can_be_run() {
    let mut daemon = Daemon::new();
    daemon.assign(inline(&[("a/run", "#!/bin/sh\ncat ../b\n", true), ("b", "text\n", false)]));
    let baseline = daemon.baseline();
    assert!(baseline.tree.is_some() && baseline.commit.is_none());
    let (_, stdout, captured, _) = daemon.complete(&["sh", "-c", "cd a && ./run"]);
    assert_eq!(stdout, "text\n");
    assert!(captured.patch.is_none());
}

#[test]
fn inline_paths_are_judged_again() {
    for path in ["../x", "/etc/x", "a/../../x", ".git/config"] {
        let mut daemon = Daemon::new();
        daemon.assign(inline(&[("good", "", false), (path, "", false)]));
        assert_eq!(daemon.refused(), ["spec.path"], "{path}");
        assert!(daemon.trees.files().is_empty());
    }
}

#[test]
fn the_workspace_is_an_ordinary_clone_that_shares_nothing() {
    let repository = Repository::new();
    let (daemon, _) = fetched(&repository, None, None);
    let workspace = daemon.trees.workspace();
    let git = |arguments: &[&str]| crate::git::git(&workspace, arguments);
    assert_eq!(git(&["status", "--porcelain", "--branch"]), "## main...origin/main");
    assert_eq!(git(&["rev-parse", "HEAD"]), repository.id("main"));
    git(&["fsck"]);
    for directory in ["objects/pack", "."] {
        for entry in std::fs::read_dir(workspace.join(".git").join(directory)).unwrap() {
            let links = std::os::unix::fs::MetadataExt::nlink(&entry.unwrap().metadata().unwrap());
            assert!(links == 1 || directory == ".", "a file is shared");
        }
    }
    let script = "git commit -qam x --allow-empty && git log --oneline | wc -l && echo y > z && git add z && git commit -qm y";
    let mut daemon = daemon;
    let mut start = Daemon::start_frame(&["sh", "-c", script]);
    for (name, value) in [("AUTHOR", "a"), ("COMMITTER", "b")] {
        start.env.insert(format!("GIT_{name}_NAME"), value.to_owned());
        start.env.insert(format!("GIT_{name}_EMAIL"), value.to_owned());
    }
    daemon.send(&runtimed_api::link::Down::Start(start));
    daemon.started();
    assert_eq!(daemon.exited().status, ExitStatus::Code(0), "{}", daemon.stderr());
    // What the command committed is in the Patch all the same.
    let (captured, _) = daemon.capture();
    assert_eq!(captured.patch.unwrap().files, 1);
    assert_eq!(daemon.stdout().trim(), "2");
}

#[test]
fn a_repository_of_another_user_can_be_read() {
    let repository = Repository::new();
    let bare = repository.bare();
    if rustix::process::geteuid().is_root() {
        // Only root can give files away; for others this is the ordinary case once more.
        for entry in [bare.clone(), bare.join("HEAD"), bare.join("config"), bare.join("objects")] {
            std::os::unix::fs::chown(entry, Some(1234), Some(1234)).unwrap();
        }
    }
    let mut daemon = Daemon::new();
    daemon.assign(Source::Git(at(bare.to_str().unwrap(), None)));
    assert_eq!(daemon.baseline().commit.unwrap().as_str(), repository.id("main"));
}

#[test]
fn what_is_ignored_is_left_out_unless_it_is_asked_for() {
    for (include, found) in [(false, vec!["kept"]), (true, vec!["built", "kept"])] {
        let mut daemon = Daemon::new();
        let file = |path: &str, content: &str| InlineFile {
            path: path.to_owned(),
            content: content.to_owned(),
            executable: false,
        };
        let files = vec![file(".gitignore", "built\n")];
        daemon.assign(Source::Inline(InlineSource { files }));
        daemon.baseline();
        daemon.start(&["sh", "-c", "echo x > built; echo x > kept"]);
        daemon.exited();
        let (captured, patch) = daemon.capture_with(include);
        let text = String::from_utf8(patch).unwrap();
        let names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("+++ b/")).collect();
        assert_eq!(names, found);
        let said = captured.notes.iter().any(|note| note.contains("ignored"));
        assert_eq!(said, !include, "{:?}", captured.notes);
    }
}
