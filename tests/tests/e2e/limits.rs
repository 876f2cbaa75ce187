//! Limits of a Run, and what its pod has for all of them.

use std::fs;
use std::path::PathBuf;

use runtimed_api::enforcement::State;
use runtimed_api::rule::Rule;
use runtimed_api::run::limits::LimitName;
use runtimed_api::run::outcome::Verdict;
use runtimed_api::run::status::Phase;
use runtimed_tests::cluster::{Cluster, Options, namespace, phase, result};
use runtimed_tests::runs::shell;

use crate::results::Repository;

/// Each ends by the kernel's word to one process, so that only the sum over the tree can tell.
#[tokio::test(flavor = "multi_thread")]
async fn the_processor_time_of_many_processes_counts_together() {
    let mut cluster = Cluster::start(Options::default()).await;
    let line = "for i in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done; wait";
    let run = cluster.run(shell("cpus", line, "limits: { cpu: 2s, timeout: 40s, grace: 100ms }")).await;
    let verdict = result(&run).outcome.as_ref().map(|outcome| outcome.verdict);
    assert_eq!(verdict, Some(Verdict::LimitExceeded(LimitName::Cpu)), "{:?}", run.status);
    let shown = result(&run).enforcement.clone().expect("an enforcement").protections;
    let cpu = shown.iter().find(|protection| protection.name == "cpu-limit").expect("it is shown");
    assert_eq!((cpu.state, cpu.mechanism.as_str()), (State::Degraded, "sampled"));
    assert!(cluster.drain().is_empty());
}

/// Of children that their parent does not want to hear of, the kernel counts nothing once they are gone.
#[tokio::test(flavor = "multi_thread")]
async fn the_processor_time_of_processes_that_nobody_waited_for_counts() {
    let mut cluster = Cluster::start(Options::default()).await;
    let line = r#"perl -e '$SIG{CHLD} = "IGNORE"; for (1..60) { my $child = fork; if (!$child) { 1 while (times)[0] < 0.5; exit }
        select undef, undef, undef, 0.05 while kill 0, $child }'"#;
    let run = cluster.run(shell("ignored", line, "limits: { cpu: 2s, timeout: 40s, grace: 100ms }")).await;
    let verdict = result(&run).outcome.as_ref().map(|outcome| outcome.verdict);
    assert_eq!(verdict, Some(Verdict::LimitExceeded(LimitName::Cpu)), "{:?}", run.status);
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_on_a_memory_backed_root_is_memory() {
    let trees = Some(PathBuf::from("/dev/shm"));
    let mut cluster = Cluster::start(Options { trees, ..Options::default() }).await;
    let line = "head -c 100m /dev/zero > $TMPDIR/big; sleep 60";
    let run = cluster.run(shell("tmpfs", line, "limits: { memory: 64Mi, timeout: 40s, grace: 100ms }")).await;
    let verdict = result(&run).outcome.as_ref().map(|outcome| outcome.verdict);
    assert_eq!(verdict, Some(Verdict::LimitExceeded(LimitName::Memory)), "{:?}", run.status);
    assert!(cluster.drain().is_empty());
}

/// What a mode hides from a look, and what has no name any more, takes room all the same: in the tier that this machine
/// gives, whose processes may be in namespaces of their own, and in base.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_hidden_from_a_look_counts_as_well() {
    for tier in ["Auto", "Base"] {
        hidden_counts(tier).await;
    }
}

async fn hidden_counts(tier: &str) {
    let runtime_toml = format!("[sandbox]\ntier = \"{tier}\"\n");
    let mut cluster = Cluster::start(Options { slots: 3, runtime_toml, ..Options::default() }).await;
    let limits = "limits: { disk: 20Mi, timeout: 40s, grace: 100ms }";
    let hidden = "mkdir h; cd h; chmod 0300 .; head -c 60M /dev/zero > f; sleep 60";
    let nameless = "exec 3> f; rm f; head -c 60M /dev/zero >&3; sleep 60";
    // A program that tries what a mode forbids is let alone.
    let tries = "mkdir h; chmod 0 h; ls h && exit 9; sleep 0.3; chmod 700 h; echo x > h/f; sleep 3";
    let mut names = Vec::new();
    for (name, line) in [("hidden", hidden), ("nameless", nameless), ("tries", tries)] {
        names.push(cluster.submit(shell(name, line, limits), &[]).await);
    }
    for name in &names[..2] {
        let run = cluster.end(name).await;
        let verdict = result(&run).outcome.as_ref().map(|outcome| outcome.verdict);
        assert_eq!(verdict, Some(Verdict::LimitExceeded(LimitName::Disk)), "{name}: {:?}", run.status);
        let said = result(&run).warnings.iter().any(|warning| warning.contains("could not be measured"));
        assert_eq!(said, name.as_str() == "hidden", "{:?}", result(&run).warnings);
    }
    let run = cluster.end(&names[2]).await;
    assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
    assert!(cluster.drain().is_empty());
}

