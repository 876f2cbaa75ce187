//! What a worker does with a command: starting it, waiting for it, ending it, and leaving nothing behind.

use std::time::Instant;

use runtimed_api::link::{Down, ExitStatus, Source};
use runtimed_api::problem::Code;
use rustix::process::{Pid, test_kill_process};

use crate::harness::{Daemon, sealed};

fn ready() -> Daemon {
    let mut daemon = Daemon::new();
    daemon.assign(Source::Empty);
    let baseline = daemon.baseline();
    assert!(baseline.tree.is_none() && baseline.commit.is_none());
    daemon
}

fn is_gone(pid: u32) -> bool {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    test_kill_process(pid) == Err(rustix::io::Errno::SRCH)
}

#[test]
fn a_command_runs_and_an_empty_workspace_has_no_patch() {
    let (exited, stdout, captured, patch) = ready().complete(&["sh", "-c", "echo out; echo err >&2"]);
    assert_eq!(exited.status, ExitStatus::Code(0));
    assert_eq!((exited.leaked, exited.kill_micros), (0, None));
    assert!(exited.user_micros + exited.system_micros > 0 && exited.max_rss > 100_000, "{exited:?}");
    assert_eq!(stdout, "out\n");
    assert!(captured.patch.is_none() && captured.notes.is_empty() && patch.is_empty());
}

#[test]
fn exit_codes_and_signals_are_told_apart() {
    let exited = ready().complete(&["sh", "-c", "exit 7"]).0;
    assert_eq!(exited.status, ExitStatus::Code(7));
    let exited = ready().complete(&["sh", "-c", "kill -9 $$"]).0;
    assert_eq!(exited.status, ExitStatus::Signal(9));
}

#[test]
fn the_environment_is_what_was_given_and_secrets() {
    let mut daemon = ready();
    let mut start = Daemon::start_frame(&["env"]);
    start.env.insert("LEVEL".to_owned(), "debug".to_owned());
    start.env.insert("API_KEY".to_owned(), "overridden".to_owned());
    start.secret_env = true;
    let secrets = sealed(br#"{"API_KEY":"the secret value"}"#);
    daemon.send_with(&Down::Start(start), &[std::os::fd::AsFd::as_fd(&secrets)]);
    daemon.started();
    daemon.exited();
    daemon.capture();
    assert_eq!(daemon.exit_code(), 0);
    let stdout = daemon.stdout();
    let mut lines: Vec<_> = stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["API_KEY=the secret value", "LEVEL=debug", "PATH=/usr/local/bin:/usr/bin:/bin"]);
    assert_eq!(daemon.diagnostics(), "");
}

#[test]
fn the_command_has_only_its_three_descriptors() {
    let script = "for fd in 0 1 2 3 4 5 6 7 8 9 63 64 65 66 67 68; do if (: <&$fd) 2>/dev/null || (: >&$fd) 2>/dev/null; then echo $fd; fi; done";
    let (_, stdout, _, _) = ready().complete(&["bash", "-c", script]);
    assert_eq!(stdout, "0\n1\n2\n");
}

#[test]
fn the_command_cannot_reach_the_worker_or_its_private_directory() {
    let mut daemon = ready();
    let worker = daemon.worker.pid().as_raw_pid();
    let private = format!("{}/p", daemon.trees.wire.workspace);
    let staged = format!("{}/s", daemon.trees.wire.tmp);
    std::fs::write(format!("{staged}/token"), "t").unwrap();
    let script = format!(
        "kill -0 {worker} && echo worker; ls {private} && echo private; cat {staged}/token && echo staged; \
         cat /proc/{worker}/environ && echo environ; echo here > made; exit 0"
    );
    let pid = daemon.start(&["sh", "-c", &script]);
    assert!(pid > 0);
    daemon.exited();
    let (captured, patch) = daemon.capture();
    assert_eq!(daemon.exit_code(), 0);
    assert_eq!(daemon.stdout(), "");
    assert!(daemon.stderr().contains("denied"), "the commands said nothing");
    assert_eq!(captured.patch.unwrap().files, 1);
    assert!(String::from_utf8(patch).unwrap().contains("+here"));
}

#[test]
fn staged_secrets_are_granted_when_there_are_any() {
    let mut daemon = ready();
    let staged = format!("{}/s", daemon.trees.wire.tmp);
    std::fs::write(format!("{staged}/token"), "the token").unwrap();
    let mut start = Daemon::start_frame(&["cat", &format!("{staged}/token")]);
    start.staged = true;
    daemon.send(&Down::Start(start));
    daemon.started();
    assert_eq!(daemon.exited().status, ExitStatus::Code(0));
    daemon.capture();
    assert_eq!(daemon.exit_code(), 0);
    assert_eq!(daemon.stdout(), "the token");
}

