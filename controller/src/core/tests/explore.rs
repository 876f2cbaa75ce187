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
/// The age from which a lease is too old, however old it is, and that from which a renewal prolongs nothing.
const OLD_LEASE: u8 = HANDED_OUT - MARGIN;
const OLD_RENEWAL: u8 = LEASE - MARGIN;
/// The daemon whose lease may get lost without an end of the connection: one, for the two are alike, and a lease is taken
/// back once at most here.
const UNLUCKY: usize = 0;
/// How old a lease may be when its attempt begins, if a renewal has not named it: a third of a period in truth.
const THIRD: u8 = 1;

/// What a daemon does when a lease arrives, and a controller when it starts again, or is told what a daemon has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// The daemon knows when the lease was given, and counts from there; the controller counts from its start, and takes a
    /// lease back that a renewal does not name which was made with the knowledge that the lease is too old.
    Aged,
    /// The controller goes by when the renewal arrives: a mistake.
    Arrival,
    /// The daemon looks at a lease's age once, and names it some time later: another.
    Once,
    /// A daemon that starts again does not name what its journal has accepted: another.
    Forgetful,
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
    /// When the newest lease was given, until its daemon names it.
    given: Option<Given>,
    daemons: [Daemon; 2],
    /// What each fence's daemon has said so far: all of it may arrive at any time.
    said: [Said; 3],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Given {
    /// So many ticks ago.
    Ago(u8),
    /// In a Session that is over.
    Earlier,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Daemon {
    /// Its Session is the controller's too.
    session: bool,
    /// By an answer that it has the newest lease is older than [`THIRD`].
    knows: bool,
    /// A lease on its way to it.
    lease: Option<Lease>,
    /// A lease that was found young enough, and that renewals do not name yet.
    judged: Option<Lease>,
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
    /// What it names, or 0.
    fence: u8,
    age: u8,
    /// What [`Daemon::knows`] was when it was made.
    knew: bool,
    /// It has arrived.
    answer: Option<Answer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Answer {
    /// An order to give up what was named.
    give_up: bool,
    /// The newest lease was older than [`THIRD`] when the renewal arrived.
    tells: bool,
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
    NeverArrived,
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
        Put::NeverArrived => Event::NeverArrived(record.held()?.fence),
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
        let daemon = Daemon {
            session: true,
            knows: false,
            lease: None,
            judged: None,
            running: None,
            open: None,
            renewal: None,
        };
        Self { run, until: None, given: None, daemons: [daemon; 2], said: Default::default() }
    }

    /// The core's decision, and what the engine does beside it: the lease of another attempt is a fresh one.
    fn decided(self, book: &mut Book, put: Put) -> Option<Self> {
        let run = book.decide(self.run, put)?;
        let held = |run: usize| book.records[run].held();
        let same = held(self.run) == held(run);
        let until = if same { self.until } else { held(run).map(|_| HANDED_OUT) };
        let given = self.given.filter(|_| same && book.records[run].is_unheard());
        Some(Self { run, until, given, ..self })
    }

    /// Without what makes no difference: a renewal of a daemon that has nothing, and what is known of a lease that nobody
    /// asks for.
    fn settled(mut self, book: &Book) -> Self {
        let held = book.records[self.run].held().filter(|_| self.given.is_some());
        for (index, daemon) in self.daemons.iter_mut().enumerate() {
            let is_asked =
                index == UNLUCKY && held.as_ref().is_some_and(|held| held.daemon == name(index).name);
            let has_none = daemon.lease.is_none() && daemon.judged.is_none() && daemon.running.is_none();
            daemon.knows &= is_asked;
            if let Some(renewal) = &mut daemon.renewal {
                renewal.knew &= is_asked;
                renewal.answer.iter_mut().for_each(|answer| answer.tells &= is_asked && !daemon.knows);
            }
            if daemon.running.is_none() {
                let is_of_use =
                    |renewal: &Renewal| is_asked && renewal.answer.is_none_or(|answer| answer.tells);
                let kept = daemon.renewal.filter(is_of_use);
                daemon.renewal = kept.map(|renewal| Renewal { age: 0, ..renewal });
            }
            daemon.session |= index != UNLUCKY || has_none && !is_asked;
        }
        self
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
                world.given = Some(Given::Ago(0));
                for daemon in &mut world.daemons {
                    // What was known was of the lease before.
                    daemon.knows = false;
                    daemon.renewal = daemon.renewal.map(|renewal| {
                        let answer = renewal.answer.map(|answer| Answer { tells: false, ..answer });
                        Renewal { knew: false, answer, ..renewal }
                    });
                }
                world.daemons[index].lease = Some(Lease { attempt, fence, age: 0 });
                next.push(world);
            }
            self.lease_acts(book, index, rule, &mut next);
            self.session_acts(book, index, rule, &mut next);
            self.daemon_acts(index, &mut next);
        }
        if self.until == Some(0) {
            next.extend(self.decided(book, Put::Expire));
        }
        next.extend(self.decided(book, Put::Cancel));
        if self.until.is_some() {
            // The controller was killed and started again: it knows of no renewal and no Session, and counts anew.
            let until = Some(if rule == Rule::Hasty { 0 } else { HANDED_OUT });
            let given = book.records[self.run].is_unheard().then_some(Given::Earlier);
            let mut world = Self { until, given, ..self };
            for daemon in &mut world.daemons {
                // Opened anew at once, but for what matters: see `settled`.
                daemon.session = false;
                daemon.renewal = daemon.renewal.filter(|renewal| renewal.answer.is_some());
            }
            next.push(world);
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
        next.into_iter().map(|world| world.settled(book)).collect()
    }

    /// Whether a lease may be taken back: once, so that there are no more fences than there is room for.
    fn may_be_taken_back(self, book: &Book) -> bool {
        book.records[self.run].private.declined == 0 && self.said.iter().all(|said| !said.declined)
    }

    /// A lease arrives, or does not.
    fn lease_acts(self, book: &Book, index: usize, rule: Rule, next: &mut Vec<Self>) {
        let was = self.daemons[index];
        let mut becomes = |daemon: Daemon| {
            let mut world = self;
            world.daemons[index] = daemon;
            next.push(world);
        };
        let left = |lease: Lease| match rule {
            Rule::Blind => HANDED_OUT - MARGIN,
            _ => HANDED_OUT.saturating_sub(lease.age).saturating_sub(MARGIN),
        };
        if let Some(lease) = was.judged {
            let newest = book.records[self.run].status.fence.0 == u64::from(lease.fence);
            let asked_again = rule == Rule::Once || left(lease) > 0 && !(was.knows && newest);
            // Its age does not matter any more.
            let taken = Lease { age: 0, ..lease };
            let began = Daemon {
                judged: None,
                running: Some((taken, left(lease).max(1))),
                open: Some((taken, false)),
                ..was
            };
            becomes(if asked_again { began } else { Daemon { judged: None, ..was } });
        }
        let Some(lease) = was.lease else { return };
        // The connection broke.
        becomes(Daemon { lease: None, ..was });
        if was.open.is_some() || was.judged.is_some() {
            return;
        }
        let judged = Some(lease).filter(|lease| left(*lease) > 0);
        becomes(Daemon { lease: None, judged, ..was });
        if self.may_be_taken_back(book) {
            let mut world = self;
            world.said[usize::from(lease.fence - 1)] =
                Said { by: index, attempt: lease.attempt, declined: true, ..Said::default() };
            world.daemons[index] = Daemon { lease: None, ..was };
            next.push(world);
        }
    }

    /// What a renewal of this daemon names: what it has begun, until the controller knows how that ended.
    fn named(self, index: usize, rule: Rule) -> u8 {
        let daemon = self.daemons[index];
        if rule == Rule::Forgetful {
            return daemon.running.map_or(0, |(lease, _)| lease.fence);
        }
        let said = (1..).zip(self.said).filter(|(_, said)| said.by == index && said.began());
        let last = said.map(|(fence, _)| fence).max().unwrap_or(0);
        daemon.open.map_or(last, |(lease, _)| lease.fence)
    }

    /// Sessions and renewals.
    fn session_acts(self, book: &mut Book, index: usize, rule: Rule, next: &mut Vec<Self>) {
        let was = self.daemons[index];
        let held = book.records[self.run].held();
        if !was.session {
            // What still comes of the earlier one is not begun.
            let judged = was.judged.filter(|_| rule == Rule::Once);
            let mut world = self;
            world.daemons[index] = Daemon { session: true, knows: false, lease: None, judged, ..was };
            let is_his = held.as_ref().is_some_and(|held| held.daemon == name(index).name);
            world.given = self.given.map(|given| if is_his { Given::Earlier } else { given });
            next.push(world);
        }
        let mut becomes = |renewal: Option<Renewal>| {
            let mut world = self;
            world.daemons[index].renewal = renewal;
            next.push(world);
        };
        if was.session && (was.renewal.is_none() || was.running.is_some()) {
            let fence = self.named(index, rule);
            becomes(Some(Renewal { fence, age: 0, knew: was.knows, answer: None }));
        }
        let Some(renewal) = was.renewal else { return };
        if was.running.is_none() {
            becomes(None);
        }
        let Some(answer) = renewal.answer else {
            let mut world = self;
            let is_named = held.as_ref().is_some_and(|held| held.fence.0 == u64::from(renewal.fence));
            let is_his = held.is_some_and(|held| held.daemon == name(index).name);
            let tells = matches!(self.given, Some(Given::Ago(age)) if age > THIRD);
            if is_named && is_his {
                world.until = world.until.max(Some(LEASE));
                world.given = None;
            }
            let never_arrived = match self.given {
                Some(Given::Ago(age)) if rule == Rule::Arrival => age > THIRD,
                Some(Given::Ago(_)) => renewal.knew,
                Some(Given::Earlier) => true,
                None => false,
            };
            let give_up = !(is_named && is_his);
            world.daemons[index].renewal =
                Some(Renewal { answer: Some(Answer { give_up, tells }), ..renewal });
            let taken_back = is_his && !is_named && never_arrived && self.may_be_taken_back(book);
            let back = taken_back.then(|| world.decided(book, Put::NeverArrived)).flatten();
            next.push(back.unwrap_or(world));
            return;
        };
        let mut world = self;
        let mut running = was.running;
        if let Some((lease, left)) = was.running.filter(|(lease, _)| lease.fence == renewal.fence) {
            let renewed = LEASE.saturating_sub(renewal.age).saturating_sub(MARGIN).max(left);
            running = (!answer.give_up).then_some((lease, renewed));
        }
        world.daemons[index] = Daemon { running, renewal: None, knows: was.knows || answer.tells, ..was };
        next.push(world);
    }

    /// What runs goes on, ends, or dies.
    fn daemon_acts(self, index: usize, next: &mut Vec<Self>) {
        let was = self.daemons[index];
        let mut becomes = |daemon: Daemon| {
            let mut world = self;
            world.daemons[index] = daemon;
            next.push(world);
        };
        if was.running.is_some() || was.judged.is_some() {
            // Killed and started again: nothing of it runs, and the journal knows what was open.
            becomes(Daemon {
                session: false,
                knows: false,
                lease: None,
                judged: None,
                running: None,
                renewal: None,
                ..was
            });
        }
        if matches!(was.running, Some((_, 0))) {
            becomes(Daemon { running: None, ..was });
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
                world.daemons[index] = Daemon { open: None, ..was };
            }
            next.push(world);
        }
    }

    /// Time goes on, unless a daemon has to end its command first.
    fn tick(mut self) -> Option<Self> {
        let older = |age: &mut u8, most: u8| *age = (*age + 1).min(most);
        for daemon in &mut self.daemons {
            if let Some((_, left)) = &mut daemon.running {
                *left = left.checked_sub(1)?;
            }
            daemon
                .lease
                .iter_mut()
                .chain(&mut daemon.judged)
                .for_each(|lease| older(&mut lease.age, OLD_LEASE));
            if let Some(renewal) = &mut daemon.renewal {
                older(&mut renewal.age, OLD_RENEWAL);
            }
        }
        if let Some(Given::Ago(age)) = &mut self.given {
            older(age, THIRD + 1);
        }
        self.until = self.until.map(|until| until.saturating_sub(1));
        Some(self)
    }

    fn running(self) -> usize {
        self.daemons.iter().filter(|daemon| daemon.running.is_some()).count()
    }

    /// Whether a lease has begun that was taken back as if it never had been.
    fn has_begun_uncounted(self, record: &Record) -> bool {
        let counts = |fence: u8| record.status.attempts.iter().any(|a| a.fence.0 == u64::from(fence));
        let past = |fence: u8| u64::from(fence) <= record.status.fence.0;
        let said = (1..).zip(self.said).filter(|(_, said)| said.began()).map(|(fence, _)| fence);
        let open = self.daemons.iter().filter_map(|daemon| daemon.open).map(|(lease, _)| lease.fence);
        said.chain(open).any(|fence| past(fence) && !counts(fence))
    }
}

