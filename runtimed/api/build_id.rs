//! Build script shared by every binary: names the build that the binary belongs to.
//!
//! The daemon and its worker speak a private protocol over an inherited socket, so two binaries of different
//! builds must never talk. The id is a hash over the sources of all of them, so that it needs no git checkout
//! and two people who build the same tree get the same id.

#![expect(clippy::print_stdout, reason = "it is how a build script speaks to cargo")]

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

/// What the binaries are made of, relative to the workspace's root.
const SOURCES: [&str; 6] = ["Cargo.toml", "Cargo.lock", "runtimed", "worker", "sandbox", "controller"];

fn main() -> io::Result<()> {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let root = manifest
        .ancestors()
        .find(|dir| dir.join("Cargo.lock").is_file())
        .ok_or_else(|| io::Error::other("no Cargo.lock above the package: build inside the workspace"))?;
    let mut files = Vec::new();
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
        collect(&root.join(source), &mut files)?;
    }
    files.sort();
    // SipHash with its fixed default key: this tells builds apart by accident, it is not a signature.
    let mut hasher = DefaultHasher::new();
    for file in &files {
        file.strip_prefix(root).unwrap_or(file).hash(&mut hasher);
        fs::read(file)?.hash(&mut hasher);
    }
    let profile = env::var("PROFILE").unwrap_or_default();
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    println!("cargo::rustc-env=RUNTIMED_BUILD_ID={version}-{:016x}-{profile}", hasher.finish());
    Ok(())
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            collect(&entry?.path(), files)?;
        }
    } else if matches!(path.extension().and_then(|e| e.to_str()), Some("rs" | "toml" | "lock")) {
        files.push(path.to_owned());
    }
    Ok(())
}
