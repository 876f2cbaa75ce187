//! What needs a process of one thread: phases, the supervisor's own confinement, trees to kill.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtimed_sandbox::policy::Policy;
use runtimed_sandbox::process::{self, KillTree, Pid, Reach};
use runtimed_sandbox::spawn::{Executable, Spawn, SpawnError, Stage, Status, fork_phase};
use runtimed_sandbox::support::Support;
use runtimed_sandbox::view::{Shown, View};
use runtimed_sandbox::{enforce_self, plan};
use rustix::io::Errno;

use crate::forbidden;

/// Runs a scenario, or says that this is none.
pub(crate) fn run(words: &[&str]) -> Option<Result<(), Errno>> {
    Some(match words {
        ["phase"] => phase(),
        ["phase-fails"] => phase_that_cannot_be_confined(),
        ["self"] => look_at_self(),
        ["supervisor", guard] => supervisor(guard),
        ["storm", guard] => storm(guard),
        ["term"] => term(),
        ["strays"] => strays(),
        ["drop"] => drop_root(),
        ["views"] => views(),
        ["namespaces", place] => namespaces(place),
        ["first", place, uid, gid] => first(place, uid, gid),
        ["failing-steps", place] => failing_steps(place),
        ["support"] => forbidden::support(),
        _ => return None,
    })
}

/// Fails with a code that no kernel uses, and says where.
#[track_caller]
pub(crate) fn require(holds: bool) -> Result<(), Errno> {
    if holds {
        return Ok(());
    }
    report(&std::panic::Location::caller().to_string());
    Err(Errno::from_raw_os_error(200))
}

#[expect(clippy::print_stderr, reason = "what a failing test is read for")]
pub(crate) fn report(text: &str) {
    eprintln!("{text}");
}

pub(crate) fn failed(error: SpawnError) -> Errno {
    report(&error.to_string());
    Errno::from_raw_os_error(201)
}

fn refused(refusal: &plan::Refusal) -> Errno {
    report(&refusal.reason);
    Errno::from_raw_os_error(202)
}

pub(crate) fn prepared(policy: &Policy) -> Result<runtimed_sandbox::Prepared, Errno> {
    plan::plan(policy, &Support::probe()).and_then(|plan| plan.prepare()).map_err(|refusal| refused(&refusal))
}

fn phase() -> Result<(), Errno> {
    // As a supervisor is: `/proc/self` belongs to root now, and everything has to work all the same.
    process::harden_self()?;
    let (read, write) = rustix::pipe::pipe()?;
    let (lost, _other) = rustix::pipe::pipe()?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&lost);
    let confined = prepared(&Policy { read: vec!["/usr".into()], ..Policy::default() })?;
    let mut child = fork_phase(Some(confined), &[write.as_fd()], || {
        let kept = rustix::io::write(&write, b"here").is_ok();
        let confined = std::fs::read("/etc/passwd").is_err() && std::fs::read_dir("/usr").is_ok();
        let closed = std::fs::read_link(format!("/proc/self/fd/{number}")).is_err();
        let leader = rustix::process::getsid(None) == Ok(rustix::process::getpid());
        if kept && confined && closed && leader { 42 } else { 1 }
    })
    .map_err(failed)?;
    drop(write);
    let mut told = String::new();
    std::fs::File::from(read).read_to_string(&mut told).map_err(|_| Errno::IO)?;
    require(told == "here")?;
    require(child.wait()?.status == Status::Exited(42))?;
    require(std::fs::read("/etc/passwd").is_ok())?;
    let mut panics = fork_phase(None, &[], || std::panic::resume_unwind(Box::new(()))).map_err(failed)?;
    require(panics.wait()?.status == Status::Exited(101))
}

fn phase_that_cannot_be_confined() -> Result<(), Errno> {
    // Sixteen domains are the kernel's limit, so one of these does not fit.
    for depth in 0..=16 {
        let confined = prepared(&Policy::scopes_only())?;
        match fork_phase(Some(confined), &[], || 0) {
            Ok(mut child) => require(child.wait()?.status == Status::Exited(0))?,
            Err(error) => {
                require(depth == 16)?;
                return require(
                    error.stage == Stage::Landlock && error.errno == Errno::TOOBIG.raw_os_error(),
                );
            }
        }
        enforce_self(prepared(&Policy::scopes_only())?).map_err(failed)?;
    }
    require(false)
}

