use std::collections::BTreeMap;

use proptest::prelude::*;
use runtimed_api::digest::Digest;
use runtimed_api::duration::Span;
use runtimed_api::quantity::Bytes;
use runtimed_api::run::limits::Limits;
use runtimed_api::run::spec::RunSpec;

use super::*;
use crate::core::{Event, Submitted, decide};

const LEASE: u64 = 900;

fn run_key(run: u8) -> RunKey {
    RunKey { namespace: "default".parse().expect("a name"), name: format!("r{run}").parse().expect("a name") }
}

fn runtime(run: u8) -> RuntimeName {
    ["bash", "other"][usize::from(run % 2)].parse().expect("a name")
}

/// The third has no secret, and the name of the first.
fn daemon(daemon: u8) -> Identity {
    let name = ["d1", "d2", "d1"][usize::from(daemon)];
    let instance = (daemon < 2).then(|| Digest::of(name.as_bytes()));
    Identity { name: name.parse().expect("a name"), instance }
}

fn submitted(run: u8) -> Record {
    let spec = serde_json::json!({ "runtime": runtime(run), "command": ["true"] });
    let memory = (!run.is_multiple_of(3)).then(|| Bytes::mib(u64::from(run)));
    let limits = Limits { memory, ..Limits::default() };
    let spec = RunSpec { limits, ..serde_json::from_value(spec).expect("a spec") };
    let submitted = Submitted {
        key: run_key(run),
        uid: format!("uid-{run}").parse().expect("a uid"),
        generate_name: None,
        labels: BTreeMap::new(),
        spec,
        requested_by: "alice".to_owned(),
        trace: None,
        queue: Span::from_secs(60),
        submitted_secrets: false,
    };
    Record::submitted(submitted, Timestamp::UNIX_EPOCH)
}

fn after(record: &Record, event: &Event) -> Record {
    let decision = decide(record, event, Timestamp::UNIX_EPOCH).expect("it fits");
    decision.record.expect("changed")
}

fn handed_out(run: u8, to: u8) -> Record {
    after(&submitted(run), &Event::HandOut { daemon: daemon(to), patches: Vec::new() })
}

fn capacity() -> Capacity {
    let defaults = Limits { memory: Some(Bytes::mib(7)), ..Limits::default() };
    Capacity { memory: Some(Bytes::mib(1024)), defaults, ..Capacity::default() }
}

/// As [`Index::used`], by a look at each.
fn looked_up(index: &Index, runtime: &RuntimeName, daemon: &Identity) -> Amounts {
    let his = index.active.values().filter(|active| {
        let is_his = |of: &Identity| of == daemon || *of == Identity { instance: None, ..daemon.clone() };
        active.record.runtime() == runtime && active.occupies().as_ref().is_some_and(is_his)
    });
    his.fold(Amounts::default(), |sum, active| sum.plus(capacity().need(&active.record.spec.limits)))
}

