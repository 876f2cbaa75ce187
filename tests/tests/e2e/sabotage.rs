//! Runs that work against their own staging, their trees and the daemon's directories.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtimed_api::run::status::Phase;
use runtimed_tests::cluster::{Cluster, Options, UNPRIVILEGED, namespace, phase, result};
use runtimed_tests::process::{Server, command};
use runtimed_tests::runs::shell;
use rustix::process::Signal;

const SECRET: &str = "a-submitted-value";
const SECRETS: &str = "secrets: [{ name: llm }]";

#[tokio::test(flavor = "multi_thread")]
async fn modes_that_a_run_takes_away_are_given_back() {
    // In namespaces a Run sees no place but its own.
    let runtime_toml = "[sandbox]\ntier = \"Base\"\n".to_owned();
    let mut cluster = Cluster::start(Options { runtime_toml, ..Options::default() }).await;
    let state = cluster.state_dir(0);
    let line = format!(
        "echo k=v > $RUNTIMED_OUTPUTS; echo kept > $RUNTIMED_ARTIFACTS_DIR/one; echo new > file; mkdir -p $HOME/deep/er; \
         for d in $HOME/deep $HOME $TMPDIR $(dirname $RUNTIMED_OUTPUTS) $RUNTIMED_ARTIFACTS_DIR $(dirname $RUNTIMED_SECRET_LLM_FILE) \
         $(pwd) $(dirname $(pwd)) $(dirname $HOME) $(dirname $TMPDIR) $(dirname $(dirname $(pwd))) {}; do chmod 000 $d 2> /dev/null; done; true",
        state.display()
    );
    let name = cluster.submit(shell("closing", &line, SECRETS), &[("llm", SECRET)]).await;
    let run = cluster.end(&name).await;
    assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
    let result = result(&run);
    assert!(result.scrub.as_ref().is_some_and(|scrub| scrub.verified), "{:?}", result.scrub);
    assert_eq!(result.outputs.get("k").map(String::as_str), Some("v"), "{:?}", result.warnings);
    assert_eq!(result.artifacts.as_ref().map(|artifacts| artifacts.count), Some(1), "{:?}", result.warnings);
    assert!(result.patch.as_ref().is_some_and(|patch| patch.files == 1), "{:?}", result.warnings);
    assert!(result.warnings.iter().any(|warning| warning.contains("repaired")), "{:?}", result.warnings);
    // The daemon's own place is open again, and the next Run finds all as it should be.
    cluster.until_daemon_said(0, "it is mended").await;
    assert_eq!(fs::metadata(&state).expect("it is there").mode() & 0o700, 0o700);
    let next = cluster.run(shell("next", "echo fine", "")).await;
    assert_eq!(phase(&next), Phase::Succeeded, "{:?}", next.status);
    assert!(cluster.drain().is_empty());
    assert!(cluster.files_with(SECRET.as_bytes()).is_empty());
}

/// A tree deeper than any path, more files than a listing takes at once, and names that lead elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn deep_wide_and_linked_trees_are_removed() {
    // In memory: a disk may take milliseconds for each directory. The kernel's own judgement of a path takes its depth.
    let trees = Some(PathBuf::from("/dev/shm"));
    let mut cluster = Cluster::start(Options { trees, ..Options::default() }).await;
    let line = "ln $RUNTIMED_SECRET_LLM_FILE linked 2> /dev/null && exit 3; mv $RUNTIMED_SECRET_LLM_FILE moved 2> /dev/null && exit 4; \
         mkdir $(dirname $RUNTIMED_SECRET_LLM_FILE)/own 2> /dev/null && exit 5; \
         ln -s / everything; mkfifo pipe; cp $RUNTIMED_SECRET_LLM_FILE copy; \
         exec perl -e 'mkdir \"w\"; for (1..6000) { open F, \">\", \"w/$_\" } for (1..3000) { mkdir \"d\", 0700; chdir \"d\" or die } chmod 0, \".\"'";
    let name = cluster.submit(shell("deep", line, SECRETS), &[("llm", SECRET)]).await;
    let run = cluster.end(&name).await;
    assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
    assert!(result(&run).scrub.as_ref().is_some_and(|scrub| scrub.verified && scrub.removed == 1));
    assert!(cluster.drain().is_empty());
    assert!(cluster.files_with(SECRET.as_bytes()).is_empty());
}

