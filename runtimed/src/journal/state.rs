//! What a journal says, folded.

use std::collections::BTreeMap;

use runtimed_api::ids::AttemptKey;
use runtimed_api::run::outcome::Outcome;
use runtimed_api::run::status::{AttemptEnd, AttemptResult, Scrub};
use runtimed_api::session::Report;
use serde::{Deserialize, Serialize};

/// One fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Record {
    /// The attempt is ours, and its trees will have this name. Written before any side effect.
    Accepted {
        /// Which.
        attempt: AttemptKey,
        /// The name of its tree in each of the three roots.
        tree: String,
    },
    /// These files will be staged. Written before they are made.
    Staging {
        /// Whose.
        attempt: AttemptKey,
        /// Their names in the staging directory.
        files: Vec<String>,
    },
    /// The command has ended: its Outcome is fixed from here.
    Exited {
        /// Whose.
        attempt: AttemptKey,
        /// How.
        outcome: Outcome,
        /// Whether it ended by itself, or was ended and why.
        end: AttemptEnd,
    },
    /// All that there is to say of the attempt but what became of its uploads, which begin now.
    Collected {
        /// Whose.
        attempt: AttemptKey,
        /// What will be reported if they arrive.
        result: Box<AttemptResult>,
    },
    /// What was staged is gone, or could not be removed.
    Scrubbed {
        /// Whose.
        attempt: AttemptKey,
        /// What became of it.
        scrub: Scrub,
    },
    /// A report to deliver.
    Report(Box<Report>),
    /// A report that the controller has answered.
    Acknowledged {
        /// Whose.
        attempt: AttemptKey,
        /// Which.
        sequence: u64,
    },
    /// Written when the file is written anew: what the reports that are not in it any more said.
    Reported {
        /// Whose.
        attempt: AttemptKey,
        /// The highest sequence that was given out.
        sequence: u64,
        /// One of them was final.
        finished: bool,
    },
    /// The trees are gone.
    Released {
        /// Whose.
        attempt: AttemptKey,
    },
}

/// An attempt that is not over: something of it is still to be removed or to be delivered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attempt {
    /// The name of its trees; absent when they are gone.
    pub tree: Option<String>,
    /// Files that were, or were about to be, staged.
    pub staged: Vec<String>,
    /// The Outcome, once fixed, and whether the command ended by itself.
    pub outcome: Option<(Outcome, AttemptEnd)>,
    /// What was collected, once its uploads have begun.
    pub collected: Option<Box<AttemptResult>>,
    /// What became of the staged files.
    pub scrub: Option<Scrub>,
    /// Reports that are not acknowledged, by sequence.
    pub reports: BTreeMap<u64, Report>,
    /// The highest sequence that was given out.
    pub sequence: u64,
    /// A final report was written.
    pub finished: bool,
}

/// Every attempt that is not over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// By attempt.
    pub attempts: BTreeMap<AttemptKey, Attempt>,
}