impl Said {
    fn began(self) -> bool {
        self.exited || self.finished.is_some()
    }
}

/// What was seen over all states.
#[derive(Default)]
struct Explored {
    states: usize,
    /// One in which two daemons run the command.
    both_run: Option<World>,
    /// One in which something has begun and does not count.
    uncounted: Option<World>,
    /// A lease was found not to have arrived.
    taken_back: bool,
    /// States from which no terminal phase can be reached.
    stuck: usize,
    phases: BTreeSet<String>,
}

/// Visits all states, or as many as are `enough`.
fn explore(rule: Rule, enough: impl Fn(&Explored) -> bool) -> Explored {
    let mut book = Book::default();
    let first = World::first(&mut book);
    let mut numbers = HashMap::from([(first, 0)]);
    let mut pending = VecDeque::from([(0, first)]);
    let mut before: Vec<Vec<u32>> = vec![Vec::new()];
    let (mut seen, mut ends) = (Explored::default(), Vec::new());
    while let Some((number, world)) = pending.pop_front() {
        if world.running() > 1 {
            seen.both_run.get_or_insert(world);
        }
        let record = &book.records[world.run];
        if world.has_begun_uncounted(record) {
            seen.uncounted.get_or_insert(world);
        }
        seen.taken_back |= record.private.declined > 0 && world.said.iter().all(|said| !said.declined);
        let phase = record.status.phase;
        if phase.is_terminal() {
            ends.push(number);
        }
        seen.phases.insert(phase.to_string());
        if enough(&seen) {
            break;
        }
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
    Explored { states: before.len(), stuck, ..seen }
}

#[test]
fn at_most_one_daemon_runs_a_command_and_every_run_can_end() {
    let explored = explore(Rule::Aged, |_| false);
    assert!(explored.both_run.is_none(), "{:?}", explored.both_run);
    assert!(explored.uncounted.is_none(), "{:?}", explored.uncounted);
    assert!(explored.taken_back, "a lease whose answer was lost is handed out anew");
    assert_eq!(explored.stuck, 0, "of {} states", explored.states);
    let phases: Vec<_> = explored.phases.iter().map(String::as_str).collect();
    assert_eq!(phases, ["Cancelled", "Finishing", "Lost", "Pending", "Running", "Succeeded"]);
    assert!(explored.states > 10_000, "{} states are not all there are", explored.states);
}

/// The model sees what it is for: a daemon that takes a late lease for a fresh one runs beside its successor.
#[test]
fn a_late_lease_that_is_taken_for_a_fresh_one_is_found() {
    assert!(explore(Rule::Blind, |seen| seen.both_run.is_some()).both_run.is_some());
}

#[test]
fn a_controller_that_starts_and_expires_at_once_is_found() {
    assert!(explore(Rule::Hasty, |seen| seen.both_run.is_some()).both_run.is_some());
}

#[test]
fn a_lease_that_is_taken_back_too_early_is_found() {
    for rule in [Rule::Arrival, Rule::Once, Rule::Forgetful] {
        let explored = explore(rule, |seen| seen.uncounted.is_some());
        assert!(explored.uncounted.is_some(), "{rule:?}");
    }
}