/// The values are looked for as bytes wherever somebody could have put them: the daemon's processes and its files.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_in_no_command_line_environment_or_journal() {
    let mut cluster = Cluster::start(Options { slots: 1, ..Options::default() }).await;
    let name = cluster
        .submit(shell("live", "cat $RUNTIMED_SECRET_LLM_FILE; echo; sleep 60", SECRETS), &[("llm", SECRET)])
        .await;
    cluster.until_printed(&name).await;
    let tree = descendants(cluster.daemon(0).pid().as_raw_nonzero().get());
    assert!(tree.len() >= 3, "daemon, worker and command: {tree:?}");
    let mut looked_at = 0;
    for pid in &tree {
        for file in ["cmdline", "environ"] {
            // As an ordinary uid the processes of the daemon are closed to us: they are not dumpable.
            let Ok(bytes) = fs::read(format!("/proc/{pid}/{file}")) else { continue };
            looked_at += 1;
            assert!(!holds(&bytes, SECRET), "/proc/{pid}/{file}");
        }
    }
    assert!(looked_at >= tree.len(), "{looked_at} of {tree:?}");
    let staged = cluster.files_with(SECRET.as_bytes());
    assert_eq!(staged.len(), 1, "{staged:?}");
    assert!(staged[0].starts_with(cluster.roots(0).join("tmp")), "{staged:?}");
    cluster.client.cancel(&namespace(), &name).await.expect("cancelled");
    let run = cluster.end(&name).await;
    assert_eq!(phase(&run), Phase::Cancelled);
    assert!(result(&run).scrub.as_ref().is_some_and(|scrub| scrub.verified));
    assert!(cluster.drain().is_empty());
    assert!(cluster.files_with(SECRET.as_bytes()).is_empty());
}

/// Every message on the socket between daemon and worker, as the kernel sees it. Only root may look into a process that
/// is not dumpable.
#[tokio::test(flavor = "multi_thread")]
async fn the_link_never_holds_a_secret() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut cluster = Cluster::start(Options { slots: 1, ..Options::default() }).await;
    let seen = tempfile::NamedTempFile::new().expect("a file");
    let pid = cluster.daemon(0).pid().as_raw_nonzero().to_string();
    let mut strace = command("strace");
    strace
        .args(["-f", "-qq", "-e", "trace=sendmsg", "-xx", "-s", "1048576", "-p", &pid, "-o"])
        .arg(seen.path());
    let mut strace = Server::start("strace", &mut strace);
    let traced = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
    };
    assert!(tokio::task::block_in_place(|| wait_until(traced)), "strace is not attached: {}", strace.said());
    let secrets = "secrets: [{ name: llm, env: API_KEY }]";
    let name = cluster.submit(shell("told", "echo $API_KEY", secrets), &[("llm", SECRET)]).await;
    let run = cluster.end(&name).await;
    assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
    strace.signal(Signal::INT);
    strace.wait(Duration::from_secs(20));
    let text = fs::read_to_string(seen.path()).expect("read");
    let hex = |text: &str| text.bytes().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
    assert!(text.contains(&hex("\"frame\":\"assign\"")), "the link was not seen: {} bytes", text.len());
    assert!(!text.contains(&hex(SECRET)));
    assert!(cluster.drain().is_empty());
}

