//! The exclusive tier: the only Run of a pod has the pod's three directories whole.
//!
//! Nothing of ours may lie in them then. The state has a place of its own, and the attempt's trees, with the secrets, the
//! artifacts, the outputs and the worker's own store, are made beside it. The directories are mounts, which can be neither
//! renamed over nor removed: a checkout goes into them, and they are emptied when a Run has ended, before the next begins.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use runtimed_api::enforcement::Tier;
use runtimed_sandbox::tree::{Root, TreeError};

use crate::config::Config;
use crate::daemon::Roots;
use crate::journal::State;
use crate::secrets;
use crate::state_dir::StateDir;

/// Where trees are made, in the place of the state.
const NAMES: [&str; 3] = ["exclusive-tmp", "exclusive-home", "exclusive-workspace"];

/// Whether a pod is one for the exclusive tier.
#[derive(Debug, Clone)]
pub struct Fitness {
    /// Or why it cannot be.
    pub possible: Result<(), String>,
    /// It need not be said: the three directories are mounts of their own, and nobody's but a Run's.
    pub evident: bool,
}

/// Looks whether a pod with these mount points is one for the exclusive tier.
#[must_use]
pub fn fitness(config: &Config, mounts: &BTreeSet<PathBuf>) -> Fitness {
    let possible = possible(config, mounts);
    let evident = possible.is_ok()
        && roots(config).iter().all(|root| mounts.contains(root))
        && (used_before(config) || roots(config).iter().all(|root| is_empty(root)));
    Fitness { possible, evident }
}

fn possible(config: &Config, mounts: &BTreeSet<PathBuf>) -> Result<(), String> {
    if config.slots != 1 {
        return Err(format!("a pod that one Run has whole has slots = 1, and not {}", config.slots));
    }
    let Some(state) = config.state.dir.as_deref().map(real) else {
        return Err("the state would lie in the Run's own workspace: set [state] dir to a mount of its own"
            .to_owned());
    };
    let secrets = secrets::configured(config);
    let roots = roots(config);
    for (index, root) in roots.iter().enumerate() {
        let shown = root.display();
        if state.starts_with(root) || root.starts_with(&state) {
            return Err(format!("the state {} and the Run's own {shown} lie in each other", state.display()));
        }
        if roots.iter().enumerate().any(|(other, path)| other != index && path.starts_with(root)) {
            return Err(format!("another of the three directories lies in {shown}"));
        }
        if let Some(mount) = mounts.iter().find(|mount| mount.starts_with(root) && *mount != root) {
            return Err(format!(
                "{} is a mount in {shown}, which is emptied after each Run",
                mount.display()
            ));
        }
        if let Some(secret) = secrets.iter().find(|path| path.starts_with(root)) {
            return Err(format!("{} is secret, and lies in {shown}", secret.display()));
        }
    }
    Ok(())
}

/// The three directories, where their links lead.
fn roots(config: &Config) -> [PathBuf; 3] {
    [&config.roots.tmp, &config.roots.home, &config.roots.workspace].map(|root| real(root))
}

/// Where a path leads; its last part may be missing yet.
fn real(path: &Path) -> PathBuf {
    let parent = || Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
    path.canonicalize().ok().or_else(parent).unwrap_or_else(|| path.to_owned())
}

fn used_before(config: &Config) -> bool {
    config.state.dir.as_ref().is_some_and(|place| place.join(NAMES[0]).is_dir())
}

fn is_empty(root: &Path) -> bool {
    Root::open(root).and_then(|root| root.first()).is_ok_and(|first| first.is_none())
}