/// Inside a sandbox: what the process can see of itself.
fn look_at_self() -> Result<(), Errno> {
    require(rustix::thread::no_new_privs()?)?;
    let sets = rustix::thread::capabilities(None)?;
    require((sets.effective | sets.permitted | sets.inheritable).is_empty())?;
    require(rustix::process::getrlimit(rustix::process::Resource::Core).maximum == Some(0))?;
    require(rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum == Some(100))?;
    require(rustix::process::getsid(None)? == rustix::process::getpid())?;
    require(std::env::vars_os().count() == 0)?;
    for number in 3..100 {
        require(std::fs::read_link(format!("/proc/self/fd/{number}")).is_err())?;
    }
    Ok(())
}

fn pid(text: &str) -> Result<Pid, Errno> {
    Pid::from_raw(text.parse().map_err(|_| Errno::INVAL)?).ok_or(Errno::INVAL)
}

/// A scope-only domain: the guard is out of reach, files are not touched, and a child may be confined further.
fn supervisor(guard: &str) -> Result<(), Errno> {
    let guard = pid(guard)?;
    require(rustix::process::test_kill_process(guard).is_ok())?;
    let report = enforce_self(prepared(&Policy::scopes_only())?).map_err(failed)?;
    require(report.items.len() == 3)?;
    require(rustix::process::test_kill_process(guard) == Err(Errno::PERM))?;
    require(std::fs::read("/etc/passwd").is_ok())?;
    let sleeper = shell("exec sleep 1000")?;
    sleeper.signal(process::Signal::KILL)
}

fn shell(script: &str) -> Result<runtimed_sandbox::spawn::Child, Errno> {
    let sh = Executable::open(Path::new("/bin/sh"))?;
    Spawn::new(&sh, ["sh", "-c", script]).env("PATH", "/usr/bin:/bin").spawn().map_err(failed)
}

/// Starts a script and returns when it has written to its output.
fn started(script: &str) -> Result<runtimed_sandbox::spawn::Child, Errno> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let sh = Executable::open(Path::new("/bin/sh"))?;
    let spawn = Spawn::new(&sh, ["sh", "-c", script]).env("PATH", "/usr/bin:/bin").fd(1, &write);
    let child = spawn.spawn().map_err(failed)?;
    drop(write);
    let mut byte = [0];
    require(rustix::io::read(&read, &mut byte)? == 1)?;
    Ok(child)
}

/// A tree of sessions, double forks, stopped and stubborn processes, and some that go on forking; all of it ends by itself in
/// a minute, whatever becomes of the test.
const STORM: &str = "trap '' TERM
    for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        setsid sleep 60 >/dev/null & (sleep 60 >/dev/null &) ; sleep 60 >/dev/null & kill -STOP $!
        (setsid sh -c 'trap \"\" TERM; n=0; while [ $n -lt 300 ]; do n=$((n+1)); (sleep 60 &); sleep 0.001; done; sleep 60' >/dev/null &)
    done
    echo ready; wait";

fn storm(guard: &str) -> Result<(), Errno> {
    let guard = pid(guard).ok();
    process::become_subreaper()?;
    if guard.is_some() {
        enforce_self(prepared(&Policy::scopes_only())?).map_err(failed)?;
    }
    let mut command = started(STORM)?;
    require(process::descendants(rustix::process::getpid(), &[]).len() >= 60)?;
    let reach = guard.map_or(Reach::Walk, |guard| Reach::Domain { guard });
    process::terminate_descendants(reach);
    let killed =
        process::kill_descendants(KillTree { reach, command: Some(&mut command), ..KillTree::default() })?;
    report(&format!("{killed:?}"));
    require(!killed.survivors && killed.killed > 20)?;
    require(killed.mechanism.starts_with(if guard.is_some() { "kill(-1)" } else { "pidfd" }))?;
    require(command.wait()?.status == Status::Signalled(9))?;
    require(process::children(rustix::process::getpid()).is_empty())
}

