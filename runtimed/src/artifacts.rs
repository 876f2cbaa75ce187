//! Collecting what a Run made: by directory descriptors, after its tree is dead, into the daemon's spool.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use globset::{GlobSet, GlobSetBuilder};
use runtimed_api::digest::Digest;
use runtimed_api::link::layout;
use runtimed_api::manifest::{Artifact, Manifest, Skipped};
use runtimed_api::policy;
use runtimed_api::problem::Chain;
use runtimed_sandbox::beneath::{self, Kind, Limits, Meta};
use sha2::{Digest as _, Sha256};

mod bounds;
mod naming;

use self::bounds::Bounds;
use self::naming::{content_type, printable};
use crate::redact::{Masker, Redactor};
use crate::room;

/// Uploads of one Run at once.
pub const MAX_UPLOADS: usize = 8;

/// Entries that a walk looks at.
const MAX_ENTRIES: usize = 1_000_000;
/// Levels that a walk goes down.
const MAX_DEPTH: usize = 256;
/// Bytes of what is said of a skip: its path, and its reason.
const MAX_SAID: usize = 256;
/// Skips that are listed; the rest is counted in one line.
const MAX_SKIPS: usize = 1000;
/// A file with a NUL byte this early is no text, as git has it.
const SNIFF: usize = 8000;

/// Where artifacts are collected from.
#[derive(Debug)]
pub struct Places<T> {
    /// The workspace tree, which holds the artifacts directory.
    pub tree: T,
    /// The workspace, where it is not in that tree.
    pub workspace: Option<T>,
}

/// Collects the artifacts of a workspace into `spool`, one file per distinct content, named by its digest, and no more than
/// `most` bytes of them.
///
/// When `enough` is set it stops where it is, and the manifest says so.
///
/// # Errors
/// The spool cannot be written. What cannot be read is skipped, with its reason.
pub fn collect(
    places: &Places<impl AsFd>,
    globs: &[String],
    redactor: &Redactor,
    spool: &Path,
    most: u64,
    enough: &AtomicBool,
) -> io::Result<Manifest> {
    let tree = places.tree.as_fd();
    let mut collector = Collector {
        manifest: Manifest::default(),
        names: HashSet::new(),
        unlisted: 0,
        bounds: Bounds::new(most),
        redactor,
        spool: spool.to_owned(),
        links: None,
        trees: std::iter::once(tree).chain(places.workspace.as_ref().map(AsFd::as_fd)).collect(),
        enough,
    };
    let everything = |_: &Path| true;
    collector.walk(tree, layout::ARTIFACTS, &everything)?;
    if !globs.is_empty() {
        match glob_set(globs) {
            Ok(set) => {
                let wanted = |path: &Path| {
                    // A glob such as `**` must not publish the repository's own bookkeeping.
                    set.is_match(path) && !path.components().any(|c| c.as_os_str() == ".git")
                };
                match &places.workspace {
                    Some(workspace) => collector.walk(workspace.as_fd(), "", &wanted)?,
                    None => collector.walk(tree, layout::WORKSPACE, &wanted)?,
                }
            }
            Err(error) => collector.skip(globs.join(" "), format!("a glob cannot be read: {error}")),
        }
    }
    collector.manifest.files.sort_by(|a, b| a.path.cmp(&b.path));
    if enough.load(Ordering::Relaxed) {
        let reason =
            "the rest was not collected: the time for it ran out, or the daemon was shut down".to_owned();
        collector.manifest.skipped.push(Skipped { path: "…".to_owned(), reason });
    }
    if collector.unlisted > 0 {
        let reason = format!("{} more files were skipped", collector.unlisted);
        collector.manifest.skipped.push(Skipped { path: "…".to_owned(), reason });
    }
    Ok(collector.manifest)
}

/// Every glob of a Run.
///
/// # Errors
/// One of them is no glob.
pub fn glob_set(globs: &[String]) -> Result<GlobSet, globset::Error> {
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        set.add(policy::glob(glob)?);
    }
    set.build()
}

struct Collector<'a> {
    manifest: Manifest,
    /// The paths that are taken.
    names: HashSet<String>,
    unlisted: usize,
    bounds: Bounds,
    redactor: &'a Redactor,
    spool: PathBuf,
    /// How many names in the tree each inode has that has several; looked for when the first of them comes.
    links: Option<HashMap<(u64, u64), u64>>,
    trees: Vec<BorrowedFd<'a>>,
    enough: &'a AtomicBool,
}

