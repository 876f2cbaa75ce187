//! Each transition by itself.

use super::*;

/// Hands a Run out and lets its attempt end so.
fn ended(retry: Option<Retry>, end: AttemptEnd, verdict: Option<Verdict>) -> Record {
    let running = hand_out(&submitted(retry), 1);
    next(&running, &said(&running, 1, finished(end, verdict)), 2)
}

#[test]
fn an_attempts_end_becomes_the_runs_phase() {
    let exited = |code| Some(Verdict::Exited(code));
    for (end, verdict, phase) in [
        (AttemptEnd::Completed, exited(0), Phase::Succeeded),
        (AttemptEnd::Completed, exited(1), Phase::Failed),
        (AttemptEnd::Completed, Some(Verdict::Signalled(9)), Phase::Failed),
        (AttemptEnd::Completed, Some(Verdict::LimitExceeded(LimitName::Memory)), Phase::Failed),
        (AttemptEnd::Completed, None, Phase::Failed),
        (AttemptEnd::TimedOut, None, Phase::TimedOut),
        (AttemptEnd::Cancelled, exited(0), Phase::Cancelled),
        (AttemptEnd::Drained, None, Phase::Lost),
        (AttemptEnd::Refused, None, Phase::Refused),
        (AttemptEnd::Lost, None, Phase::Lost),
        (AttemptEnd::Fault, None, Phase::Fault),
    ] {
        let over = ended(None, end, verdict);
        assert_eq!(over.status.phase, phase, "{end:?} {verdict:?}");
        assert!(over.status.reason.is_some());
        assert_eq!(over.status.finished_at, Some(at(2)));
    }
}

#[test]
fn a_run_that_was_drained_says_so() {
    let over = ended(None, AttemptEnd::Drained, None);
    assert_eq!(over.status.reason.as_deref(), Some("drained: its daemon was shut down"));
}

#[test]
fn an_attempt_is_followed_by_another_for_the_listed_ends_alone() {
    let failed = Some(Verdict::Exited(1));
    let over_limit = Some(Verdict::LimitExceeded(LimitName::Cpu));
    for (end, verdict, on) in [
        (AttemptEnd::Completed, failed, RetryOn::Failed),
        (AttemptEnd::Completed, over_limit, RetryOn::LimitExceeded),
        (AttemptEnd::TimedOut, None, RetryOn::TimedOut),
        (AttemptEnd::Lost, None, RetryOn::Lost),
        (AttemptEnd::Fault, None, RetryOn::Fault),
        (AttemptEnd::Drained, None, RetryOn::Drained),
    ] {
        assert_eq!(ended(retry(2, &[on]), end, verdict).status.phase, Phase::Pending, "{on:?}");
        assert!(ended(retry(2, &[]), end, verdict).status.phase.is_terminal(), "{on:?}");
        if on != RetryOn::Drained {
            assert!(ended(retry(1, &[on]), end, verdict).status.phase.is_terminal(), "{on:?}");
        }
    }
    for end in [AttemptEnd::Cancelled, AttemptEnd::Refused] {
        assert!(ended(retry(9, &Retry::default_on()), end, None).status.phase.is_terminal());
    }
    let succeeded = ended(retry(9, &[RetryOn::Failed]), AttemptEnd::Completed, Some(Verdict::Exited(0)));
    assert_eq!(succeeded.status.phase, Phase::Succeeded);
}

#[test]
fn backoff_doubles_and_a_drain_has_none() {
    let mut record = submitted(retry(20, &[RetryOn::Failed, RetryOn::Drained]));
    let mut waits = Vec::new();
    for attempt in 0..12 {
        let running = hand_out(&record, 0);
        let end = if attempt == 1 { AttemptEnd::Drained } else { AttemptEnd::Completed };
        record = next(&running, &said(&running, 1, finished(end, Some(Verdict::Exited(1)))), 0);
        let Standing::Waiting { ready_at, .. } = record.standing() else { panic!("it waits") };
        waits.push(ready_at.as_second());
    }
    assert_eq!(waits, [1, 0, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600]);
}

