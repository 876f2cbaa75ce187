//! Steps 4, 8, 12 and 15: the three private trees, and what is staged in them.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use runtimed_api::enforcement::Tier;
use runtimed_api::environment;
use runtimed_api::link::{Trees, Whole, inside, layout};
use runtimed_api::problem::{Chain, Code, Problem};
use runtimed_api::run::status::Scrub;
use runtimed_api::run::step::Step;
use runtimed_api::session::SecretValue;
use runtimed_sandbox::staging::{ScrubReport, StagedName, Staging};
use runtimed_sandbox::tree::{Tree, TreeName};
use zeroize::Zeroizing;

use super::{Attempt, Ended, Slot, storage};
use crate::admission::Permit;
use crate::daemon::Roots;
use crate::environ::Places;
use crate::exclusive;
use crate::journal::Record;
use crate::recovery;
use crate::secrets::Staged;

/// The three private trees of one attempt.
#[derive(Debug)]
pub(super) struct Workspace {
    pub(super) tmp: Tree,
    pub(super) home: Tree,
    pub(super) workspace: Tree,
    staging: Option<Staging>,
    /// With the exclusive tier, what the command has whole.
    pub(super) whole: Option<Arc<Roots>>,
    /// Something is left in that, so that the next start has to look again.
    left: bool,
    /// Room in the pod, until the trees are gone: what lies on a memory-backed root is memory.
    _permit: Permit,
}

/// What staging adds to the command's environment.
#[derive(Debug, Default)]
pub(super) struct StagedEnv {
    /// Where the files are.
    pub(super) plain: BTreeMap<String, String>,
    /// Values that go into the environment itself.
    pub(super) secret: BTreeMap<String, Zeroizing<String>>,
    /// Something is staged.
    pub(super) any: bool,
}

impl Workspace {
    /// Makes the three trees, under the name that is journaled.
    pub(super) async fn allocate(
        attempt: &mut Attempt,
        name: TreeName,
        permit: Permit,
    ) -> Result<Self, Ended> {
        attempt.enter(Step::Allocate);
        let daemon = Arc::clone(&attempt.daemon);
        let made = blocking(move || {
            let roots = &daemon.roots;
            let made = || -> Result<_, runtimed_sandbox::tree::TreeError> {
                // It is empty; but another container of the pod may have written there.
                daemon.whole.as_deref().map_or(Ok(()), exclusive::empty)?;
                let tmp = roots.tmp.create_named(&name)?;
                let home = roots.home.create_named(&name)?;
                let workspace = roots.workspace.create_named(&name)?;
                for tree in [&tmp, &home, &workspace] {
                    if let Err(error) = recovery::hold(tree) {
                        tracing::debug!(%error, "a tree cannot be locked on this file system");
                    }
                }
                if daemon.isolation.tier == Tier::Namespaces {
                    tmp.create_dir(layout::SHARED_MEMORY, 0o700)?;
                }
                if daemon.whole.is_none() {
                    tmp.create_dir(layout::TMP, 0o700)?;
                    home.create_dir(layout::HOME, 0o700)?;
                    workspace.create_dir(layout::WORKSPACE, 0o700)?;
                }
                home.create_dir(layout::OUTPUTS_DIR, 0o700)?;
                workspace.create_dir(layout::ARTIFACTS, 0o700)?;
                workspace.create_dir(layout::PRIVATE, 0o700)?;
                Ok((tmp, home, workspace))
            };
            made().map_err(|error| {
                // What was made is not left behind: the journal's record is closed when the attempt ends.
                remove_named(&daemon, &name);
                storage("the workspace cannot be made", &error)
            })
        })
        .await?;
        let (tmp, home, workspace) = made?;
        attempt.leave(Step::Allocate);
        let whole = attempt.daemon.whole.clone();
        Ok(Self { tmp, home, workspace, staging: None, whole, left: false, _permit: permit })
    }

    /// The trees as the link names them.
    pub(super) fn trees(&self) -> Trees {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        Trees {
            tmp: text(&self.tmp.path()),
            home: text(&self.home.path()),
            workspace: text(&self.workspace.path()),
            whole: self.whole.as_ref().map(|whole| Whole {
                tmp: text(whole.tmp.path()),
                home: text(whole.home.path()),
                workspace: text(whole.workspace.path()),
            }),
        }
    }

