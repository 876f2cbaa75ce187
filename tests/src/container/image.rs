//! The image that other images are made from: Debian's smallest set of packages and what real work needs, made by
//! mmdebstrap from the distribution's archive and kept in podman's store under a tag that names its recipe.

use std::fs;
use std::io::Read as _;

use runtimed_api::digest::Digest;

use super::podman;
use crate::binaries;
use crate::process::command;

/// The release that the binaries under test are linked for, if the machine does not say its own.
const SUITE: &str = "bookworm";

/// An image in podman's store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image(String);

impl Image {
    /// An image that is there.
    #[must_use]
    pub fn named(reference: impl Into<String>) -> Self {
        Self(reference.into())
    }

    /// The smallest Debian of this machine's release, with what the image `bash` adds to it, so that neither the escape
    /// suite nor the images under test need a network once it is made.
    #[must_use]
    pub fn base() -> Self {
        Self::of(&["ca-certificates", "gawk", "git", "make", "patch"])
    }

    /// A Debian with these packages. Made once: further calls, also of other processes, find it in the store.
    ///
    /// # Panics
    /// It cannot be made.
    #[must_use]
    pub fn of(packages: &[&str]) -> Self {
        let suite = suite();
        let recipe = format!("minbase {suite} {}", packages.join(","));
        let digest = Digest::of(recipe.as_bytes()).to_string();
        let short = digest.trim_start_matches("sha256:").get(..16).expect("a digest is longer");
        let image = Self(format!("localhost/runtimed-test:{short}"));
        let lock = fs::File::create(binaries::dir().join("containers.lock")).expect("a file");
        lock.lock().expect("locked");
        if !image.exists() {
            image.make(&suite, packages);
        }
        image
    }

    /// What podman calls it.
    #[must_use]
    pub fn reference(&self) -> &str {
        &self.0
    }

    pub(super) fn exists(&self) -> bool {
        podman().args(["image", "exists", &self.0]).status().expect("podman runs").success()
    }

    fn make(&self, suite: &str, packages: &[&str]) {
        let mut make = command("mmdebstrap");
        make.args(["--quiet", "--variant=minbase", "--format=tar"]);
        make.arg(format!("--include={}", packages.join(","))).args([suite, "-"]);
        let mut made = make
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("mmdebstrap starts");
        let archive = made.stdout.take().expect("it is piped");
        let imported = podman().args(["import", "--quiet", "-", &self.0]).stdin(archive).output();
        let imported = imported.expect("podman runs");
        let mut said = String::new();
        made.stderr.take().expect("it is piped").read_to_string(&mut said).expect("text");
        assert!(made.wait().expect("it ends").success(), "mmdebstrap: {said}");
        assert!(imported.status.success(), "podman import: {}", String::from_utf8_lossy(&imported.stderr));
    }
}

/// The code name of this machine's release: what was linked here must find its libraries there.
fn suite() -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let named = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    named.filter(|name| !name.is_empty()).unwrap_or(SUITE).to_owned()
}