#[test]
fn a_fault_that_cannot_pass_is_not_tried_again() {
    let running = hand_out(&submitted(retry(3, &[RetryOn::Fault])), 1);
    let mut fault = result(AttemptEnd::Fault, None);
    fault.fault = Some(Problem::new(Code::CommandNotStarted, "there is no program x"));
    let over = next(&running, &said(&running, 1, ReportEvent::Finished(Box::new(fault))), 2);
    assert_eq!(over.status.phase, Phase::Fault);
    assert_eq!(over.status.reason.as_deref(), Some("command-not-started: there is no program x"));
}

#[test]
fn a_drain_does_not_count_until_there_are_too_many() {
    let mut record = submitted(retry(1, &[RetryOn::Drained]));
    for _ in 0..ending::MAX_DRAINED {
        let running = hand_out(&record, 0);
        record = next(&running, &said(&running, 1, finished(AttemptEnd::Drained, None)), 0);
        assert_eq!(record.status.phase, Phase::Pending);
    }
    let running = hand_out(&record, 0);
    let over = next(&running, &said(&running, 1, finished(AttemptEnd::Drained, None)), 0);
    assert_eq!(over.status.phase, Phase::Lost);
}

#[test]
fn the_outcome_is_fixed_when_the_command_has_exited() {
    let running = hand_out(&submitted(None), 1);
    let finishing = next(&running, &said(&running, 1, ReportEvent::Exited(outcome(Verdict::Exited(0)))), 2);
    assert_eq!(finishing.status.phase, Phase::Finishing);
    let over =
        next(&finishing, &said(&finishing, 2, finished(AttemptEnd::Completed, Some(Verdict::Exited(5)))), 3);
    assert_eq!(over.status.phase, Phase::Succeeded);
    let attempt = over.status.attempts.last().expect("an attempt");
    assert_eq!(attempt.outcome, Some(outcome(Verdict::Exited(0))));
    assert_eq!(attempt.result.as_ref().and_then(|result| result.outcome.clone()), attempt.outcome);
}

#[test]
fn a_cancel_ends_a_pending_run_and_stops_a_running_one() {
    let cancel = Event::Cancel { by: "alice".to_owned() };
    let over = next(&submitted(None), &cancel, 1);
    assert_eq!(over.status.phase, Phase::Cancelled);
    assert_eq!(over.status.reason.as_deref(), Some("cancelled by alice"));

    let running = hand_out(&submitted(retry(3, &Retry::default_on())), 1);
    let decision = decide(&running, &cancel, at(2)).expect("it fits");
    let asked = decision.record.expect("changed");
    let attempt = running.attempt_key(&running.held().expect("held"));
    assert_eq!(decision.effects, [Effect::Stop(attempt)]);
    assert_eq!(asked.status.phase, Phase::Running);
    // Said twice, it changes nothing.
    assert!(decide(&asked, &cancel, at(3)).expect("it fits").record.is_none());
    for end in [AttemptEnd::Cancelled, AttemptEnd::Lost, AttemptEnd::Drained] {
        let over = next(&asked, &said(&asked, 1, finished(end, None)), 4);
        assert_eq!(over.status.phase, Phase::Cancelled, "{end:?}");
    }
    let over = next(&asked, &said(&asked, 1, finished(AttemptEnd::Fault, None)), 4);
    assert_eq!(over.status.phase, Phase::Fault, "not tried again");
}

