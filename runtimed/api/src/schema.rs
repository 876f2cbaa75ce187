//! JSON Schemas of what people and programs exchange with us; snapshots of them are in docs/schemas/.

use schemars::{Schema, schema_for};

/// Every published schema: the file's name, and the schema.
#[must_use]
pub fn published() -> Vec<(&'static str, Schema)> {
    vec![
        ("run", schema_for!(crate::run::Run)),
        ("runtime", schema_for!(crate::runtime::Runtime)),
        ("submission", schema_for!(crate::session::Submission)),
        ("problem", schema_for!(crate::problem::Problem)),
        ("manifest", schema_for!(crate::manifest::Manifest)),
        ("log-event", schema_for!(crate::log::LogEvent)),
        ("tokens", schema_for!(crate::tokens::Tokens)),
        ("lease", schema_for!(crate::session::Lease)),
        ("reports", schema_for!(crate::session::Reports)),
        ("renew", schema_for!(crate::session::Renew)),
        ("renewed", schema_for!(crate::session::Renewed)),
        ("session", schema_for!(crate::session::Session)),
        ("keys", schema_for!(crate::provenance::KeyHistory)),
        ("statement", schema_for!(crate::provenance::Statement)),
    ]
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// The snapshots are what others generate code from: a change of one is a change of the protocol. Run the test with
    /// `UPDATE_SCHEMAS=1` to write them anew.
    #[test]
    fn snapshots_are_current() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schemas");
        for (name, schema) in super::published() {
            let text = serde_json::to_string_pretty(&schema).expect("serialises") + "\n";
            let file = dir.join(format!("{name}.json"));
            if std::env::var_os("UPDATE_SCHEMAS").is_some() {
                fs::create_dir_all(&dir).expect("the directory");
                fs::write(&file, &text).expect("the snapshot");
            }
            let kept = fs::read_to_string(&file).unwrap_or_default();
            assert!(
                kept == text,
                "{name}.json differs from the types: review the change, then UPDATE_SCHEMAS=1"
            );
        }
    }
}
