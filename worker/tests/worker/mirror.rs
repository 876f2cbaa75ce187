//! A warm mirror: what a fetch may take from it, and what no accident leaves in it.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use runtimed_api::link::{Assign, Credential, CredentialKind, Down, ExitStatus, Mirror, Source};
use runtimed_api::run::source::GitSource;
use runtimed_sandbox::process::Signal;
use tempfile::TempDir;

use crate::git::{Repository, git};
use crate::harness::{Daemon, sealed};
use crate::server::{Behaviour, Server};
use crate::source::at;

/// `me:the password` in base64.
const LOGIN: &str = "Basic bWU6dGhlIHBhc3N3b3Jk";
/// An answer with a pack of nothing: headers, and a few packets.
const NOTHING: usize = 400;

struct Place {
    repository: Repository,
    server: Server,
    mirror: TempDir,
}

impl Place {
    fn new() -> Self {
        let repository = Repository::new();
        // Enough that a whole pack is told from a part of one.
        for number in 0..50_u32 {
            let text: String =
                (0..200).map(|line| format!("{:x}\n", line * 7919 + number * 104_729)).collect();
            repository.write(&format!("many/{number}"), &text);
        }
        repository.git(&["add", "."]);
        repository.git(&["commit", "-qm", "many"]);
        let bare = repository.bare();
        let server = Server::new(bare.parent().unwrap(), Behaviour::Login(LOGIN.to_owned()));
        Self { repository, server, mirror: TempDir::new().unwrap() }
    }

    fn mirror(&self, epoch: &str) -> Mirror {
        let path = self.mirror.path().to_str().unwrap().to_owned();
        Mirror { path, epoch: epoch.to_owned(), max_bytes: 64 << 20 }
    }

    fn fetch(&self, password: &str, source: GitSource, mirror: Mirror) -> Daemon {
        let mut daemon = Daemon::new();
        let about = Credential { kind: CredentialKind::GitHttps, hosts: vec!["127.0.0.1".to_owned()] };
        let login = serde_json::json!({ "username": "me", "password": password }).to_string();
        daemon.send_with(&Down::Credential(about), &[sealed(login.as_bytes()).as_fd()]);
        let assign = Assign {
            ca_file: Some(self.server.authority().to_str().unwrap().to_owned()),
            mirror: Some(mirror),
            ..daemon.assignment(Source::Git(source))
        };
        daemon.send(&Down::Assign(Box::new(assign)));
        daemon
    }

    /// A fetch that succeeds; the bytes that came for it.
    fn fetched(&self, reference: Option<&str>, depth: u32, epoch: &str) -> (Daemon, usize) {
        let source = GitSource { depth: Some(depth), ..at(&self.server.url("bare.git"), reference) };
        let mut daemon = self.fetch("the password", source, self.mirror(epoch));
        daemon.baseline();
        let bytes = *self.server.packs.lock().unwrap().last().unwrap();
        let workspace = daemon.trees.workspace();
        assert_eq!(git(&workspace, &["status", "--porcelain"]), "");
        git(&workspace, &["fsck", "--strict"]);
        (daemon, bytes)
    }

