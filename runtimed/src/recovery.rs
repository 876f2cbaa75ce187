//! What an earlier daemon left: scrubbed, reported, removed, before the first lease.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use runtimed_api::ids::AttemptKey;
use runtimed_api::problem::Chain;
use runtimed_api::run::status::{AttemptEnd, AttemptResult, Scrub};
use runtimed_api::session::{Report, ReportEvent};
use runtimed_sandbox::process;
use runtimed_sandbox::staging::Staging;
use runtimed_sandbox::tree::{Root, Tree, TreeError, TreeName};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::attempt::scrub_of;
use crate::daemon::Roots;
use crate::exclusive;
use crate::journal::{Attempt, Journal, JournalError, Known, Record, State};
use crate::state_dir::StateDir;

/// How the names of spools begin, in the state directory.
const SPOOL: &[u8] = b"attempt-";
/// Says in a spool whose log is still to go up: its attempt is over by then, and the journal forgets it.
const LEFT: &str = "left";

/// How long a worker of an earlier daemon may take to end its tree, and how long it may take until all is dead.
const SUPERVISED: Duration = Duration::from_secs(3);
const KILLED: Duration = Duration::from_secs(10);

/// What an earlier daemon has left to this one.
#[derive(Debug)]
pub struct Recovered {
    /// Reports to deliver.
    pub reports: Vec<Report>,
    /// Attempts of which something staged may still be there: each keeps a slot out of use.
    pub quarantined: u32,
    /// Attempts whose log may not be in the store to its end, and their spools.
    pub logs: Vec<(AttemptKey, PathBuf)>,
}

/// Why what an earlier daemon left could not be dealt with. Nothing may be leased then.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Nobody can say what runs.
    #[error("cannot look for what an earlier daemon left running")]
    Processes(#[source] std::io::Error),
    /// Something of an earlier Run is still there.
    #[error("{0} processes of an earlier daemon's Runs cannot be killed; replace the pod")]
    Survivors(u32),
}

/// Deals with every attempt of the journal that is not over.
///
/// # Errors
/// The journal failed, or something of such an attempt runs and cannot be killed.
pub async fn recover(
    (state, known): (&State, Known),
    journal: &Journal,
    (roots, whole): (&Roots, Option<&Roots>),
    dir: &StateDir,
) -> Result<Recovered, RecoveryError> {
    let mut reports = state.unacknowledged();
    let trees: Vec<&str> = state.attempts.values().filter_map(|open| open.tree.as_deref()).collect();
    end_processes(&trees)?;
    // What a Run had whole is empty when it is over.
    let emptied = whole.filter(|_| !state.attempts.is_empty()).map_or(Ok(()), exclusive::empty);
    if let Err(error) = &emptied {
        tracing::error!(error = %Chain(error), "cannot empty the exclusive directories");
    }
    let mut quarantined = u32::from(emptied.is_err());
    let mut logs = Vec::new();
    for (key, open) in &state.attempts {
        let (scrub, removed) = clear(roots, open);
        let removed = removed && emptied.is_ok();
        // A tree that could not even be opened may hold what was staged in it.
        if !removed && scrub.as_ref().map_or(!open.staged.is_empty(), |scrub| !scrub.verified) {
            quarantined += 1;
        }
        let mut records = Vec::new();
        if let Some(scrub) = &scrub {
            records.push(Record::Scrubbed { attempt: key.clone(), scrub: scrub.clone() });
        }
        if !open.finished {
            let report = lost(key, open, scrub);
            records.push(Record::Report(Box::new(report.clone())));
            reports.push(report);
        }
        if removed {
            records.push(Record::Released { attempt: key.clone() });
        }
        if let Some(tree) = open.tree.as_ref().filter(|_| !open.finished) {
            let spool = dir.path().join(format!("attempt-{tree}"));
            if spool.join("log").is_dir() {
                if let Err(error) = mark_left(&spool, key) {
                    tracing::warn!(%error, "the end of a log is lost if this daemon dies before it has gone up");
                }
                logs.push((key.clone(), spool));
            }
        }
        tracing::warn!(attempt = %key, finished = open.finished, removed, "found what an earlier daemon left");
        journal.append(records).await?;
    }
    if known == Known::Beginning {
        quarantined += sweep(roots)?;
    }
    remove_spools(dir.path(), &mut logs);
    Ok(Recovered { reports, quarantined, logs })
}

/// Ends what runs of the attempts whose trees may still be there. A worker ends itself and its tree when its daemon dies: what
/// is left is one that was stopped, or the tree of one that was killed as well.
fn end_processes(trees: &[&str]) -> Result<(), RecoveryError> {
    if trees.is_empty() {
        return Ok(());
    }
    let report = process::end_abandoned(trees, SUPERVISED, KILLED).map_err(RecoveryError::Processes)?;
    if report.survivors > 0 {
        return Err(RecoveryError::Survivors(report.survivors));
    }
    if report.ended > 0 {
        tracing::warn!(ended = report.ended, "ended what an earlier daemon left running");
    }
    Ok(())
}

