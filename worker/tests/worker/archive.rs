//! Archives over https: the forms that are taken, and a corpus of those that are refused, each by its rule.

mod made;

use std::os::fd::AsFd;

use runtimed_api::digest::Digest;
use runtimed_api::link::{Assign, Credential, CredentialKind, Down, ExitStatus, Source};
use runtimed_api::run::source::ArchiveSource;

use self::made::{Tar, Zip, gzip, zstd};
use crate::harness::{Daemon, sealed};
use crate::server::{Behaviour, Server};

fn source(server: &Server) -> ArchiveSource {
    ArchiveSource { url: Some(server.url("a/the.tar")), digest: None, sub_path: None, credential: None }
}

fn assign(daemon: &mut Daemon, source: ArchiveSource, servers: &[&Server]) {
    let bundle: String =
        servers.iter().map(|server| std::fs::read_to_string(server.authority()).unwrap()).collect();
    let file = std::path::Path::new(&daemon.trees.wire.tmp).join("authorities");
    std::fs::write(&file, bundle).unwrap();
    let ca_file = Some(file.to_str().unwrap().to_owned());
    let assign = Assign { ca_file, ..daemon.assignment(Source::Archive(source)) };
    daemon.send(&Down::Assign(Box::new(assign)));
}

/// A worker that is fetching this archive.
fn fetching(bytes: Vec<u8>) -> (Daemon, Server) {
    let server = Server::of_file(bytes);
    let mut daemon = Daemon::new();
    assign(&mut daemon, source(&server), &[&server]);
    (daemon, server)
}

fn good() -> Tar {
    Tar::new()
        .directory("./")
        .directory("sub/")
        .file("sub/run", 0o755, b"#!/bin/sh\ncat ../b\n")
        .file("./b", 0o644, b"text\n")
}

#[test]
fn every_form_is_unpacked_and_can_be_run() {
    let zip = Zip::new()
        .directory("sub/")
        .file("sub/run", 0o755, b"#!/bin/sh\ncat ../b\n")
        .stored("b", 0o644, b"text\n");
    let tar = good().done();
    let twice =
        [zstd(&tar[..512]), vec![0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3], zstd(&tar[512..])].concat();
    for (form, bytes) in [
        ("tar", tar.clone()),
        ("tar.gz", gzip(&tar)),
        ("tar.gz in two members", [gzip(&tar[..700]), gzip(&tar[700..])].concat()),
        ("tar.zst", zstd(&tar)),
        ("tar.zst in frames", twice),
        ("zip", zip.done()),
    ] {
        let (mut daemon, _server) = fetching(bytes);
        let baseline = daemon.baseline();
        assert!(baseline.commit.is_none() && baseline.tree.is_some(), "{form}");
        assert_eq!(daemon.trees.files(), ["b", "sub"], "{form}");
        let (exited, stdout, captured, _) = daemon.complete(&["sh", "-c", "cd sub && ./run"]);
        assert_eq!((exited.status, stdout.as_str()), (ExitStatus::Code(0), "text\n"), "{form}");
        assert!(captured.patch.is_none());
    }
}

#[test]
fn what_gnu_tar_and_git_write_is_understood() {
    let repository = crate::git::Repository::new();
    repository.git(&["rm", "-q", "link"]);
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    repository.write(&long, "far\n");
    repository.git(&["add", "."]);
    repository.git(&["commit", "-qm", "no link, a long name"]);
    let tree = repository.id("HEAD^{tree}");
    for format in ["tar", "tar.gz", "zip"] {
        let file = repository.work().join("../archive");
        repository.git(&["archive", "--format", format, "-o", file.to_str().unwrap(), "HEAD"]);
        let (mut daemon, _server) = fetching(std::fs::read(&file).unwrap());
        assert_eq!(daemon.baseline().tree.unwrap().as_str(), tree, "git archive --format {format}");
    }
    for arguments in [["--format=gnu", "-cf"], ["--format=pax", "-cf"]] {
        let bytes = made::tar_of(&repository.work(), &arguments);
        let (mut daemon, _server) = fetching(bytes);
        assert_eq!(daemon.baseline().tree.unwrap().as_str(), tree, "tar {arguments:?}");
    }
}

