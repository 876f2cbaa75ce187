//! What the two rounds come to.

use std::fmt::Write as _;

use anyhow::ensure;
use runtimed_api::enforcement::{State, Tier};
use runtimed_api::run::status::AttemptResult;
use serde::Serialize;

use super::attempts::Line;

/// What held.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Every protection that was said to be active was.
    pub held: bool,
    /// The tier that the test's Run had.
    pub tier: Tier,
    /// Each attempt.
    pub attempts: Vec<Judged>,
    /// Protections that are active and that no attempt stands for.
    pub not_tried: Vec<String>,
}

/// One attempt, judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Judged {
    protection: String,
    attempt: String,
    verdict: Verdict,
    why: String,
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    /// It succeeds without the sandbox, and was refused inside.
    Held,
    /// It was refused inside, and is refused without the sandbox as well.
    HeldAnyway,
    /// It succeeds inside, and the status of every Run says so.
    KnownOpen,
    /// It succeeds inside, and should not.
    Broken,
}

/// Judges both rounds.
pub(super) fn judge(outside: &[Line], inside: &[Line], result: &AttemptResult) -> anyhow::Result<Report> {
    let same = outside.len() == inside.len()
        && outside.iter().zip(inside).all(|(one, other)| one.attempt == other.attempt);
    ensure!(same, "the two rounds made different attempts: {} and {}", outside.len(), inside.len());
    ensure!(!inside.is_empty(), "no attempt was made");
    let enforcement = result.enforcement.clone().unwrap_or(runtimed_api::enforcement::Enforcement {
        tier: Tier::Base,
        profile: runtimed_api::enforcement::Profile::Strict,
        protections: Vec::new(),
    });
    let claimed =
        |name: &str| enforcement.protections.iter().any(|one| one.name == name && one.state == State::Active);
    let attempts: Vec<_> = outside
        .iter()
        .zip(inside)
        .map(|(outside, inside)| {
            let (verdict, why) = match (&outside.error, &inside.error) {
                (None, Some(error)) => (Verdict::Held, error.clone()),
                (Some(_), Some(error)) => (Verdict::HeldAnyway, error.clone()),
                (_, None)
                    if let Some(why) = &inside.own
                        && enforcement.tier == Tier::Namespaces =>
                {
                    (Verdict::Held, why.clone())
                }
                (_, None) if !claimed(&inside.protection) => {
                    (Verdict::KnownOpen, "it is not enforced, and every status says so".to_owned())
                }
                (_, None) => (Verdict::Broken, "it succeeded".to_owned()),
            };
            Judged { protection: inside.protection.clone(), attempt: inside.attempt.clone(), verdict, why }
        })
        .collect();
    let tried = |name: &str| inside.iter().any(|line| line.protection == name);
    let not_tried =
        enforcement.protections.iter().filter(|one| one.state == State::Active && !tried(&one.name));
    Ok(Report {
        held: attempts.iter().all(|judged| judged.verdict != Verdict::Broken),
        tier: enforcement.tier,
        not_tried: not_tried.map(|one| one.name.clone()).collect(),
        attempts,
    })
}

impl Report {
    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("selftest in the {:?} tier\n", self.tier);
        for judged in &self.attempts {
            let verdict = match judged.verdict {
                Verdict::Held => "✓ held       ",
                Verdict::HeldAnyway => "✓ held anyway",
                Verdict::KnownOpen => "○ known open ",
                Verdict::Broken => "✗ BROKEN     ",
            };
            // Writing to a string cannot fail.
            let _infallible =
                writeln!(text, "  {verdict}  {:22}  {}: {}", judged.protection, judged.attempt, judged.why);
        }
        if !self.not_tried.is_empty() {
            text += &format!("  not tried: {}\n", self.not_tried.join(", "));
        }
        text += if self.held {
            "everything that is claimed held\n"
        } else {
            "NOT everything that is claimed held\n"
        };
        text
    }

    /// The attempts that should not have succeeded, for a log.
    #[must_use]
    pub fn broken(&self) -> Vec<&str> {
        let broken = self.attempts.iter().filter(|judged| judged.verdict == Verdict::Broken);
        broken.map(|judged| judged.attempt.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use runtimed_api::enforcement::{Enforcement, Profile, Protection};
    use runtimed_api::run::status::AttemptEnd;

    use super::*;

    fn line(protection: &str, error: Option<&str>) -> Line {
        Line {
            protection: protection.to_owned(),
            attempt: format!("try {protection}"),
            own: (protection == "signals").then(|| "another process".to_owned()),
            error: error.map(str::to_owned),
        }
    }

    fn result(tier: Tier) -> AttemptResult {
        let one = |name: &str, state| Protection {
            name: name.to_owned(),
            state,
            mechanism: String::new(),
            why: None,
        };
        let protections = vec![
            one("files", State::Active),
            one("signals", State::Active),
            one("file-metadata", State::Unavailable),
            one("session", State::Active),
        ];
        let enforcement = Enforcement { tier, profile: Profile::Strict, protections };
        AttemptResult { enforcement: Some(enforcement), ..AttemptResult::bare(AttemptEnd::Completed) }
    }

    #[test]
    fn what_succeeds_inside_is_broken_unless_it_is_known() {
        let free = [line("files", None), line("signals", None), line("file-metadata", None)];
        let shut =
            [line("files", Some("EACCES")), line("signals", Some("EPERM")), line("file-metadata", None)];
        let report = judge(&free, &shut, &result(Tier::Base)).expect("judged");
        assert!(report.held, "{report:?}");
        assert_eq!(report.not_tried, ["session"]);
        let report = judge(&free, &free, &result(Tier::Base)).expect("judged");
        assert_eq!(report.broken(), ["try files", "try signals"]);
        assert!(!report.held && report.table().contains("BROKEN"));
        let report = judge(&free, &free, &result(Tier::Namespaces)).expect("judged");
        assert_eq!(report.broken(), ["try files"], "a number means another process there");
    }

    #[test]
    fn a_round_that_is_cut_short_shows_nothing() {
        let both = [line("files", None), line("signals", None)];
        assert!(judge(&both, &both[..1], &result(Tier::Base)).is_err());
        assert!(judge(&[], &[], &result(Tier::Base)).is_err());
    }
}
