//! What the servers of a cluster are told.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use runtimed_api::digest::Digest;
use serde_json::json;
use toml::Table;

use super::{Cluster, UNPRIVILEGED, own_as};

/// The person's token.
pub(super) const PERSON: &str = "person-token-of-a-test";
/// The daemons' token.
const DAEMON: &str = "daemon-token-of-a-test";

/// Writes the Runtime, and the tokens of a person and of daemons.
pub(super) fn write(base: &Path) {
    fs::create_dir(base.join("runtimes")).expect("made");
    let runtime = "apiVersion: runtimed.dev/v1alpha1\nkind: Runtime\nmetadata: { name: test }\nspec:\n  namespaces: [\"*\"]\n  ceiling: { network: Full, watch: true, localPaths: [\"/\"] }\n";
    fs::write(base.join("runtimes/test.yaml"), runtime).expect("written");
    let [person, daemon] = [PERSON, DAEMON].map(|token| Digest::of(token.as_bytes()));
    let tokens = table(&json!({
        "people": [{ "hash": person, "subject": "tester", "namespaces": ["*"], "role": "admin" }],
        "daemons": [{ "hash": daemon, "runtime": "test" }],
    }));
    fs::write(base.join("tokens.toml"), tokens.to_string()).expect("written");
    fs::write(base.join("person.token"), PERSON).expect("written");
    fs::write(base.join("daemon.token"), DAEMON).expect("written");
}

impl Cluster {
    /// Makes the directories of a daemon and writes its configuration.
    pub(super) fn configure_daemon(&self, index: usize, url: &str) {
        let (base, trees) = (self.state.path(), self.roots(index));
        for root in ["tmp", "home", "workspace"] {
            let path = trees.join(root);
            fs::create_dir_all(&path).expect("made");
            // As a kubelet makes an EmptyDir: anyone may write, and directories inherit the group.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o2777)).expect("set");
        }
        own_as(&self.state_dir(index), self.options.daemon_uid.unwrap_or(UNPRIVILEGED));
        let mut controller = json!({ "url": url, "token_file": base.join("daemon.token") });
        if let Some(keys) = &self.options.keys {
            let path = base.join("keys.json");
            fs::write(&path, keys).expect("written");
            controller["keys_file"] = json!(path);
        }
        let ours = table(&json!({
            "runtime": "test",
            "name": format!("daemon-{index}"),
            "slots": self.options.slots,
            "roots": {
                "tmp": trees.join("tmp"),
                "home": trees.join("home"),
                "workspace": trees.join("workspace"),
            },
            "state": { "dir": self.state_dir(index) },
            "controller": controller,
            "http": {
                "listen": "127.0.0.1:0",
                "tokens_file": base.join("tokens.toml"),
                "metrics_token_file": base.join("person.token"),
            },
            "worker": { "path": self.daemon_program("runtimed-worker") },
            "ceiling": { "network": "Full", "watch": true, "localPaths": ["/"] },
        }));
        let mut config: Table = self.options.runtime_toml.parse().expect("TOML");
        if let Some(store) = self.options.store.as_ref().filter(|_| !self.options.through_controller) {
            config.insert("store".to_owned(), store.parse::<Table>().expect("TOML").into());
        }
        for (key, value) in ours {
            assert!(config.insert(key.clone(), value).is_none(), "[{key}] is given twice");
        }
        fs::write(self.config(index), config.to_string()).expect("written");
    }
}

fn table(value: &serde_json::Value) -> Table {
    Table::try_from(value).expect("a table")
}
