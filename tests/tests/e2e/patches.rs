//! What people do with patches: run again, on top, and back onto their own files.

use std::fs;
use std::path::Path;
use std::process::Output;

use runtimed_tests::binaries;
use runtimed_tests::cluster::{Cluster, Options};
use runtimed_tests::process::command;

use crate::results::Repository;

/// `runtimectl` against the cluster, in a directory: exit code, standard output, standard error.
pub(crate) fn ctl(cluster: &Cluster, dir: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut program = command(binaries::path("runtimectl"));
    program.args(["--server", &cluster.url, "--token-file"]).arg(&cluster.token_file);
    let Output { status, stdout, stderr } =
        program.args(arguments).current_dir(dir).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code(), text(stdout), text(stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rerun_builds_on_its_own_patch_which_comes_home() {
    let mut cluster = Cluster::start(Options::default()).await;
    let repository = Repository::new(&cluster);
    let url = repository.path().display().to_string();
    let home = tempfile::tempdir().expect("a directory");
    let git = |arguments: &[&str]| {
        let mut git = command("git");
        let status = git.current_dir(home.path()).args(["-c", "safe.directory=*"]).args(arguments).status();
        assert!(status.expect("git runs").success(), "{arguments:?}");
    };
    // A copy and no clone: git clones nothing of another user's.
    let copied = command("cp").args(["-r", &format!("{url}/.")]).arg(home.path()).status();
    assert!(copied.expect("cp runs").success());
    let ctl = |arguments: &[&str]| ctl(&cluster, home.path(), arguments);
    let line = "echo more >> greeting; cat greeting";
    let words = ["run", "--runtime", "test", "--git", &url, "--ref", "main", "--name", "first"];
    let (code, out, err) = ctl(&[&words[..], &["--", "sh", "-c", line]].concat());
    assert_eq!((code, out.as_str()), (Some(0), "hello\nmore\n"), "{err}");
    // The branch moves on; the patch is for the commit that it was made from.
    fs::write(repository.path().join("other"), "x\n").expect("written");
    repository.commit("second");
    let (code, out, err) = ctl(&["rerun", "first"]);
    assert_eq!((code, out.as_str()), (Some(0), "hello\nmore\n"), "{err}");
    let (code, out, err) = ctl(&["rerun", "first", "--on-top", "--name", "second"]);
    assert_eq!((code, out.as_str()), (Some(0), "hello\nmore\nmore\n"), "{err}");
    let (code, out, err) = ctl(&["rerun", "second", "--on-top", "--name", "third", "--", "cat", "greeting"]);
    assert_eq!((code, out.as_str()), (Some(0), "hello\nmore\nmore\n"), "{err}");
    let (code, _, err) = ctl(&["rerun", "third", "--on-top"]);
    assert!(code == Some(121) && err.contains("has changed nothing"), "{err}");

    let (code, _, err) = ctl(&["patch", "check", "first", "second"]);
    assert!(code == Some(0) && err.contains("made: by Run second, attempt 1"), "{err}");
    assert_eq!(fs::read_to_string(home.path().join("greeting")).expect("there"), "hello\n");
    let (code, _, err) = ctl(&["patch", "apply", "first", "second", "--runtime", "test"]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(fs::read_to_string(home.path().join("greeting")).expect("there"), "hello\nmore\nmore\n");
    let (code, _, err) = ctl(&["patch", "apply", "first"]);
    assert!(code == Some(121) && err.contains("patch.does-not-apply"), "{err}");
    let (code, _, err) = ctl(&["patch", "get", "second", "-O", "second.patch"]);
    assert_eq!(code, Some(0), "{err}");
    git(&["apply", "--reverse", "--check", "second.patch"]);
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_starts_from_the_work_tree_here_and_its_patch_applies_back() {
    let mut cluster = Cluster::start(Options::default()).await;
    let home = tempfile::tempdir().expect("a directory");
    let at = |name: &str| home.path().join(name);
    let git = |arguments: &[&str]| {
        let mut git = command("git");
        git.current_dir(home.path()).args(["-c", "user.name=t", "-c", "user.email=t@t"]).args(arguments);
        let output = git.output().expect("git runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    git(&["init", "-q", "-b", "main"]);
    for (name, text) in [("kept", "kept\n"), ("edited", "one\n"), ("gone", "x\n"), (".gitignore", "secret\n")]
    {
        fs::write(at(name), text).expect("written");
    }
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "first"]);
    // Neither committed nor staged.
    fs::write(at("edited"), "one\ntwo\n").expect("written");
    fs::write(at("untracked"), b"a\0b").expect("written");
    fs::write(at("secret"), "mine alone\n").expect("written");
    fs::remove_file(at("gone")).expect("removed");
    std::os::unix::fs::symlink("kept", at("link")).expect("linked");
    let objects = || git(&["count-objects", "-v"]);
    let (before, index) = (objects(), fs::read(at(".git/index")).expect("read"));

    let ctl = |arguments: &[&str]| ctl(&cluster, home.path(), arguments);
    let line = "ls; git status --porcelain; git log --format=%s; cat edited; echo three >> edited; rm kept; printf 'c\\0d' > untracked";
    let words = ["run", "--runtime", "test", "--here", "--name", "here", "--", "sh", "-c", line];
    let (code, out, err) = ctl(&words);
    let log = format!(
        "edited\nkept\nlink\nuntracked\nThe work tree at {}\none\ntwo\n",
        git(&["rev-parse", "HEAD"])
    );
    assert_eq!((code, out.as_str()), (Some(0), log.as_str()), "{err}");
    assert_eq!((objects(), fs::read(at(".git/index")).expect("read")), (before, index), "only read");

    let (code, _, err) = ctl(&["patch", "apply", "here"]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(fs::read_to_string(at("edited")).expect("there"), "one\ntwo\nthree\n");
    assert_eq!(fs::read(at("untracked")).expect("there"), b"c\0d");
    assert!(!at("kept").exists() && at("secret").exists() && !at("gone").exists());

    // On top of it, without being sent again.
    let (code, out, err) = ctl(&["rerun", "here", "--on-top", "--name", "again", "--", "cat", "edited"]);
    assert_eq!((code, out.as_str()), (Some(0), "one\ntwo\nthree\n"), "{err}");
    let unknown = "0".repeat(64);
    let missing =
        format!("source: {{ upload: {{ digest: \"sha256:{unknown}\", commit: {} }} }}", "a".repeat(40));
    let run = runtimed_tests::runs::shell("missing", "true", &missing);
    let submission = runtimed_api::session::Submission { run, secrets: std::collections::BTreeMap::new() };
    let refused = cluster.client.submit(&runtimed_tests::cluster::namespace(), &submission).await;
    assert!(refused.expect_err("refused").to_string().contains("source.unknown"));
    assert!(cluster.drain().is_empty());
}
