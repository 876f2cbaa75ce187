//! The probes' program, compiled for this test.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use runtimed_tests::process::command;

/// The programs, in a directory that every uid may read and execute, and that no tier puts something else in place of.
#[derive(Debug)]
pub(crate) struct Programs {
    dir: tempfile::TempDir,
}

/// One thing that is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) name: String,
    /// The Run in which it is tried.
    pub(crate) mode: String,
    pub(crate) kind: Kind,
    pub(crate) subject: String,
    pub(crate) does: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Has to be refused.
    Attack,
    /// Has to succeed.
    Work,
}

impl Programs {
    /// Compiles them.
    pub(crate) fn compile() -> Self {
        let dir = shared_directory();
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("probes");
        let files = fs::read_dir(&sources).expect("the sources").map(|entry| entry.expect("a file").path());
        let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "c"));
        let mut gcc = command("gcc");
        gcc.args(["-std=gnu17", "-O1", "-static", "-Wall", "-Wextra", "-Werror", "-o"]);
        let made = gcc.arg(dir.path().join("probe")).args(files).output().expect("gcc runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        if rustix::process::geteuid().is_root() {
            let setuid = dir.path().join("setuid");
            fs::copy(dir.path().join("probe"), &setuid).expect("copied");
            fs::set_permissions(setuid, fs::Permissions::from_mode(0o4755)).expect("set");
        }
        Self { dir }
    }

    /// Where they are on this machine.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Everything that it can try.
    pub(crate) fn probes(&self) -> Vec<Probe> {
        let output = command(self.dir.path().join("probe")).arg("list").output().expect("it runs");
        let text = String::from_utf8(output.stdout).expect("text");
        text.lines().map(probe).collect()
    }
}

fn probe(line: &str) -> Probe {
    let fields: Vec<String> = line.split('\t').map(str::to_owned).collect();
    let [name, mode, kind, subject, does] = <[String; 5]>::try_from(fields).expect("five fields");
    let kind = if kind == "work" { Kind::Work } else { Kind::Attack };
    Probe { name, mode, kind, subject, does }
}

/// Not in `/tmp`, which is the Run's own in some tiers.
pub(crate) fn shared_directory() -> tempfile::TempDir {
    let dir =
        tempfile::Builder::new().prefix("runtimed-probes-").tempdir_in("/var/tmp").expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("set");
    dir
}

/// A directory in it that belongs to a uid.
pub(crate) fn directory_of(uid: u32, path: PathBuf) -> PathBuf {
    fs::create_dir(&path).expect("made");
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(uid), Some(uid)).expect("owned");
    }
    path
}

/// With them an attempt would do what it attempts, to this machine.
#[test]
fn with_privileges_nothing_is_attempted() {
    let programs = Programs::compile();
    let probe = programs.dir().join("probe");
    let one_capability = [
        "setpriv",
        "--reuid=65532",
        "--regid=65532",
        "--clear-groups",
        "--inh-caps=+chown",
        "--ambient-caps=+chown",
    ];
    let ways: &[&[&str]] = match rustix::process::geteuid().is_root() {
        true => &[&["env"], &one_capability],
        false => &[
            &["unshare", "--user", "--map-root-user"],
            &["unshare", "--user", "--map-current-user", "--keep-caps"],
        ],
    };
    for way in ways {
        let [program, options @ ..] = *way else { continue };
        let output =
            command(program).args(options).arg(&probe).args(["all", "none"]).output().expect("it runs");
        assert_eq!(
            (output.status.code(), output.stdout.as_slice()),
            (Some(120), &b""[..]),
            "{way:?} {output:?}"
        );
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("with privileges these attempts would do harm"), "{said}");
    }
}
