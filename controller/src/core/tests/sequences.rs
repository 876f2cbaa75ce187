//! Whatever happens, in whatever order: what never changes.

use super::*;

/// Something that may happen, not yet aimed at a Run.
#[derive(Debug, Clone)]
enum Step {
    HandOut(bool),
    Undelivered,
    NeverArrived,
    Report { attempt_back: usize, sequence: u64, daemon: bool, exited: bool, end: AttemptEnd, code: u8 },
    Cancel,
    Delete,
    LeaseExpired { back: u64 },
    QueueExpired,
    Refuse,
}

fn ends() -> impl Strategy<Value = AttemptEnd> {
    use AttemptEnd::{Cancelled, Completed, Drained, Fault, Lost, Refused, TimedOut};
    prop::sample::select(vec![Completed, Completed, TimedOut, Cancelled, Drained, Refused, Lost, Fault])
}

fn steps() -> impl Strategy<Value = Step> {
    let report = (0_usize..2, 0_u64..4, prop::bool::weighted(0.9), any::<bool>(), ends(), 0_u8..2).prop_map(
        |(attempt_back, sequence, daemon, exited, end, code)| Step::Report {
            attempt_back,
            sequence,
            daemon,
            exited,
            end,
            code,
        },
    );
    prop_oneof![
        6 => any::<bool>().prop_map(Step::HandOut),
        1 => Just(Step::Undelivered),
        1 => Just(Step::NeverArrived),
        8 => report,
        1 => Just(Step::Cancel),
        1 => Just(Step::Delete),
        2 => (0_u64..3).prop_map(|back| Step::LeaseExpired { back }),
        1 => Just(Step::QueueExpired),
        1 => Just(Step::Refuse),
    ]
}

fn aim(record: &Record, step: &Step) -> Event {
    let fence = record.status.fence;
    match step {
        Step::HandOut(first) => {
            let daemon = daemon(if *first { "d1" } else { "d2" });
            Event::HandOut { daemon, patches: Vec::new() }
        }
        Step::Undelivered => Event::Undelivered(fence),
        Step::NeverArrived => Event::NeverArrived(fence),
        Step::Report { attempt_back, sequence, daemon: own, exited, end, code } => {
            let attempts = &record.status.attempts;
            let attempt = attempts.iter().rev().nth(*attempt_back);
            let of = attempt.map_or_else(|| daemon("d1"), |attempt| daemon(attempt.daemon.as_str()));
            let verdict = Verdict::Exited(*code);
            let event = if *exited {
                ReportEvent::Exited(outcome(verdict))
            } else {
                finished(*end, (*end == AttemptEnd::Completed).then_some(verdict))
            };
            let key = AttemptKey {
                namespace: record.key.namespace.clone(),
                name: record.key.name.clone(),
                uid: record.uid.clone(),
                attempt: attempt.map_or(AttemptNumber(1), |attempt| attempt.number),
                fence: attempt.map_or(Fence(1), |attempt| attempt.fence),
            };
            let report = Report { attempt: key, sequence: *sequence, at: at(0), event };
            Event::Report { daemon: if *own { of } else { daemon("d3") }, report }
        }
        Step::Cancel => Event::Cancel { by: "alice".to_owned() },
        Step::Delete => Event::Delete { by: "admin".to_owned() },
        Step::LeaseExpired { back } => Event::LeaseExpired(Fence(fence.0.saturating_sub(*back))),
        Step::QueueExpired => Event::QueueExpired,
        Step::Refuse => Event::Refuse(vec![Refusal::new(Rule::PATCH_UNKNOWN, "x", "y")]),
    }
}

fn retries() -> impl Strategy<Value = Option<Retry>> {
    let all = vec![
        RetryOn::Lost,
        RetryOn::Fault,
        RetryOn::Drained,
        RetryOn::Failed,
        RetryOn::TimedOut,
        RetryOn::LimitExceeded,
    ];
    let some = (1_u32..4, prop::sample::subsequence(all, 0..=6)).prop_map(|(most, on)| Retry {
        max_attempts: most,
        backoff: None,
        on,
    });
    prop::option::of(some)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_must_always_hold_does(retry in retries(), steps in prop::collection::vec(steps(), 0..40)) {
        let most = retry.as_ref().map_or(1, |retry| retry.max_attempts);
        let mut record = submitted(retry);
        let mut handed_out = 0_u64;
        for (second, step) in (1..).zip(&steps) {
            let event = aim(&record, step);
            let before = record.clone();
            match decide(&record, &event, at(second)) {
                Ok(Decision { record: Some(changed), effects }) => {
                    let over = changed.status.phase.is_terminal();
                    prop_assert_eq!(effects.contains(&Effect::ForgetSecrets), over && !before.status.phase.is_terminal());
                    record = changed;
                }
                Ok(Decision { record: None, effects }) => prop_assert!(effects.is_empty()),
                // Only what was said is refused, or what does not fit the phase.
                Err(problem) => prop_assert!(
                    [Code::StaleFence, Code::Forbidden, Code::NotFound, Code::Conflict].contains(&problem.code)
                ),
            }
            let (was, is) = (&before.status, &record.status);

            // A terminal phase, and all that is shown of it, never changes.
            if was.phase.is_terminal() {
                prop_assert_eq!(was, is);
            }
            // The fence only rises, by one a hand-out.
            if matches!(event, Event::HandOut { .. }) && was.phase == Phase::Pending {
                handed_out += 1;
            }
            prop_assert_eq!(is.fence, Fence(handed_out));
            // An attempt that ended stays as it ended, and only the last one goes on.
            for (index, attempt) in was.attempts.iter().enumerate().filter(|(_, a)| a.result.is_some()) {
                prop_assert_eq!(Some(attempt), is.attempts.get(index));
            }
            let going_on = is.attempts.iter().filter(|attempt| attempt.result.is_none()).count();
            prop_assert_eq!(going_on, usize::from(matches!(is.phase, Phase::Running | Phase::Finishing)));
            // No more attempts than allowed, but for those that do not count.
            prop_assert!(is.attempts.len() <= usize::try_from(most + record.private.drained).expect("small"));
            prop_assert_eq!(record.private.applied.len(), is.attempts.len());
            // Its time of ending is there exactly when it has ended, and the reason whenever something happened.
            prop_assert_eq!(is.finished_at.is_some(), is.phase.is_terminal());
            // A cancel is never taken back.
            prop_assert!(!was.cancel_requested || is.cancel_requested);
            // The standing agrees with the phase.
            let fits = matches!(
                (record.standing(), is.phase.is_terminal()),
                (Standing::Over { .. }, true) | (Standing::Waiting { .. } | Standing::Held(_), false)
            );
            prop_assert!(fits);
            // What was just applied is answered again without effect.
            if let Event::Report { .. } = &event
                && record != before
            {
                let again = decide(&record, &event, at(second + 1)).expect("answered");
                prop_assert!(again.record.is_none());
            }
            // The stored form is read as what was written.
            let stored = serde_json::to_vec(&record).expect("JSON");
            prop_assert_eq!(&serde_json::from_slice::<Record>(&stored).expect("a record"), &record);
        }
    }
}
