//! kill −9 of the child that applies: at whatever moment, the workspace is empty or whole, and the supervisor says what
//! happened.

use std::path::Path;
use std::time::{Duration, Instant};

use runtimed_api::link::{Source, Up, layout};
use runtimed_api::problem::Code;
use runtimed_api::run::source::{InlineFile, InlineSource};
use runtimed_sandbox::process::Pid;
use rustix::process::{Signal, kill_process};

use crate::harness::Daemon;

const FILES: usize = 60;
/// Kills, spread over the time that an apply takes.
const KILLS: u32 = 40;

fn source() -> Source {
    let file = |number| InlineFile {
        path: format!("d{}/f{number}", number % 7),
        content: format!("content of {number}\n"),
        executable: false,
    };
    Source::Inline(InlineSource { files: (0..FILES).map(file).collect() })
}

/// The child of the worker, as soon as it has one.
fn child(daemon: &Daemon) -> Pid {
    let worker = daemon.worker.pid().as_raw_pid();
    let children = format!("/proc/{worker}/task/{worker}/children");
    let begun = Instant::now();
    loop {
        let listed = std::fs::read_to_string(&children).unwrap();
        if let Some(pid) = listed.split(' ').find_map(|word| word.parse().ok()) {
            return Pid::from_raw(pid).unwrap();
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "the worker has no child");
    }
}

fn count(place: &Path) -> usize {
    let entries = std::fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
}

#[test]
fn an_apply_that_is_killed_at_any_moment_leaves_nothing_or_all() {
    let mut whole = Daemon::new();
    whole.assign(source());
    child(&whole);
    let begun = Instant::now();
    whole.baseline();
    let takes = begun.elapsed();
    assert_eq!(count(&whole.trees.workspace()), FILES);
    let (mut nothing, mut all) = (0, 0);
    for number in 0..KILLS {
        let mut daemon = Daemon::new();
        daemon.assign(source());
        let victim = child(&daemon);
        let until = Instant::now() + takes * number / (KILLS - 1);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        // It may have ended by itself, and be collected.
        let _gone = kill_process(victim, Signal::KILL);
        let tree = Path::new(&daemon.trees.wire.workspace).to_owned();
        match daemon.receive() {
            Up::Baseline(_) => {
                all += 1;
                assert_eq!(count(&daemon.trees.workspace()), FILES, "kill {number}");
                assert!(tree.join(layout::PRIVATE).join("snapshot").exists());
            }
            Up::Fault(fault) => {
                // As it ran, or while it was made.
                let message = &fault.problem.message;
                match fault.problem.code {
                    Code::WorkerFailed => assert!(message.contains("signal 9"), "{fault:?}"),
                    code => assert!(
                        code == Code::ConfinementFailed && message.contains("was killed"),
                        "{fault:?}"
                    ),
                }
                let left = count(&daemon.trees.workspace());
                assert!(left == 0 || left == FILES, "kill {number} left {left} files");
                nothing += 1;
            }
            other => panic!("kill {number}: {other:?}"),
        }
    }
    assert!(nothing > 0, "{nothing} applies were killed, {all} were not");
}
