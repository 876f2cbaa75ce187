//! Our own images, built by the script that everybody builds them with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use runtimed_api::digest::Digest;

use super::{Image, podman};
use crate::binaries;
use crate::process::command;

/// Where the images of the tests are named.
const PREFIX: &str = "localhost/runtimed-images";

/// What the tests start: made together, for one is made from the other.
const TESTED: [&str; 3] = ["base", "bash", "controller"];

/// `base`, `bash` or `controller`, with the binaries under test. Made once a build.
///
/// # Panics
/// It is none of them, or cannot be built.
#[must_use]
pub fn ours(name: &str) -> Image {
    assert!(TESTED.contains(&name), "{name}");
    let tag = tag();
    let lock = fs::File::create(binaries::dir().join("images.lock")).expect("a file");
    lock.lock().expect("locked");
    let image = Image::named(format!("{PREFIX}/{name}:{tag}"));
    if !image.exists() {
        build(PREFIX, &tag, Some(binaries::dir()), &TESTED);
        remove_former(&tag);
    }
    image
}

/// Builds images on the distribution of these tests; without binaries the script builds those as well, as for a release.
///
/// # Panics
/// It fails.
pub fn build(prefix: &str, tag: &str, from: Option<&Path>, names: &[&str]) {
    let distribution = Image::base();
    // The script has one place where it puts together what it builds from.
    let place = fs::File::create(binaries::dir().join("images.place")).expect("a file");
    place.lock().expect("locked");
    let mut build = command(root().join("images/build"));
    // The distribution's archive is reached as this machine reaches it.
    build.args(["--engine", "podman", "--option", "--isolation=chroot", "--option", "--network=host"]);
    build.args(["--option", "--quiet", "--prefix", prefix, "--tag", tag]);
    build.args(["--distribution", distribution.reference()]);
    if let Some(from) = from {
        build.arg("--binaries").arg(from);
    }
    build.args(names);
    as_a_person(&mut build);
    let built = build.output().expect("the script runs");
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{}{said}", String::from_utf8_lossy(&built.stdout));
}

/// The environment that cargo and podman look at.
fn as_a_person(command: &mut Command) {
    for name in ["HOME", "CARGO_HOME", "RUSTUP_HOME"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    for (name, value) in podman().get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What the images are made of: the build, the distribution, and the files of images/.
fn tag() -> String {
    let mut text = format!("{} {}", env!("RUNTIMED_BUILD_ID"), Image::base().reference());
    let mut pending = vec![root().join("images")];
    let mut files = Vec::new();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(fs::read_dir(&path).expect("listed").flatten().map(|entry| entry.path()));
        } else {
            files.push(path);
        }
    }
    files.sort();
    for file in files {
        text += &Digest::of(&fs::read(&file).expect("read")).to_string();
    }
    Digest::of(text.as_bytes()).hex().chars().take(16).collect()
}

/// Removes the images that the build before this one left, and remembers this one's.
fn remove_former(tag: &str) {
    let kept = binaries::dir().join("images.tag");
    let former = fs::read_to_string(&kept).unwrap_or_default();
    fs::write(kept, tag).expect("written");
    for name in TESTED.into_iter().filter(|_| !former.is_empty() && former != tag) {
        // One that a container still uses stays.
        let _in_use = podman().args(["rmi", &format!("{PREFIX}/{name}:{former}")]).output();
    }
}