/// Clears trees that no journal tells of, for it was damaged, as those are cleared that it tells of. Returns of how many
/// something staged may be left. The state of a daemon is none, and the trees of one that lives are in its hands.
fn sweep(roots: &Roots) -> Result<u32, RecoveryError> {
    let listed = roots.all().map(|root| root.list());
    let listed = listed.into_iter().filter_map(|names| {
        let untold = "trees that no journal tells of cannot be looked for";
        names.inspect_err(|error| tracing::error!(error = %Chain(error), "{untold}")).ok()
    });
    let names: BTreeSet<String> = listed.flatten().map(|name| name.as_str().to_owned()).collect();
    let in_use = |name: &String| roots.all().iter().any(|root| is_in_use(root, name));
    let names: Vec<String> = names.into_iter().filter(|name| !in_use(name)).collect();
    end_processes(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
    let mut left = 0;
    for name in names {
        let unknown = Attempt { tree: Some(name), ..Attempt::default() };
        let (scrub, removed) = clear(roots, &unknown);
        let staged = !removed && scrub.as_ref().is_none_or(|scrub| !scrub.verified);
        tracing::warn!(removed, "found a tree that no journal tells of");
        left += u32::from(staged);
    }
    Ok(left)
}

/// Whether a directory of a root is a daemon's state, a tree of a living one, or another uid's. One that cannot be looked at
/// is cleared, as far as it can be.
fn is_in_use(root: &Root, name: &str) -> bool {
    let Ok(name) = name.parse::<TreeName>() else { return true };
    match root.reopen(&name) {
        Ok(Some(tree)) => StateDir::is_one(&tree.path()) || hold(&tree).is_err(),
        Err(TreeError::NotPrivate { .. }) => true,
        Ok(None) | Err(_) => false,
    }
}

/// Takes hold of a tree for as long as it is open, so that another daemon knows it is in use.
///
/// # Errors
/// `WOULDBLOCK`: another daemon has it.
pub(crate) fn hold(tree: &Tree) -> Result<(), Errno> {
    flock(tree.fd(), FlockOperation::NonBlockingLockExclusive)
}

/// Has the next daemon take this log to the store if this one does not live to do it.
///
/// # Errors
/// The spool cannot be written.
pub(crate) fn mark_left(spool: &Path, key: &AttemptKey) -> std::io::Result<()> {
    std::fs::write(spool.join(LEFT), serde_json::to_vec(key)?)
}

/// Removes every spool but those of `logs`, to which those are added that an earlier daemon has not come to the end of. By name
/// and not by the journal: that daemon may have died after it had journaled that all else was gone.
fn remove_spools(dir: &Path, logs: &mut Vec<(AttemptKey, PathBuf)>) {
    let found = match std::fs::read_dir(dir) {
        Ok(found) => found,
        Err(error) => return tracing::error!(%error, "spools cannot be looked for"),
    };
    for entry in found.flatten().filter(|entry| entry.file_name().as_encoded_bytes().starts_with(SPOOL)) {
        let spool = entry.path();
        if logs.iter().any(|(_, kept)| *kept == spool) {
            continue;
        }
        let left = std::fs::read(spool.join(LEFT)).ok();
        if let Some(key) = left.and_then(|left| serde_json::from_slice(&left).ok()) {
            logs.push((key, spool));
        } else if let Err(error) = std::fs::remove_dir_all(&spool) {
            tracing::error!(%error, spool = %spool.display(), "a spool is left behind");
        }
    }
}

/// Scrubs and removes the trees of an attempt. Returns what became of the staged files, and whether all trees are gone.
fn clear(roots: &Roots, open: &Attempt) -> (Option<Scrub>, bool) {
    let Some(name) = open.tree.as_deref().and_then(|name| name.parse::<TreeName>().ok()) else {
        return (None, true);
    };
    let mut scrub = None;
    let mut gone = true;
    for root in roots.all() {
        match root.reopen(&name) {
            Ok(Some(tree)) => {
                if scrub.is_none() {
                    scrub = scrub_tree(&tree, open);
                }
                if let Err(error) = tree.remove() {
                    tracing::error!(error = %Chain(&error), "a tree is left behind");
                    gone = false;
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(error = %Chain(&error), "a tree cannot be opened");
                gone = false;
            }
        }
    }
    (scrub, gone)
}

fn scrub_tree(tree: &Tree, open: &Attempt) -> Option<Scrub> {
    match Staging::reopen(tree) {
        Ok(Some(staging)) => {
            let mut scrub = scrub_of(staging.scrub());
            scrub.staged = u32::try_from(open.staged.len()).unwrap_or(u32::MAX);
            Some(scrub)
        }
        Ok(None) => None,
        Err(error) => Some(Scrub {
            staged: u32::try_from(open.staged.len()).unwrap_or(u32::MAX),
            removed: 0,
            rotated: 0,
            medium: tree.medium().to_string(),
            verified: false,
            problems: vec![Chain(&error).to_string()],
        }),
    }
}

/// The report for an attempt whose daemon died: what was collected if that was journaled, else its Outcome, else that it is
/// lost.
fn lost(key: &AttemptKey, open: &Attempt, scrub: Option<Scrub>) -> Report {
    let mut result = match (&open.collected, open.outcome.clone()) {
        (Some(collected), _) => AttemptResult::clone(collected),
        (None, Some((outcome, end))) => {
            let mut result = AttemptResult::bare(end);
            result.outcome = Some(outcome);
            result
        }
        (None, None) => {
            let mut result = AttemptResult::bare(AttemptEnd::Lost);
            result.reason = Some("the daemon died while the attempt went on".to_owned());
            result
        }
    };
    if open.outcome.is_some() || open.collected.is_some() {
        result.uploads_incomplete = not_uploaded(&result, open.collected.is_some());
    }
    result.scrub = scrub.or_else(|| open.scrub.clone()).or(result.scrub);
    let event = ReportEvent::Finished(Box::new(result));
    Report { attempt: key.clone(), sequence: open.sequence + 1, at: Timestamp::now(), event }
}

/// What may not have arrived of an attempt whose daemon died after its command had ended. Only a part of it may be missing:
/// nobody knows any more what the store has taken. Of a log that was whole nothing is: what is on the disk goes up after this, and
/// what does not come after all is a gap to whoever reads it.
fn not_uploaded(result: &AttemptResult, collected: bool) -> Vec<String> {
    if !collected {
        return vec![
            "outputs, artifacts, patch and the end of the log: the daemon died before they were collected"
                .to_owned(),
        ];
    }
    let patch = result.patch.as_ref().is_some_and(|patch| patch.digest.is_some()).then_some("patch");
    let artifacts = result.artifacts.as_ref().map(|_| "artifacts");
    let went_up = patch.into_iter().chain(artifacts);
    went_up.map(|what| format!("{what}: the daemon died during the upload")).collect()
}

#[cfg(test)]
mod tests {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a process that no worker has started")]
    fn after_a_damaged_journal_trees_that_nobody_holds_are_cleared_with_what_was_staged() {
        let places = [(); 3].map(|()| tempfile::tempdir().expect("a directory"));
        let [tmp, home, workspace] = places.each_ref().map(|place| Root::open(place.path()).expect("opens"));
        let roots = Roots { tmp, home, workspace };
        let state = StateDir::take(None, &roots.workspace).expect("taken");
        let [unknown, alive] = [(); 2].map(|()| TreeName::random());
        let mut trees = Vec::new();
        for name in [&unknown, &alive] {
            trees.push(roots.all().map(|root| root.create_named(name).expect("made")));
        }
        let mut staging = Staging::create(&trees[0][0]).expect("made");
        staging.stage(&"llm".parse().expect("a name"), b"hunter22hunter22", 0o600).expect("staged");
        drop((staging, trees.remove(0)));
        trees[0].iter().for_each(|tree| hold(tree).expect("nobody else has it"));
        // What runs in it bears its mark.
        let mut orphan = std::process::Command::new("sleep").arg("60").spawn().expect("started");
        let limit = Rlimit { current: Some(unknown.mark()), maximum: Some(unknown.mark()) };
        prlimit(Some(Pid::from_child(&orphan)), Resource::Locks, limit).expect("marked");
        assert_eq!(sweep(&roots).expect("swept"), 0);
        assert!(!orphan.wait().expect("waited for").success(), "it was killed");
        for root in roots.all() {
            let mut left = root.list().expect("lists");
            left.retain(|name| root.path().join(name.as_str()) != state.path());
            assert_eq!(left, std::slice::from_ref(&alive));
        }
        assert!(state.path().is_dir());
        // Its daemon dies.
        drop(trees);
        assert_eq!(sweep(&roots).expect("swept"), 0);
        assert_eq!(roots.tmp.list().expect("lists"), []);
    }

    #[test]
    fn a_log_that_has_not_gone_up_yet_outlives_another_daemon() {
        let state = tempfile::tempdir().expect("a directory");
        let spools = ["attempt-left", "attempt-known", "attempt-done"].map(|name| state.path().join(name));
        spools.iter().for_each(|spool| std::fs::create_dir_all(spool.join("log")).expect("made"));
        let key = serde_json::json!({ "namespace": "n", "name": "r", "uid": "u", "attempt": 1, "fence": 2 });
        let key: AttemptKey = serde_json::from_value(key).expect("a key");
        for spool in &spools[..2] {
            mark_left(spool, &key).expect("written");
        }
        let mut logs = vec![(key.clone(), spools[1].clone())];
        remove_spools(state.path(), &mut logs);
        assert_eq!(logs, [(key.clone(), spools[1].clone()), (key, spools[0].clone())]);
        assert_eq!(spools.map(|spool| spool.is_dir()), [true, true, false]);
    }
}