#[test]
fn a_lease_that_ran_out_is_lost_and_its_daemon_comes_too_late() {
    let running = hand_out(&submitted(None), 1);
    let late = said(&running, 1, finished(AttemptEnd::Completed, Some(Verdict::Exited(0))));
    let fence = running.status.fence;
    let over = next(&running, &Event::LeaseExpired(fence), 20);
    assert_eq!(over.status.phase, Phase::Lost);
    let problem = decide(&over, &late, at(21)).expect_err("refused");
    assert_eq!(problem.code, Code::StaleFence);

    let running = hand_out(&submitted(retry(2, &[RetryOn::Lost])), 1);
    let late = said(&running, 1, finished(AttemptEnd::Completed, Some(Verdict::Exited(0))));
    let again = hand_out(&next(&running, &Event::LeaseExpired(fence), 20), 30);
    assert!(again.status.fence > fence);
    assert_eq!(decide(&again, &late, at(31)).expect_err("refused").code, Code::StaleFence);
    // The deadline of the first lease means nothing to the second.
    assert!(decide(&again, &Event::LeaseExpired(fence), at(32)).expect("it fits").record.is_none());
}

#[test]
fn what_was_applied_is_answered_even_when_the_run_is_over() {
    let running = hand_out(&submitted(None), 1);
    let finished = said(&running, 2, finished(AttemptEnd::Completed, Some(Verdict::Exited(0))));
    let earlier = said(&running, 1, ReportEvent::Exited(outcome(Verdict::Exited(3))));
    let over = next(&running, &finished, 2);
    for again in [&finished, &earlier] {
        assert!(decide(&over, again, at(3)).expect("answered").record.is_none());
    }
}

#[test]
fn another_daemon_or_run_or_attempt_is_refused() {
    let running = hand_out(&submitted(None), 1);
    let Event::Report { report, .. } = said(&running, 1, ReportEvent::Exited(outcome(Verdict::Exited(0))))
    else {
        panic!("a report")
    };
    let code = |daemon_name: &str, change: fn(&mut AttemptKey)| {
        let mut report = report.clone();
        change(&mut report.attempt);
        let event = Event::Report { daemon: daemon(daemon_name), report };
        decide(&running, &event, at(2))
            .map(|decision| decision.record.is_some())
            .map_err(|problem| problem.code)
    };
    assert_eq!(code("d1", |_| {}), Ok(true));
    assert_eq!(code("d2", |_| {}), Err(Code::Forbidden));
    for instance in [None, Some(Digest::of(b"another"))] {
        let event = Event::Report { daemon: Identity { instance, ..daemon("d1") }, report: report.clone() };
        assert_eq!(
            decide(&running, &event, at(2)).expect_err("refused").code,
            Code::Forbidden,
            "{instance:?}"
        );
    }
    assert_eq!(code("d1", |key| key.uid = "other".parse().expect("a uid")), Err(Code::NotFound));
    assert_eq!(code("d1", |key| key.fence = Fence(0)), Err(Code::StaleFence));
    assert_eq!(code("d1", |key| key.fence = Fence(2)), Err(Code::StaleFence));
    for number in [0, 2, u32::MAX] {
        let mut report = report.clone();
        report.attempt.attempt = AttemptNumber(number);
        let event = Event::Report { daemon: daemon("d1"), report };
        assert_eq!(decide(&running, &event, at(2)).expect_err("refused").code, Code::StaleFence);
    }
}

#[test]
fn a_lease_that_is_declined_costs_no_attempt_and_not_for_ever() {
    let declined = |record: &Record| said(record, 1, ReportEvent::Declined("its journal fails".to_owned()));
    let running = hand_out(&submitted(None), 1);
    let mut record = next(&running, &declined(&running), 2);
    assert_eq!((record.status.phase, record.status.attempts.len()), (Phase::Pending, 0));
    assert_eq!(record.status.reason.as_deref(), Some("daemon d1 declined it: its journal fails"));
    assert!(matches!(record.standing(), Standing::Waiting { ready_at, .. } if ready_at > at(2)));
    // Said twice, it is about an attempt that is none any more; said late, about one that has begun.
    let again = decide(&record, &declined(&running), at(3)).expect_err("refused");
    assert_eq!(again.code, Code::StaleFence);
    let exited = next(&running, &said(&running, 1, ReportEvent::Exited(outcome(Verdict::Exited(0)))), 2);
    let late = said(&exited, 2, ReportEvent::Declined("too late".to_owned()));
    assert_eq!(decide(&exited, &late, at(3)).expect_err("refused").code, Code::Conflict);
    let cancelled = next(&running, &Event::Cancel { by: "alice".to_owned() }, 2);
    assert_eq!(next(&cancelled, &declined(&cancelled), 3).status.phase, Phase::Cancelled);
    for declines in 2..=16 {
        let running = hand_out(&record, declines);
        record = next(&running, &declined(&running), declines);
    }
    assert_eq!((record.status.phase, record.status.attempts.len()), (Phase::Fault, 1));
}