/// Processes that end at TERM need no KILL.
fn term() -> Result<(), Errno> {
    require(process::kill_descendants(KillTree::default()) == Err(Errno::INVAL))?;
    process::become_subreaper()?;
    let mut command = started("sleep 1000 >/dev/null & (setsid sleep 1000 >/dev/null &); echo ready; wait")?;
    // TERM goes once to each that is there: a process that is still being forked would only learn of it by KILL.
    await_sleepers(2)?;
    process::terminate_descendants(Reach::Walk);
    let begun = std::time::Instant::now();
    while !process::collect_ended(Some(&mut command)) {
        require(begun.elapsed() < Duration::from_secs(20))?;
        std::thread::yield_now();
    }
    require(command.wait()?.status == Status::Signalled(15))
}

/// Waits until so many processes below this one are `sleep` and nothing on its way to it.
fn await_sleepers(count: usize) -> Result<(), Errno> {
    let begun = std::time::Instant::now();
    let sleeps = |pid: &process::Pid| {
        let comm = std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_pid()));
        comm.is_ok_and(|comm| comm.trim_end() == "sleep")
    };
    while process::descendants(rustix::process::getpid(), &[]).iter().filter(|pid| sleeps(pid)).count()
        < count
    {
        require(begun.elapsed() < Duration::from_secs(20))?;
        std::thread::yield_now();
    }
    Ok(())
}

fn strays() -> Result<(), Errno> {
    process::become_subreaper()?;
    let mut known = started("sleep 1000 >/dev/null & echo ready; wait")?;
    let mut parent = started(
        "(setsid sh -c 'sleep 1000 & sleep 1000' >/dev/null &); (sleep 1000 >/dev/null &); echo ready",
    )?;
    parent.wait()?;
    let found = process::reap_strays(&[], Duration::from_secs(10));
    require(found.collected >= 2 && found.survivors == 0)?;
    require(process::reap_strays(&[], Duration::from_secs(10)).collected == 0)?;
    require(known.try_wait()?.is_none() && process::children(known.pid()).len() == 1)?;
    known.signal(process::Signal::KILL)?;
    known.wait()?;
    require(process::reap_strays(&[], Duration::from_secs(10)).collected == 1)?;
    require(process::children(rustix::process::getpid()).is_empty())
}

/// Where programs and their libraries are.
fn image() -> Vec<PathBuf> {
    let usual = ["/usr", "/bin", "/lib", "/lib64"].map(PathBuf::from);
    usual.into_iter().filter(|path| path.exists()).collect()
}

fn failing_steps(place: &str) -> Result<(), Errno> {
    let place = Path::new(place);
    let policy = Policy { execute: image(), write: vec![place.to_owned()], ..Policy::default() };
    forbidden::steps(&policy, &place.to_string_lossy(), &place.join("ran"))
}

fn views() -> Result<(), Errno> {
    match runtimed_sandbox::support::views() {
        Ok(_) => Ok(()),
        Err(missing) => {
            report(&missing.to_string());
            require(false)
        }
    }
}

/// Starts the first process of a process namespace, which does the rest.
fn namespaces(place: &str) -> Result<(), Errno> {
    process::harden_self()?;
    let ours = Executable::open(Path::new("/proc/self/exe"))?;
    let (uid, gid) = (rustix::process::geteuid().to_string(), rustix::process::getegid().to_string());
    let spawn = Spawn::new(&ours, ["probe", "first", place, &uid, &gid]).fd(2, rustix::stdio::stderr());
    let mut child = spawn.own_processes(true).spawn().map_err(failed)?;
    require(child.wait()?.status == Status::Exited(0))
}

