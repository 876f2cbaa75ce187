//! Looking at Runs, waiting for them, ending them.

use std::io;

use jiff::{SignedDuration, Timestamp};
use runtimed_api::exit::{self, Exit};
use runtimed_api::ids::RunName;
use runtimed_api::run::{Run, RunList};
use runtimed_client::controller::ListQuery;
use tokio::sync::watch;
use tokio::time::timeout;

use super::Session;
use crate::args;
use crate::attach::{Attached, until_over};
use crate::failure::Failure;
use crate::output::Output;
use crate::style::{Ink, Style};
use crate::summary::{self, Extras};
use crate::table::{Table, time};

/// Runs of a page; the controller may give fewer.
const PAGE: usize = 500;

pub(super) async fn get(session: &Session, name: &RunName, output: &Output) -> Result<(), Failure> {
    let run = session.controller.get(&session.namespace, name).await?;
    let summary = |style| summary::render(&run, Extras { manifest: None, commands: true }, style);
    output.result(&run, summary)
}

pub(super) async fn list(session: &Session, words: &args::List, output: &Output) -> Result<(), Failure> {
    let most = words.limit.unwrap_or(usize::MAX);
    let mut all = RunList::default();
    let mut next = None;
    while all.items.len() < most {
        let limit = u32::try_from((most - all.items.len()).min(PAGE)).ok();
        let query = ListQuery { labels: words.label.clone(), phase: words.phase, limit, next };
        let page = session.controller.list(&session.namespace, &query).await?;
        all.items.extend(page.items);
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    output.result(&all, |style| table(&all.items, Timestamp::now(), style))
}

fn table(runs: &[Run], now: Timestamp, style: Style) -> String {
    let mut table = Table::new(&["NAME", "PHASE", "RUNTIME", "ATTEMPTS", "AGE", "REASON"]);
    for run in runs {
        let status = run.status.as_ref();
        let age = run.metadata.creation_timestamp.map(|at| age(now.duration_since(at)));
        let phase = status.map_or((Ink::Plain, String::new()), |status| {
            (summary::phase_ink(status.phase), status.phase.to_string())
        });
        table.row([
            (Ink::Plain, run.metadata.name.as_ref().map(ToString::to_string).unwrap_or_default()),
            phase,
            (Ink::Plain, run.spec.runtime.to_string()),
            (Ink::Plain, status.map(|status| status.attempts.len().to_string()).unwrap_or_default()),
            (Ink::Plain, age.unwrap_or_default()),
            (Ink::Dim, status.and_then(|status| status.reason.clone()).unwrap_or_default()),
        ]);
    }
    table.render(style)
}

/// `5s`, `12m`, `3h`, `4d`.
fn age(age: SignedDuration) -> String {
    match age.as_secs().max(0) {
        seconds @ ..120 => format!("{seconds}s"),
        seconds @ ..7200 => format!("{}m", seconds / 60),
        seconds @ ..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

pub(super) async fn wait(session: &Session, words: &args::Wait, output: &Output) -> Result<u8, Failure> {
    let Session { controller, namespace } = session;
    let run = controller.get(namespace, &words.run).await?;
    let attached = Attached::to(controller, namespace, &run)?;
    let (told, _runs) = watch::channel(run);
    let over = until_over(&attached, &told, |_| ());
    let run = match words.timeout {
        None => over.await?,
        Some(most) => match timeout(most.get(), over).await {
            Ok(run) => run?,
            Err(_) => {
                output.note("waited", &format!("{} goes on after {most}", words.run));
                return Ok(Exit::TimedOut.code());
            }
        },
    };
    let Some(status) = &run.status else {
        return Err(Failure::fault("the controller sent a Run without a status"));
    };
    output.result(&run, |style| {
        let took =
            run.metadata.creation_timestamp.zip(status.finished_at).map(|(from, to)| to.duration_since(from));
        let took = took
            .and_then(|took| u64::try_from(took.as_micros()).ok())
            .map(|took| format!(" in {}", time(took)));
        let phase = style.ink(summary::phase_ink(status.phase), status.phase);
        format!("{} {phase}{}\n", words.run, took.unwrap_or_default())
    })?;
    Ok(exit::of(status).unwrap_or(Exit::Fault.code()))
}

pub(super) async fn cancel(session: &Session, words: &args::Names, output: &Output) -> Result<(), Failure> {
    for name in &words.runs {
        let run = session.controller.cancel(&session.namespace, name).await?;
        let phase = run.status.as_ref().map(|status| status.phase);
        output.result(&run, |_| match phase {
            Some(phase) if phase.is_terminal() => format!("{name} {phase}\n"),
            _ => format!("{name} is being cancelled\n"),
        })?;
    }
    Ok(())
}

pub(super) async fn delete(session: &Session, words: &args::Names, output: &Output) -> Result<(), Failure> {
    for name in &words.runs {
        let run = session.controller.delete(&session.namespace, name).await?;
        let over = run.status.as_ref().is_some_and(|status| status.phase.is_terminal());
        output.result(&run, |_| match over {
            true => format!("{name} deleted\n"),
            false => format!("{name} is being cancelled, and then deleted\n"),
        })?;
    }
    Ok(())
}

pub(super) async fn outputs(session: &Session, name: &RunName, output: &Output) -> Result<(), Failure> {
    let run = session.controller.get(&session.namespace, name).await?;
    let result = run.status.as_ref().and_then(|status| status.attempts.last()?.result.as_ref());
    let Some(result) = result else {
        return Err(Failure::refused(format!("{name} has no result yet"))
            .hint(format!("runtimectl wait {name} returns when it has")));
    };
    output.result(&result.outputs, |_| result.outputs.iter().map(|(key, value)| line(key, value)).collect())
}

/// As a command writes it: a value of several lines between two lines of `EOF`.
fn line(key: &str, value: &str) -> String {
    if !value.contains('\n') {
        return format!("{key}={value}\n");
    }
    let mut end = "EOF".to_owned();
    while value.lines().any(|line| line == end) {
        end.push('_');
    }
    format!("{key}<<{end}\n{value}\n{end}\n")
}

pub(super) async fn runtimes(session: &Session, output: &Output) -> Result<(), Failure> {
    let runtimes = session.controller.runtimes().await?;
    output.result(&runtimes, |style| {
        let mut table = Table::new(&["NAME", "NAMESPACES", "NETWORK", "DESCRIPTION"]);
        for runtime in &runtimes {
            table.row([
                (Ink::Plain, runtime.metadata.name.to_string()),
                (Ink::Plain, runtime.spec.namespaces.join(",")),
                (Ink::Plain, format!("{:?}", runtime.spec.ceiling.network)),
                (Ink::Dim, runtime.spec.description.clone().unwrap_or_default()),
            ]);
        }
        table.render(style)
    })
}

/// Writing to a file that a person named failed.
pub(super) fn unwritable(path: &std::path::Path, error: &io::Error) -> Failure {
    Failure::usage(format!("{} cannot be written: {}", path.display(), crate::document::cause(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_written_as_a_command_writes_them() {
        assert_eq!(line("A", "b=c"), "A=b=c\n");
        assert_eq!(line("A", "b\nEOF\nc"), "A<<EOF_\nb\nEOF\nc\nEOF_\n");
    }

    #[test]
    fn the_list_of_runs() {
        let run = r#"{"apiVersion":"runtimed.dev/v1alpha1","kind":"Run",
            "metadata":{"name":"fix-typo","creationTimestamp":"2026-01-02T03:04:05Z"},
            "spec":{"runtime":"bash","command":["make"]},"status":{"phase":"Pending","since":"2026-01-02T03:04:06Z",
            "reason":"2 daemons, 0 free slots","requestedBy":"me","fence":0}}"#;
        let run: Run = serde_json::from_str(run).expect("a Run");
        let now = "2026-01-02T05:04:06Z".parse().expect("a time");
        insta::assert_snapshot!(table(&[run], now, Style::PLAIN), @"
        NAME      PHASE    RUNTIME  ATTEMPTS  AGE  REASON
        fix-typo  Pending  bash     0         2h   2 daemons, 0 free slots
        ");
    }
}