#[test]
fn a_hand_out_that_reached_nobody_is_taken_back() {
    let record = submitted(None);
    let running = hand_out(&record, 1);
    let fence = running.status.fence;
    let back = next(&running, &Event::Undelivered(fence), 2);
    assert_eq!(back.status.phase, Phase::Pending);
    assert!(back.status.attempts.is_empty());
    let again = hand_out(&back, 3);
    assert_eq!(again.held().map(|held| (held.number, held.fence)), Some((AttemptNumber(1), Fence(2))));
    // A daemon that has spoken has it.
    let spoke = next(&running, &said(&running, 1, ReportEvent::Exited(outcome(Verdict::Exited(0)))), 2);
    assert!(decide(&spoke, &Event::Undelivered(fence), at(3)).expect("it fits").record.is_none());
    let cancelled = next(&running, &Event::Cancel { by: "alice".to_owned() }, 2);
    assert_eq!(next(&cancelled, &Event::Undelivered(fence), 3).status.phase, Phase::Cancelled);
}

#[test]
fn a_lease_that_did_not_arrive_costs_no_attempt_and_not_for_ever() {
    let running = hand_out(&submitted(None), 1);
    let fence = running.status.fence;
    let mut record = next(&running, &Event::NeverArrived(fence), 2);
    assert_eq!((record.status.phase, record.status.attempts.len()), (Phase::Pending, 0));
    assert_eq!(record.status.reason.as_deref(), Some("daemon d1 never had it: the lease did not arrive"));
    assert!(decide(&record, &Event::NeverArrived(fence), at(3)).expect("it fits").record.is_none());
    // A daemon that has spoken has it.
    let spoke = next(&running, &said(&running, 1, ReportEvent::Exited(outcome(Verdict::Exited(0)))), 2);
    assert!(decide(&spoke, &Event::NeverArrived(fence), at(3)).expect("it fits").record.is_none());
    let cancelled = next(&running, &Event::Cancel { by: "alice".to_owned() }, 2);
    assert_eq!(next(&cancelled, &Event::NeverArrived(fence), 3).status.phase, Phase::Cancelled);
    // A lease that ends each daemon that reads it does not go round for ever.
    for taken_back in 2..=16 {
        let running = hand_out(&record, taken_back);
        record = next(&running, &Event::NeverArrived(running.status.fence), taken_back);
    }
    assert_eq!((record.status.phase, record.status.attempts.len()), (Phase::Fault, 1));
}

#[test]
fn what_is_given_back_keeps_its_place_and_its_time_in_the_queue() {
    let waits = |record: &Record| match record.standing() {
        Standing::Waiting { ready_at, since, gives_up_at } => {
            (ready_at.as_second(), since.as_second(), gives_up_at.as_second())
        }
        other => panic!("{other:?}"),
    };
    let first = submitted(retry(9, &[RetryOn::Failed]));
    assert_eq!(waits(&first), (0, 0, 60));
    let declined = |record: &Record| said(record, 1, ReportEvent::Declined("its journal fails".to_owned()));
    let running = hand_out(&first, 10);
    let undelivered = next(&running, &Event::Undelivered(running.status.fence), 20);
    assert_eq!(waits(&undelivered), (20, 0, 60));
    let running = hand_out(&undelivered, 30);
    let again = next(&running, &declined(&running), 40);
    assert_eq!(waits(&again), (41, 0, 60));
    // Another attempt waits from when its backoff is over.
    let running = hand_out(&again, 50);
    let failed = said(&running, 1, finished(AttemptEnd::Completed, Some(Verdict::Exited(1))));
    let second = next(&running, &failed, 100);
    assert_eq!(waits(&second), (101, 101, 161));
    let running = hand_out(&second, 110);
    let lost = next(&running, &Event::NeverArrived(running.status.fence), 120);
    assert_eq!(waits(&lost), (121, 101, 161));
}

