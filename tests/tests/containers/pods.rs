use std::fs;
use std::path::Path;
use std::time::Duration;

use runtimed_tests::container::World;
use runtimed_tests::process::command;
use rustix::process::Signal;

use crate::cluster::{Cluster, Ended, POD, SECRET};
use crate::needed;

/// In each world: a Run to its end, its neighbours, its secrets, the check of the pod, and the end of the pod.
fn a_pods_life(world: World) {
    if !needed() {
        return;
    }
    let mut cluster = Cluster::start(world, |runtime| runtime);

    // The pod is as it should be, and says so.
    let checked =
        cluster.runtime.exec(["runtimed", "check", "--strict", "--json"]).output().expect("podman runs");
    let report: serde_json::Value = serde_json::from_slice(&checked.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("a list").clone();
    let bad: Vec<_> = findings.iter().filter(|finding| finding["level"] != "note").collect();
    assert!(bad.is_empty() && checked.status.success(), "{bad:?}");
    assert_eq!(report["posture"]["stagingMedium"], "tmpfs");
    let unshared = cluster.runtime.exec(["unshare", "--user", "true"]).output().expect("podman runs");
    assert_eq!(unshared.status.success(), world == World::UserNamespaces, "{}", world.name());
    let claimed = report["posture"]["userNamespaces"] == "allowed";
    assert_eq!(report["posture"]["tier"] == "Namespaces", claimed, "{}", report["posture"]);
    assert!(!claimed || world == World::UserNamespaces, "{}", report["posture"]);

    // What is claimed holds, tried beside the daemon that serves.
    let tested = cluster.runtime.exec(["runtimed", "selftest"]).output().expect("podman runs");
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stdout));

    // A Run with a secret from a 0440 file of root's: its own exit code, its log masked.
    let (code, out, err) = cluster
        .run(
            true,
            "stat -c %a \"$HOME\" \"$TMPDIR\" . \"$RUNTIMED_TRANSACTION_TOKEN_FILE\"; cat \"$RUNTIMED_TRANSACTION_TOKEN_FILE\"; exit 7",
        )
        .parts();
    assert_eq!(code, 7, "{out}{err}");
    // The EmptyDirs hand on their group by the setgid bit; what is made in them does not have it.
    assert_eq!(out, "700\n700\n700\n600\n***transaction***", "{err}");

    the_readmes_run(&cluster);
    two_hostile_neighbours(&cluster);
    a_rotation(&cluster);
    a_forwarded_log(&cluster);

    // The end of the pod while a Run goes on, which the drain's grace lets end.
    let mut run = cluster.runtimectl();
    run.args(["run", "--runtime", "bash", "--", "bash", "-c", "echo up; sleep 2; echo over"]);
    let mut run = runtimed_tests::process::Server::start("the run", &mut run);
    assert_eq!(run.first_line().as_deref(), Ok("up\n"));
    cluster.runtime.signal(Signal::TERM);
    let ended = run.wait(Duration::from_secs(60));
    assert!(ended.success(), "{}", run.said());
    let drained = cluster.runtime.wait(Duration::from_secs(60));
    assert_eq!(drained.code(), Some(0), "{}", cluster.runtime.said());
    let left: Vec<_> = ["home/whole", "workspace/workspace"]
        .iter()
        .flat_map(|volume| fs::read_dir(cluster.runtime.place(volume)).expect("a volume").flatten())
        .map(|entry| entry.path())
        .collect();
    assert!(left.is_empty(), "{left:?}");
    cluster.controller.signal(Signal::TERM);
    assert_eq!(
        cluster.controller.wait(Duration::from_secs(60)).code(),
        Some(0),
        "{}",
        cluster.controller.said()
    );
}