#[test]
fn hostile_archives_are_refused_by_their_rule() {
    let tar = Tar::new;
    let zip = Zip::new;
    let corpus: Vec<(&str, &str, Vec<u8>)> = vec![
        ("dots", "archive.traversal", tar().file("../x", 0o644, b"").done()),
        ("dots within", "archive.traversal", tar().file("a/../../x", 0o644, b"").done()),
        ("absolute", "archive.traversal", tar().file("/etc/x", 0o644, b"").done()),
        ("a directory above", "archive.traversal", tar().directory("../d/").done()),
        ("a long name with dots", "archive.traversal", tar().long_name("a/../../x").done()),
        (
            "a pax path with dots",
            "archive.traversal",
            tar().pax(&[("path", "../x")]).file("x", 0o644, b"").done(),
        ),
        ("hooks", "archive.dot-git", tar().file(".git/hooks/post-checkout", 0o755, b"x").done()),
        ("hooks in capitals", "archive.dot-git", tar().file("a/.GIT/config", 0o644, b"x").done()),
        ("hooks, by their short name", "archive.dot-git", tar().file("git~1/config", 0o644, b"x").done()),
        ("a directory of git's", "archive.dot-git", tar().directory(".git/").done()),
        ("a symlink", "archive.link", tar().link(b'2', "a", "/etc/passwd").done()),
        ("a hard link", "archive.link", tar().link(b'1', "a", "b").done()),
        (
            "a file beneath a symlink",
            "archive.link",
            tar().link(b'2', "a", "/tmp").file("a/b", 0o644, b"").done(),
        ),
        ("a device", "archive.special-file", tar().link(b'3', "a", "").done()),
        ("a block device", "archive.special-file", tar().link(b'4', "a", "").done()),
        ("a pipe", "archive.special-file", tar().link(b'6', "a", "").done()),
        ("an old sparse file", "archive.special-file", tar().link(b'S', "a", "").done()),
        (
            "a sparse file",
            "archive.special-file",
            tar().pax(&[("GNU.sparse.major", "1")]).file("a", 0o644, b"").done(),
        ),
        ("setuid", "archive.mode", tar().file("a", 0o4755, b"x").done()),
        ("setgid", "archive.mode", tar().file("a", 0o2755, b"x").done()),
        ("twice", "archive.duplicate", tar().file("a", 0o644, b"1").file("./a", 0o644, b"2").done()),
        (
            "file, then directory",
            "archive.duplicate",
            tar().file("a", 0o644, b"1").file("a/b", 0o644, b"2").done(),
        ),
        (
            "directory, then file",
            "archive.duplicate",
            tar().file("a/b", 0o644, b"1").file("a", 0o644, b"2").done(),
        ),
        (
            "empty directory, then file",
            "archive.duplicate",
            tar().directory("a/").file("a", 0o644, b"2").done(),
        ),
        ("a component too long", "archive.path-invalid", tar().long_name(&"x".repeat(300)).done()),
        ("two sizes", "archive.malformed", tar().pax(&[("size", "9")]).file("a", 0o644, b"x").done()),
        ("a size for all", "archive.malformed", tar().global(&[("size", "9")]).file("a", 0o644, b"x").done()),
        ("a path for all", "archive.malformed", tar().global(&[("path", "b")]).file("a", 0o644, b"x").done()),
        ("a bad checksum", "archive.malformed", {
            let mut t = tar().file("a", 0o644, b"x").file("b", 0o644, b"y").done();
            t[1024 + 3] ^= 1;
            t
        }),
        ("cut off", "archive.malformed", gzip(&good().done())[..100].to_vec()),
        (
            "cut off in a file",
            "archive.malformed",
            tar().file("a", 0o644, &[7; 5000]).done()[..2000].to_vec(),
        ),
        ("zstd, cut off", "archive.malformed", {
            let z = zstd(&good().done());
            z[..z.len() / 2].to_vec()
        }),
        ("a page", "archive.malformed", b"<!DOCTYPE html><html>not found</html>".to_vec()),
        ("nothing", "archive.malformed", Vec::new()),
        ("an extended header without end", "archive.malformed", tar().long_name(&"x".repeat(2 << 20)).done()),
        ("zip: dots", "archive.traversal", zip().file("../x", 0o644, b"").done()),
        ("zip: absolute", "archive.traversal", zip().file("/x", 0o644, b"").done()),
        ("zip: hooks", "archive.dot-git", zip().file(".git/config", 0o644, b"").done()),
        ("zip: a symlink", "archive.link", zip().file("a", 0o120_777, b"/etc/passwd").done()),
        ("zip: a device", "archive.special-file", zip().file("a", 0o020_666, b"").done()),
        ("zip: setuid", "archive.mode", zip().file("a", 0o104_755, b"").done()),
        ("zip: twice", "archive.duplicate", zip().file("a", 0o644, b"1").file("a", 0o644, b"2").done()),
        (
            "zip: another name inside",
            "archive.malformed",
            made::renamed(&zip().file("aaaa", 0o644, b"1").done()),
        ),
        ("zip: a wrong checksum", "archive.malformed", {
            let mut z = zip().stored("a", 0o644, b"right").done();
            let at = z.windows(5).position(|w| w == b"right").unwrap();
            z[at] = b'w';
            z
        }),
        ("zip: one file under many names", "archive.malformed", made::overlapping(b"x", 40)),
        ("zip: cut off", "archive.malformed", {
            let z = zip().file("a", 0o644, b"text").done();
            z[..z.len() - 10].to_vec()
        }),
    ];
    for (name, rule, bytes) in corpus {
        let (mut daemon, _server) = fetching(bytes);
        assert_eq!(daemon.refused(), [rule], "{name}");
        assert_eq!(daemon.exit_code(), 0, "{name}");
        assert!(daemon.trees.files().is_empty(), "{name}");
    }
}