#[test]
fn a_pending_run_may_end_without_an_attempt() {
    let refusal = Refusal::new(Rule::PATCH_UNKNOWN, "spec.priorPatches[0]", "there is no Run default/x");
    for (event, phase) in [
        (Event::Refuse(vec![refusal.clone()]), Phase::Refused),
        (Event::SecretsLost, Phase::Fault),
        (Event::QueueExpired, Phase::TimedOut),
    ] {
        assert_eq!(next(&submitted(None), &event, 1).status.phase, phase);
        let running = hand_out(&submitted(None), 1);
        assert_eq!(decide(&running, &event, at(2)).expect_err("refused").code, Code::Conflict);
    }
    let refused = next(&submitted(None), &Event::Refuse(vec![refusal.clone()]), 1);
    assert_eq!(refused.status.refusals, [refusal]);
}

#[test]
fn a_deleted_run_is_removed_when_it_is_over() {
    let delete = Event::Delete { by: "admin".to_owned() };
    let over = next(&submitted(None), &delete, 1);
    assert_eq!(over.status.phase, Phase::Cancelled);
    assert_eq!(over.standing(), Standing::Over { remove_at: at(1) });
    let running = next(&hand_out(&submitted(None), 1), &delete, 2);
    assert!(running.status.cancel_requested && running.private.doomed);
    let over = next(&running, &said(&running, 1, finished(AttemptEnd::Cancelled, None)), 3);
    assert_eq!(over.standing(), Standing::Over { remove_at: at(3) });
    let kept = ended(None, AttemptEnd::Completed, Some(Verdict::Exited(0)));
    assert_eq!(kept.standing(), Standing::Over { remove_at: at(2 + 24 * 3600) });
    assert_eq!(next(&kept, &delete, 9).standing(), Standing::Over { remove_at: at(2) });
}

#[test]
fn a_status_stays_within_its_bound() {
    let mut record = submitted(retry(100, &[RetryOn::Failed]));
    for _ in 0..12 {
        let running = hand_out(&record, 0);
        let mut large = result(AttemptEnd::Completed, Some(Verdict::Exited(1)));
        large.outputs = (0..64).map(|n| (format!("k{n}"), "v".repeat(1000))).collect();
        large.warnings = vec!["w".repeat(500); 40];
        record = next(&running, &said(&running, 1, ReportEvent::Finished(Box::new(large))), 0);
        let size = serde_json::to_vec(&record.status).expect("JSON").len();
        assert!(size <= runtimed_api::MAX_OBJECT_BYTES, "{size}");
    }
    let last = record.status.attempts.last().and_then(|attempt| attempt.result.as_ref()).expect("a result");
    assert_eq!(last.outputs.len(), 64, "the newest attempt keeps its outputs");
    let first = record.status.attempts[0].result.as_ref().expect("a result");
    assert!(first.warnings.iter().any(|warning| warning.contains("left out")));
}

/// What a daemon without a secret was given is held to its name, whoever says it.
#[test]
fn what_was_handed_to_a_name_is_held_to_the_name() {
    let plain = Identity { instance: None, ..daemon("d1") };
    let event = Event::HandOut { daemon: plain, patches: Vec::new() };
    let running = next(&submitted(None), &event, 1);
    assert!(running.private.instances.is_empty());
    let Event::Report { report, .. } = said(&running, 1, finished(AttemptEnd::Fault, None)) else {
        panic!("a report")
    };
    let event = |name: &str| Event::Report { daemon: daemon(name), report: report.clone() };
    assert_eq!(decide(&running, &event("d2"), at(2)).expect_err("refused").code, Code::Forbidden);
    assert!(decide(&running, &event("d1"), at(2)).expect("his").record.is_some());
}