/// The first of a process namespace: it is who it was, makes views for its children, and loses none of them.
fn first(place: &str, uid: &str, gid: &str) -> Result<(), Errno> {
    require(rustix::process::getpid() == Pid::INIT)?;
    let number = |text: &str| text.parse::<u32>().map_err(|_| Errno::INVAL);
    process::settle(number(uid)?, number(gid)?).map_err(|_| Errno::PERM)?;
    process::harden_self()?;
    require(rustix::process::geteuid().as_raw() == number(uid)?)?;
    let own = Path::new(place).join("own");
    let program = std::fs::read_link("/proc/self/exe").map_err(|_| Errno::IO)?;
    let mut execute = image();
    execute.push(program.clone());
    let policy = Policy {
        execute,
        write: vec![own.clone()],
        devices: vec!["/dev/null".into()],
        view: Some(View {
            shown: vec![Shown { inside: "/workspace".into(), outside: own.clone() }],
            own_proc: true,
        }),
        ..Policy::default()
    };
    let sh = Executable::open(Path::new("/bin/sh"))?;
    let script = |script: &str, policy: &Policy| -> Result<runtimed_sandbox::spawn::Child, Errno> {
        let spawn =
            Spawn::new(&sh, ["sh", "-c", script]).env("PATH", "/usr/bin:/bin").cwd(Path::new("/workspace"));
        spawn
            .fd(1, rustix::stdio::stderr())
            .fd(2, rustix::stdio::stderr())
            .confine(prepared(policy)?)
            .spawn()
            .map_err(failed)
    };
    // Its own place, its own processes, and nothing of the outside under its path.
    let seen = format!(
        "test $PWD = /workspace && echo x > made && mv made moved && test ! -e {place} && test -d /proc/self && test ! -e /proc/1 \\
         && test ! -e /etc/passwd && ! mkdir /x 2> /dev/null && ! kill -0 1 2> /dev/null"
    );
    require(script(&seen, &policy)?.wait()?.status == Status::Exited(0))?;
    require(own.join("moved").exists())?;
    // A grant where its own places are, and a link in the place of what is shown, are no view.
    let covered = Policy { read: vec!["/workspace/x".into()], ..policy.clone() };
    require(plan::plan(&covered, &Support::probe()).and_then(|plan| plan.prepare()).is_err())?;
    std::os::unix::fs::symlink("/etc", Path::new(place).join("link")).map_err(|_| Errno::IO)?;
    let mut linked = policy.clone();
    linked.view = Some(View {
        shown: vec![Shown { inside: "/workspace".into(), outside: Path::new(place).join("link") }],
        own_proc: true,
    });
    require(script("true", &linked).is_err())?;
    forbidden::steps(&policy, "/workspace", &own.join("ran"))?;
    // A name is looked for in the view; what is not there is told as such.
    let nowhere = Executable::within_view("no-such".as_ref(), "/usr/bin:/bin".as_ref(), Path::new("/"))?;
    let missing =
        Spawn::new(&nowhere, ["no-such"]).confine(prepared(&policy)?).spawn().map(|child| child.pid());
    require(missing == Err(SpawnError { stage: Stage::Execute, errno: Errno::NOENT.raw_os_error() }))?;
    // Orphans come to this process, and one call ends all of them.
    let mut command =
        script("setsid sleep 60 & (sleep 60 &) ; sleep 60 & kill -STOP $!; touch ready; sleep 60", &policy)?;
    let begun = std::time::Instant::now();
    while !own.join("ready").exists() {
        require(begun.elapsed() < Duration::from_secs(20))?;
        std::thread::yield_now();
    }
    let killed = process::kill_descendants(KillTree {
        reach: Reach::Namespace,
        command: Some(&mut command),
        ..KillTree::default()
    })?;
    report(&format!("{killed:?}"));
    require(!killed.survivors && killed.killed >= 3)?;
    require(command.exited().map(|exited| exited.status) == Some(Status::Signalled(9)))
}

fn drop_root() -> Result<(), Errno> {
    require(process::drop_to(0, 65_534).is_err())?;
    process::drop_to(65_534, 65_534).map_err(|error| {
        report(&error.to_string());
        Errno::from_raw_os_error(203)
    })?;
    require(rustix::process::getuid().as_raw() == 65_534 && rustix::process::getegid().as_raw() == 65_534)?;
    let status = std::fs::read_to_string("/proc/self/status").map_err(|_| Errno::IO)?;
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        require(status.contains(&format!("{set}:\t0000000000000000")))?;
    }
    require(std::fs::read("/etc/shadow").is_err())?;
    process::harden_self()?;
    require(rustix::process::getrlimit(rustix::process::Resource::Core).maximum == Some(0))
}