#[test]
fn a_program_that_is_not_there_is_a_fault_of_one_sentence() {
    for (command, why) in [
        ("no-such-program", "\"no-such-program\" is in no directory of PATH"),
        ("./no-such-file", "\"./no-such-file\" is not there"),
        ("/etc/passwd", "\"/etc/passwd\" is there and cannot be executed"),
    ] {
        let mut daemon = ready();
        daemon.send(&Down::Start(Daemon::start_frame(&[command])));
        let problem = daemon.fault().problem;
        assert_eq!(problem.code.to_string(), "command-not-started");
        assert!(problem.message.contains(why) && problem.hint.is_some(), "{problem:?}");
        assert_eq!(daemon.exit_code(), 0);
    }
}

#[test]
fn a_script_with_a_missing_interpreter_is_not_executed() {
    let mut daemon = ready();
    let script = daemon.trees.workspace().join("run");
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    daemon.send(&Down::Start(Daemon::start_frame(&["./run"])));
    let problem = daemon.fault().problem;
    assert!(problem.message.contains("cannot be executed") && problem.hint.unwrap().contains("interpreter"));
    assert_eq!(daemon.exit_code(), 0);
}

#[test]
fn a_directory_that_leads_out_of_the_workspace_is_refused() {
    for directory in ["..", "/tmp", "link", "missing", "file"] {
        let mut daemon = ready();
        let workspace = daemon.trees.workspace();
        std::os::unix::fs::symlink("/tmp", workspace.join("link")).unwrap();
        std::fs::write(workspace.join("file"), "").unwrap();
        let mut start = Daemon::start_frame(&["pwd"]);
        directory.clone_into(&mut start.directory);
        daemon.send(&Down::Start(start));
        assert_eq!(daemon.refused(), ["source.sub-path"], "{directory}");
        assert_eq!(daemon.exit_code(), 0);
    }
}

#[test]
fn what_outlives_the_command_is_killed_and_counted() {
    let (exited, stdout, _, _) =
        ready().complete(&["sh", "-c", "sleep 1000 & (setsid sleep 1000 & ) ; echo $!; exit 0"]);
    assert_eq!((exited.status, exited.leaked), (ExitStatus::Code(0), 2));
    assert!(exited.kill_micros.is_some());
    assert!(is_gone(stdout.trim().parse().unwrap()));
}

#[test]
fn stop_ends_what_listens_to_it() {
    let mut daemon = ready();
    let asked = Instant::now();
    let pid = daemon.start(&["sleep", "1000"]);
    daemon.stop(30_000);
    let exited = daemon.exited();
    assert_eq!(exited.status, ExitStatus::Signal(15));
    assert!(exited.kill_micros.is_some() && asked.elapsed().as_secs() < 20);
    assert!(is_gone(pid));
    daemon.capture();
    assert_eq!(daemon.exit_code(), 0);
}

#[test]
fn stop_kills_what_does_not_listen_after_the_grace() {
    let mut daemon = ready();
    let script = "trap '' TERM; (trap '' TERM; setsid sh -c 'trap \"\" TERM; echo ready; while :; do sleep 1000; done' &) ; while :; do sleep 1000; done";
    daemon.start(&["sh", "-c", script]);
    assert_eq!(daemon.stdout_line(), "ready");
    let asked = Instant::now();
    daemon.stop(300);
    let exited = daemon.exited();
    assert_eq!(exited.status, ExitStatus::Signal(9));
    assert!(asked.elapsed().as_millis() >= 300 && exited.kill_micros.unwrap() >= 300_000, "{exited:?}");
    daemon.capture();
    assert_eq!(daemon.exit_code(), 0);
}

#[test]
fn a_second_stop_shortens_the_grace() {
    let mut daemon = ready();
    daemon.start(&["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1000; done"]);
    assert_eq!(daemon.stdout_line(), "ready");
    let asked = Instant::now();
    daemon.stop(600_000);
    daemon.stop(0);
    assert_eq!(daemon.exited().status, ExitStatus::Signal(9));
    assert!(asked.elapsed().as_secs() < 30);
}

#[test]
fn a_stop_that_crosses_the_exit_is_harmless() {
    let mut daemon = ready();
    daemon.start(&["true"]);
    assert_eq!(daemon.exited().status, ExitStatus::Code(0));
    daemon.stop(1000);
    daemon.capture();
    assert_eq!(daemon.exit_code(), 0);
}

#[test]
fn the_end_of_the_link_kills_the_whole_tree() {
    let mut daemon = ready();
    let script = "trap '' TERM; setsid sh -c 'echo $$; exec sleep 1000' & echo $$; wait";
    daemon.start(&["sh", "-c", script]);
    let mut pids = Vec::new();
    while pids.len() < 2 {
        pids.push(daemon.stdout_line().parse().unwrap());
    }
    drop(daemon.link.take());
    assert_eq!(daemon.exit_code(), 125);
    assert!(pids.into_iter().all(is_gone));
}

