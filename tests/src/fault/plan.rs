//! What happens in one schedule, and when: made of a seed alone, so that a seed that failed can be played again.

use std::fmt;
use std::time::Duration;

/// Daemons of a schedule.
pub const DAEMONS: usize = 2;

/// Lines of a Run that prints much.
const ROWS: u32 = 48_000;

/// After this long nothing more goes wrong.
const COURSE: u64 = 1200;

/// One schedule.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What it was made of.
    pub seed: u64,
    /// The Runs, in the order of their submission.
    pub runs: Vec<PlannedRun>,
    /// What goes wrong, in order.
    pub acts: Vec<Act>,
}

/// A Run of a schedule.
#[derive(Debug, Clone)]
pub struct PlannedRun {
    /// Its name.
    pub name: String,
    /// When it is submitted, from the beginning of the schedule.
    pub at: Duration,
    /// What it does.
    pub kind: Kind,
    /// It is tried again, at most twice, when it was lost.
    pub retry: bool,
    /// A secret is submitted with it, and shown by it.
    pub secret: bool,
    /// It is cancelled so long after its submission.
    pub cancel: Option<Duration>,
    /// It finds out whether another attempt goes on beside it.
    pub marked: bool,
}

/// What a Run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Prints so many lines, with so many milliseconds between them, and exits.
    Prints {
        /// Lines.
        lines: u32,
        /// Milliseconds between two.
        pause: u32,
        /// The exit code.
        code: u8,
    },
    /// Prints a mebibyte, sets an output, leaves an artifact, and exits with 0.
    Collects,
    /// Prints a line, leaves a child of another session behind that ignores TERM, and exits with 0.
    Leaves,
    /// Prints a line and sleeps past its timeout.
    Sleeps {
        /// Its timeout, in milliseconds.
        timeout: u32,
    },
}

/// What goes wrong, and when.
#[derive(Debug, Clone, Copy)]
pub struct Act {
    /// From the beginning of the schedule.
    pub at: Duration,
    /// What.
    pub what: What,
    /// How long, for what is put right again.
    pub lasts: Duration,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A process is killed, and started again later; a worker is not.
    Kill(Who),
    /// A process is stopped, and goes on later.
    Freeze(Who),
    /// The way from a daemon to the controller.
    Link(usize, Trouble),
    /// What this daemon has sent is sent once more, in another order.
    Replay(usize),
    /// The disk under a daemon's state, or under the controller's data, is full.
    Fill(Who),
    /// What a daemon's journal, or the controller's database, writes to the disk fails.
    Fail(Who),
    /// A daemon is told to end, and started again later.
    Drain(usize),
}

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// A daemon.
    Daemon(usize),
    /// A worker of a daemon, if it has one just then.
    Worker(usize),
    /// The controller.
    Controller,
}

/// What is wrong with a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Connections are reset, and no new one is taken.
    Refused,
    /// Nothing arrives any more, in either direction; afterwards connections are reset.
    HalfOpen,
    /// Nothing arrives for a while, and then all of it does.
    Late,
    /// What the daemon asks arrives, and the answers do not.
    NoAnswer,
    /// Each piece takes some time.
    Slow,
}

impl Plan {
    /// The schedule of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let mut runs: Vec<_> =
            (0..3 + dice.below(3)).map(|index| planned_run(&mut dice, seed, index)).collect();
        let mut acts: Vec<Act> = (0..1 + dice.below(4)).map(|_| act(&mut dice)).collect();
        acts.sort_by_key(|act| act.at);
        let unguarded = (0..DAEMONS).any(|daemon| is_unguarded(&acts, daemon));
        runs.iter_mut().for_each(|run| run.marked = !unguarded);
        Self { seed, runs, acts }
    }

    /// Whether something of this kind goes wrong.
    #[must_use]
    pub fn has(&self, what: impl Fn(What) -> bool) -> bool {
        self.acts.iter().any(|act| what(act.what))
    }
}

/// Whether both that could end a command of this daemon, itself and its worker, are stopped or dead at some time: nobody is
/// left then who could, but in the namespaces tier the kernel.
fn is_unguarded(acts: &[Act], daemon: usize) -> bool {
    let hits = |who: Who| acts.iter().any(|act| act.what == What::Kill(who) || act.what == What::Freeze(who));
    hits(Who::Daemon(daemon)) && hits(Who::Worker(daemon))
}

fn planned_run(dice: &mut Dice, seed: u64, index: u64) -> PlannedRun {
    let kind = match dice.below(9) {
        0..=2 => Kind::Prints { lines: small(1 + dice.below(20)), pause: 0, code: code(dice) },
        3..=5 => Kind::Prints {
            lines: small(2 + dice.below(10)),
            pause: small(10 + dice.below(90)),
            code: code(dice),
        },
        6 => Kind::Leaves,
        7 => Kind::Collects,
        _ => Kind::Sleeps { timeout: small(100 + dice.below(400)) },
    };
    PlannedRun {
        name: format!("s{seed}-{index}"),
        at: millis(dice.below(700)),
        kind,
        retry: dice.below(2) == 0,
        secret: dice.below(3) == 0,
        cancel: (dice.below(4) == 0).then(|| millis(dice.below(500))),
        marked: false,
    }
}

