//! The exclusive tier: a Run has the pod's three directories whole, and nobody finds anything of it afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtimed_api::enforcement::Tier;
use runtimed_api::run::status::Phase;
use runtimed_tests::binaries;
use runtimed_tests::cluster::{Cluster, Options, UNPRIVILEGED, own, phase, result};
use runtimed_tests::process::command;
use runtimed_tests::runs::shell;
use rustix::process::Signal;

const SECRET: &str = "a-secret-of-somebody";

fn options() -> Options {
    let runtime_toml = "[sandbox]\ntier = \"Exclusive\"\n".to_owned();
    Options { slots: 1, runtime_toml, ..Options::default() }
}

/// The three roots, as a shell names them.
fn roots(cluster: &Cluster) -> [String; 3] {
    ["tmp", "home", "workspace"].map(|root| cluster.roots(0).join(root).display().to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_has_the_directories_whole_the_next_finds_them_empty() {
    let mut cluster = Cluster::start(options()).await;
    let [tmp, home, workspace] = roots(&cluster);
    let line = format!(
        "set -e; test $PWD = {workspace}; test $HOME = {home}; test $TMPDIR = {tmp}; \
         test -z \"$(ls -A {tmp} {home} | grep -v :)\"; test -z \"$(git status --porcelain)\"; git log --oneline > /dev/null; \
         echo literal > {tmp}/x; echo .. > {home}/.profile; echo new > file; mkdir -p dist; echo built > dist/app; ln dist/app dist/two; \
         cat $RUNTIMED_SECRET_LLM_FILE > /dev/null; echo kept > $RUNTIMED_ARTIFACTS_DIR/a; echo k=v > $RUNTIMED_OUTPUTS; \
         case $RUNTIMED_SECRET_LLM_FILE in {tmp}/*|{home}/*|{workspace}/*) exit 4 ;; esac; \
         ! echo > $(dirname $RUNTIMED_SECRET_LLM_FILE)/own; cp $RUNTIMED_SECRET_LLM_FILE {home}/copy; \
         for d in {tmp} {home} .; do mkdir -p $d/.deep/er; ln -s / $d/all; mkfifo $d/pipe; chmod 000 $d/.deep; done; \
         a=$(dirname $(dirname $RUNTIMED_ARTIFACTS_DIR)); \
         chmod 000 {tmp} {home} $PWD $a $(dirname $(dirname $RUNTIMED_OUTPUTS)) $(dirname $a) 2> /dev/null || true"
    );
    let repository = repository(&cluster);
    let extra = format!(
        "secrets: [{{ name: llm }}]\nartifacts: {{ paths: [\"dist/**\"] }}\nsource: {{ git: {{ url: \"{}\", ref: main }} }}",
        repository.display()
    );
    let name = cluster.submit(shell("first", &line, &extra), &[("llm", SECRET)]).await;
    let run = cluster.end(&name).await;
    let log = cluster.log(&name).await;
    assert_eq!(phase(&run), Phase::Succeeded, "{log} {:?}", run.status);
    let ended = result(&run);
    assert_eq!(ended.enforcement.as_ref().map(|enforcement| enforcement.tier), Some(Tier::Exclusive));
    assert_eq!(ended.outputs.get("k").map(String::as_str), Some("v"), "{:?}", ended.warnings);
    assert_eq!(ended.artifacts.as_ref().map(|artifacts| artifacts.count), Some(3), "{:?}", ended.warnings);
    assert!(ended.patch.as_ref().is_some_and(|patch| patch.files >= 3), "{:?}", ended.warnings);
    assert!(ended.scrub.as_ref().is_some_and(|scrub| scrub.verified), "{:?}", ended.scrub);
    assert_eq!(cluster.left_in_roots(), Vec::<PathBuf>::new());

    let line = format!(
        "ls -A {tmp} {home} {workspace} | grep -v : | grep . && exit 3; echo > file && echo > {tmp}/x"
    );
    let next = cluster.run(shell("next", &line, "")).await;
    assert_eq!(phase(&next), Phase::Succeeded, "{:?}", next.status);
    assert_eq!(cluster.drain(), Vec::<PathBuf>::new());
    assert!(cluster.files_with(SECRET.as_bytes()).is_empty());
}

/// A repository with one commit, outside of everything.
fn repository(cluster: &Cluster) -> PathBuf {
    let path = cluster.state_dir(0).with_file_name("repository");
    let git = |words: &[&str]| {
        let mut git = command("git");
        git.args(["-c", "user.name=x", "-c", "user.email=x@example.com"]).args(words);
        assert!(git.status().expect("git runs").success(), "{words:?}");
    };
    let at = path.to_str().expect("text");
    git(&["init", "--quiet", "--initial-branch=main", at]);
    fs::write(path.join("kept"), "kept\n").expect("written");
    git(&["-C", at, "add", "."]);
    git(&["-C", at, "commit", "--quiet", "-m", "one"]);
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_daemon_left_is_gone_before_the_next_run() {
    let mut cluster = Cluster::start(options()).await;
    let [tmp, home, workspace] = roots(&cluster);
    let line = format!(
        "cp $RUNTIMED_SECRET_LLM_FILE {home}/copy; echo > {tmp}/x; echo > {workspace}/x; echo ready; sleep 119"
    );
    let name = cluster.submit(shell("lost", &line, "secrets: [{ name: llm }]"), &[("llm", SECRET)]).await;
    cluster.until_printed(&name).await;
    cluster.daemon(0).signal(Signal::KILL);
    cluster.daemon(0).wait(Duration::from_secs(10));
    assert!(!cluster.left_in_roots().is_empty());
    cluster.restart_daemon(0);
    assert_eq!(phase(&cluster.end(&name).await), Phase::Lost);
    let line = format!("ls -A {tmp} {home} {workspace} | grep -v : | grep . && exit 3; true");
    let next = cluster.run(shell("next", &line, "")).await;
    assert_eq!(phase(&next), Phase::Succeeded, "{:?}", next.status);
    assert_eq!(cluster.drain(), Vec::<PathBuf>::new());
    assert!(cluster.files_with(SECRET.as_bytes()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tier_than_the_pods_is_refused_before_anything_starts() {
    let mut cluster = Cluster::start(options()).await;
    let fits = cluster.run(shell("fits", "true", "tier: Exclusive")).await;
    assert_eq!(phase(&fits), Phase::Succeeded, "{:?}", fits.status);
    for tier in ["Base", "Namespaces"] {
        let name = format!("in-{}", tier.to_lowercase());
        let run = cluster.run(shell(&name, "true", &format!("tier: {tier}"))).await;
        assert_eq!(phase(&run), Phase::Refused, "{:?}", run.status);
        let refusals: Vec<_> = result(&run).refusals.iter().map(|refusal| refusal.rule.as_str()).collect();
        assert_eq!(refusals, ["sandbox.tier"]);
        assert!(result(&run).enforcement.is_none());
    }
    assert!(cluster.drain().is_empty());
}

#[test]
fn a_pod_that_is_not_one_for_a_run_alone_is_refused_at_start() {
    let dir = tempfile::TempDir::with_prefix("runtimed-test-").expect("a directory");
    let at = dir.path().canonicalize().expect("there");
    let mode: fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&at, mode).expect("set");
    for name in ["tmp", "home", "workspace", "state"] {
        own(&at.join(name));
    }
    let ends = |slots: u32, state: &str| {
        let text = format!(
            "runtime = \"test\"\nslots = {slots}\n[sandbox]\ntier = \"Exclusive\"\n[roots]\ntmp = \"{at}/tmp\"\nhome = \"{at}/home\"\nworkspace = \"{at}/workspace\"\n[state]\ndir = \"{at}/{state}\"\n[controller]\nurl = \"http://127.0.0.1:9\"\ntoken_file = \"{at}/token\"\n[http]\nlisten = \"127.0.0.1:0\"\n[worker]\npath = \"{}\"\n",
            binaries::path("runtimed-worker").display(),
            at = at.display(),
        );
        fs::write(at.join("runtime.toml"), text).expect("written");
        fs::write(at.join("token"), "a-token").expect("written");
        let mut serve = command(binaries::path("runtimed"));
        serve.arg("serve").arg("--config").arg(at.join("runtime.toml"));
        serve.arg("--user").arg(UNPRIVILEGED.to_string());
        let output = serve.output().expect("it runs");
        assert_eq!(output.status.code(), Some(120), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = ends(2, "state");
    assert!(said.contains("slots = 1, and not 2"), "{said}");
    let said = ends(1, "workspace/state");
    assert!(said.contains("lie in each other"), "{said}");
    fs::write(at.join("home/thesis"), "x").expect("written");
    let said = ends(1, "state");
    assert!(said.contains("thesis, which no Run of this daemon has left"), "{said}");
    assert!(Path::new(&at.join("home/thesis")).exists());
}

/// A job is a daemon of one slot that leases one Run, and ends as it does.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_leases_one_run_and_ends_with_its_exit_code() {
    let mut cluster = Cluster::start(options()).await;
    let config = cluster.config(0);
    cluster.kill_daemon(0);
    let names = [
        cluster.submit(shell("first", "echo leased; exit 7", ""), &[]).await,
        cluster.submit(shell("second", "true", ""), &[]).await,
    ];
    let mut job = command(binaries::path("runtimed"));
    job.args(["job", "--lease", "--config"]).arg(config);
    let ended = job.output().expect("it runs");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!((ended.status.code(), ended.stdout.as_slice()), (Some(7), &b"leased\n"[..]), "{said}");
    let [first, second] = names;
    let run = cluster.end(&first).await;
    assert_eq!(phase(&run), Phase::Failed);
    assert_eq!(result(&run).enforcement.as_ref().map(|enforcement| enforcement.tier), Some(Tier::Exclusive));
    let waiting =
        cluster.client.get(&runtimed_tests::cluster::namespace(), &second).await.expect("it is there");
    assert_eq!(phase(&waiting), Phase::Pending, "one Run and no more");
}
