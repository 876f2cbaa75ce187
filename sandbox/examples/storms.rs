//! Adversarial Runs, one after the other: each is a command that forks, detaches, stops and ignores what it can, and is
//! killed in the middle of it. Says how many processes survived, and how long it took from the first `KILL` until the tree
//! was empty. In every tenth the supervisor itself is killed, as by an operator or the kernel.
//!
//! `cargo run --release -p runtimed-sandbox --example storms -- [RUNS]`, 10,000 of each tier without a number. As an
//! ordinary uid or as root, which it gives up.

#![expect(clippy::print_stdout, reason = "the table is this program's output")]
#![expect(unsafe_code, reason = "an attacker is not held to safe wrappers")]
#![expect(clippy::exit, reason = "a forked copy has nothing to go back to")]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use runtimed_sandbox::policy::{COMMON_DEVICES, Network, Policy};
use runtimed_sandbox::process::{self, KillTree, Pid, Reach, Signal};
use runtimed_sandbox::spawn::{Child, Executable, Spawn};
use runtimed_sandbox::support::{Support, views};
use runtimed_sandbox::view::View;
use runtimed_sandbox::{enforce_self, plan};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What every process of an adversary has among its arguments.
const MARK: &str = "runtimed-storm-adversary";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    match words.as_slice() {
        [] => all(10_000),
        [count] => all(count.parse()?),
        ["supervisor", "base", guard] => supervise_base(guard.parse()?),
        ["supervisor", "namespaces", uid, gid] => {
            process::settle(uid.parse()?, gid.parse()?)?;
            let view = View { shown: Vec::new(), own_proc: true };
            supervise(Reach::Namespace, Some(view))
        }
        [mark, _] if *mark == MARK => adversary(),
        _ => Err("usage: storms [RUNS]".into()),
    }
}

fn all(count: usize) -> Result<()> {
    let ours = Executable::open(&std::env::current_exe()?)?;
    if rustix::process::geteuid().is_root() {
        process::drop_to(65_532, 65_532)?;
    }
    let own_proc = views();
    process::become_subreaper()?;
    process::harden_self()?;
    tier("base", count, &ours)?;
    match own_proc {
        Ok(true) => tier("namespaces", count, &ours)?,
        Ok(false) => println!("namespaces: not run, for no /proc can be mounted here"),
        Err(missing) => println!("namespaces: not run: {missing}"),
    }
    Ok(())
}

/// Runs of one tier, and what became of them.
fn tier(name: &str, count: usize, ours: &Executable) -> Result<()> {
    let (mut told, mut orphaned) = (Vec::with_capacity(count), Vec::new());
    let mut unclean = 0;
    for run in 0..count {
        if run % 10 == 9 {
            orphaned.push(kill_the_supervisor(name, ours)?);
        } else {
            match end_in_order(name, ours)? {
                Some(took) => told.push(took),
                None => unclean += 1,
            }
        }
    }
    let left = survivors();
    println!("{name}: {count} Runs, {left} survivors, {unclean} not clean");
    for (what, mut samples) in [("kill to empty", told), ("supervisor killed, to empty", orphaned)] {
        samples.sort_unstable();
        let at = |share: usize| samples.get(samples.len() * share / 100).copied().unwrap_or_default();
        println!(
            "  {what}: p50 {:.1?}  p99 {:.1?}  largest {:.1?}",
            at(50),
            at(99),
            samples.last().copied().unwrap_or_default()
        );
    }
    if left > 0 || unclean > 0 { Err("something survived".into()) } else { Ok(()) }
}

/// Starts a supervisor, and returns when its adversary is at work.
fn start(tier: &str, ours: &Executable) -> Result<(Child, std::fs::File)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let argv = match tier {
        "base" => vec!["storms".into(), "supervisor".into(), "base".into(), std::process::id().to_string()],
        _ => {
            vec!["storms".into(), "supervisor".into(), "namespaces".into(), uid.to_string(), gid.to_string()]
        }
    };
    let spawn = Spawn::new(ours, &argv).fd(1, write).fd(2, rustix::stdio::stderr());
    let child = spawn.own_processes(tier == "namespaces").new_session(true).spawn()?;
    let mut answers = std::fs::File::from(read);
    answers.read_exact(&mut [0])?;
    Ok((child, answers))
}

/// The supervisor ends the tree and says how long it took; `None` if it says that something is left.
fn end_in_order(tier: &str, ours: &Executable) -> Result<Option<Duration>> {
    let (mut child, mut answers) = start(tier, ours)?;
    let mut said = String::new();
    answers.read_to_string(&mut said)?;
    child.wait()?;
    Ok(said.trim().parse().ok().map(Duration::from_micros))
}

