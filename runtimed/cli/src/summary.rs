//! What became of a Run, as a person enjoys reading it.

mod enforcement;
mod results;
mod steps;

use runtimed_api::enforcement::State;
use runtimed_api::manifest::Manifest;
use runtimed_api::run::Run;
use runtimed_api::run::outcome::Verdict;
use runtimed_api::run::status::{AttemptResult, AttemptStatus, Phase, RunStatus, Scrub};

use crate::style::{Ink, Style};
use crate::table::{count, one_line, size, time, wrap};

/// The column where values begin.
const INDENT: usize = 14;
/// The width that lines are broken at.
const WIDTH: usize = 88;

/// What is shown beside the Run itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extras<'a> {
    /// The list of the last attempt's artifacts.
    pub manifest: Option<&'a Manifest>,
    /// Name the commands that fetch patch and artifacts: there is a controller to ask.
    pub commands: bool,
}

/// The summary of a Run that is over, or of one that is not as far as it is known.
#[must_use]
pub fn render(run: &Run, extras: Extras<'_>, style: Style) -> String {
    let mut page = Page { style, text: String::new() };
    let Some(status) = &run.status else { return page.text };
    page.heading(run, status);
    page.rows("why", why(status).into_iter().flat_map(fitted));
    for refusal in &status.refusals {
        page.rows("refused", fitted(&refusal.to_string()));
        page.rows("", refusal.hint.iter().map(|hint| style.ink(Ink::Dim, one_line(hint))));
    }
    if status.attempts.len() > 1 {
        page.rows("attempts", status.attempts.iter().map(attempt_line));
    }
    if let Some(attempt) = status.attempts.last() {
        page.attempt(run, status, attempt, extras);
    }
    page.text
}

struct Page {
    style: Style,
    text: String,
}

impl Page {
    fn heading(&mut self, run: &Run, status: &RunStatus) {
        let name = run.metadata.name.as_ref().map_or("", |name| name.as_str());
        let namespace = run.metadata.namespace.as_ref().map_or("default", |namespace| namespace.as_str());
        let ink = phase_ink(status.phase);
        let mark = match ink {
            Ink::Good => "✓",
            Ink::Warn => "▲",
            Ink::Bad => "✗",
            _ => "•",
        };
        let took = run.metadata.creation_timestamp.zip(status.finished_at).map(|(from, to)| {
            let micros = to.duration_since(from).as_micros();
            format!(" in {}", time(u64::try_from(micros).unwrap_or_default()))
        });
        let phase = self.style.ink(ink, format_args!("{mark} {}", status.phase));
        let name = self.style.ink(Ink::Bold, format_args!("{namespace}/{name}"));
        let took =
            self.style.ink(Ink::Dim, format_args!("{} on {}", took.unwrap_or_default(), run.spec.runtime));
        self.text.push_str(&format!("{phase}  {name}{took}\n"));
    }

    fn attempt(&mut self, run: &Run, status: &RunStatus, attempt: &AttemptStatus, extras: Extras<'_>) {
        let style = self.style;
        let Some(result) = &attempt.result else {
            self.rows("step", status.step.iter().map(|step| format!("{step}, on {}", attempt.daemon)));
            return;
        };
        self.outcome(status, result);
        if let Some(fault) = &result.fault {
            self.rows("fault", fitted(&format!("{} ({})", fault.message, fault.code)));
            self.rows("", fault.hint.iter().map(|hint| style.ink(Ink::Dim, one_line(hint))));
        }
        // Those of the status, which were shown, are the same as those of the attempt that they came from.
        for refusal in result.refusals.iter().filter(|refusal| !status.refusals.contains(refusal)) {
            self.rows("refused", [one_line(&refusal.to_string())]);
        }
        let waited =
            run.metadata.creation_timestamp.map(|from| attempt.started_at.duration_since(from).as_micros());
        let waited = waited.and_then(|micros| u64::try_from(micros).ok());
        self.rows("time", steps::lines(waited, &result.steps, style));
        self.rows("source", result.commit.iter().map(|commit| format!("commit {}", &commit.as_str()[..12])));
        if let Some(enforcement) = &result.enforcement {
            self.rows("enforced", enforcement::lines(enforcement, style));
        }
        if let Some(scrub) = &result.scrub {
            self.rows("secrets", scrub_lines(scrub, style));
        }
        self.rows(
            "",
            result.env_deliveries.iter().map(|(secret, variable)| {
                style.ink(
                    Ink::Warn,
                    format_args!("▲ {secret} was also in the environment, as {}", one_line(variable)),
                )
            }),
        );
        let name = run.metadata.name.as_ref().filter(|_| extras.commands);
        if let Some(patch) = &result.patch {
            self.rows("patch", results::patch(patch, name, style));
        }
        if let Some(artifacts) = &result.artifacts {
            self.rows("artifacts", results::artifacts(artifacts, extras.manifest, style));
        }
        self.rows("outputs", results::outputs(&result.outputs, style));
        self.rows("log", results::log(&result.log, style));
        let incomplete =
            result.uploads_incomplete.iter().map(|what| format!("not uploaded: {}", one_line(what)));
        let warnings = result.warnings.iter().map(|warning| one_line(warning)).chain(incomplete);
        self.rows("warnings", warnings.map(|warning| style.ink(Ink::Warn, format_args!("▲ {warning}"))));
    }

