//! Pods that were made badly, and what `check` says of them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use runtimed_tests::binaries;
use runtimed_tests::container::manifest::Workload;
use runtimed_tests::container::ours::ours;
use runtimed_tests::container::{World, podman};
use runtimed_tests::process::Server;
use serde_json::Value;

use crate::needed;

/// The ids of what is worse than a note.
fn found(report: &[u8]) -> Vec<String> {
    let report: Value = serde_json::from_slice(report).expect("JSON");
    let findings = report["findings"].as_array().expect("a list").iter();
    let bad = findings.filter(|finding| finding["level"] != "note");
    bad.map(|finding| finding["id"].as_str().expect("an id").to_owned()).collect()
}

#[test]
fn each_way_to_make_a_pod_badly_is_found() {
    if !needed() {
        return;
    }
    let image = ours("base");
    // On a disk, as /tmp need not be.
    let dir = tempfile::TempDir::with_prefix_in("runtimed-test-", binaries::dir()).expect("a directory");
    let path = |name: &str, mode| {
        let path = dir.path().join(name);
        fs::create_dir(&path).expect("made");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
        path
    };
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("set");
    let (open, closed, account) = (path("open", 0o777), path("closed", 0o755), path("account", 0o755));
    fs::write(account.join("token"), "a-service-accounts-token").expect("written");
    let volume = |from: &std::path::Path, to: &str| format!("--volume={}:{to}", from.display());
    let secret = volume(&account, "/run/x");
    // As it should be, but for one thing.
    let good = [
        ("root", "--read-only"),
        ("tmpfs", "--read-only-tmpfs=false"),
        ("capabilities", "--cap-drop=ALL"),
        ("privileges", "--security-opt=no-new-privileges"),
        ("user", "--user=1000:0"),
        ("tmp", "--tmpfs=/tmp:rw,size=16m,notmpcopyup"),
        ("home", "--tmpfs=/home/worker:rw,size=16m,notmpcopyup"),
        ("workspace", "--tmpfs=/workspace:rw,size=16m,notmpcopyup"),
        ("network", "--network=none"),
    ];
    let check = |without: &str, options: &[&str], words: &[&str]| {
        let mut run = podman();
        run.args(["run", "--rm"]);
        run.args(good.iter().filter(|(name, _)| *name != without).map(|(_, option)| *option));
        run.args(options).arg(image.reference()).args(["check", "--json"]).args(words);
        let output = run.output().expect("podman runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.stdout.is_empty(), "{without} {options:?}: {said}");
        found(&output.stdout)
    };
    assert_eq!(check("", &[], &[]), [""; 0]);
    // It can give up what it has.
    let root = ["--user=0:0", "--cap-add=SETUID", "--cap-add=SETGID", "--cap-add=SETPCAP"];
    let staged = ["--set", "secrets.x.source=file:/run/x/token", "--set", "secrets.x.namespaces=[\"*\"]"];
    let cases: [(&str, &str, Vec<String>, &[&str]); 13] = [
        ("uid.root", "user", vec!["--user=0:0".to_owned()], &[]),
        ("uid.root", "user", root.map(str::to_owned).to_vec(), &[]),
        ("capabilities.held", "capabilities", vec![], &[]),
        ("privileges.new", "privileges", vec![], &[]),
        ("seccomp.unconfined", "", vec!["--security-opt=seccomp=unconfined".to_owned()], &[]),
        ("files.writable", "", vec![volume(&open, "/srv/shared")], &[]),
        ("root.unusable", "workspace", vec![volume(&closed, "/workspace")], &[]),
        (
            "service-account.mounted",
            "",
            vec![volume(&account, "/var/run/secrets/kubernetes.io/serviceaccount")],
            &[],
        ),
        ("sandbox.grant", "", vec![volume(&account, "/etc/token:ro")], &[]),
        ("staging.disk", "tmp", vec![volume(&open, "/tmp"), secret], &staged),
        ("file.unusable", "", vec![], &staged),
        (
            "sandbox.tier",
            "",
            vec![format!("--security-opt=seccomp={}", runtime_default())],
            &["--set", "sandbox.tier=Namespaces"],
        ),
        ("http.plain", "", vec![], &["--set", "http.listen=0.0.0.0:8410"]),
    ];
    for (id, without, options, words) in cases {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let ids = check(without, &options, words);
        assert!(ids.iter().any(|found| found == id), "{id}: {ids:?}");
    }
}

fn runtime_default() -> String {
    World::RuntimeDefault.profile().display().to_string()
}

/// The address at which clouds hand out credentials, with a server of this test's at it.
#[test]
fn a_metadata_service_that_answers_is_found() {
    if !needed() {
        return;
    }
    let sleep = "apiVersion: runtimed.dev/v1alpha1\nkind: Run\nmetadata: { name: sleep }\nspec:\n  runtime: bash\n  command: [bash, -c, 'echo up; sleep 100']\n";
    let mut pod = Workload::read("job/job.yaml")
        .file("run-example", "run.yaml", sleep)
        .start(&ours("bash"), World::RuntimeDefault);
    assert_eq!(pod.first_line(), "up\n");
    let check = |words: &[&str]| {
        let words = ["runtimed", "check", "--json"].iter().chain(words).copied();
        found(&pod.exec(words).output().expect("podman runs").stdout)
    };
    assert_eq!(check(&["--set", "ceiling.network=Full"]), [""; 0]);
    let address = pod.forwarded("ip").args(["addr", "add", "169.254.169.254/32", "dev", "lo"]).status();
    assert!(address.expect("ip runs").success());
    let mut serve = pod.forwarded("python3");
    serve.args(["-u", "-c", "import socket as s; l = s.create_server((\"169.254.169.254\", 80)); print(\"up\"); l.accept(); l.accept()"]);
    let mut server = Server::start("the metadata service", &mut serve);
    assert_eq!(server.first_line().as_deref(), Ok("up\n"));
    assert_eq!(check(&["--set", "ceiling.network=Full"]), ["metadata.reachable"]);
    assert_eq!(check(&["--set", "ceiling.network=None"]), [""; 0], "no Run may ask it: a note");
}
