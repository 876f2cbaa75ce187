use std::collections::BTreeMap;
use std::time::Duration;

use runtimed_tests::container::World;
use runtimed_tests::container::manifest::{Workload, publish};
use runtimed_tests::container::ours::ours;
use runtimed_tests::process::command;
use rustix::process::Signal;

use crate::needed;

fn run(command: &str) -> String {
    let command = serde_json::to_string(command).expect("a string");
    format!(
        "apiVersion: runtimed.dev/v1alpha1\nkind: Run\nmetadata: {{ name: a-job }}\nspec:\n  runtime: bash\n  command: [bash, -c, {command}]\n"
    )
}

#[test]
fn a_job_that_exits_7() {
    if !needed() {
        return;
    }
    for world in World::ALL {
        let job = Workload::read("job/job.yaml").file(
            "run-example",
            "run.yaml",
            &run("echo out > /tmp/x; cat /tmp/x; sleep 0.1 & exit 7"),
        );
        let mut job = job.start(&ours("bash"), world);
        let status = job.wait(Duration::from_secs(60));
        assert_eq!(status.code(), Some(7), "{world:?}: {}", job.said());
        let summary: serde_json::Value = serde_json::from_str(&job.termination_message()).expect("JSON");
        assert_eq!(summary["exitCode"], 7, "{summary}");
        assert_eq!(summary["run"], "default/a-job");
        // A job's pod is its one Run's: where it cannot have namespaces, it has the three directories whole.
        let tier = if world == World::UserNamespaces { "Namespaces" } else { "Exclusive" };
        assert_eq!(summary["tier"], tier, "{summary}");
    }
}

/// As podman and CRI-O do it for a uid that the image does not know: they mount a passwd of their own over the image's.
#[test]
fn a_random_uid_with_a_mounted_passwd_works() {
    if !needed() {
        return;
    }
    let who = run("test \"$(id -u)\" = 4321 && grep -q :4321: /etc/passwd && exit 9");
    for world in World::ALL {
        let mut job = Workload::read("job/job.yaml")
            .file("run-example", "run.yaml", &who)
            .random_user(4321, 1000)
            .option("--passwd=true")
            .start(&ours("bash"), world);
        assert_eq!(job.wait(Duration::from_secs(60)).code(), Some(9), "{world:?}: {}", job.said());
    }
}

#[test]
fn a_job_that_is_told_to_end_and_orphans_that_are_reaped() {
    if !needed() {
        return;
    }
    for world in World::ALL {
        told_to_end(world);
    }
}

fn told_to_end(world: World) {
    let place = tempfile::TempDir::with_prefix("runtimed-test-").expect("a directory");
    std::fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    let secret = BTreeMap::from([("token".to_owned(), "a-transaction-token\n".to_owned())]);
    publish(place.path(), &secret, 0o440, 1000);
    let script =
        "trap '' TERM; echo up; cp $RUNTIMED_TRANSACTION_TOKEN_FILE $HOME/copy; sleep 100 & wait; wait";
    let job = Workload::read("job/job.yaml")
        .file("run-example", "run.yaml", &(run(script) + "  secrets: [ { name: transaction } ]\n"))
        .option(format!("--volume={}:/run/runtimed/transaction:ro", place.path().display()))
        .arguments(&[
            "job",
            "--file=/run/runtimed/run/run.yaml",
            "--set",
            "drain.grace=0s",
            "--set",
            "secrets.transaction.source=file:/run/runtimed/transaction/token",
            "--set",
            "secrets.transaction.namespaces=[\"*\"]",
        ]);
    let mut job = job.start(&ours("bash"), world);
    assert_eq!(job.first_line(), "up\n");
    // What is started beside the job, and outlives its parent, is PID 1's to collect.
    let orphan = "(true &); (sleep 0.2 &); sleep 0.5; cat /proc/[0-9]*/stat | grep -c ' Z ' || true";
    assert_eq!(job.output(["bash", "-c", orphan]).trim(), "0");
    job.signal(Signal::TERM);
    assert_eq!(job.wait(Duration::from_secs(60)).code(), Some(122), "{}", job.said());
    let summary: serde_json::Value = serde_json::from_str(&job.termination_message()).expect("JSON");
    assert_eq!((&summary["end"], &summary["scrub"]), (&"Drained".into(), &true.into()), "{summary}");
    // What was staged is gone from every volume, and so is what the command copied.
    let volumes = ["tmp", "home", "workspace"].map(|volume| job.place(volume));
    let left =
        command("grep").args(["-rl", "a-transaction-token"]).args(volumes).output().expect("grep runs");
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
}
