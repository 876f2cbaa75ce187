//! Secrets whose source changes while a Run uses them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use runtimed_api::run::Run;
use runtimed_api::run::status::Phase;
use runtimed_tests::cluster::{Cluster, Options, phase, result};
use runtimed_tests::runs::shell;
use tempfile::TempDir;

const FIRST: &str = "the-first-value-of-it";
const SECOND: &str = "the-second-value-of-it";

/// A Secret volume as a kubelet mounts it: the file is a link through `..data`, which is a link to a dated directory.
struct Volume {
    dir: TempDir,
    swaps: u32,
}

impl Volume {
    fn new(value: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        open_to_all(dir.path());
        symlink("..data/token", dir.path().join("token")).expect("linked");
        let mut volume = Self { dir, swaps: 0 };
        volume.swap(value);
        volume
    }

    /// Another value, put there as a kubelet does: a new directory, then one rename of the link.
    fn swap(&mut self, value: &str) {
        let former = fs::read_link(self.dir.path().join("..data")).ok();
        self.swaps += 1;
        let dated = format!("..2026_{}", self.swaps);
        let place = self.dir.path().join(&dated);
        fs::create_dir(&place).expect("made");
        open_to_all(&place);
        fs::write(place.join("token"), value).expect("written");
        symlink(&dated, self.dir.path().join("..data_tmp")).expect("linked");
        fs::rename(self.dir.path().join("..data_tmp"), self.dir.path().join("..data")).expect("renamed");
        if let Some(former) = former {
            fs::remove_dir_all(self.dir.path().join(former)).expect("removed");
        }
    }

    fn options(&self) -> Options {
        let path = self.dir.path().join("token");
        let runtime_toml = format!(
            "[secrets.transaction]\nsource = \"file:{}\"\nnamespaces = [\"default\"]\n",
            path.display()
        );
        Options { runtime_toml, ..Options::default() }
    }
}

fn open_to_all(path: &Path) {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
}

const SECRETS: &str = "secrets: [{ name: transaction }]\nlimits: { timeout: 40s }";

#[tokio::test(flavor = "multi_thread")]
async fn each_attempt_reads_its_secrets_anew() {
    let mut volume = Volume::new(FIRST);
    let mut cluster = Cluster::start(volume.options()).await;
    let more = "secrets: [{ name: transaction }]\nretry: { maxAttempts: 2, backoff: 2s, on: [Failed] }";
    let line = "! grep -q first $RUNTIMED_TRANSACTION_TOKEN_FILE";
    let name = cluster.submit(shell("anew", line, more), &[]).await;
    let tried = |run: &Run| run.status.as_ref().map_or(0, |status| status.attempts.len());
    cluster.until(&name, |run| phase(run) == Phase::Pending && tried(run) == 1).await;
    volume.swap(SECOND);
    let run = cluster.end(&name).await;
    assert_eq!((phase(&run), tried(&run)), (Phase::Succeeded, 2), "{:?}", run.status);
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_sees_the_new_value_and_both_are_masked() {
    let mut volume = Volume::new(FIRST);
    let mut cluster = Cluster::start(volume.options()).await;
    let line = "F=$RUNTIMED_TRANSACTION_TOKEN_FILE; OLD=$(cat $F); echo one=$OLD; until test \"$(cat $F)\" != \"$OLD\"; do sleep 0.02; done; echo two=$(cat $F); cat $F | md5sum | cut -c1-8; echo three=$OLD; printf %s $OLD | base64; stat -c %a $F; ls -A $(dirname $F)";
    let name = cluster.submit(shell("rotated", line, SECRETS), &[]).await;
    cluster.until_printed(&name).await;
    volume.swap(SECOND);
    let run = cluster.end(&name).await;
    assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
    let log = cluster.log(&name).await;
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines[..2], ["one=***transaction***", "two=***transaction***"]);
    assert_eq!(lines[2], "7b90e1c1", "the digest of the new value");
    assert_eq!(lines[3], "three=***transaction***");
    assert!(lines[4].contains("***transaction***"), "{log}");
    assert_eq!(lines[5..], ["600", "transaction"]);
    let scrub = result(&run).scrub.clone().expect("a scrub");
    assert!(scrub.verified && scrub.staged == 1 && scrub.rotated == 1, "{scrub:?}");
    assert!(result(&run).warnings.is_empty(), "{:?}", result(&run).warnings);
    assert!(cluster.drain().is_empty());
    for value in [FIRST, SECOND] {
        assert!(cluster.files_with(value.as_bytes()).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_fails_its_checks_keeps_the_former_and_says_so() {
    let mut volume = Volume::new(FIRST);
    let mut cluster = Cluster::start(volume.options()).await;
    let line = "F=$RUNTIMED_TRANSACTION_TOKEN_FILE; wc -c < $F; LAST=21; until test $LAST = 22; do NOW=$(cat $F | wc -c); test $NOW = $LAST || echo $NOW; LAST=$NOW; sleep 0.02; done";
    let name = cluster.submit(shell("kept", line, SECRETS), &[]).await;
    cluster.until_printed(&name).await;
    volume.swap("short");
    cluster.until_daemon_said(0, "was not replaced").await;
    volume.swap(SECOND);
    let run = cluster.end(&name).await;
    assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
    assert_eq!(cluster.log(&name).await, "21\n22\n", "the command never saw the bad value");
    let warnings = &result(&run).warnings;
    let kept = |warning: &&String| warning.contains("keeps the former value") && warning.contains("shorter");
    assert_eq!(warnings.iter().filter(kept).count(), 1, "{warnings:?}");
    assert_eq!(result(&run).scrub.as_ref().map(|scrub| scrub.rotated), Some(1));
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_secrets_directory_does_not_stop_a_rotation() {
    let mut volume = Volume::new(FIRST);
    let mut cluster = Cluster::start(volume.options()).await;
    let line = "F=$RUNTIMED_TRANSACTION_TOKEN_FILE; chmod 000 $F $(dirname $F); echo closed; until grep -q second $F 2> /dev/null; do sleep 0.02; done; echo seen";
    let name = cluster.submit(shell("closed", line, SECRETS), &[]).await;
    cluster.until_printed(&name).await;
    volume.swap(SECOND);
    let run = cluster.end(&name).await;
    assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
    assert_eq!(cluster.log(&name).await, "closed\nseen\n");
    assert!(result(&run).scrub.as_ref().is_some_and(|scrub| scrub.verified));
    assert!(cluster.drain().is_empty());
}