/// What a source needs before its command can begin is held to the Run's memory as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_does_not_fit_into_its_runs_memory_ends_at_that_limit() {
    let mut cluster = Cluster::start(Options::default()).await;
    let repository = Repository::new(&cluster);
    let large = fs::File::create(repository.path().join("large")).expect("made");
    large.set_len(200 << 20).expect("a length");
    repository.commit("large");
    let retry = "retry: { maxAttempts: 3, on: [Fault] }\n  limits: { memory: 64Mi }";
    let run = cluster.run(repository.run("tight", "true", retry)).await;
    assert_eq!(phase(&run), Phase::Failed, "{:?}", run.status);
    let verdict = result(&run).outcome.as_ref().map(|outcome| outcome.verdict);
    assert_eq!(verdict, Some(Verdict::LimitExceeded(LimitName::Memory)));
    let status = run.status.as_ref().expect("a status");
    let reason = status.reason.as_deref().unwrap_or_default();
    assert!(
        reason.contains("needs more than the 128 MiB of memory that it may use; give the Run"),
        "{reason}"
    );
    assert_eq!(status.attempts.len(), 1, "it is no fault of ours");
    assert!(cluster.drain().is_empty());
}

/// The patch of a Run takes no more memory than the Run: what does not fit is said, and the rest is kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_patch_that_needs_more_memory_than_its_run_may_use_is_left_out() {
    let mut cluster = Cluster::start(Options::default()).await;
    let line = "truncate -s 250M sparse; echo printed; echo kept > $RUNTIMED_ARTIFACTS_DIR/a";
    let run = cluster.run(shell("sparse", line, "limits: { memory: 32Mi }")).await;
    assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
    let result = result(&run);
    let said = result.warnings.iter().find(|warning| warning.contains("the patch was not captured"));
    assert!(said.is_some_and(|said| said.contains("exceed 8388608 bytes")), "{:?}", result.warnings);
    assert_eq!(result.patch, None);
    assert_eq!(result.artifacts.as_ref().map(|artifacts| artifacts.count), Some(1));
    assert_eq!(cluster.log(&"sparse".parse().expect("a name")).await, "printed\n");
    assert!(cluster.drain().is_empty());
}