/// The daemon is killed at moments that are spread over the staging, the command and the scrub.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_killed_around_the_staging_leaves_no_secret() {
    let mut cluster = Cluster::start(Options { lease: "1s", slots: 1, ..Options::default() }).await;
    let mut met = BTreeSet::new();
    for round in 0..12_u32 {
        let run = shell(&format!("round-{round}"), "cat $RUNTIMED_SECRET_LLM_FILE", SECRETS);
        cluster.submit(run, &[("llm", SECRET)]).await;
        let tmp = cluster.roots(0).join("tmp");
        // From the moment at which the staging directory is seen, a little later in each round.
        assert!(tokio::task::block_in_place(|| wait_until(|| staging(&tmp).is_some())), "it stages");
        busy_wait(Duration::from_micros(u64::from(round) * 1500));
        met.insert(staging(&tmp).is_some());
        cluster.daemon(0).signal(Signal::KILL);
        cluster.daemon(0).wait(Duration::from_secs(10));
        cluster.restart_daemon(0);
        cluster.until_ready(0).await;
        assert_eq!(cluster.left_in_roots(), Vec::<PathBuf>::new(), "round {round}");
        assert!(cluster.files_with(SECRET.as_bytes()).is_empty(), "round {round}");
    }
    assert!(met.contains(&true), "no kill met a staged secret");
    assert!(cluster.drain().is_empty());
}

/// Only root can make a scrub fail from outside; a Run that could would be a bug.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_whose_scrub_failed_takes_no_other_run_and_says_so() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut cluster = Cluster::start(Options { slots: 1, ..Options::default() }).await;
    let name = cluster.submit(shell("stuck", "echo up; sleep 60", SECRETS), &[("llm", SECRET)]).await;
    cluster.until_printed(&name).await;
    let staged = staging(&cluster.roots(0).join("tmp")).expect("it stages");
    chown(&staged, Some(0), Some(0)).expect("owned");
    cluster.client.cancel(&namespace(), &name).await.expect("cancelled");
    let run = cluster.end(&name).await;
    let scrub = result(&run).scrub.clone().expect("a scrub");
    assert!(!scrub.verified && !scrub.problems.is_empty(), "{scrub:?}");
    assert!(["tmpfs", "ramfs", "disk"].contains(&scrub.medium.as_str()), "{scrub:?}");
    // Emptied through the descriptor all the same.
    assert!(cluster.files_with(SECRET.as_bytes()).is_empty());
    cluster.until_daemon_said(0, "a slot is out of use").await;
    let token = cluster.token();
    assert!(cluster.get(0, "/metrics", &token).contains("runtimed_quarantined_slots 1"));
    assert!(cluster.get(0, "/readyz", "").starts_with("HTTP/1.1 503"));
    let waiting = cluster.submit(shell("waiting", "true", ""), &[]).await;
    // A restart changes nothing as long as it is still there.
    cluster.daemon(0).signal(Signal::TERM);
    cluster.daemon(0).wait(Duration::from_secs(60));
    cluster.restart_daemon(0);
    cluster.until_daemon_said(0, "connected to the controller").await;
    assert!(cluster.get(0, "/readyz", "").starts_with("HTTP/1.1 503"));
    assert!(cluster.get(0, "/metrics", &token).contains("runtimed_quarantined_slots 1"));
    // A person removes what is in the way; the next start finds the slot clean.
    cluster.daemon(0).signal(Signal::TERM);
    cluster.daemon(0).wait(Duration::from_secs(60));
    chown(&staged, Some(UNPRIVILEGED), Some(UNPRIVILEGED)).expect("owned");
    cluster.restart_daemon(0);
    assert_eq!(phase(&cluster.end(&waiting).await), Phase::Succeeded);
    assert!(cluster.drain().is_empty());
}

/// The staging directory of any attempt in a root.
fn staging(tmp: &Path) -> Option<PathBuf> {
    let trees = fs::read_dir(tmp).ok()?.flatten();
    trees.map(|tree| tree.path().join("s")).find(|path| fs::symlink_metadata(path).is_ok())
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// A process and everything below it.
fn descendants(pid: i32) -> Vec<i32> {
    let mut tree = vec![pid];
    let mut next = 0;
    while let Some(pid) = tree.get(next).copied() {
        next += 1;
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            tree.extend(children.split_ascii_whitespace().filter_map(|child| child.parse::<i32>().ok()));
        }
    }
    tree
}

/// Looks as often as it can, at most twenty seconds.
fn wait_until(so: impl Fn() -> bool) -> bool {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while std::time::Instant::now() < deadline {
        if so() {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

/// A delay that is exact to the microsecond.
fn busy_wait(delay: Duration) {
    let until = std::time::Instant::now() + delay;
    while std::time::Instant::now() < until {
        std::hint::spin_loop();
    }
}
