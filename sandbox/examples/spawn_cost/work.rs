//! Work inside the base tier beside the same work outside: what each system call, and what whole programs, cost more.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use runtimed_sandbox::plan::plan;
use runtimed_sandbox::policy::Network;
use runtimed_sandbox::spawn::{Executable, Spawn, Status};
use runtimed_sandbox::support::Support;

use crate::{Outcome, policy};

const CALLS: u32 = 2_000_000;

/// Prints how many nanoseconds a short system call takes; run once outside and once inside.
pub(crate) fn calls() -> Outcome {
    let begun = Instant::now();
    for _ in 0..CALLS {
        // A number that no filter rule is about, and the least work that the kernel can do.
        std::hint::black_box(rustix::process::getppid());
    }
    println!("{:.1}", begun.elapsed().as_nanos() as f64 / f64::from(CALLS));
    Ok(())
}

/// One program inside, with the current directory as its own: `strace` and `perf` say where its time goes.
pub(crate) fn inside(program: &Path, arguments: &[&str]) -> Outcome {
    let here = std::env::current_dir()?;
    let executable = Executable::open(program)?;
    let spawn = Spawn::new(&executable, [&[program.to_str().unwrap_or_default()], arguments].concat());
    let spawn = spawn.cwd(&here).envs([("PATH", "/usr/bin:/bin"), ("HOME", "/nowhere")]);
    started(spawn.fd(1, rustix::stdio::stdout()), &here, true).map(drop)
}

/// The same program in turns outside and inside.
pub(crate) fn compare(ours: &Executable) -> Outcome {
    let place = std::env::temp_dir().join(format!("spawn-cost-{}", std::process::id()));
    std::fs::create_dir(&place)?;
    let compared = in_place(ours, &place);
    std::fs::remove_dir_all(&place)?;
    compared
}

fn in_place(ours: &Executable, place: &Path) -> Outcome {
    let sh = Executable::open(Path::new("/bin/sh"))?;
    let script = |text: &str, confined: bool| -> Outcome<Duration> {
        let spawn = Spawn::new(&sh, ["sh", "-c", text]).cwd(place);
        let spawn = spawn.envs([
            ("PATH", "/usr/bin:/bin"),
            ("HOME", "/nowhere"),
            ("TMPDIR", &place.to_string_lossy()),
        ]);
        started(spawn, place, confined)
    };
    println!("a short system call, ns (outside, inside base)");
    for confined in [false, true] {
        let spawn = Spawn::new(ours, ["spawn_cost", "calls"]).fd(1, rustix::stdio::stdout());
        started(spawn, place, confined)?;
    }
    let source = "for i in $(seq 300); do echo \"int f$i(int x) { int s = 0; for (int i = 0; i < x; i++) s += i * $i; return s; }\"; done > many.c";
    script(source, false)?;
    let tree = "git init -q . && for i in $(seq 100); do mkdir d$i; for j in $(seq 20); do echo $i $j > d$i/f$j; done; done && git add -A && git -c user.name=a -c user.email=a@b commit -qm x";
    script(tree, false)?;
    // What the start itself costs has rows of its own: a program as short as the second is repeated within one.
    for (name, rounds, text) in [
        ("gcc -O2 -c", 60, "gcc -O2 -c many.c -o many.o"),
        (
            "10 × git status, 2,000 files",
            200,
            "for i in 1 2 3 4 5 6 7 8 9 10; do git status --porcelain > /dev/null; done",
        ),
    ] {
        let (mut outside, mut inside, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds {
            // Whichever comes second finds the caches as the first has left them, so they take turns.
            let first = script(text, round % 2 == 1)?;
            let second = script(text, round % 2 == 0)?;
            let (without, within) = if round % 2 == 0 { (first, second) } else { (second, first) };
            outside.push(without);
            inside.push(within);
            ratios.push(within.as_secs_f64() / without.as_secs_f64());
        }
        outside.sort_unstable();
        inside.sort_unstable();
        ratios.sort_unstable_by(f64::total_cmp);
        let half = rounds / 2;
        let (Some(outside), Some(inside), Some(pair)) =
            (outside.get(half), inside.get(half), ratios.get(half))
        else {
            continue;
        };
        println!(
            "{name}, {rounds} pairs: outside p50 {outside:.1?}, inside base {inside:.1?}, ratio {:.3}; of the pairs' ratios p50 \
             {pair:.3}",
            inside.as_secs_f64() / outside.as_secs_f64()
        );
    }
    Ok(())
}

/// Runs it to its end and says how long that took, without the making of its rules.
fn started(spawn: Spawn<'_>, place: &Path, confined: bool) -> Outcome<Duration> {
    let spawn = spawn.fd(2, rustix::stdio::stderr());
    let spawn = if confined {
        let mut policy = policy(None, Network::None);
        policy.write = vec![place.to_owned()];
        policy.execute.push(PathBuf::from("/proc/self/exe").canonicalize()?);
        spawn.confine(plan(&policy, &Support::probe())?.prepare()?)
    } else {
        spawn
    };
    let begun = Instant::now();
    match spawn.spawn()?.wait()?.status {
        Status::Exited(0) => Ok(begun.elapsed()),
        other => Err(format!("{other:?}").into()),
    }
}
