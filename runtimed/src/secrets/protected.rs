//! What no command may be granted: an allow-list cannot subtract, so that a grant that holds one of these is refused.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use runtimed_store::StoreConfig;

use super::path_of;
use crate::config::{Config, Controller, Http};
use crate::state_dir::StateDir;

/// Every path behind which a secret or the daemon's state is, as it is configured and where its links lead now.
#[must_use]
pub fn protected(config: &Config, state: &StateDir) -> Vec<String> {
    let text = |path: PathBuf| path.into_os_string().into_string().ok();
    configured(config).into_iter().chain([state.path().to_owned()]).filter_map(text).collect()
}

/// Every path behind which a secret is, as it is configured and where its links lead now.
pub(crate) fn configured(config: &Config) -> BTreeSet<PathBuf> {
    let mut paths = BTreeSet::new();
    for path in files(config) {
        paths.extend(path.canonicalize());
        paths.extend(volume(&path));
        paths.insert(path);
    }
    paths
}

/// Sources of Runs' secrets, and what is the daemon's own.
fn files(config: &Config) -> Vec<PathBuf> {
    let sources = config.secrets.values().map(|secret| path_of(&secret.source));
    sources.chain(own(config).into_iter().map(|(_, path)| path)).collect()
}

/// The daemon's own credentials, by their keys, and the store that it shares with others. Each table that names files is taken
/// apart, so that a new key does not compile before it was decided what it is.
pub(crate) fn own(config: &Config) -> Vec<(&'static str, PathBuf)> {
    let token = config
        .controller
        .as_ref()
        .map(|Controller { token_file, url: _, ca_file: _, keys_file: _ }| token_file);
    let Http { tls_key, tokens_file, metrics_token_file, listen: _, tls_cert: _, address: _ } = &config.http;
    let store = match &config.store {
        None => ("store", None),
        // No credential, but what other Runs have left.
        Some(StoreConfig::Directory { path }) => ("store.path", Some(path)),
        Some(StoreConfig::S3 {
            credentials_dir,
            bucket: _,
            prefix: _,
            region: _,
            endpoint: _,
            ca_file: _,
        }) => ("store.credentials_dir", credentials_dir.as_ref()),
        Some(StoreConfig::Gcs { service_account_file, bucket: _, prefix: _, endpoint: _, ca_file: _ }) => {
            ("store.service_account_file", service_account_file.as_ref())
        }
        Some(StoreConfig::Azure {
            access_key_file,
            account: _,
            container: _,
            prefix: _,
            ca_file: _,
            endpoint: _,
        }) => ("store.access_key_file", access_key_file.as_ref()),
    };
    let all = [
        ("controller.token_file", token),
        ("http.tls_key", tls_key.as_ref()),
        ("http.tokens_file", tokens_file.as_ref()),
        ("http.metrics_token_file", metrics_token_file.as_ref()),
        store,
    ];
    all.into_iter().filter_map(|(key, path)| Some((key, path?.clone()))).collect()
}

/// The whole volume of a source in one that the kubelet mounts: the next value will be in another directory of it.
fn volume(path: &Path) -> Option<PathBuf> {
    let dir = path.parent()?;
    dir.join("..data").is_symlink().then(|| dir.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every key that names a file or a directory, in every kind of store: a secret, or what a command may well be granted.
    #[test]
    fn every_file_is_known_to_be_a_secret_or_not() {
        let common = r#"
            runtime = "bash"
            state.dir = "/open/state"
            worker.path = "/open/worker"
            tls.ca_file = "/open/ca"
            [roots]
            tmp = "/open/tmp"
            home = "/open/home"
            workspace = "/open/workspace"
            [controller]
            url = "https://controller.example"
            token_file = "/closed/token"
            ca_file = "/open/ca"
            keys_file = "/open/keys"
            [http]
            tls_cert = "/open/cert"
            tls_key = "/closed/key"
            tokens_file = "/closed/tokens"
            metrics_token_file = "/closed/metrics"
            [secrets.a]
            source = "file:/closed/secret"
            [secrets.b]
            source = "dir:/closed/credential"
            kind = "git-https"
            hosts = ["git.example"]
        "#;
        for store in [
            "kind = 'directory'\npath = '/closed/store'",
            "kind = 's3'\nbucket = 'b'\nca_file = '/open/ca'\ncredentials_dir = '/closed/aws'",
            "kind = 'gcs'\nbucket = 'b'\nca_file = '/open/ca'\nservice_account_file = '/closed/gcp'",
            "kind = 'azure'\naccount = 'a'\ncontainer = 'c'\nca_file = '/open/ca'\naccess_key_file = '/closed/azure'",
        ] {
            let text = format!("{common}\n[store]\n{store}\n");
            let config: Config = toml::from_str(&text).expect("a configuration");
            let closed: BTreeSet<PathBuf> = text
                .split(['"', '\''])
                .filter_map(|value| Some(PathBuf::from(&value[value.find("/closed/")?..])))
                .collect();
            assert_eq!(configured(&config), closed, "{store}");
        }
    }
}