impl Collector<'_> {
    fn walk(&mut self, tree: BorrowedFd<'_>, start: &str, wanted: &dyn Fn(&Path) -> bool) -> io::Result<()> {
        let limits = Limits { entries: MAX_ENTRIES, depth: MAX_DEPTH };
        let walk = match beneath::walk(tree, Path::new(start), limits) {
            Ok(walk) => walk,
            Err(error) => {
                self.skip(start.to_owned(), format!("the directory cannot be read: {}", Chain(&error)));
                return Ok(());
            }
        };
        for entry in walk {
            if self.enough.load(Ordering::Relaxed) {
                return Ok(());
            }
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    self.skip(start.to_owned(), Chain(&error).to_string());
                    continue;
                }
            };
            let relative = entry.path.strip_prefix(start).unwrap_or(&entry.path).to_owned();
            if entry.meta.kind == Kind::Directory || !wanted(&relative) {
                continue;
            }
            let path = printable(&relative);
            if self.redactor.finds_in(path.as_bytes()) {
                self.skip(path, "its name holds a staged secret".to_owned());
            } else if self.names.contains(&path) {
                self.skip(path, "the artifacts directory has a file of the same name".to_owned());
            } else if let Some(reason) = self.bounds.refuse_name(&path) {
                self.skip(path, reason);
            } else {
                self.keep(tree, &entry.path, path)?;
            }
        }
        Ok(())
    }

    /// Copies one file into the spool, masked where it is text, hashed on the way.
    fn keep(&mut self, tree: BorrowedFd<'_>, from: &Path, path: String) -> io::Result<()> {
        let (file, meta) = match beneath::open_file(tree, from) {
            Ok(opened) => opened,
            Err(error) => {
                self.skip(path, Chain(&error).to_string());
                return Ok(());
            }
        };
        if meta.nlink > 1 && !self.is_all_inside(&meta) {
            let reason =
                "it is a hard link with a name outside the workspace, which may be what must not be shown";
            self.skip(path, reason.to_owned());
        } else if let Some(reason) = self.bounds.refuse_content(&meta) {
            self.skip(path, reason);
        } else if let Err(error) = room::check(&self.spool, meta.size) {
            self.skip(path, error.to_string());
        } else {
            match self.copy(file, meta.size)? {
                Copied::Kept { digest, size, text, redacted } => {
                    self.bounds.took(&path, &meta, digest, size);
                    let content_type = content_type(&path, text).to_owned();
                    self.names.insert(path.clone());
                    let executable = meta.mode & 0o100 != 0;
                    let artifact = Artifact { path, digest, size, content_type, executable, redacted };
                    self.manifest.files.push(artifact);
                }
                Copied::Enough => {}
                Copied::Unread(error) => self.skip(path, format!("it cannot be read: {error}")),
                Copied::Secret => {
                    self.skip(path, "it is no text and holds a staged secret".to_owned());
                }
            }
        }
        Ok(())
    }

    fn copy(&self, mut from: File, size: u64) -> io::Result<Copied> {
        let temporary = self.spool.join("incoming");
        let mut to =
            OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        let mut masker = Masker::new(self.redactor.clone());
        let (mut hash, mut kept) = (Sha256::new(), 0_u64);
        let (mut read, mut text, mut first) = (0_u64, true, true);
        let mut buffer = vec![0; 256 * 1024];
        let mut out = Vec::new();
        // One byte more than was promised ends it: a file that grows is not chased.
        while read <= size {
            if self.enough.load(Ordering::Relaxed) {
                return Ok(Copied::Enough);
            }
            let count = match from.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Copied::Unread(error)),
            };
            let piece = &buffer[..count];
            if std::mem::take(&mut first) {
                text = !piece.iter().take(SNIFF).any(|byte| *byte == 0);
            }
            out.clear();
            if count == 0 {
                masker.finish(&mut out);
            } else {
                masker.push(piece, &mut out);
            }
            hash.update(&out);
            kept += out.len() as u64;
            to.write_all(&out)?;
            read += count as u64;
            if count == 0 {
                break;
            }
        }
        let redacted = masker.hits() > 0;
        if redacted && !text {
            return Ok(Copied::Secret);
        }
        let digest = Digest::from_bytes(hash.finalize().into());
        fs::rename(&temporary, self.spool.join(digest.hex()))?;
        Ok(Copied::Kept { digest, size: kept, text, redacted })
    }

    /// Whether every name of an inode is in what is collected from: Cargo, for one, gives what it builds two. A staged file that was
    /// linked to has its first name elsewhere.
    fn is_all_inside(&mut self, meta: &Meta) -> bool {
        let trees = &self.trees;
        let names = self.links.get_or_insert_with(|| {
            let mut names: HashMap<(u64, u64), u64> = HashMap::new();
            let limits = Limits { entries: MAX_ENTRIES, depth: MAX_DEPTH };
            let linked = |entry: &beneath::Entry| entry.meta.kind == Kind::File && entry.meta.nlink > 1;
            let walks = trees.iter().filter_map(|tree| beneath::walk(*tree, Path::new(""), limits).ok());
            for entry in walks.flat_map(Iterator::flatten).filter(linked) {
                *names.entry((entry.meta.dev, entry.meta.ino)).or_default() += 1;
            }
            names
        });
        names.get(&(meta.dev, meta.ino)).is_some_and(|inside| *inside == meta.nlink)
    }

    fn skip(&mut self, path: String, reason: String) {
        if self.manifest.skipped.len() < MAX_SKIPS {
            let said = |text: &str| cut(&self.redactor.mask_text(text)).to_owned();
            let (path, reason) = (said(&path), said(&reason));
            self.manifest.skipped.push(Skipped { path, reason });
        } else {
            self.unlisted += 1;
        }
    }
}

enum Copied {
    Kept {
        digest: Digest,
        size: u64,
        text: bool,
        redacted: bool,
    },
    Secret,
    /// What it is on does not give it; what it is copied to is not to blame.
    Unread(io::Error),
    Enough,
}

/// As much of a text as is said of a skip.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_SAID)]
}

#[cfg(test)]
mod tests;
