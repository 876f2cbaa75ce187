//! What an earlier daemon left: scrubbed, reported, removed, before the first lease.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use runtimed_api::ids::AttemptKey;
use runtimed_api::problem::Chain;
use runtimed_api::run::status::{AttemptEnd, AttemptResult, Scrub};
use runtimed_api::session::{Report, ReportEvent};
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

/// Deals with every attempt of the journal that is not over.
///
/// # Errors
/// The journal failed.
pub async fn recover(
    (state, known): (&State, Known),
    journal: &Journal,
    (roots, whole): (&Roots, Option<&Roots>),
    dir: &StateDir,
) -> Result<Recovered, JournalError> {
    let mut reports = state.unacknowledged();
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
        tracing::warn!(attempt = %key, finished = open.finished, removed, "found what an earlier daemon left");
        journal.append(records).await?;
        if let Some(tree) = open.tree.as_ref().filter(|_| !open.finished) {
            let spool = dir.path().join(format!("attempt-{tree}"));
            if spool.join("log").is_dir() {
                logs.push((key.clone(), spool));
            }
        }
    }
    if known == Known::Beginning {
        quarantined += sweep(roots);
    }
    remove_spools(dir.path(), &logs);
    Ok(Recovered { reports, quarantined, logs })
}

/// Clears trees that no journal tells of, for it was damaged, as those are cleared that it tells of. Returns of how many
/// something staged may be left. The state of a daemon is none, and the trees of one that lives are in its hands.
fn sweep(roots: &Roots) -> u32 {
    let listed = roots.all().map(|root| root.list());
    let listed = listed.into_iter().filter_map(|names| {
        let untold = "trees that no journal tells of cannot be looked for";
        names.inspect_err(|error| tracing::error!(error = %Chain(error), "{untold}")).ok()
    });
    let names: BTreeSet<String> = listed.flatten().map(|name| name.as_str().to_owned()).collect();
    let mut left = 0;
    for name in names {
        if roots.all().iter().any(|root| is_in_use(root, &name)) {
            continue;
        }
        let unknown = Attempt { tree: Some(name), ..Attempt::default() };
        let (scrub, removed) = clear(roots, &unknown);
        let staged = !removed && scrub.as_ref().is_none_or(|scrub| !scrub.verified);
        tracing::warn!(removed, "found a tree that no journal tells of");
        left += u32::from(staged);
    }
    left
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

/// Removes every spool but those of `logs`. By name and not by the journal: an earlier daemon may have died after it had
/// journaled that all else was gone.
fn remove_spools(dir: &Path, logs: &[(AttemptKey, PathBuf)]) {
    let found = match std::fs::read_dir(dir) {
        Ok(found) => found,
        Err(error) => return tracing::error!(%error, "spools cannot be looked for"),
    };
    for entry in found.flatten().filter(|entry| entry.file_name().as_encoded_bytes().starts_with(SPOOL)) {
        if logs.iter().any(|(_, spool)| *spool == entry.path()) {
            continue;
        }
        if let Err(error) = std::fs::remove_dir_all(entry.path()) {
            tracing::error!(%error, spool = %entry.path().display(), "a spool is left behind");
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

/// The report for an attempt whose daemon died: its Outcome if that was fixed, else that it is lost.
fn lost(key: &AttemptKey, open: &Attempt, scrub: Option<Scrub>) -> Report {
    let (outcome, end) = open.outcome.clone().unzip();
    let mut result = AttemptResult::bare(end.unwrap_or(AttemptEnd::Lost));
    match outcome {
        Some(_) => result.warnings.push(
            "the daemon died after the command had ended: what was not uploaded by then is lost".to_owned(),
        ),
        None => result.reason = Some("the daemon died while the attempt went on".to_owned()),
    }
    result.outcome = outcome;
    result.scrub = scrub.or_else(|| open.scrub.clone());
    let event = ReportEvent::Finished(Box::new(result));
    Report { attempt: key.clone(), sequence: open.sequence + 1, at: Timestamp::now(), event }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
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
        assert_eq!(sweep(&roots), 0);
        for root in roots.all() {
            let mut left = root.list().expect("lists");
            left.retain(|name| root.path().join(name.as_str()) != state.path());
            assert_eq!(left, std::slice::from_ref(&alive));
        }
        assert!(state.path().is_dir());
        // Its daemon dies.
        drop(trees);
        assert_eq!(sweep(&roots), 0);
        assert_eq!(roots.tmp.list().expect("lists"), []);
    }
}