    /// The places that the environment names.
    pub(super) fn places(&self, tier: Tier) -> Places {
        match tier {
            Tier::Namespaces => Places::inside(),
            Tier::Base | Tier::Exclusive => Places::in_trees(&self.trees()),
        }
    }

    /// Makes a directory for what the daemon brings for the worker's own use.
    pub(super) fn private_dir(&self, name: &str) -> Result<PathBuf, Problem> {
        let path = self.workspace.path().join(layout::PRIVATE).join(name);
        std::fs::create_dir(&path).map_err(|error| storage("a directory cannot be made", &error))?;
        Ok(path)
    }

    /// Makes the directory of what the command is given to read.
    pub(super) fn give(&self) -> Result<PathBuf, Problem> {
        let made = self.workspace.create_dir(layout::GIVEN, 0o700);
        made.map_err(|error| storage("a directory cannot be made", &error))?;
        Ok(self.workspace.path().join(layout::GIVEN))
    }

    /// Writes bytes that the daemon has verified for the worker's own use.
    pub(super) fn put_private(&self, name: &str, bytes: &[u8]) -> Result<String, Problem> {
        let path = self.workspace.path().join(layout::PRIVATE).join(name);
        let mut options = OpenOptions::new();
        let written = options
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(bytes));
        written.map_err(|error| storage("a prior patch cannot be written", &error))?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// Stages every secret; their names are journaled first.
    pub(super) async fn stage(
        &mut self,
        attempt: &mut Attempt,
        secrets: &[Staged],
    ) -> Result<StagedEnv, Ended> {
        attempt.enter(Step::Stage);
        let mut env = StagedEnv::default();
        if secrets.is_empty() {
            return Ok(env);
        }
        let files = secrets.iter().map(|secret| secret.file.clone()).collect();
        let staging = Record::Staging { attempt: attempt.key().clone(), files };
        let journaled = attempt.daemon.journal.append(vec![staging]).await;
        journaled.map_err(|error| storage("the staging cannot be journaled", &error))?;
        let failed = |error: &(dyn std::error::Error + 'static)| storage("a secret cannot be staged", error);
        // A few small files on a memory-backed root: not worth another thread.
        let place = Staging::create(&self.tmp).map_err(|error| failed(&error))?;
        let place = self.staging.insert(place);
        for secret in secrets {
            let name: StagedName = secret.file.parse().map_err(|error| failed(&error))?;
            let path =
                place.stage(&name, secret.value.expose(), secret.mode).map_err(|error| failed(&error))?;
            let path = match attempt.daemon.isolation.tier {
                Tier::Namespaces => Path::new(inside::STAGED).join(&secret.file),
                Tier::Base | Tier::Exclusive => path,
            };
            for used in &secret.uses {
                let path = path.to_string_lossy().into_owned();
                env.plain.insert(environment::secret_file(used.name.as_str()), path);
                if let Some(variable) = &used.env {
                    let value = std::str::from_utf8(secret.value.expose()).map_err(|_| {
                        let name = &used.name;
                        Problem::new(
                            Code::SecretInvalid,
                            format!("secret {name} is not UTF-8, and no variable can hold it"),
                        )
                    })?;
                    env.secret.insert(variable.clone(), Zeroizing::new(value.to_owned()));
                    attempt.result.env_deliveries.insert(used.name.clone(), variable.clone());
                }
            }
        }
        env.any = true;
        attempt.leave(Step::Stage);
        Ok(env)
    }

    /// Gives back the modes that the command has taken from its own directories, so that what it made can be read.
    pub(super) fn mend(&self, attempt: &mut Attempt) {
        for (tree, names) in [
            (&self.tmp, &[layout::TMP, layout::STAGED][..]),
            (&self.home, &[layout::HOME, layout::OUTPUTS_DIR]),
            (&self.workspace, &[layout::WORKSPACE, layout::ARTIFACTS, layout::PRIVATE]),
        ] {
            let warning = match tree.mend(names) {
                Ok(mended) if mended.is_empty() => continue,
                Ok(mended) => {
                    format!("the command took modes away, which were repaired: {}", mended.join(", "))
                }
                Err(error) => storage("a mode cannot be repaired", &error).message,
            };
            attempt.result.warnings.push(warning);
        }
        // With the exclusive tier those of the trees are the daemon's own, and the command knows the paths.
        let daemon = Arc::clone(&attempt.daemon);
        if let Err(error) = daemon.state.mend() {
            attempt.result.warnings.push(storage("a mode cannot be repaired", &error).message);
        }
        for root in self.whole.iter().flat_map(|whole| whole.all()).chain(daemon.roots.all()) {
            if let Err(error) = root.mend() {
                attempt.result.warnings.push(storage("a mode cannot be repaired", &error).message);
            }
        }
    }

    /// Puts a new value in the place of a staged one.
    pub(super) fn rotate(
        &mut self,
        name: &StagedName,
        value: &SecretValue,
        mode: u32,
    ) -> Result<(), Problem> {
        let Some(staging) = &mut self.staging else { return Ok(()) };
        let rotated = staging.rotate(name, value.expose(), mode);
        rotated.map(drop).map_err(|error| storage("the new value cannot be staged", &error))
    }

    /// Removes what was staged, and what the next Run would find of this one, and looks whether it is gone. Always done,
    /// whatever happened before.
    pub(super) async fn scrub(&mut self, attempt: &mut Attempt) -> Slot {
        let slot = self.scrub_staged(attempt).await;
        if self.vacate(attempt).await { slot } else { Slot::Quarantined }
    }

    /// Empties what the command had whole, and says whether nothing is left.
    async fn vacate(&mut self, attempt: &mut Attempt) -> bool {
        let Some(whole) = self.whole.clone() else { return true };
        let problem = match blocking(move || exclusive::empty(&whole)).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => storage("a directory of the pod cannot be emptied", &error),
            Err(problem) => problem,
        };
        self.left = true;
        attempt.result.warnings.push(problem.message);
        false
    }

