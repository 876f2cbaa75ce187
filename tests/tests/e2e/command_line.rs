//! `runtimectl`, as a person uses it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::Output;

use runtimed_tests::binaries;
use runtimed_tests::cluster::{Cluster, Options, namespace};
use runtimed_tests::process::command;

fn runtimectl(arguments: &[&str]) -> Output {
    command(binaries::path("runtimectl")).args(arguments).output().expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_local_run_gives_its_own_exit_code_and_its_own_streams() {
    let output = runtimectl(&["local", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "out\n");
    assert!(text(&output.stderr).contains("err\n"));
    let killed = runtimectl(&["local", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.status.code(), Some(137));
}

#[test]
fn json_is_one_object_on_stdout() {
    let output = runtimectl(&["-o", "json", "local", "--", "sh", "-c", "echo out; exit 3"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one object");
    assert_eq!(object["status"]["phase"], "Failed");
}

#[test]
fn an_ordinary_user_can_do_the_same() {
    if !rustix::process::geteuid().is_root() {
        // Then every other test here is this one.
        return;
    }
    // A home of its own, and copies of the binaries where that user can reach them.
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("set");
    for name in ["runtimectl", "runtimed", "runtimed-worker", "runtimed-controller"] {
        fs::copy(binaries::path(name), dir.path().join(name)).expect("copied");
    }
    let home = dir.path().join("home");
    fs::create_dir(&home).expect("made");
    chown(&home, Some(4242), Some(4242)).expect("owned");
    let mut user = command("setpriv");
    user.args(["--reuid=4242", "--regid=4242", "--clear-groups", "--"]).arg(dir.path().join("runtimectl"));
    user.args(["local", "--", "sh", "-c", "id -u; exit 6"]).current_dir(&home).env("HOME", &home);
    let output = user.env("TMPDIR", &home).output().expect("it runs");
    assert_eq!(output.status.code(), Some(6), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "4242\n");
    assert_eq!(fs::read_dir(&home).expect("a home").count(), 0, "nothing is left behind");
}

#[test]
fn bad_input_gets_one_sentence_and_a_documented_code() {
    let place = tempfile::tempdir().expect("a directory");
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o1777)).expect("set");
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        fs::write(dir.path().join(name), text).expect("written");
        dir.path().join(name).to_string_lossy().into_owned()
    };
    let head =
        "apiVersion: runtimed.dev/v1alpha1\nkind: Run\nmetadata: { name: x }\nspec:\n  runtime: local\n";
    let unknown =
        write("unknown.yaml", &format!("{head}  command: [\"true\"]\n  limits: {{ tiemout: 1s }}\n"));
    let kind = write("type.yaml", &format!("{head}  command: \"true\"\n"));
    let path = write(
        "path.yaml",
        &format!(
            "{head}  command: [\"true\"]\n  source: {{ inline: {{ files: [{{ path: ../x, content: x }}] }} }}\n"
        ),
    );
    let sub = write(
        "sub.yaml",
        &format!(
            "{head}  command: [\"true\"]\n  source: {{ git: {{ url: \"https://h/r\", subPath: ../x }} }}\n"
        ),
    );
    for (arguments, code, expected) in [
        (vec!["local", "-f", &unknown], 120, "did you mean `timeout`?"),
        (vec!["local", "-f", &kind], 120, "spec.command"),
        (vec!["local", "-f", &path], 121, "spec.path"),
        (vec!["local", "-f", &sub], 121, "spec.path"),
        (vec!["local", "-f", "/nowhere.yaml"], 120, "/nowhere.yaml"),
        (vec!["local", "--secret", "a=/nowhere/secret", "--", "true"], 120, "/nowhere/secret"),
        (vec!["local"], 120, "--"),
        (vec!["frobnicate"], 120, "frobnicate"),
        (vec!["--server", "http://127.0.0.1:9", "get", "x"], 125, "127.0.0.1:9"),
        (vec!["--server", "http://192.0.2.1:9", "get", "x"], 120, "https"),
        (vec!["local", "--", "/no/such/program"], 125, "/no/such/program"),
        (vec!["local", "--git", "https://127.0.0.1:9/r.git", "--", "true"], 125, "127.0.0.1"),
        (vec!["local", "--git", ".", "--ref", "no-such-ref", "--", "true"], 121, "no-such-ref"),
    ] {
        let mut local = command(binaries::path("runtimectl"));
        let output = local.args(&arguments).env("TMPDIR", place.path()).output().expect("it runs");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
        assert!(!said.contains("panicked") && !said.contains("backtrace"), "{arguments:?}: {said}");
        let left: Vec<_> = fs::read_dir(place.path()).expect("listed").flatten().map(|e| e.path()).collect();
        assert_eq!(left, Vec::<std::path::PathBuf>::new(), "{arguments:?} leaves something behind");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_works_against_a_controller() {
    let cluster = Cluster::start(Options::default()).await;
    let token = cluster.token_file.to_string_lossy().into_owned();
    let server = cluster.url.clone();
    let ctl = |arguments: &[&str]| {
        let fixed = ["--server", &server, "--token-file", &token];
        let output = runtimectl(&fixed.iter().chain(arguments).copied().collect::<Vec<_>>());
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let line = "echo one; echo two >&2; echo k=v >> $RUNTIMED_OUTPUTS; echo a > $RUNTIMED_ARTIFACTS_DIR/file; echo new > new";
    let (code, out, err) = ctl(&["run", "--runtime", "test", "--name", "whole", "--", "sh", "-c", line]);
    assert_eq!((code, out.as_str()), (Some(0), "one\n"), "{err}");
    let (code, out, _) = ctl(&["get", "whole"]);
    assert!(code == Some(0) && out.contains("Succeeded"), "{out}");
    let (code, out, _) = ctl(&["list"]);
    assert!(code == Some(0) && out.contains("whole"), "{out}");
    let (code, out, _) = ctl(&["logs", "whole"]);
    assert!(code == Some(0) && out.contains("one\n"), "{out}");
    let (code, out, _) = ctl(&["outputs", "whole"]);
    assert!(code == Some(0) && out.contains('k') && out.contains('v'), "{out}");
    let (code, out, _) = ctl(&["artifacts", "whole"]);
    assert!(code == Some(0) && out.contains("file"), "{out}");
    let (code, out, _) = ctl(&["patch", "get", "whole"]);
    assert!(code == Some(0) && out.contains("+new"), "{out}");
    let (code, out, _) = ctl(&["runtimes"]);
    assert!(code == Some(0) && out.contains("test"), "{out}");
    let (code, _, err) =
        ctl(&["run", "--runtime", "test", "--name", "slow", "--detach", "--", "sleep", "60"]);
    assert_eq!(code, Some(0), "{err}");
    let (code, _, err) = ctl(&["cancel", "slow"]);
    assert_eq!(code, Some(0), "{err}");
    let (code, _, err) = ctl(&["wait", "slow"]);
    assert_eq!(code, Some(122), "{err}");
    let (code, _, err) = ctl(&["get", "nobody"]);
    assert_eq!(code, Some(121), "{err}");
    let wrong = cluster.token_file.with_extension("wrong");
    fs::write(&wrong, "not-a-token").expect("written");
    let wrong = wrong.to_string_lossy().into_owned();
    let output = runtimectl(&["--server", &server, "--token-file", &wrong, "get", "whole"]);
    assert_eq!(output.status.code(), Some(121), "{}", text(&output.stderr));
    assert!(cluster.client.get(&namespace(), &"whole".parse().expect("a name")).await.is_ok());
}

/// The README's first command, without its build.
#[test]
fn the_example_fixes_its_typo() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut example = command(binaries::path("runtimectl"));
    example.current_dir(&root).args(["local", "-f", "docs/examples/fix-typo.yaml"]);
    example.args(["--prior-patch", "docs/examples/first-fix.patch"]);
    example.args(["--secret", "transaction=docs/examples/transaction.token"]);
    let output = example.output().expect("it runs");
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    assert!(out.contains("token: 600 ***transaction***"), "{out}");
    assert!(out.contains("corrected") && !out.contains("open:"), "{out}");
    assert!(!out.contains("example-transaction-token") && !err.contains("example-transaction-token"));
    for part in ["Succeeded", "words.txt", "letter.txt"] {
        assert!(err.contains(part), "{part} in {err}");
    }
}
