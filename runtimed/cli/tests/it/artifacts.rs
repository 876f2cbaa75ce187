//! Getting artifacts from a server that may lie.

use std::fs;

use runtimed_api::digest::Digest;
use runtimed_api::manifest::{Artifact, Manifest};

use crate::process::run_in;
use crate::script::{Script, Server};

const BYTES: &str = "content";

fn script(path: &str, digest: Digest) -> Script {
    let file = Artifact {
        path: path.to_owned(),
        digest,
        size: BYTES.len() as u64,
        content_type: "text/plain".to_owned(),
        executable: false,
        redacted: false,
    };
    let manifest = Manifest { files: vec![file], skipped: Vec::new() };
    Script { manifest, bytes: BYTES, ..Script::default() }
}

#[test]
fn artifacts_are_listed_saved_and_written_out() {
    let server = Server::start(script("dist/a.txt", Digest::of(BYTES.as_bytes())));
    let dir = tempfile::tempdir().expect("a directory");
    let ctl = |arguments: &[&str]| run_in(dir.path(), &[&["--server", &server.url], arguments].concat());
    let said = ctl(&["artifacts", "fix-typo"]);
    assert!(said.code == Some(0) && said.out.contains("dist/a.txt  7 B"), "{said:?}");
    let said = ctl(&["artifacts", "get", "fix-typo", "dist/a.txt", "--stdout"]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), BYTES));
    let said = ctl(&["artifacts", "get", "fix-typo", "-o", "out"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(fs::read_to_string(dir.path().join("out/dist/a.txt")).expect("saved"), BYTES);
    let said = ctl(&["artifacts", "get", "fix-typo", "other"]);
    assert_eq!(said.code, Some(121), "{said:?}");
}

#[test]
fn what_is_not_as_listed_is_not_kept() {
    for (path, digest) in [("a.txt", Digest::of(b"other")), ("../a.txt", Digest::of(BYTES.as_bytes()))] {
        let server = Server::start(script(path, digest));
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("here")).expect("made");
        let said =
            run_in(&dir.path().join("here"), &["--server", &server.url, "artifacts", "get", "fix-typo"]);
        assert_eq!(said.code, Some(125), "{said:?}");
        let left: Vec<_> = fs::read_dir(dir.path())
            .expect("read")
            .chain(fs::read_dir(dir.path().join("here")).expect("read"))
            .collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}