    async fn scrub_staged(&mut self, attempt: &mut Attempt) -> Slot {
        let Some(staging) = self.staging.take() else { return Slot::Free };
        attempt.enter(Step::Scrub);
        let report = match blocking(move || staging.scrub()).await {
            Ok(report) => report,
            Err(problem) => {
                attempt.result.warnings.push(problem.message);
                return Slot::Quarantined;
            }
        };
        let verified = report.verified;
        let scrub = scrub_of(report);
        attempt
            .daemon
            .journal
            .note(Record::Scrubbed { attempt: attempt.key().clone(), scrub: scrub.clone() });
        attempt.result.scrub = Some(scrub);
        attempt.leave(Step::Scrub);
        if verified { Slot::Free } else { Slot::Quarantined }
    }

    /// Removes the three trees.
    pub(super) async fn release(self) -> Result<(), Problem> {
        blocking(move || {
            // All of them, whatever becomes of the first.
            let removed = [self.tmp, self.home, self.workspace].map(runtimed_sandbox::tree::Tree::remove);
            for tree in removed {
                tree.map_err(|error| storage("a tree cannot be removed", &error))?;
            }
            Ok(())
        })
        .await??;
        if self.left {
            return Err(Problem::new(Code::StorageFailed, "a directory of the pod could not be emptied"));
        }
        Ok(())
    }
}

/// A scrub as the status shows it.
pub(crate) fn scrub_of(report: ScrubReport) -> Scrub {
    Scrub {
        staged: report.staged,
        removed: report.removed,
        rotated: report.rotated,
        medium: report.medium.to_string(),
        verified: report.verified,
        problems: report.problems,
    }
}

/// Removes whatever of this name is in the roots; for a workspace that could not be made whole.
fn remove_named(daemon: &crate::daemon::Daemon, name: &TreeName) {
    for root in daemon.roots.all() {
        match root.reopen(name) {
            Ok(Some(tree)) => {
                if let Err(error) = tree.remove() {
                    tracing::error!(error = %Chain(&error), "a tree cannot be removed");
                }
            }
            Ok(None) => {}
            Err(error) => tracing::error!(error = %Chain(&error), "a tree cannot be opened"),
        }
    }
}

/// Runs what touches a disk off the threads that everything shares.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Problem::new(Code::Internal, "a task of the daemon panicked"))
}