    fn entries(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.mirror.path()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

#[test]
fn the_same_commit_does_not_come_twice_and_a_new_one_comes_in_part() {
    for depth in [0, 1, 2] {
        let place = Place::new();
        let (_, whole) = place.fetched(None, depth, "e");
        let (daemon, again) = place.fetched(None, depth, "e");
        assert!(again < NOTHING && whole > 10 * NOTHING, "depth {depth}: {whole}, then {again} bytes");
        assert_eq!(git(&daemon.trees.workspace(), &["rev-parse", "HEAD"]), place.repository.id("main"));
        place.repository.write("many/7", "changed\n");
        place.repository.git(&["commit", "-qam", "one more"]);
        place.repository.bare();
        let (daemon, part) = place.fetched(None, depth, "e");
        assert!(part < whole / 4, "depth {depth}: {whole}, then {part} bytes");
        let workspace = daemon.trees.workspace();
        assert_eq!(git(&workspace, &["rev-parse", "HEAD"]), place.repository.id("main"));
        let history = match depth {
            0 => place.repository.git(&["rev-list", "--count", "main"]),
            depth => depth.to_string(),
        };
        assert_eq!(git(&workspace, &["rev-list", "--count", "HEAD"]), history, "depth {depth}");
        assert_eq!(place.entries().len(), 2);
        // Back to an earlier one, by its id and by a branch.
        let (daemon, _) = place.fetched(Some("side"), depth, "e");
        assert_eq!(git(&daemon.trees.workspace(), &["rev-parse", "HEAD"]), place.repository.id("side"));
    }
}

#[test]
fn a_login_that_the_server_refuses_gets_nothing_from_the_mirror() {
    let place = Place::new();
    place.fetched(None, 1, "e");
    for reference in [None, Some(place.repository.id("main"))] {
        let source = at(&place.server.url("bare.git"), reference.as_deref());
        let mut daemon = place.fetch("another password", source, place.mirror("e"));
        assert_eq!(daemon.fault().problem.code.to_string(), "source-credential", "{reference:?}");
        assert!(daemon.trees.files().is_empty());
        assert!(
            !Path::new(&daemon.trees.wire.workspace)
                .join("p/objects.git/objects/pack")
                .read_dir()
                .is_ok_and(|mut packs| packs.next().is_some())
        );
    }
}

#[test]
fn a_commit_that_the_server_does_not_give_any_more_is_refused() {
    let place = Place::new();
    let secret = place.repository.id("main");
    place.fetched(Some(&secret), 1, "e");
    place.repository.git(&["reset", "-q", "--hard", "side"]);
    place.repository.git(&["reflog", "expire", "--expire=all", "--all"]);
    place.repository.git(&["gc", "-q", "--prune=now"]);
    place.repository.bare();
    let source = at(&place.server.url("bare.git"), Some(&secret));
    let mut daemon = place.fetch("the password", source, place.mirror("e"));
    assert_eq!(daemon.refused(), ["source.ref-not-found"]);
    assert!(daemon.trees.files().is_empty());
}

#[test]
fn nothing_is_shared_with_the_workspace_and_no_command_reaches_the_mirror() {
    let place = Place::new();
    place.fetched(None, 0, "e");
    let (daemon, _) = place.fetched(None, 0, "e");
    let entry = place.entries().pop().unwrap();
    let inodes: Vec<_> =
        std::fs::read_dir(&entry).unwrap().map(|file| file.unwrap().metadata().unwrap().ino()).collect();
    let packs = daemon.trees.workspace().join(".git/objects/pack");
    for file in std::fs::read_dir(&packs).unwrap() {
        let about = file.unwrap().metadata().unwrap();
        assert!(about.nlink() == 1 && !inodes.contains(&about.ino()));
    }
    assert!(!daemon.trees.workspace().join(".git/objects/info/alternates").exists());
    let script = format!("ls {0} || cat {0}/*/sums || : > {0}/x", place.mirror.path().display());
    let (exited, stdout, _, _) = daemon.complete(&["sh", "-c", &script]);
    assert!(exited.status != ExitStatus::Code(0) && stdout.is_empty());
    // What the command does to its own copy stays there.
    let (daemon, _) = place.fetched(None, 0, "e");
    let (exited, ..) =
        daemon.complete(&["sh", "-c", "chmod -R u+w .git && for f in .git/objects/pack/*; do : > $f; done"]);
    assert_eq!(exited.status, ExitStatus::Code(0));
    let (_, bytes) = place.fetched(None, 0, "e");
    assert!(bytes < NOTHING);
}

#[test]
fn what_an_earlier_life_left_is_verified_and_damage_is_not_used() {
    let place = Place::new();
    let (_, whole) = place.fetched(None, 1, "first");
    let (_, again) = place.fetched(None, 1, "second");
    assert!(again < NOTHING, "it was whole");
    let entry = place.entries().pop().unwrap();
    let mut files = std::fs::read_dir(&entry).unwrap().map(|file| file.unwrap().path());
    let pack = files.find(|file| file.extension().is_some_and(|end| end == "pack")).unwrap();
    let mut bytes = std::fs::read(&pack).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::remove_file(&pack).unwrap();
    std::fs::write(&pack, bytes).unwrap();
    let (_, came) = place.fetched(None, 1, "third");
    assert!(came > whole / 2, "it came anew");
    let (_, came) = place.fetched(None, 1, "fourth");
    assert!(came < NOTHING, "and was kept");
}

#[test]
fn an_entry_that_is_larger_than_allowed_is_not_kept() {
    let place = Place::new();
    let source = at(&place.server.url("bare.git"), None);
    let mirror = Mirror { max_bytes: 100, ..place.mirror("e") };
    place.fetch("the password", source, mirror).baseline();
    assert!(place.entries().is_empty());
}

/// The whole worker is killed at the moments that matter; what is in the mirror afterwards is whole or is not taken for it.
#[test]
fn a_fetch_that_is_killed_leaves_nothing_that_is_taken_for_whole() {
    let place = Place::new();
    for round in 0..12 {
        let reference = if round % 2 == 0 { "main" } else { "side" };
        let source = GitSource { depth: Some(round), ..at(&place.server.url("bare.git"), Some(reference)) };
        let before = place.entries().len();
        let daemon = place.fetch("the password", source, place.mirror("e"));
        // A draft or an entry has come: some rounds kill early in its making, some late.
        let mut seen = 0;
        while place.entries().len() == before && seen < 200_000 {
            seen += 1;
        }
        daemon.worker.signal(Signal::KILL).unwrap();
        drop(daemon);
        let draft = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("new-");
        for entry in place.entries().into_iter().filter(|path| !draft(path)) {
            assert!(entry.join("sums").exists() && entry.join("whole-e").exists(), "round {round}");
        }
    }
    for (depth, reference) in [(0, "main"), (1, "main"), (1, "side"), (3, "side")] {
        let (daemon, _) = place.fetched(Some(reference), depth, "after");
        assert_eq!(git(&daemon.trees.workspace(), &["rev-parse", "HEAD"]), place.repository.id(reference));
    }
}