    fn outcome(&mut self, status: &RunStatus, result: &AttemptResult) {
        let mut facts = Vec::new();
        if let Some(outcome) = &result.outcome {
            facts.push(verdict(outcome.verdict));
            facts.push(format!("{} CPU", time(outcome.cpu_micros)));
            if outcome.max_rss > 0 {
                facts.push(format!("largest process {}", size(outcome.max_rss)));
            }
        }
        facts.extend(result.kill_micros.map(|micros| format!("ended in {}", time(micros))));
        if !facts.is_empty() {
            self.rows("outcome", [facts.join(" · ")]);
        }
        // The status says it already in most cases.
        let reason = result.reason.iter().filter(|reason| status.reason.as_ref() != Some(*reason));
        self.rows("", reason.map(|reason| one_line(reason)));
        let leaked = result.outcome.as_ref().map_or(0, |outcome| outcome.leaked);
        if leaked > 0 {
            let text = format!("▲ {} left running, and killed", count(leaked, "process"));
            self.rows("", [self.style.ink(Ink::Warn, text)]);
        }
    }

    /// Lines under one label, which only the first shows.
    fn rows(&mut self, label: &str, lines: impl IntoIterator<Item = String>) {
        let mut label = label;
        for line in lines {
            let shown = self.style.ink(Ink::Dim, format_args!("{label:<width$}", width = INDENT - 4));
            self.text.push_str(&format!("  {shown}  {line}\n"));
            label = "";
        }
    }
}

/// The status's reason, where it says more than what is shown of the last attempt anyhow.
fn why(status: &RunStatus) -> Option<&str> {
    let reason = status.reason.as_deref()?;
    let last = status.attempts.last().and_then(|attempt| attempt.result.as_ref());
    let verdict = last.is_some_and(|last| last.outcome.is_some());
    let told = verdict && matches!(status.phase, Phase::Succeeded | Phase::Failed);
    let fault = last.and_then(|last| last.fault.as_ref());
    let refused = status.refusals.iter().any(|refusal| reason == refusal.to_string());
    (!told && !refused && fault.is_none_or(|fault| fault.message != reason)).then_some(reason)
}

/// What others wrote, in lines that fit.
fn fitted(text: &str) -> Vec<String> {
    wrap(&one_line(text), WIDTH - INDENT)
}

/// How a phase is coloured.
#[must_use]
pub fn phase_ink(phase: Phase) -> Ink {
    match phase {
        Phase::Succeeded => Ink::Good,
        Phase::Cancelled => Ink::Warn,
        Phase::Failed | Phase::TimedOut | Phase::Refused | Phase::Lost | Phase::Fault => Ink::Bad,
        Phase::Pending | Phase::Running | Phase::Finishing => Ink::Plain,
    }
}

fn verdict(verdict: Verdict) -> String {
    match verdict {
        Verdict::Exited(code) => format!("exit code {code}"),
        Verdict::Signalled(signal) => format!("ended by signal {signal}"),
        Verdict::LimitExceeded(limit) => format!("limit exceeded: {limit:?}"),
    }
}

fn attempt_line(attempt: &AttemptStatus) -> String {
    let end = match &attempt.result {
        None => "goes on".to_owned(),
        Some(result) => {
            let verdict = result.outcome.as_ref().map(|outcome| format!(", {}", verdict(outcome.verdict)));
            let reason = result.reason.as_ref().map(|reason| format!(": {}", one_line(reason)));
            format!("{:?}{}{}", result.end, verdict.unwrap_or_default(), reason.unwrap_or_default())
        }
    };
    format!("{}  {end}  ({})", attempt.number, attempt.daemon)
}

fn scrub_lines(scrub: &Scrub, style: Style) -> Vec<String> {
    let staged = format!("{} staged on {}", count(scrub.staged, "file"), one_line(&scrub.medium));
    let mut lines = vec![if scrub.verified {
        format!("{} {staged}, {} removed, verified", mark(State::Active, style), scrub.removed)
    } else {
        format!("{} {staged}, {} removed, NOT verified", style.ink(Ink::Bad, "✗"), scrub.removed)
    }];
    lines.extend(
        scrub.problems.iter().map(|problem| style.ink(Ink::Bad, format_args!("✗ {}", one_line(problem)))),
    );
    lines
}

fn mark(state: State, style: Style) -> String {
    match state {
        State::Active => style.ink(Ink::Good, "✓"),
        State::Degraded => style.ink(Ink::Warn, "▲"),
        State::Disabled => style.ink(Ink::Warn, "○"),
        State::Unavailable => style.ink(Ink::Warn, "✗"),
    }
}

#[cfg(test)]
mod tests;
