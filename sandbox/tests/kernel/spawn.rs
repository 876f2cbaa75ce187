use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use runtimed_sandbox::plan::plan;
use runtimed_sandbox::policy::Policy;
use runtimed_sandbox::process::Signal;
use runtimed_sandbox::spawn::{Executable, Spawn, SpawnError, Stage, Status, fork_phase};
use runtimed_sandbox::support::Support;
use rustix::io::Errno;

use crate::process::scenario;

fn sh() -> Executable {
    Executable::path_lookup("sh".as_ref(), "relative:/usr/bin:/bin".as_ref(), Path::new("/")).unwrap()
}

/// What a shell script prints, with its status.
fn output(script: &str, adjust: impl FnOnce(Spawn<'_>) -> Spawn<'_>) -> (String, Status) {
    let sh = sh();
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let spawn = Spawn::new(&sh, ["sh", "-c", script]).fd(1, &write);
    let mut child = adjust(spawn).spawn().unwrap();
    drop(write);
    let mut text = String::new();
    fs::File::from(read).read_to_string(&mut text).unwrap();
    (text, child.wait().unwrap().status)
}

both! {
    fn status_and_usage_are_those_of_the_program() {
        assert_eq!(output("exit 7", |spawn| spawn).1, Status::Exited(7));
        assert_eq!(output("kill -9 $$", |spawn| spawn).1, Status::Signalled(9));
        let sh = sh();
        let mut child = Spawn::new(&sh, ["sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"]).spawn().unwrap();
        let exited = child.wait().unwrap();
        assert_eq!(child.wait().unwrap(), exited, "a second wait gives the same answer");
        assert!(exited.rusage.user.as_micros() + exited.rusage.system.as_micros() > 0);
        assert!(exited.rusage.max_rss_bytes > 100_000);
    }

    fn a_running_child_is_signalled_through_its_descriptor() {
        let sh = sh();
        let mut child = Spawn::new(&sh, ["sh", "-c", "while :; do :; done"]).spawn().unwrap();
        assert_eq!(child.try_wait().unwrap(), None);
        child.signal(Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().status, Status::Signalled(15));
        child.signal(Signal::TERM).unwrap();
    }

    fn a_child_starts_with_nothing_but_what_was_given() {
        let leaked = fs::File::open("/etc/passwd").unwrap();
        let plain = rustix::io::dup(&leaked).unwrap(); // Without close-on-exec.
        let script = "set; pwd; ls -l /proc/self/fd; grep Sig /proc/self/status";
        let (text, _) = output(script, |spawn| spawn.env("PATH", "/usr/bin:/bin").env("ONLY", "this").cwd(Path::new("/usr")));
        assert!(text.contains("ONLY='this'") && text.lines().any(|line| line == "/usr"), "{text}");
        assert!(!text.contains("CARGO") && !text.contains("HOME="), "{text}");
        assert!(!text.contains("passwd"), "descriptor {} came through: {text}", plain.as_raw_fd());
        assert!(text.contains("SigBlk:\t0000000000000000"), "{text}");
        // This test program ignores SIGPIPE, as every Rust program does.
        assert!(text.contains("SigIgn:\t0000000000000000"), "{text}");
        let (text, _) = output("cat <&5", |spawn| spawn.env("PATH", "/usr/bin:/bin").fd(5, &leaked));
        assert!(text.contains("root:"), "{text}");
    }

    fn descriptors_may_change_places() {
        let place = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            fs::write(place.path().join(name), name).unwrap();
        }
        let (a, b) = (fs::File::open(place.path().join("a")).unwrap(), fs::File::open(place.path().join("b")).unwrap());
        let (to_b, to_a) = (a.as_raw_fd(), b.as_raw_fd());
        let script = format!("cat /proc/self/fd/{to_a} /proc/self/fd/{to_b}");
        let (text, _) = output(&script, |spawn| {
            spawn.env("PATH", "/usr/bin:/bin").fd(to_a, a.as_fd()).fd(to_b, b.as_fd())
        });
        assert_eq!(text, "ab");
    }

    fn scripts_run_by_path_and_binaries_by_descriptor() {
        let place = tempfile::tempdir().unwrap();
        let script = place.path().join("script");
        fs::write(&script, "#!/bin/sh\nexit 9\n").unwrap();
        fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
        let executable = Executable::path_lookup("./script".as_ref(), "".as_ref(), place.path()).unwrap();
        assert_eq!(Spawn::new(&executable, ["script"]).spawn().unwrap().wait().unwrap().status, Status::Exited(9));

        let binary = place.path().join("true");
        fs::copy("/bin/true", &binary).unwrap();
        let executable = Executable::open(&binary).unwrap();
        fs::remove_file(&binary).unwrap();
        assert_eq!(Spawn::new(&executable, ["true"]).spawn().unwrap().wait().unwrap().status, Status::Exited(0));
    }

    fn what_cannot_be_executed_is_refused_where_it_is_looked_up() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("plain"), "").unwrap();
        let find = |name: &str| Executable::path_lookup(name.as_ref(), place.path().as_ref(), Path::new("/")).map(drop);
        assert_eq!(find("none"), Err(Errno::NOENT));
        assert_eq!(find("plain"), Err(Errno::ACCESS));
        assert_eq!(find("/usr"), Err(Errno::ACCESS));
        assert_eq!(find("/no/such"), Err(Errno::NOENT));
    }

    fn a_step_that_fails_is_named_and_nothing_runs() {
        let place = tempfile::tempdir().unwrap();
        let mark = place.path().join("ran");
        let script = format!("echo > {}", mark.display());
        let sh = sh();
        let spawn = || Spawn::new(&sh, ["sh", "-c", script.as_str()]).env("PATH", "/usr/bin:/bin");
        let failed = |spawn: Spawn<'_>| spawn.spawn().map(|child| child.pid()).unwrap_err();
        let error = |stage, errno: Errno| SpawnError { stage, errno: errno.raw_os_error() };

        assert_eq!(failed(spawn().cwd(Path::new("/no/such"))), error(Stage::Directory, Errno::NOENT));
        assert_eq!(failed(spawn().env("A=B", "")), error(Stage::Arguments, Errno::INVAL));
        assert_eq!(failed(spawn().env("A", "\0")), error(Stage::Arguments, Errno::INVAL));
        assert_eq!(failed(spawn().fd(1000, rustix::stdio::stdin())), error(Stage::Arguments, Errno::BADF));

        let unlisted = Policy { write: vec![place.path().into()], ..Policy::default() };
        let prepared = plan(&unlisted, &Support::probe()).unwrap().prepare().unwrap();
        assert_eq!(failed(spawn().confine(prepared)), error(Stage::Execute, Errno::ACCESS));

        let gone = place.path().join("gone");
        fs::write(&gone, "#!/no/such/interpreter\n").unwrap();
        fs::set_permissions(&gone, PermissionsExt::from_mode(0o755)).unwrap();
        let executable = Executable::open(&gone).unwrap();
        assert_eq!(failed(Spawn::new(&executable, ["gone"])), error(Stage::Execute, Errno::NOENT));
        assert!(!mark.exists());
        assert_eq!(spawn().spawn().unwrap().wait().unwrap().status, Status::Exited(0));
        assert!(mark.exists());
    }

    fn no_step_that_fails_leads_to_an_execution() {
        let place = tempfile::tempdir().unwrap();
        scenario(&["failing-steps", place.path().to_str().unwrap()]);
    }

    fn many_threads_spawn_at_once() {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for code in 0..20 {
                        let (text, status) = output(&format!("echo {code}; exit {code}"), |spawn| spawn);
                        assert_eq!((text, status), (format!("{code}\n"), Status::Exited(code)));
                    }
                });
            }
        });
    }

    fn phases_run_in_processes_of_their_own() {
        scenario(&["phase"]);
        scenario(&["phase-fails"]);
    }

    fn a_process_of_many_threads_is_not_forked() {
        // The test harness has a thread of its own.
        let refused = fork_phase(None, &[], || 0).map(|child| child.pid());
        assert_eq!(refused, Err(SpawnError { stage: Stage::Launch, errno: Errno::BUSY.raw_os_error() }));
    }
}