#[derive(Debug, Clone)]
enum Step {
    Submit(u8),
    Promise(u8, u8),
    Ready(u8, bool),
    HandOut(u8, u8),
    Give(u8),
    Hear(u8),
    Restart,
    Remove(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (run, to) = (0..6_u8, 0..3_u8);
    let step = prop_oneof![
        run.clone().prop_map(Step::Submit),
        (run.clone(), to.clone()).prop_map(|(run, to)| Step::Promise(run, to)),
        (run.clone(), any::<bool>()).prop_map(|(run, ready)| Step::Ready(run, ready)),
        (run.clone(), to).prop_map(|(run, to)| Step::HandOut(run, to)),
        run.clone().prop_map(Step::Give),
        run.clone().prop_map(Step::Hear),
        Just(Step::Restart),
        run.prop_map(Step::Remove),
    ];
    prop::collection::vec(step, 0..60)
}

impl Index {
    /// As the engine takes a state in.
    fn take(&mut self, record: Record) {
        let key = record.key.clone();
        self.set_ready(&key, false);
        let known = self.remove(&key);
        self.insert(key, Active::new(Arc::new(record), Version(1), known));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_kept_of_each_daemon_is_what_its_runs_come_to(steps in steps()) {
        let mut index = Index::default();
        let session: SessionId = "s1".parse().expect("an id");
        for step in steps {
            match step {
                Step::Submit(run) => index.take(submitted(run)),
                // Only what waits is promised.
                Step::Promise(run, to) => {
                    let waits = |active: &Active| active.record.held().is_none();
                    if index.get(&run_key(run)).is_some_and(waits) {
                        index.promise(&run_key(run), daemon(to));
                    }
                }
                Step::Ready(run, ready) => index.set_ready(&run_key(run), ready),
                Step::HandOut(run, to) => index.take(handed_out(run, to)),
                Step::Give(run) => {
                    if index.get(&run_key(run)).is_some_and(|active| active.record.is_unheard()) {
                        index.give(&run_key(run), Given::In(session.clone(), 100));
                    }
                }
                Step::Hear(run) => index.hear(&run_key(run)),
                Step::Restart => index.hear_of_all_anew(),
                Step::Remove(run) => {
                    index.set_ready(&run_key(run), false);
                    index.remove(&run_key(run));
                }
            }
            for (run, to) in (0..2).flat_map(|run| (0..3).map(move |to| (run, to))) {
                let (runtime, daemon) = (runtime(run), daemon(to));
                let used = index.used(&runtime, &daemon, &capacity());
                prop_assert_eq!(used, looked_up(&index, &runtime, &daemon));
                let lost = index.never_arrived(&runtime, &daemon, &session, u64::MAX, LEASE);
                let his = index.active.values().filter(|active| {
                    let held = active.record.held().filter(|held| held.instance.is_some());
                    active.record.runtime() == &runtime
                        && active.given.is_some()
                        && held.is_some_and(|held| held.is_with(&daemon))
                });
                prop_assert_eq!(lost.len(), his.count());
            }
        }
        for run in 0..6 {
            index.set_ready(&run_key(run), false);
            index.remove(&run_key(run));
        }
        prop_assert!(index.loads.is_empty() && index.unheard.is_empty() && index.counts.is_empty());
    }
}

#[test]
fn a_lease_is_lost_when_a_list_that_is_new_enough_does_not_name_it() {
    let mut index = Index::default();
    let [session, later]: [SessionId; 2] = ["s1", "s2"].map(|id| id.parse().expect("an id"));
    index.take(handed_out(0, 0));
    let lost = |index: &Index, session: &SessionId, as_of| {
        index.never_arrived(&runtime(0), &daemon(0), session, as_of, LEASE).len()
    };
    assert_eq!(lost(&index, &later, u64::MAX), 0, "it is still to be given");
    index.give(&run_key(0), Given::In(session.clone(), 100));
    assert_eq!(lost(&index, &session, 100 + LEASE / 3), 0, "it may still begin");
    assert_eq!(lost(&index, &session, 101 + LEASE / 3), 1);
    assert_eq!(lost(&index, &later, 0), 1, "nothing of an earlier Session is begun");
    assert!(index.never_arrived(&runtime(0), &daemon(1), &later, u64::MAX, LEASE).is_empty());
    // Its newest state is another, and the attempt is the same.
    index.take(handed_out(0, 0));
    assert_eq!(lost(&index, &later, 0), 1);
    index.hear(&run_key(0));
    assert_eq!(lost(&index, &later, u64::MAX), 0, "it was named");
    index.hear_of_all_anew();
    assert_eq!(lost(&index, &later, 0), 1);
    // What was handed to a name may be with any of the name.
    index.take(handed_out(2, 2));
    index.hear_of_all_anew();
    assert!(index.never_arrived(&runtime(2), &daemon(2), &later, u64::MAX, LEASE).is_empty());
}