/// The roots in which trees are made, and with the exclusive tier those that a Run has whole. What is in these is a former
/// Run's, if the journal knows of one that is not over; otherwise it is somebody's, and is not touched.
///
/// # Errors
/// What is there does not fit the tier.
pub fn arrange(
    found: Roots,
    state: &StateDir,
    tier: Tier,
    left: &State,
) -> anyhow::Result<(Roots, Option<Arc<Roots>>)> {
    let place = state.place();
    let unfinished = left.attempts.values().any(|attempt| attempt.tree.is_some());
    if tier != Tier::Exclusive {
        if place.join(NAMES[0]).is_dir() && unfinished {
            return Err(anyhow!(
                "{} has a Run of the exclusive tier that is not over; start once with [sandbox] tier = \"Exclusive\", which \
                 clears it away",
                place.display()
            ));
        }
        return Ok((found, None));
    }
    for root in found.all().into_iter().filter(|_| !unfinished) {
        if let Some(name) = root.first()? {
            return Err(anyhow!(
                "{} holds {}, which no Run of this daemon has left, and the exclusive tier would remove it; empty the \
                 directory, or set [sandbox] tier = \"Base\"",
                root.path().display(),
                Path::new(&name).display()
            ));
        }
    }
    let [tmp, home, workspace] = NAMES.map(|name| {
        let path = place.join(name);
        make(&path).and_then(|()| Ok(Root::open(&path)?))
    });
    Ok((Roots { tmp: tmp?, home: home?, workspace: workspace? }, Some(Arc::new(found))))
}

/// Makes a directory, or gives it the mode back that a Run took away: it knows the path.
fn make(path: &Path) -> anyhow::Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    let made = made.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)));
    made.with_context(|| format!("cannot make {}, where the exclusive tier has its trees", path.display()))
}

/// Empties the three directories: all of them, whatever becomes of the first.
///
/// # Errors
/// Something is left.
pub fn empty(whole: &Roots) -> Result<(), TreeError> {
    whole.all().map(Root::empty).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::layers::Overlay;

    fn possible_with(roots: &Path, slots: u32, more: &str, mounts: &BTreeSet<PathBuf>) -> Result<(), String> {
        let path = roots.join("runtime.toml");
        let [tmp, home, workspace] = ["tmp", "home", "workspace"].map(|name| {
            fs::create_dir_all(roots.join(name)).expect("made");
            roots.join(name).display().to_string()
        });
        let text = format!(
            "runtime = \"bash\"\nslots = {slots}\n[roots]\ntmp = {tmp:?}\nhome = {home:?}\nworkspace = {workspace:?}\n{more}"
        );
        fs::write(&path, text).expect("written");
        let config = Config::read(&path, &Overlay::default()).expect("reads");
        let fitness = fitness(&config, mounts);
        assert!(!fitness.evident, "these directories are no mounts");
        fitness.possible
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = dir.path().canonicalize().expect("it is there");
        let state = |path: &str| format!("[state]\ndir = {:?}\n", at.join(path).display().to_string());
        assert_eq!(possible_with(&at, 1, &state("state"), &BTreeSet::new()), Ok(()));
        let secret = format!(
            "[secrets.a]\nsource = \"file:{}\"\nnamespaces = [\"*\"]\n",
            at.join("home/token").display()
        );
        let cases = [
            (2, state("state"), vec![], "slots = 1"),
            (1, String::new(), vec![], "set [state] dir"),
            (1, state("workspace/state"), vec![], "lie in each other"),
            (1, state("workspace"), vec![], "lie in each other"),
            (1, state("tmp/../workspace"), vec![], "lie in each other"),
            (1, state("state"), vec![at.join("home/.ssh")], "is a mount in"),
            (1, state("state") + &secret, vec![], "is secret"),
        ];
        for (slots, more, mounts, word) in cases {
            let mounts = BTreeSet::from_iter(mounts);
            let why = possible_with(&at, slots, &more, &mounts).expect_err(word);
            assert!(why.contains(word), "{why}");
        }
    }

    #[test]
    fn what_is_somebodys_is_not_touched() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = |name: &str| {
            fs::create_dir_all(dir.path().join(name)).expect("made");
            Root::open(&dir.path().join(name)).expect("opens")
        };
        let roots = || Roots { tmp: open("tmp"), home: open("home"), workspace: open("workspace") };
        let state = StateDir::take(Some(&dir.path().join("state")), &open("workspace")).expect("taken");
        let nothing = State::default();
        let (trees, whole) = arrange(roots(), &state, Tier::Exclusive, &nothing).expect("it fits");
        assert!(trees.all().iter().all(|root| root.path().starts_with(state.place())));
        let kept = dir.path().join("home/thesis");
        fs::write(&kept, "x").expect("written");
        let why = arrange(roots(), &state, Tier::Exclusive, &nothing).expect_err("refused").to_string();
        assert!(why.contains("thesis"), "{why}");
        empty(&whole.expect("they are the Run's")).expect("emptied");
        assert!(!kept.exists());
    }
}
