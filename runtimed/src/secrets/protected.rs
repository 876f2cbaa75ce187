//! What no command may be granted: an allow-list cannot subtract, so that a grant that holds one of these is refused.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::path_of;
use crate::config::Config;
use crate::state_dir::StateDir;

/// Every path behind which a secret or the daemon's state is, as it is configured and where its links lead now.
#[must_use]
pub fn protected(config: &Config, state: &StateDir) -> Vec<String> {
    let text = |path: PathBuf| path.into_os_string().into_string().ok();
    configured(config).into_iter().chain([state.path().to_owned()]).filter_map(text).collect()
}

/// Every path behind which a secret is, as it is configured and where its links lead now.
pub(crate) fn configured(config: &Config) -> BTreeSet<PathBuf> {
    let sources = config.secrets.values().map(|secret| path_of(&secret.source));
    let own = [
        config.controller.as_ref().map(|controller| controller.token_file.clone()),
        config.http.tls_key.clone(),
        config.http.metrics_token_file.clone(),
    ];
    let mut paths = BTreeSet::new();
    for path in sources.chain(own.into_iter().flatten()) {
        paths.extend(path.canonicalize());
        paths.extend(volume(&path));
        paths.insert(path);
    }
    paths
}

/// The whole volume of a source in one that the kubelet mounts: the next value will be in another directory of it.
fn volume(path: &Path) -> Option<PathBuf> {
    let dir = path.parent()?;
    dir.join("..data").is_symlink().then(|| dir.to_owned())
}