#[test]
fn orphans_are_collected_while_the_command_runs() {
    let script = "for i in 1 2 3 4 5 6 7 8; do (true &) ; done; sleep 0.3; \
                  grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l; exit 0";
    let mut daemon = ready();
    let worker = daemon.worker.pid();
    daemon.start(&["sh", "-c", script]);
    assert_eq!(daemon.exited().leaked, 0);
    assert!(runtimed_sandbox::process::children(worker).is_empty());
    daemon.capture();
    assert_eq!(daemon.exit_code(), 0);
}

#[test]
fn files_can_be_moved_between_directories_that_are_granted() {
    let script = "import os\nos.mkdir('d')\nopen('f','w').close()\nos.rename('f','d/f')\nos.link('d/f','g')\n\
                  os.rename('d/f', os.environ['OTHER'] + '/f')\n";
    let mut daemon = ready();
    let mut start = Daemon::start_frame(&["python3", "-c", script]);
    start.env.insert("OTHER".to_owned(), format!("{}/a", daemon.trees.wire.workspace));
    daemon.send(&Down::Start(start));
    daemon.started();
    assert_eq!(daemon.exited().status, ExitStatus::Code(0), "{}", daemon.stderr());
}

#[test]
fn a_storm_of_processes_is_ended() {
    let storm = "import os, time\n\
                 for _ in range(400):\n\
                 \x20   if os.fork() == 0:\n\
                 \x20       os.setsid()\n\
                 \x20       if os.fork(): os._exit(0)\n\
                 \x20       while True: time.sleep(1000)\n\
                 print('ready', flush=True)\n\
                 time.sleep(1000)\n";
    let mut daemon = ready();
    daemon.start(&["python3", "-c", storm]);
    assert_eq!(daemon.stdout_line(), "ready");
    daemon.stop(0);
    let exited = daemon.exited();
    assert_eq!(exited.status, ExitStatus::Signal(9));
    assert!(exited.kill_micros.unwrap() < 20_000_000, "{exited:?}");
    assert!(runtimed_sandbox::process::descendants(daemon.worker.pid(), &[]).is_empty());
    daemon.capture();
    assert_eq!(daemon.exit_code(), 0);
    // The daemon is out of the worker's reach, so one call is known to reach the attempt and nothing else.
    let said = daemon.diagnostics();
    assert!(said.contains("kill(-1) in the signal-scoped domain; none is left"), "{said}");
}

/// Lets the lease run out so many milliseconds from now.
fn run_out(daemon: &Daemon, millis: i64) {
    use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
    let it_value = Timespec { tv_sec: 0, tv_nsec: millis * 1_000_000 };
    let never = Timespec { tv_sec: 0, tv_nsec: 0 };
    let times = Itimerspec { it_interval: never, it_value };
    timerfd_settime(&daemon.hold, TimerfdTimerFlags::empty(), &times).unwrap();
}

#[test]
fn a_lease_that_runs_out_ends_the_command_though_the_daemon_says_nothing() {
    let mut daemon = ready();
    let script =
        "trap '' TERM; (setsid sh -c 'trap \"\" TERM; echo $$; sleep 60; sleep 60' &); sleep 60; sleep 60";
    let pid = daemon.start(&["sh", "-c", script]);
    let straying: u32 = daemon.stdout_line().parse().unwrap();
    assert!(!is_gone(pid) && !is_gone(straying));
    run_out(&daemon, 50);
    assert_eq!(daemon.fault().problem.code, Code::LeaseLost);
    assert!(is_gone(pid) && is_gone(straying), "before the daemon is told");
    assert_eq!(daemon.exit_code(), 125);
}

#[test]
fn a_lease_that_runs_out_ends_an_attempt_before_its_command_has_begun() {
    let mut daemon = ready();
    run_out(&daemon, 1);
    assert_eq!(daemon.fault().problem.code, Code::LeaseLost);
    assert_eq!(daemon.exit_code(), 125);
}

#[test]
fn a_lease_that_runs_out_after_the_command_has_ended_takes_nothing_away() {
    let mut daemon = ready();
    daemon.start(&["sh", "-c", "echo kept > kept"]);
    assert_eq!(daemon.exited().status, ExitStatus::Code(0));
    run_out(&daemon, 1);
    let expired = [rustix::event::PollFd::new(&daemon.hold, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut { expired }, None).unwrap();
    let (captured, patch) = daemon.capture();
    assert!(captured.patch.is_some() && !patch.is_empty());
    assert_eq!(daemon.exit_code(), 0);
}
