//! Every order of events there is, for one Run, two daemons and two attempts: the real core, and a model of everything
//! around it.
//!
//! Time is counted in ticks and only ever relative to now, so that there are finitely many states and all of them are
//! visited. A report stays in the network once it is sent: it may arrive never, late, twice, and in any order with others.
//! Answers arrive late or never, and not twice, for nobody reads them twice.
//!
//! A daemon that runs is urgent at its deadline: time does not go on before it has ended the command. A daemon that is
//! frozen keeps no deadline, and is not part of this.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::*;

/// The lease period, in ticks.
const LEASE: u8 = 2;
/// How long a hand-out holds before the first renewal: the way there is on top.
const HANDED_OUT: u8 = LEASE + 1;
/// How much earlier than the controller a daemon stops counting on a lease.
const MARGIN: u8 = 1;
/// An age at which nothing depends on how old something is.
const OLD: u8 = HANDED_OUT + 1;

/// What a daemon does when a lease arrives, and a controller when it starts again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// The daemon knows when the lease was given, and counts from there; the controller counts from its start.
    Aged,
    /// The controller takes what it finds for run out: a mistake that the model has to find.
    Hasty,
    /// The daemon counts from the arrival, as if no answer were ever late: another.
    Blind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct World {
    /// The Run as it is stored: its place in the book.
    run: usize,
    /// Ticks until the controller takes the lease back.
    until: Option<u8>,
    daemons: [Daemon; 2],
    /// What each fence's daemon has said so far: all of it may arrive at any time.
    said: [Said; 3],
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Daemon {
    /// A lease on its way to it.
    lease: Option<Lease>,
    /// The lease whose command runs, and the ticks for which it may go on.
    running: Option<(Lease, u8)>,
    /// The lease that was journaled and is not finished, and whether the Outcome is fixed.
    open: Option<(Lease, bool)>,
    /// The newest renewal: the one before is given up when it is sent.
    renewal: Option<Renewal>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Lease {
    attempt: u8,
    fence: u8,
    age: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Renewal {
    fence: u8,
    age: u8,
    /// It has arrived: whether the answer is an order to give up.
    answer: Option<bool>,
}

/// The reports under one fence: who said them, and which.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Said {
    by: usize,
    attempt: u8,
    exited: bool,
    finished: Option<bool>,
    declined: bool,
}

/// What is put to the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Put {
    HandOut(usize),
    Expire,
    Cancel,
    Exited(u8, Said),
    Finished(u8, Said, bool),
    Declined(u8, Said),
}

/// Every state of the Run that was seen, and what the core made of it.
#[derive(Default)]
struct Book {
    records: Vec<Record>,
    places: HashMap<String, usize>,
    decided: HashMap<(usize, Put), Option<usize>>,
}

impl Book {
    fn place(&mut self, record: Record) -> usize {
        let text = serde_json::to_string(&record).expect("JSON");
        let fresh = self.records.len();
        let place = *self.places.entry(text).or_insert(fresh);
        if place == fresh {
            self.records.push(record);
        }
        place
    }

    /// What the real core decides, if that changes the Run.
    fn decide(&mut self, run: usize, put: Put) -> Option<usize> {
        if let Some(known) = self.decided.get(&(run, put)) {
            return *known;
        }
        let before = self.records[run].clone();
        let event = event(&before, put)?;
        let after = decide(&before, &event, at(0)).ok().and_then(|decision| decision.record);
        if let (Event::Report { report, .. }, Some(_)) = (&event, &after) {
            let held = before.held().map(|held| held.fence);
            assert_eq!(held, Some(report.attempt.fence), "an old fence changed something");
        }
        let over = before.status.phase.is_terminal();
        assert!(!over || after.as_ref().is_none_or(|after| after.status == before.status), "an end changed");
        let place = after.map(|record| self.place(record));
        self.decided.insert((run, put), place);
        place
    }
}

fn event(record: &Record, put: Put) -> Option<Event> {
    let report = |fence: u8, said: Said, sequence: u64, event: ReportEvent| {
        let attempt = AttemptKey {
            namespace: record.key.namespace.clone(),
            name: record.key.name.clone(),
            uid: record.uid.clone(),
            attempt: AttemptNumber(u32::from(said.attempt)),
            fence: Fence(u64::from(fence)),
        };
        Event::Report { daemon: name(said.by), report: Report { attempt, sequence, at: at(0), event } }
    };
    Some(match put {
        Put::HandOut(index) => Event::HandOut { daemon: name(index), patches: Vec::new() },
        Put::Expire => Event::LeaseExpired(record.held()?.fence),
        Put::Cancel => Event::Cancel { by: "alice".to_owned() },
        Put::Exited(fence, said) => report(fence, said, 1, ReportEvent::Exited(outcome(Verdict::Exited(0)))),
        Put::Finished(fence, said, true) => {
            report(fence, said, 2, finished(AttemptEnd::Completed, Some(Verdict::Exited(0))))
        }
        Put::Finished(fence, said, false) => report(fence, said, 2, finished(AttemptEnd::Lost, None)),
        Put::Declined(fence, said) => report(fence, said, 1, ReportEvent::Declined("late".to_owned())),
    })
}

fn name(index: usize) -> Identity {
    daemon(["d1", "d2"][index])
}

impl World {
    fn first(book: &mut Book) -> Self {
        let run = book.place(submitted(retry(2, &[RetryOn::Lost])));
        Self { run, until: None, daemons: Default::default(), said: Default::default() }
    }

    /// The core's decision, and what the engine does beside it: the lease of another attempt is a fresh one.
    fn decided(self, book: &mut Book, put: Put) -> Option<Self> {
        let run = book.decide(self.run, put)?;
        let held = |run: usize| book.records[run].held();
        let same = held(self.run) == held(run);
        let until = if same { self.until } else { held(run).map(|_| HANDED_OUT) };
        Some(Self { run, until, ..self })
    }

    fn next(self, book: &mut Book, rule: Rule) -> Vec<Self> {
        let mut next = Vec::new();
        for index in 0..2 {
            if self.daemons[index].lease.is_none()
                && let Some(mut world) = self.decided(book, Put::HandOut(index))
            {
                let held = book.records[world.run].held().expect("handed out");
                let small = |number: u64| u8::try_from(number).expect("small");
                let (attempt, fence) = (small(held.number.0.into()), small(held.fence.0));
                world.daemons[index].lease = Some(Lease { attempt, fence, age: 0 });
                next.push(world);
            }
            self.daemon_acts(book, index, rule, &mut next);
        }
        if self.until == Some(0) {
            next.extend(self.decided(book, Put::Expire));
        }
        next.extend(self.decided(book, Put::Cancel));
        if self.until.is_some() {
            // The controller was killed and started again: it knows of no renewal, and counts anew.
            let until = Some(if rule == Rule::Hasty { 0 } else { HANDED_OUT });
            next.push(Self { until, ..self });
        }
        for (fence, said) in (1..).zip(self.said) {
            if said.exited {
                next.extend(self.decided(book, Put::Exited(fence, said)));
            }
            if said.declined {
                next.extend(self.decided(book, Put::Declined(fence, said)));
            }
            if let Some(completed) = said.finished {
                next.extend(self.decided(book, Put::Finished(fence, said, completed)));
            }
        }
        next.extend(self.tick());
        next
    }

    fn daemon_acts(self, book: &Book, index: usize, rule: Rule, next: &mut Vec<Self>) {
        let was = self.daemons[index];
        // Once, so that there are no more fences than there is room for.
        if let (Some(lease), None) = (was.lease, was.open)
            && self.said.iter().all(|said| !said.declined)
        {
            let mut world = self;
            world.said[usize::from(lease.fence - 1)] =
                Said { by: index, attempt: lease.attempt, declined: true, ..Said::default() };
            world.daemons[index] = Daemon { lease: None, ..was };
            next.push(world);
        }
        let mut becomes = |daemon: Daemon| {
            let mut world = self;
            world.daemons[index] = daemon;
            next.push(world);
        };
        if let (Some(lease), None) = (was.lease, was.open) {
            let left = match rule {
                Rule::Aged | Rule::Hasty => HANDED_OUT.saturating_sub(lease.age).saturating_sub(MARGIN),
                Rule::Blind => HANDED_OUT - MARGIN,
            };
            // Its age does not matter any more.
            let taken = Lease { age: 0, ..lease };
            let accepted =
                Daemon { lease: None, running: Some((taken, left)), open: Some((taken, false)), ..was };
            becomes(if left > 0 { accepted } else { Daemon { lease: None, ..was } });
        }
        if was.lease.is_some() {
            // The connection broke.
            becomes(Daemon { lease: None, ..was });
        }
        if let Some((lease, left)) = was.running {
            becomes(Daemon { renewal: Some(Renewal { fence: lease.fence, age: 0, answer: None }), ..was });
            // Killed and started again: nothing of it runs, and the journal knows what was open.
            becomes(Daemon { running: None, renewal: None, ..was });
            if let Some(renewal) = was.renewal.filter(|renewal| renewal.fence == lease.fence)
                && let Some(give_up) = renewal.answer
            {
                let renewed = LEASE.saturating_sub(renewal.age).saturating_sub(MARGIN).max(left);
                let running = (!give_up).then_some((lease, renewed));
                becomes(Daemon { running, renewal: None, ..was });
            }
            if left == 0 {
                becomes(Daemon { running: None, ..was });
            }
        }
        if let Some(renewal) = was.renewal.filter(|renewal| renewal.answer.is_none()) {
            let mut world = self;
            let held = book.records[self.run].held();
            let his = held.is_some_and(|held| held.fence.0 == u64::from(renewal.fence));
            if his {
                world.until = world.until.max(Some(LEASE));
            }
            world.daemons[index].renewal = Some(Renewal { answer: Some(!his), ..renewal });
            next.push(world);
        }
        if let Some((lease, fixed)) = was.open {
            let mut world = self;
            let said = &mut world.said[usize::from(lease.fence - 1)];
            (said.by, said.attempt) = (index, lease.attempt);
            if was.running.is_some() {
                // The command ends by itself: journaled, and reported.
                said.exited = true;
                world.daemons[index] = Daemon { running: None, open: Some((lease, true)), ..was };
            } else {
                said.finished = Some(fixed);
                world.daemons[index] = Daemon { open: None, renewal: None, ..was };
            }
            next.push(world);
        }
    }

    /// Time goes on, unless a daemon has to end its command first.
    fn tick(mut self) -> Option<Self> {
        let older = |age: &mut u8| *age = (*age + 1).min(OLD);
        for daemon in &mut self.daemons {
            if let Some((_, left)) = &mut daemon.running {
                *left = left.checked_sub(1)?;
            }
            if let Some(lease) = &mut daemon.lease {
                older(&mut lease.age);
            }
            if let Some(renewal) = &mut daemon.renewal {
                older(&mut renewal.age);
            }
        }
        self.until = self.until.map(|until| until.saturating_sub(1));
        Some(self)
    }

    fn running(self) -> usize {
        self.daemons.iter().filter(|daemon| daemon.running.is_some()).count()
    }
}

/// What was seen over all states.
struct Explored {
    states: usize,
    /// One in which two daemons run the command.
    both_run: Option<World>,
    /// States from which no terminal phase can be reached.
    stuck: usize,
    phases: BTreeSet<String>,
}

fn explore(rule: Rule) -> Explored {
    let mut book = Book::default();
    let first = World::first(&mut book);
    let mut numbers = HashMap::from([(first, 0)]);
    let mut pending = VecDeque::from([(0, first)]);
    let mut before: Vec<Vec<u32>> = vec![Vec::new()];
    let (mut both_run, mut ends, mut phases) = (None, Vec::new(), BTreeSet::new());
    while let Some((number, world)) = pending.pop_front() {
        if world.running() > 1 {
            both_run.get_or_insert(world);
            if rule != Rule::Aged {
                break;
            }
        }
        let phase = book.records[world.run].status.phase;
        if phase.is_terminal() {
            ends.push(number);
        }
        phases.insert(phase.to_string());
        for next in world.next(&mut book, rule) {
            let fresh = u32::try_from(before.len()).expect("not that many");
            let found = *numbers.entry(next).or_insert(fresh);
            if found == fresh {
                before.push(Vec::new());
                pending.push_back((fresh, next));
            }
            before[found as usize].push(number);
        }
    }
    let mut ending = vec![false; before.len()];
    while let Some(number) = ends.pop() {
        if !std::mem::replace(&mut ending[number as usize], true) {
            ends.extend(&before[number as usize]);
        }
    }
    let stuck = ending.iter().filter(|ends| !**ends).count();
    Explored { states: before.len(), both_run, stuck, phases }
}

#[test]
fn at_most_one_daemon_runs_a_command_and_every_run_can_end() {
    let explored = explore(Rule::Aged);
    assert!(explored.both_run.is_none(), "{:?}", explored.both_run);
    assert_eq!(explored.stuck, 0, "of {} states", explored.states);
    let phases: Vec<_> = explored.phases.iter().map(String::as_str).collect();
    assert_eq!(phases, ["Cancelled", "Finishing", "Lost", "Pending", "Running", "Succeeded"]);
    assert!(explored.states > 10_000, "{} states are not all there are", explored.states);
}

/// The model sees what it is for: a daemon that takes a late lease for a fresh one runs beside its successor.
#[test]
fn a_late_lease_that_is_taken_for_a_fresh_one_is_found() {
    assert!(explore(Rule::Blind).both_run.is_some());
}

#[test]
fn a_controller_that_starts_and_expires_at_once_is_found() {
    assert!(explore(Rule::Hasty).both_run.is_some());
}