#[test]
fn bombs_are_refused_before_they_go_off() {
    // Both forms may be made of several parts, so that one mebibyte has to be packed once only.
    let (mebi, count) = (vec![0; 1 << 20], 70);
    let header = Tar::new().claimed("zeros", 70 << 20).done()[..512].to_vec();
    let parts =
        |pack: fn(&[u8]) -> Vec<u8>| [pack(&header), pack(&mebi).repeat(count), pack(&[0; 1024])].concat();
    let zip = (0..count).fold(Zip::new(), |zip, number| zip.packed(&format!("f{number}"), &mebi));
    for (name, rule, bytes) in [
        ("gzip", "archive.ratio", parts(gzip)),
        ("zstd", "archive.ratio", parts(zstd)),
        ("zip", "archive.ratio", zip.done()),
        ("a file larger than all may be", "archive.too-large", Tar::new().claimed("a", 9 << 30).done()),
    ] {
        let (mut daemon, _server) = fetching(bytes);
        assert_eq!(daemon.refused(), [rule], "{name}");
        assert!(daemon.trees.files().is_empty(), "{name}");
    }
}

#[test]
fn other_bytes_than_the_named_are_refused_unread() {
    let bytes = good().done();
    let server = Server::of_file(bytes.clone());
    let mut daemon = Daemon::new();
    assign(&mut daemon, ArchiveSource { digest: Some(Digest::of(&bytes)), ..source(&server) }, &[&server]);
    daemon.baseline();
    // Not even the form is looked at: these bytes would be refused for another reason.
    let server = Server::of_file(b"no archive".to_vec());
    let mut daemon = Daemon::new();
    assign(&mut daemon, ArchiveSource { digest: Some(Digest::of(&bytes)), ..source(&server) }, &[&server]);
    assert_eq!(daemon.refused(), ["archive.digest"]);
}

/// `me:the password` in base64.
const LOGIN: &str = "Basic bWU6dGhlIHBhc3N3b3Jk";

fn with_login(server: &Server, host: &str) -> Daemon {
    let mut daemon = Daemon::new();
    let about = Credential { kind: CredentialKind::GitHttps, hosts: vec![host.to_owned()] };
    daemon.send_with(
        &Down::Credential(about),
        &[sealed(br#"{"username":"me","password":"the password"}"#).as_fd()],
    );
    assign(&mut daemon, source(server), &[server]);
    daemon
}

#[test]
fn a_credential_is_shown_to_its_host_alone() {
    let server = Server::of_file(good().done());
    with_login(&server, "127.0.0.1").baseline();
    assert_eq!(*server.shown.lock().unwrap(), [Some(LOGIN.to_owned())]);
    let server = Server::of_file(good().done());
    let problem = with_login(&server, "git.example").fault().problem;
    assert_eq!(problem.code.to_string(), "source-credential");
    assert!(server.shown.lock().unwrap().is_empty(), "the server was not even asked");

    // It does not follow a redirect to a host that it is not for; that host serves on the same port, for the kernel lets
    // the child reach no other.
    let target = Server::new(std::path::Path::new("/"), Behaviour::File(std::sync::Arc::new(good().done())));
    let path = format!("https://localhost:{}/x.tar?signature=1", target.port);
    let server = target.twin(Behaviour::Elsewhere(path));
    let mut daemon = Daemon::new();
    let about = Credential { kind: CredentialKind::GitHttps, hosts: vec!["127.0.0.2".to_owned()] };
    daemon.send_with(
        &Down::Credential(about),
        &[sealed(br#"{"username":"me","password":"the password"}"#).as_fd()],
    );
    let archive =
        ArchiveSource { url: Some(format!("https://127.0.0.2:{}/a.tar", server.port)), ..source(&server) };
    assign(&mut daemon, archive, &[&server, &target]);
    daemon.baseline();
    assert_eq!(*server.shown.lock().unwrap(), [Some(LOGIN.to_owned())]);
    assert_eq!(*target.shown.lock().unwrap(), [None]);
}

#[test]
fn a_redirect_to_another_port_ends_in_the_kernel() {
    let elsewhere = Server::of_file(good().done());
    let server = Server::new(std::path::Path::new("/"), Behaviour::Elsewhere(elsewhere.url("x")));
    let mut daemon = Daemon::new();
    assign(&mut daemon, source(&server), &[&server, &elsewhere]);
    let problem = daemon.fault().problem;
    assert_eq!(problem.code.to_string(), "source-unreachable", "{problem:?}");
    assert!(elsewhere.shown.lock().unwrap().is_empty());
}

#[test]
fn a_server_that_fails_is_told_apart() {
    for (status, retryable) in [(500, true), (404, false), (429, true)] {
        let server = Server::new(std::path::Path::new("/"), Behaviour::Page(status));
        let mut daemon = Daemon::new();
        assign(&mut daemon, source(&server), &[&server]);
        let problem = daemon.fault().problem;
        assert_eq!((problem.code.to_string().as_str(), problem.retryable), ("source-failed", retryable));
    }
}
