//! The environment that a command finds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use runtimed_api::environment as names;
use runtimed_api::ids::AttemptKey;
use runtimed_api::link::{Trees, inside, layout};
use runtimed_api::run::network::{Dns, Network, NetworkMode};

use crate::config::RunSettings;

/// Where a command finds what is its own.
#[derive(Debug)]
pub struct Places {
    /// Its `TMPDIR`.
    pub tmp: PathBuf,
    /// Its `HOME`.
    pub home: PathBuf,
    /// Where it starts.
    pub workspace: PathBuf,
    /// Its artifacts.
    pub artifacts: PathBuf,
    /// The directory of its outputs.
    pub outputs: PathBuf,
    /// What it is given to read, if anything.
    pub given: PathBuf,
    /// The workspace is a mount, which belongs to whoever made the pod.
    pub mounted: bool,
}

impl Places {
    /// In the view that a Run has in namespaces of its own.
    #[must_use]
    pub fn inside() -> Self {
        Self {
            tmp: inside::TMP.into(),
            home: inside::HOME.into(),
            workspace: inside::WORKSPACE.into(),
            artifacts: inside::ARTIFACTS.into(),
            outputs: inside::OUTPUTS_DIR.into(),
            given: inside::GIVEN.into(),
            mounted: false,
        }
    }

    /// In the three trees themselves, or in what the command has whole.
    #[must_use]
    pub fn in_trees(trees: &Trees) -> Self {
        Self {
            tmp: trees.command_tmp(),
            home: trees.command_home(),
            workspace: trees.command_workspace(),
            artifacts: trees.in_workspace(layout::ARTIFACTS),
            outputs: trees.in_home(layout::OUTPUTS_DIR),
            given: trees.in_workspace(layout::GIVEN),
            mounted: trees.whole.is_some(),
        }
    }
}

/// The whole environment but for secrets. Later sources win: ours of the place, those of the way `out`, the operator's, the
/// Run's; what says where things are is set last, for a Run that moved it would only deceive itself.
#[must_use]
pub fn environment(
    attempt: &AttemptKey,
    places: &Places,
    settings: &RunSettings,
    network: &Network,
    out: BTreeMap<String, String>,
    of_the_daemon: &BTreeMap<String, String>,
    of_the_run: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let image = |name: &str, otherwise: &str| {
        of_the_daemon.get(name).cloned().unwrap_or_else(|| otherwise.to_owned())
    };
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), image("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")),
        ("LANG".to_owned(), image("LANG", "C.UTF-8")),
        // A random uid has no passwd entry; programs that ask for a name get one here.
        ("USER".to_owned(), "worker".to_owned()),
        ("LOGNAME".to_owned(), "worker".to_owned()),
    ]);
    if network.mode == NetworkMode::Ports && network.dns.unwrap_or_default() == Dns::Tcp {
        // UDP is closed: the resolver asks over TCP.
        env.insert("RES_OPTIONS".to_owned(), "use-vc".to_owned());
    }
    env.extend(out);
    if places.mounted {
        // git(1) takes nothing from a repository in a directory of another owner, unless it is told to.
        env.extend([
            ("GIT_CONFIG_COUNT".to_owned(), "1".to_owned()),
            ("GIT_CONFIG_KEY_0".to_owned(), "safe.directory".to_owned()),
            ("GIT_CONFIG_VALUE_0".to_owned(), text(&places.workspace)),
        ]);
    }
    for name in &settings.pass_env {
        if let Some(value) = of_the_daemon.get(name) {
            env.insert(name.clone(), value.clone());
        }
    }
    env.extend(settings.env.clone());
    env.extend(of_the_run.iter().map(|(name, value)| (name.clone(), value.clone())));
    env.extend([
        ("HOME".to_owned(), text(&places.home)),
        ("TMPDIR".to_owned(), text(&places.tmp)),
        (names::WORKSPACE.to_owned(), text(&places.workspace)),
        (names::ARTIFACTS_DIR.to_owned(), text(&places.artifacts)),
        (names::OUTPUTS.to_owned(), text(&places.outputs.join(layout::OUTPUTS_FILE))),
        (names::NAMESPACE.to_owned(), attempt.namespace.to_string()),
        (names::RUN.to_owned(), attempt.name.to_string()),
        (names::RUN_UID.to_owned(), attempt.uid.to_string()),
        (names::ATTEMPT.to_owned(), attempt.attempt.to_string()),
    ]);
    env
}

/// Adds every alias whose name of ours is set.
pub fn add_aliases<'a>(
    env: &mut BTreeMap<String, String>,
    aliases: impl IntoIterator<Item = (&'a String, &'a String)>,
) {
    for (alias, ours) in aliases {
        if let Some(value) = env.get(ours).cloned() {
            env.insert(alias.clone(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_are_ours_and_the_rest_is_the_runs() {
        let attempt =
            serde_json::from_str(r#"{"namespace":"default","name":"x","uid":"u","attempt":1,"fence":1}"#)
                .expect("a key");
        let trees =
            Trees { tmp: "/t".to_owned(), home: "/h".to_owned(), workspace: "/w".to_owned(), whole: None };
        let places = Places::in_trees(&trees);
        let daemon =
            BTreeMap::from([("PATH".to_owned(), "/bin".to_owned()), ("TOKEN".to_owned(), "x".to_owned())]);
        let run =
            BTreeMap::from([("HOME".to_owned(), "/elsewhere".to_owned()), ("A".to_owned(), "b".to_owned())]);
        let settings = RunSettings {
            env: BTreeMap::from([("HTTPS_PROXY".to_owned(), "http://operators".to_owned())]),
            ..RunSettings::default()
        };
        let out = ["HTTPS_PROXY", "NO_PROXY"].map(|name| (name.to_owned(), "ours".to_owned())).into();
        let mut env = environment(&attempt, &places, &settings, &Network::default(), out, &daemon, &run);
        add_aliases(&mut env, &BTreeMap::from([("ORKA_WORKSPACE".to_owned(), names::WORKSPACE.to_owned())]));
        assert_eq!(env["HOME"], "/h/h");
        assert_eq!(env["A"], "b");
        assert_eq!(env["PATH"], "/bin");
        assert_eq!(env["HTTPS_PROXY"], "http://operators");
        assert_eq!(env["NO_PROXY"], "ours");
        assert_eq!(env["ORKA_WORKSPACE"], "/w/w");
        assert!(!env.contains_key("TOKEN"), "the daemon's own environment is not handed on");
    }
}