fn kill_the_supervisor(tier: &str, ours: &Executable) -> Result<Duration> {
    let (mut child, _answers) = start(tier, ours)?;
    let begun = Instant::now();
    child.signal(Signal::KILL)?;
    child.wait()?;
    // What a daemon does when a worker has ended badly.
    let strays = process::reap_strays(&[], Duration::from_secs(10));
    if strays.survivors > 0 { Err("strays survived".into()) } else { Ok(begun.elapsed()) }
}

fn supervise_base(guard: i32) -> Result<()> {
    process::become_subreaper()?;
    let prepared = plan::plan(&Policy::scopes_only(), &Support::probe())?.prepare()?;
    enforce_self(prepared)?;
    let guard = Pid::from_raw(guard).ok_or("no such guard")?;
    supervise(Reach::Domain { guard }, None)
}

/// Starts an adversary, lets it go on for a moment that differs from Run to Run, and ends it.
fn supervise(reach: Reach, view: Option<View>) -> Result<()> {
    process::harden_self()?;
    let program = PathBuf::from("/proc/self/exe").canonicalize()?;
    let existing =
        |paths: &[&str]| paths.iter().map(PathBuf::from).filter(|path| path.exists()).collect::<Vec<_>>();
    let mut execute = existing(&["/usr", "/bin", "/lib", "/lib64"]);
    execute.push(program.clone());
    let policy = Policy {
        execute,
        devices: existing(COMMON_DEVICES),
        network: Network::Ports { connect: vec![443], listen: vec![], bind_ephemeral: true, udp_dns: false },
        view,
        ..Policy::default()
    };
    let prepared = plan::plan(&policy, &Support::probe())?.prepare()?;
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let adversary = Executable::open(&program)?;
    let clock = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let moment = u64::try_from(clock.tv_nsec).unwrap_or(0) % 3_000_000;
    let mut command = Spawn::new(&adversary, ["storms", MARK, "x"]).fd(1, write).confine(prepared).spawn()?;
    std::fs::File::from(read).read_exact(&mut [0])?;
    rustix::io::write(rustix::stdio::stdout(), b"r")?;
    // Not for the sake of time, but so that the kill meets another moment of the storm in each Run.
    std::thread::sleep(Duration::from_nanos(moment));
    let report =
        process::kill_descendants(KillTree { reach, command: Some(&mut command), ..KillTree::default() })?;
    if report.survivors {
        println!("survivors");
    } else {
        println!("{}", report.kill_to_empty.as_micros());
    }
    Ok(())
}

/// Forks as many kinds of children as there are ways to slip away, and goes on forking; it ends by itself in time.
fn adversary() -> Result<()> {
    // SAFETY: this process has one thread; its copies call nothing but system calls.
    let fork = || unsafe { libc::fork() };
    let ignored = [libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGCHLD];
    for signal in ignored {
        // SAFETY: the signals exist, and ignoring one takes no pointer.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // SAFETY: the call takes no pointer.
    let alarm = || unsafe { libc::alarm(60) };
    alarm();
    for kind in 0..24 {
        if fork() != 0 {
            continue;
        }
        alarm();
        match kind % 4 {
            // Detached from its parent and its session.
            0 => {
                rustix::process::setsid().ok();
                if fork() != 0 {
                    std::process::exit(0);
                }
                alarm();
            }
            // Stopped.
            1 => {
                rustix::process::kill_process(rustix::process::getpid(), Signal::STOP).ok();
            }
            // Forks for as long as it lives, a few at a time.
            2 => loop {
                if fork() == 0 {
                    alarm();
                    rustix::process::setsid().ok();
                    std::thread::sleep(Duration::from_millis(20));
                    std::process::exit(0);
                }
                std::thread::sleep(Duration::from_micros(500));
            },
            _ => {}
        }
        loop {
            // SAFETY: the call takes no pointer.
            unsafe { libc::pause() };
        }
    }
    rustix::io::write(rustix::stdio::stdout(), b"r")?;
    loop {
        // SAFETY: the call takes no pointer.
        unsafe { libc::pause() };
    }
}

/// Adversaries that are still there, in any namespace.
fn survivors() -> usize {
    let Ok(entries) = std::fs::read_dir("/proc") else { return usize::MAX };
    let is_one = |path: &Path| {
        let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == MARK.as_bytes())
    };
    entries.flatten().filter(|entry| is_one(&entry.path())).count()
}