fn act(dice: &mut Dice) -> Act {
    let daemon = usize::from(dice.below(2) == 1);
    let what = match dice.below(18) {
        0 | 1 => What::Kill(Who::Daemon(daemon)),
        2 => What::Kill(Who::Worker(daemon)),
        3 | 4 => What::Kill(Who::Controller),
        5 => What::Freeze(Who::Daemon(daemon)),
        6 => What::Freeze(Who::Worker(daemon)),
        7 => What::Freeze(Who::Controller),
        8 => What::Link(daemon, Trouble::Refused),
        9 => What::Link(daemon, Trouble::HalfOpen),
        10 => What::Link(daemon, Trouble::NoAnswer),
        11 => What::Link(daemon, if dice.below(2) == 0 { Trouble::Late } else { Trouble::Slow }),
        12 | 13 => What::Replay(daemon),
        14 => What::Freeze(Who::Daemon(daemon)),
        15 => What::Fail(if dice.below(2) == 0 { Who::Daemon(daemon) } else { Who::Controller }),
        16 => What::Fill(if dice.below(2) == 0 { Who::Daemon(daemon) } else { Who::Controller }),
        _ => What::Drain(daemon),
    };
    // A daemon that is stopped for less than a lease period is overtaken by nobody.
    let longest = if matches!(what, What::Freeze(Who::Daemon(_))) { 1200 } else { 600 };
    Act { at: millis(100 + dice.below(COURSE - 100)), what, lasts: millis(20 + dice.below(longest)) }
}

fn code(dice: &mut Dice) -> u8 {
    if dice.below(3) == 0 { 1 + u8::try_from(dice.below(100)).unwrap_or(0) } else { 0 }
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// SplitMix64: small, and the same everywhere.
#[derive(Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// A number from 0 to `bound`, which is not one of them.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}

impl PlannedRun {
    /// The value of its secret.
    #[must_use]
    pub fn secret_value(&self) -> String {
        format!("a-value-of-{}-alone", self.name)
    }

    /// All that its command prints.
    #[must_use]
    pub fn output(&self) -> String {
        let mut text = if self.secret { "***llm***\n".to_owned() } else { String::new() };
        match self.kind {
            Kind::Prints { lines, .. } => {
                text.extend((0..lines).map(|line| format!("line {line} of {}\n", self.name)));
            }
            Kind::Collects => {
                text.extend((1..=ROWS).map(|row| format!("row {row:08} of {}\n", self.name)));
            }
            Kind::Leaves | Kind::Sleeps { .. } => text.push_str("one line\n"),
        }
        text
    }

    /// Its command.
    #[must_use]
    pub fn script(&self) -> String {
        let shown = if self.secret { "cat $RUNTIMED_SECRET_LLM_FILE; echo; " } else { "" };
        let rest = match self.kind {
            Kind::Prints { lines, pause, code } => {
                let pause = if pause > 0 { format!("sleep 0.{pause:03}; ") } else { String::new() };
                format!(
                    "i=0; while [ $i -lt {lines} ]; do echo line $i of {}; i=$((i+1)); {pause}done; exit {code}",
                    self.name
                )
            }
            Kind::Collects => format!(
                "echo k={0} > $RUNTIMED_OUTPUTS; echo kept by {0} > $RUNTIMED_ARTIFACTS_DIR/file; \
                 seq -f 'row %08.0f of {0}' {ROWS}",
                self.name
            ),
            Kind::Leaves => {
                "echo one line; (setsid sh -c 'trap \"\" TERM; sleep 61; sleep 61' &) ; exit 0".to_owned()
            }
            Kind::Sleeps { .. } => "echo one line; sleep 61".to_owned(),
        };
        format!("{shown}{rest}")
    }

    /// The lines of its spec beside the command.
    #[must_use]
    pub fn spec(&self) -> String {
        let mut lines = vec!["limits: { grace: 100ms, timeout: 30s }".to_owned()];
        if let Kind::Sleeps { timeout } = self.kind {
            lines = vec![format!("limits: {{ grace: 100ms, timeout: {timeout}ms }}")];
        }
        if self.retry {
            lines.push("retry: { maxAttempts: 3, backoff: 20ms, on: [Lost, Fault, Drained] }".to_owned());
        }
        if self.secret {
            lines.push("secrets: [{ name: llm }]".to_owned());
        }
        lines.join("\n")
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for run in &self.runs {
            writeln!(f, "{run:?}")?;
        }
        for act in &self.acts {
            writeln!(f, "{act:?}")?;
        }
        Ok(())
    }
}