/// Limits whose end is not the Run's: the program is told, or what is too much is dropped and counted.
#[tokio::test(flavor = "multi_thread")]
async fn open_files_and_log_bytes_have_ends_of_their_own() {
    let mut cluster = Cluster::start(Options::default()).await;
    let line = "exec perl -e 'for (1..100) { open($f[$_], \"<\", \"/dev/null\") or do { print \"refused: $!\\n\"; exit 7 } }'";
    let run = cluster.run(shell("files", line, "limits: { openFiles: 20 }")).await;
    let verdict = result(&run).outcome.as_ref().map(|outcome| outcome.verdict);
    assert_eq!(verdict, Some(Verdict::Exited(7)), "{:?}", run.status);
    let log = cluster.log(&"files".parse().expect("a name")).await;
    assert_eq!(log, "refused: Too many open files\n");
    let run = cluster.run(shell("log", "head -c 5000 /dev/zero | tr '\\0' x", "limits: { log: 1Ki }")).await;
    assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
    let log = &result(&run).log;
    assert_eq!((log.bytes, log.dropped), (1024, 3976));
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_no_daemon_takes_in_time_says_so() {
    let cluster = Cluster::start(Options { slots: 1, ..Options::default() }).await;
    let first = cluster.submit(shell("first", "echo up; sleep 60", ""), &[]).await;
    cluster.until_printed(&first).await;
    let run = cluster.run(shell("second", "true", "limits: { queue: 300ms }")).await;
    assert_eq!(phase(&run), Phase::TimedOut);
    let reason = run.status.and_then(|status| status.reason).unwrap_or_default();
    assert!(reason.contains("no daemon took it within 300ms"), "{reason}");
}

fn pod(memory: &str) -> Options {
    let runtime_toml = format!("[capacity]\nmemory = \"{memory}\"\n");
    Options { slots: 4, runtime_toml, ..Options::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_can_never_fit_is_refused_by_its_rule() {
    let mut cluster = Cluster::start(pod("100Mi")).await;
    let run = cluster.run(shell("large", "true", "limits: { memory: 101Mi }")).await;
    assert_eq!(phase(&run), Phase::Refused, "{:?}", run.status);
    let refusal = &result(&run).refusals[0];
    assert_eq!((refusal.rule, refusal.subject.as_str()), (Rule::LIMIT_POD, "spec.limits.memory"));
    // One that asks for nothing gets its share, which is held.
    let line = "exec perl -e '$x = \"x\" x 60_000_000; sleep 60'";
    let run = cluster.run(shell("share", line, "limits: { timeout: 40s, grace: 100ms }")).await;
    let verdict = result(&run).outcome.as_ref().map(|outcome| outcome.verdict);
    assert_eq!(verdict, Some(Verdict::LimitExceeded(LimitName::Memory)), "{:?}", run.status);
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_does_not_fit_now_waits_and_loses_no_attempt() {
    let mut cluster = Cluster::start(pod("100Mi")).await;
    let first = cluster.submit(shell("first", "echo up; sleep 60", "limits: { memory: 80Mi }"), &[]).await;
    cluster.until_printed(&first).await;
    let second = cluster.submit(shell("second", "echo mine", "limits: { memory: 50Mi }"), &[]).await;
    let says = |run: &runtimed_api::run::Run| {
        let reason = run.status.as_ref().and_then(|status| status.reason.clone()).unwrap_or_default();
        reason.contains("memory: 50Mi asked for, 20Mi of 100Mi free")
    };
    let waiting = cluster.until(&second, says).await;
    assert_eq!(phase(&waiting), Phase::Pending);
    cluster.client.cancel(&namespace(), &first).await.expect("cancelled");
    let run = cluster.end(&second).await;
    assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
    assert_eq!(run.status.as_ref().expect("a status").attempts.len(), 1);
    // Four slots, two of which fit at once: all come to their turn.
    let mut names = Vec::new();
    for index in 0..8 {
        let run = shell(&format!("turn-{index}"), "sleep 0.1", "limits: { memory: 50Mi }");
        names.push(cluster.submit(run, &[]).await);
    }
    for name in names {
        let run = cluster.end(&name).await;
        assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
        assert_eq!(run.status.as_ref().expect("a status").attempts.len(), 1);
    }
    assert!(cluster.drain().is_empty());
}

/// A small file system can only be mounted as root.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_admitted_to_a_disk_that_is_nearly_full() {
    let Some(small) = SmallDisk::mount() else { return };
    let trees = Some(small.place.path().to_owned());
    let mut cluster = Cluster::start(Options { trees, ..Options::default() }).await;
    assert_eq!(phase(&cluster.run(shell("before", "true", "")).await), Phase::Succeeded);
    let ballast = small.place.path().join("ballast");
    fs::write(&ballast, vec![1; 98 << 20]).expect("written");
    let told = cluster.get(0, "/readyz", &cluster.token());
    assert!(told.starts_with("HTTP/1.1 503") && told.contains("nearly full"), "{told}");
    // A slot that waits for a Run already may still be given one: it goes back, for another daemon may have room.
    let declined = cluster.submit(shell("declined", "true", ""), &[]).await;
    let says = |run: &runtimed_api::run::Run| {
        let reason = run.status.as_ref().and_then(|status| status.reason.clone()).unwrap_or_default();
        reason.contains("declined it: the disk of") && reason.contains("nearly full")
    };
    assert_eq!(phase(&cluster.until(&declined, says).await), Phase::Pending);
    let waiting = cluster.submit(shell("waiting", "true", ""), &[]).await;
    fs::remove_file(&ballast).expect("removed");
    for name in [declined, waiting] {
        let run = cluster.end(&name).await;
        assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
        assert_eq!(run.status.as_ref().expect("a status").attempts.len(), 1);
    }
    // A daemon that begins full asks for nothing, and says why.
    fs::write(&ballast, vec![1; 98 << 20]).expect("written");
    cluster.daemon(0).signal(rustix::process::Signal::TERM);
    cluster.daemon(0).wait(std::time::Duration::from_secs(60));
    cluster.restart_daemon(0);
    cluster.until_daemon_said(0, "no Run is taken until there is room").await;
    let told = cluster.get(0, "/readyz", &cluster.token());
    assert!(told.starts_with("HTTP/1.1 503") && told.contains("nearly full"), "{told}");
    assert!(!cluster.get(0, "/readyz", "").contains("full"), "a Run may ask as well");
    let waiting = cluster.submit(shell("told", "true", ""), &[]).await;
    let says = |run: &runtimed_api::run::Run| {
        let reason = run.status.as_ref().and_then(|status| status.reason.clone()).unwrap_or_default();
        reason.contains("nearly full")
    };
    cluster.until(&waiting, says).await;
    fs::remove_file(&ballast).expect("removed");
    assert_eq!(phase(&cluster.end(&waiting).await), Phase::Succeeded);
    assert!(cluster.drain().is_empty());
}

/// A file system of 100 MiB in memory, gone when dropped.
struct SmallDisk {
    place: tempfile::TempDir,
}

impl SmallDisk {
    fn mount() -> Option<Self> {
        let place = tempfile::tempdir().expect("a directory");
        let options = c"size=100m,mode=755";
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("none", place.path(), "tmpfs", flags, Some(options)).ok()?;
        Some(Self { place })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _busy = rustix::mount::unmount(self.place.path(), rustix::mount::UnmountFlags::DETACH);
    }
}
