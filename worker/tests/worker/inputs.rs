//! Earlier Runs' artifacts as inputs: laid out beside the workspace, or refused before anything is there.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use runtimed_api::digest::Digest;
use runtimed_api::link::{Assign, Down, FetchedArtifacts, Input, Source, layout};
use runtimed_api::manifest::{Artifact, Manifest};

use crate::harness::Daemon;

/// Puts files where the daemon puts them, and says so.
fn with(files: &[(&str, &str, bool)]) -> Daemon {
    let mut daemon = Daemon::new();
    let tree = Path::new(&daemon.trees.wire.workspace).to_owned();
    std::fs::create_dir(tree.join(layout::GIVEN)).unwrap();
    let place = tree.join(layout::PRIVATE).join("input-0");
    std::fs::create_dir(&place).unwrap();
    let artifact = |(path, text, executable): &(&str, &str, bool)| {
        let digest = Digest::of(text.as_bytes());
        std::fs::write(place.join(digest.hex()), text).unwrap();
        Artifact {
            path: (*path).to_owned(),
            digest,
            size: text.len() as u64,
            content_type: "text/plain".to_owned(),
            executable: *executable,
            redacted: false,
        }
    };
    let manifest = Manifest { files: files.iter().map(artifact).collect(), skipped: Vec::new() };
    let list = tree.join(layout::PRIVATE).join("input-0.json");
    std::fs::write(&list, serde_json::to_vec(&manifest).unwrap()).unwrap();
    let artifacts = FetchedArtifacts {
        manifest: list.to_str().unwrap().to_owned(),
        files: place.to_str().unwrap().to_owned(),
    };
    let mut assign = daemon.assignment(Source::Empty);
    assign.confinement.given = true;
    let inputs = vec![Input { run: "build".parse().unwrap(), artifacts }];
    daemon.send(&Down::Assign(Box::new(Assign { inputs, ..assign })));
    daemon
}

#[test]
fn files_have_their_modes_and_one_content_may_have_many_names() {
    let mut daemon = with(&[("a", "same\n", false), ("d/e/tool", "same\n", true), ("z", "other\n", false)]);
    daemon.baseline();
    let place =
        Path::new(&daemon.trees.wire.workspace).join(layout::GIVEN).join(layout::INPUTS).join("build");
    for (path, text, mode) in [("a", "same\n", 0o444), ("d/e/tool", "same\n", 0o555), ("z", "other\n", 0o444)]
    {
        assert_eq!(std::fs::read_to_string(place.join(path)).unwrap(), text);
        assert_eq!(place.join(path).metadata().unwrap().permissions().mode() & 0o777, mode, "{path}");
    }
    let line = format!("cd {}; cat a z; echo x > a || echo kept", place.display());
    let (_, stdout, captured, _) = daemon.complete(&["sh", "-c", &line]);
    assert_eq!(stdout, "same\nother\nkept\n");
    assert!(captured.patch.is_none());
}

#[test]
fn paths_that_lead_elsewhere_are_refused_and_nothing_is_written() {
    for files in [
        &[("good", "x", false), ("../out", "x", false)][..],
        &[("/etc/x", "x", false)],
        &[("a", "x", false), ("a", "y", false)],
        &[("a", "x", false), ("a/b", "y", false)],
        &[("d/.git/config", "x", false)],
    ] {
        let mut daemon = with(files);
        assert_eq!(daemon.refused(), ["source.artifacts"], "{files:?}");
        let tree = Path::new(&daemon.trees.wire.workspace);
        assert_eq!(std::fs::read_dir(tree.join(layout::GIVEN)).unwrap().count(), 0, "{files:?}");
        assert!(!tree.join("out").exists());
    }
}
