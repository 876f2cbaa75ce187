//! Real work passes inside, tier by tier.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::jobs::{JOBS, Job};
use crate::place::{Place, TIERS, Tier};
use crate::program::Programs;
use runtimed_tests::container::{World, available};
use runtimed_tests::process::command;

#[tokio::test(flavor = "multi_thread")]
async fn real_work_passes() {
    let programs = Programs::compile();
    let toolchain = programs.dir().join("toolchain");
    keep_toolchain(&toolchain);
    let mut wrong = Vec::new();
    for tier in TIERS {
        let place = Place::machine(&programs, tier).await;
        let lines: Vec<_> = JOBS.iter().map(|job| (job, tried(&place, job, &toolchain))).collect();
        for (job, said) in lines {
            let lacking = job.not_in.iter().find(|(named, _)| *named == tier.name());
            match (said, lacking) {
                (Ok(()), None) | (Err(_), Some(_)) => {}
                (Ok(()), Some((_, why))) => {
                    wrong.push(format!("{}: {} works, and is listed: {why}", tier.name(), job.name));
                }
                (Err(said), None) => wrong.push(format!("{}: {}: {said}", tier.name(), job.name)),
            }
        }
        place.end();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// In a pod: only there the resolver can be told whom to ask.
#[test]
fn names_are_resolved_over_tcp_and_usual_paths_are_the_runs() {
    if let Err(why) = available() {
        assert!(!rustix::process::geteuid().is_root(), "{why}");
        return; // Only root can: tests/run says so.
    }
    let programs = Programs::compile();
    for tier in TIERS {
        let world =
            if tier.is_in(World::RuntimeDefault) { World::RuntimeDefault } else { World::UserNamespaces };
        let place = Place::pod(&programs, tier, world);
        let server = place.name_server();
        let own = "set -e; test $PWD:$HOME:$TMPDIR = /workspace:/home/worker:/tmp; echo x > /tmp/literal; \
                   test $(cat /tmp/literal) = x; echo x > /workspace/file; echo x > /home/worker/.file;";
        let line = format!("{} getent hosts name.test", if tier == Tier::Base { "" } else { own });
        let document = json!({
            "apiVersion": "runtimed.dev/v1alpha1", "kind": "Run", "metadata": { "name": "resolves" },
            "spec": {
                "runtime": "test", "command": ["sh", "-c", line], "network": { "mode": "Ports" },
                "limits": { "timeout": "1m" },
            },
        });
        let kept = place.keep("resolves", &document);
        let output = place.runtimectl(&["run", "-f", &kept]).output().expect("it runs");
        let out = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && out.starts_with("192.0.2.7 "), "{}: {output:?}", tier.name());
        drop(server);
        place.end();
    }
}

/// Runs a job, and gives what it said if it did not work.
fn tried(place: &Place, job: &Job, toolchain: &Path) -> Result<(), String> {
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    let network = if job.network {
        json!({ "mode": "Ports", "ports": [port], "listen": [port] })
    } else {
        json!({ "mode": "None" })
    };
    let name = format!("job-{}", JOBS.iter().position(|other| other.name == job.name).expect("it is listed"));
    let script = format!("set -euo pipefail\n{}\necho worked", job.script);
    let document = json!({
        "apiVersion": "runtimed.dev/v1alpha1", "kind": "Run", "metadata": { "name": name },
        "spec": {
            "runtime": "test", "command": ["bash", "-c", script], "network": network,
            "env": { "TOOLCHAIN": toolchain, "PORT": port.to_string() }, "limits": { "timeout": "5m" },
        },
    });
    let kept = place.keep(&name, &document);
    let output = place.runtimectl(&["run", "-f", &kept]).output().expect("it runs");
    let out = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && out.ends_with("worked\n") {
        return Ok(());
    }
    Err(format!("{}\n{out}{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

/// The compiler that built these tests, where every uid may execute it: its own place may be a private home.
fn keep_toolchain(to: &Path) {
    let sysroot = command("rustc").args(["--print", "sysroot"]).output().expect("rustc runs");
    let sysroot = String::from_utf8(sysroot.stdout).expect("a path");
    let sysroot = Path::new(sysroot.trim());
    let host = format!("lib/rustlib/{}-unknown-linux-gnu", std::env::consts::ARCH);
    let of_host = ["lib", "bin", "bin/gcc-ld"].map(|directory| format!("{host}/{directory}"));
    for directory in ["bin", "lib"].into_iter().chain(of_host.iter().map(String::as_str)) {
        if !sysroot.join(directory).is_dir() {
            continue;
        }
        fs::create_dir_all(to.join(directory)).expect("made");
        for entry in fs::read_dir(sysroot.join(directory)).expect("a toolchain").flatten() {
            let named = |name: &str| entry.file_name() == name;
            let wanted = directory != "bin" || named("cargo") || named("rustc");
            if !wanted || !entry.path().is_file() {
                continue;
            }
            let copy = to.join(directory).join(entry.file_name());
            if fs::hard_link(entry.path(), &copy).is_err() {
                fs::copy(entry.path(), &copy).expect("copied");
            }
        }
    }
}