impl State {
    /// Takes one fact in. A fact about an attempt that is over says nothing any more.
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Accepted { attempt, tree } => {
                let fresh = Attempt { tree: Some(tree), ..Attempt::default() };
                self.attempts.insert(attempt, fresh);
            }
            Record::Staging { attempt, files } => self.change(&attempt, |open| open.staged = files),
            Record::Exited { attempt, outcome, end } => {
                self.change(&attempt, |open| open.outcome = Some((outcome, end)));
            }
            Record::Collected { attempt, result } => {
                self.change(&attempt, |open| open.collected = Some(result).filter(|_| !open.finished));
            }
            Record::Scrubbed { attempt, scrub } => self.change(&attempt, |open| open.scrub = Some(scrub)),
            Record::Report(report) => {
                let attempt = report.attempt.clone();
                self.change(&attempt, |open| {
                    open.sequence = open.sequence.max(report.sequence);
                    open.finished |= matches!(report.event, runtimed_api::session::ReportEvent::Finished(_));
                    if open.finished {
                        open.collected = None;
                    }
                    open.reports.insert(report.sequence, *report);
                });
            }
            Record::Acknowledged { attempt, sequence } => self.change(&attempt, |open| {
                open.reports.remove(&sequence);
            }),
            Record::Reported { attempt, sequence, finished } => self.change(&attempt, |open| {
                open.sequence = open.sequence.max(sequence);
                open.finished |= finished;
            }),
            Record::Released { attempt } => self.change(&attempt, |open| open.tree = None),
        }
    }

    fn change(&mut self, attempt: &AttemptKey, change: impl FnOnce(&mut Attempt)) {
        let Some(open) = self.attempts.get_mut(attempt) else { return };
        change(open);
        if open.tree.is_none() && open.finished && open.reports.is_empty() {
            self.attempts.remove(attempt);
        }
    }

    /// The shortest list of facts that says the same.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for (key, open) in &self.attempts {
            let attempt = || key.clone();
            let tree = open.tree.clone().unwrap_or_default();
            records.push(Record::Accepted { attempt: attempt(), tree });
            if !open.staged.is_empty() {
                records.push(Record::Staging { attempt: attempt(), files: open.staged.clone() });
            }
            if let Some((outcome, end)) = open.outcome.clone() {
                records.push(Record::Exited { attempt: attempt(), outcome, end });
            }
            if let Some(result) = open.collected.clone() {
                records.push(Record::Collected { attempt: attempt(), result });
            }
            if let Some(scrub) = &open.scrub {
                records.push(Record::Scrubbed { attempt: attempt(), scrub: scrub.clone() });
            }
            records.extend(open.reports.values().map(|report| Record::Report(Box::new(report.clone()))));
            let (sequence, finished) = (open.sequence, open.finished);
            records.push(Record::Reported { attempt: attempt(), sequence, finished });
            if open.tree.is_none() {
                records.push(Record::Released { attempt: attempt() });
            }
        }
        records
    }

    /// Reports to deliver: in order within each attempt.
    #[must_use]
    pub fn unacknowledged(&self) -> Vec<Report> {
        self.attempts.values().flat_map(|open| open.reports.values().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use runtimed_api::ids::{AttemptNumber, Fence};
    use runtimed_api::run::outcome::Verdict;
    use runtimed_api::session::ReportEvent;

    use super::*;

    fn key(fence: u64) -> AttemptKey {
        AttemptKey {
            namespace: "default".parse().expect("a namespace"),
            name: "x".parse().expect("a name"),
            uid: "u".parse().expect("a uid"),
            attempt: AttemptNumber(1),
            fence: Fence(fence),
        }
    }

    fn outcome(cpu_micros: u64) -> Outcome {
        Outcome { verdict: Verdict::Exited(3), leaked: 0, cpu_micros, max_rss: 0 }
    }

    /// One fact of each kind, told apart by `number`.
    fn record(kind: u8, fence: u64, number: u64) -> Record {
        let attempt = key(fence);
        let result = || {
            let mut result = AttemptResult::bare(AttemptEnd::Completed);
            result.outputs.insert("k".to_owned(), number.to_string());
            Box::new(result)
        };
        match kind {
            0 => Record::Accepted { attempt, tree: format!("t{number}") },
            1 => Record::Staging { attempt, files: vec![number.to_string()] },
            2 => Record::Exited { attempt, outcome: outcome(number), end: AttemptEnd::Completed },
            3 => Record::Collected { attempt, result: result() },
            4 => {
                let problems = vec![number.to_string()];
                let medium = "disk".to_owned();
                let scrub = Scrub { staged: 1, removed: 1, rotated: 0, medium, verified: true, problems };
                Record::Scrubbed { attempt, scrub }
            }
            5 | 6 => {
                let event = match kind {
                    5 => ReportEvent::Exited(outcome(number)),
                    _ => ReportEvent::Finished(result()),
                };
                let at = jiff::Timestamp::UNIX_EPOCH;
                Record::Report(Box::new(Report { attempt, sequence: number, at, event }))
            }
            7 => Record::Acknowledged { attempt, sequence: number },
            _ => Record::Released { attempt },
        }
    }

    proptest! {
        /// A file that is written anew says what the old one said, whatever that was.
        #[test]
        fn the_shortest_list_says_the_same(facts in prop::collection::vec((0_u8..9, 0_u64..3, 0_u64..4), 0..40)) {
            let fold = |records: Vec<Record>| {
                let mut state = State::default();
                records.into_iter().for_each(|record| state.apply(record));
                state
            };
            let state = fold(facts.into_iter().map(|(kind, fence, number)| record(kind, fence, number)).collect());
            prop_assert_eq!(fold(state.records()), state);
        }
    }
}