/// Both look for all that is the other's, at the same time, and in the end one kills whatever it can.
fn two_hostile_neighbours(cluster: &Cluster) {
    let attack = |own: &str, other: &str, rounds: u32| {
        format!(
            "export MARK=words-of-{own}; for place in \"$HOME\" \"$TMPDIR\" .; do echo $MARK > \"$place/words\"; done
            for round in $(seq {rounds}); do
                for top in /tmp /home/worker /workspace /dev/shm /var/lib/runtimed /run/runtimed; do
                    grep -rqs -D skip \"words-of-\"{other} $top && echo found the words in $top
                done
                grep -qs \"words-of-\"{other} /proc/[0-9]*/environ && echo found the words in an environment
                cat /run/runtimed/*/* 2> /dev/null && echo found a secret of the pod
                (exec 3<> /dev/tcp/127.0.0.1/8410) 2> /dev/null && echo found the daemon
                # Where it is its own, a directory that stays unseen would count as full.
                for top in /tmp /home/worker /workspace /var/lib/runtimed; do
                    chmod 000 $top 2> /dev/null && chmod 700 $top
                done
                echo round $round
                sleep 0.2
            done"
        )
    };
    let finale = "kill -KILL -1; kill -KILL $$";
    cluster.submit("hostile-a", &format!("{}; {finale}", attack("a", "b", 30)));
    cluster.submit("hostile-b", &attack("b", "a", 1000));
    let rounds = |name: &str| cluster.log(name).matches("round ").count();
    let reaches = |name: &str, round: usize| {
        for _ in 0..600 {
            if rounds(name) >= round {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        panic!("{name} does not come to round {round}: {}", cluster.log(name));
    };
    reaches("hostile-b", 3);
    let first = rounds("hostile-a");
    assert!(first < 30, "the first is over before the second has begun");
    let ended = Ended::of(cluster.runtimectl().args(["wait", "hostile-a"]));
    assert_eq!(ended.code, 137, "{}{}", ended.out, ended.err);
    reaches("hostile-b", rounds("hostile-b") + 3);
    assert_eq!(Ended::of(cluster.runtimectl().args(["cancel", "hostile-b"])).code, 0);
    for name in ["hostile-a", "hostile-b"] {
        let log = cluster.log(name);
        assert!(!log.contains("found"), "{name}: {log}");
    }
}

/// A secret is rotated while a Run has it.
fn a_rotation(cluster: &Cluster) {
    let run = std::thread::scope(|scope| {
        let line = "f=$RUNTIMED_TRANSACTION_TOKEN_FILE; first=$(cat $f); echo up; while [ \"$(cat $f)\" = \"$first\" ]; do [ $SECONDS -lt 30 ] || exit 9; sleep 0.05; done; cat $f; echo; echo $first";
        let run = scope.spawn(move || cluster.run(true, line));
        // However far it has come, it sees the second value, or began with it and waits for the third.
        for round in 0..600 {
            if run.is_finished() {
                break;
            }
            cluster.rotate(&format!("a-rotated-transaction-token-{}", round / 20));
            std::thread::park_timeout(Duration::from_millis(100));
        }
        run.join().expect("it ends")
    });
    let (code, out, err) = run.parts();
    assert_eq!(code, 0, "{out}{err}");
    assert!(!out.contains("rotated-transaction") && !out.contains(SECRET), "{out}");
    assert!(out.matches("***").count() >= 2, "{out}");
}

/// A log that is followed through a port-forward: to the controller, and to the pod itself.
fn a_forwarded_log(cluster: &Cluster) {
    let line = "for i in 1 2 3; do echo line $i; sleep 0.5; done";
    let expected = "line 1\nline 2\nline 3\n";
    cluster.submit("forwarded", line);
    let logs = Ended::of(cluster.runtimectl().args(["logs", "-f", "forwarded"]));
    assert_eq!(logs.out, expected, "{}", logs.err);
    cluster.submit("forwarded-by-the-pod", &line.replace("sleep 0.5", "sleep 2"));
    let path = "/v1/namespaces/default/runs/forwarded-by-the-pod/logs?follow=true";
    for patience in 0..200 {
        // It is there once the pod has leased it, and until its results are the controller's.
        let logs = cluster.get_as_person(&format!("{POD}{path}"));
        if logs.status.success() {
            return assert_eq!(String::from_utf8_lossy(&logs.stdout), expected);
        }
        assert!(patience < 199, "{}", String::from_utf8_lossy(&logs.stderr));
    }
}

/// The Run of the README, with the same files; its source is a repository of the person who submits it.
fn the_readmes_run(cluster: &Cluster) {
    let readme = include_str!("../../../README.md");
    let (_, words) = readme.split_once("runtimectl local -f ").expect("the first command");
    let (words, _) = words.split_once("\n```").expect("its end");
    let words: Vec<&str> = words.split_whitespace().filter(|word| *word != "\\").collect();
    let repository = tempfile::TempDir::with_prefix("runtimed-test-").expect("a directory");
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples");
    let own = repository.path().join("docs/examples");
    fs::create_dir_all(&own).expect("made");
    for file in fs::read_dir(examples).expect("listed").flatten() {
        fs::copy(file.path(), own.join(file.file_name())).expect("copied");
    }
    let git = "git init -q && git add . && git -c user.name=x -c user.email=x@example.com commit -qm letters";
    let made = command("sh").args(["-c", git]).current_dir(repository.path()).status().expect("git runs");
    assert!(made.success());
    let mut run = cluster.runtimectl();
    run.args(["run", "--runtime", "bash", "--here", "-f"]).args(words).current_dir(repository.path());
    let (code, out, err) = Ended::of(&mut run).parts();
    assert_eq!(code, 0, "{out}{err}");
    for expected in ["the prior patch is here: 1", "token: 600 ***transaction***", "closed: the network"] {
        assert!(out.contains(expected), "{expected}: {out}{err}");
    }
    assert!(!out.contains("open: ") && err.contains("corrections=1"), "{out}{err}");
}

#[test]
fn a_pods_life_under_runtime_default() {
    a_pods_life(World::RuntimeDefault);
}

#[test]
fn a_pods_life_with_user_namespaces() {
    a_pods_life(World::UserNamespaces);
}

#[test]
fn a_random_user_without_an_entry_works() {
    if !needed() {
        return;
    }
    for world in World::ALL {
        random_user(world);
    }
}

fn random_user(world: World) {
    let cluster = Cluster::start(world, |runtime| runtime.random_user(1_000_690_000, 1000));
    let (code, out, err) = cluster.run(true, "id -u; test -w $HOME && test -w $TMPDIR && test -w . && test -s $RUNTIMED_TRANSACTION_TOKEN_FILE && echo fine").parts();
    assert_eq!((code, out.as_str()), (0, "1000690000\nfine\n"), "{err}");
    let checked = cluster.runtime.output(["runtimed", "check"]);
    assert!(checked.contains("uid.no-passwd"), "{checked}");
}

#[test]
fn a_full_directory_fails_its_run_and_not_the_daemon() {
    if !needed() {
        return;
    }
    for world in World::ALL {
        full_directory(world);
    }
}

fn full_directory(world: World) {
    let cluster = Cluster::start(world, |runtime| runtime.small("home", "8m"));
    let (code, out, err) =
        cluster.run(false, "head -c 20000000 /dev/zero > $HOME/big && echo wrote; exit 3").parts();
    assert_eq!(code, 3, "{out}{err}");
    assert!(!out.contains("wrote"), "{out}");
    let (code, out, err) = cluster.run(false, "echo fits > $HOME/small && cat $HOME/small").parts();
    assert_eq!((code, out.as_str()), (0, "fits\n"), "{err}");
}
