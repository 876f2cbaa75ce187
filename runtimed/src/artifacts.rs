//! Collecting what a Run made: by directory descriptors, after its tree is dead, into the daemon's spool.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
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
use runtimed_store::MAX_BLOB;
use sha2::{Digest as _, Sha256};

use crate::redact::{Masker, Redactor};
use crate::room;

/// Uploads of one Run at once.
pub const MAX_UPLOADS: usize = 8;

/// Files of one Run.
const MAX_FILES: usize = 20_000;
/// Bytes of one Run.
const MAX_TOTAL: u64 = 16 << 30;
/// Bytes that the paths of one Run's files may take in its manifest, which is held in memory, and of which the controller
/// reads 16 MiB.
const MAX_PATHS: usize = 8 << 20;
/// Bytes of what is said of a skip: its path, and its reason.
const MAX_SAID: usize = 256;
/// Files together may be so many times as large as what they take on the disk: more is holes.
const SPARSE: u64 = 16;
/// What that does not count for: a file system may keep small files in their inodes.
const SPARSE_FROM: u64 = 1 << 20;
/// What a file counts for at least that takes nothing.
const BLOCK: u64 = 512;
/// Entries that a walk looks at.
const MAX_ENTRIES: usize = 1_000_000;
/// Levels that a walk goes down.
const MAX_DEPTH: usize = 256;
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
        paths: 0,
        unlisted: 0,
        total: 0,
        seen: 0,
        allocated: 0,
        kept: HashSet::new(),
        most: most.min(MAX_TOTAL),
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
    /// Bytes that they take in the manifest.
    paths: usize,
    unlisted: usize,
    /// Bytes in the spool.
    total: u64,
    /// Bytes of the files that were taken, and what they take where they are.
    seen: u64,
    allocated: u64,
    /// The contents in the spool.
    kept: HashSet<Digest>,
    most: u64,
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
            } else if self.manifest.files.len() >= MAX_FILES {
                self.skip(path, format!("more than {MAX_FILES} files"));
            } else if self.paths + in_json(&path) > MAX_PATHS {
                self.skip(path, format!("the paths of all files together are more than {MAX_PATHS} bytes"));
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
        } else if meta.size > MAX_BLOB {
            self.skip(path, format!("{} bytes are more than {MAX_BLOB}", meta.size));
        } else if self.total.saturating_add(meta.size) > self.most {
            self.skip(path, format!("all files together are more than {} bytes", self.most));
        } else if let Err(error) = room::check(&self.spool, meta.size) {
            self.skip(path, error.to_string());
        } else if self.is_sparse(&meta) {
            self.skip(path, "it is sparse: most of it is holes".to_owned());
        } else {
            match self.copy(file, meta.size)? {
                Copied::Kept { digest, size, text, redacted } => {
                    if self.kept.insert(digest) {
                        self.total += size;
                    }
                    self.seen += meta.size;
                    self.allocated += meta.allocated.max(BLOCK);
                    self.paths += in_json(&path);
                    let content_type = content_type(&path, text).to_owned();
                    self.names.insert(path.clone());
                    let executable = meta.mode & 0o100 != 0;
                    let artifact = Artifact { path, digest, size, content_type, executable, redacted };
                    self.manifest.files.push(artifact);
                }
                Copied::Enough => {}
                Copied::Secret => {
                    self.skip(path, "it is no text and holds a staged secret".to_owned());
                }
            }
        }
        Ok(())
    }

    /// Whether it is mostly holes, or one too many of small files that are: what takes little room where it is would take
    /// much in the spool and in the store.
    fn is_sparse(&self, meta: &Meta) -> bool {
        let sparse = |size: u64, allocated: u64| {
            size > SPARSE_FROM && size > allocated.max(BLOCK).saturating_mul(SPARSE)
        };
        sparse(meta.size, meta.allocated)
            || sparse(
                self.seen.saturating_add(meta.size),
                self.allocated.saturating_add(meta.allocated.max(BLOCK)),
            )
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
                Err(error) => return Err(error),
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
    Kept { digest: Digest, size: u64, text: bool, redacted: bool },
    Secret,
    Enough,
}

/// Bytes that a printable path takes in JSON (RFC 8259, section 7).
fn in_json(path: &str) -> usize {
    path.len() + path.bytes().filter(|byte| matches!(byte, b'"' | b'\\')).count()
}

/// As much of a text as is said of a skip.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_SAID)]
}

/// A path as text; bytes that are no UTF-8, and `%`, as `%XX`.
fn printable(path: &Path) -> String {
    let mut out = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '%' || c.is_control() {
                let mut utf8 = [0; 4];
                out.extend(c.encode_utf8(&mut utf8).bytes().map(|byte| format!("%{byte:02X}")));
            } else {
                out.push(c);
            }
        }
        out.extend(chunk.invalid().iter().map(|byte| format!("%{byte:02X}")));
    }
    out
}

/// A media type by name, else by whether it is text. A page is never offered as such: it would run in the reader's
/// browser under our name.
fn content_type(path: &str, text: bool) -> &'static str {
    match path.rsplit('.').next() {
        Some("json") => "application/json",
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("pdf") => "application/pdf",
        Some("gz" | "tgz") => "application/gzip",
        Some("zip") => "application/zip",
        _ if text => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn only_plain_files_are_kept_and_everything_else_has_its_reason() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = tempfile::tempdir().expect("a spool");
        let at = |name: &str| dir.path().join(layout::ARTIFACTS).join(name);
        fs::create_dir_all(at("sub")).expect("made");
        fs::create_dir_all(dir.path().join(layout::WORKSPACE).join("dist")).expect("made");
        fs::write(dir.path().join(layout::WORKSPACE).join("dist/app"), "app").expect("written");
        fs::write(dir.path().join(layout::WORKSPACE).join("other"), "no").expect("written");
        fs::write(at("plain"), "the token is hunter22hunter22\n").expect("written");
        fs::write(at("sub/binary"), b"\0hunter22hunter22").expect("written");
        symlink("/etc/passwd", at("link")).expect("linked");
        let outside = tempfile::tempdir_in(dir.path().parent().expect("a parent")).expect("elsewhere");
        fs::write(outside.path().join("staged"), "a staged file").expect("written");
        fs::hard_link(outside.path().join("staged"), at("hard")).expect("linked");
        fs::hard_link(at("hard"), at("hard2")).expect("linked");
        // As Cargo leaves what it builds: one name that is wanted, and another that is in the tree as well.
        let deps = dir.path().join(layout::WORKSPACE).join("deps");
        fs::create_dir(&deps).expect("made");
        fs::hard_link(dir.path().join(layout::WORKSPACE).join("dist/app"), deps.join("app-0123"))
            .expect("linked");
        fs::create_dir_all(at("locked/deep")).expect("made");
        fs::write(at("locked/deep/file"), "kept\n").expect("written");
        for (name, mode) in [("locked/deep/file", 0), ("locked/deep", 0), ("locked", 0), ("", 0)] {
            fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).expect("set");
        }
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("fifo"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .expect("made");
        File::create(at("sparse")).expect("made").set_len(8 << 30).expect("grown");
        let redactor = Redactor::default();
        redactor.register(&[("x", b"hunter22hunter22")]).expect("registers");
        let places = Places { tree: File::open(dir.path()).expect("opens"), workspace: None };
        let manifest = collect(
            &places,
            &["dist/**".to_owned()],
            &redactor,
            spool.path(),
            1 << 20,
            &AtomicBool::new(false),
        )
        .expect("collects");
        let kept: Vec<_> = manifest.files.iter().map(|file| (file.path.as_str(), file.redacted)).collect();
        assert_eq!(kept, [("dist/app", false), ("locked/deep/file", false), ("plain", true)]);
        let bytes = fs::read(spool.path().join(manifest.files[2].digest.hex())).expect("spooled");
        assert_eq!(bytes, b"the token is ***x***\n");
        assert_eq!(Digest::of(&bytes), manifest.files[2].digest);
        let skipped: Vec<_> = manifest.skipped.iter().map(|file| file.path.as_str()).collect();
        for name in ["link", "hard", "hard2", "fifo", "sparse", "sub/binary"] {
            assert!(skipped.contains(&name), "{name} in {skipped:?}");
        }
    }

    /// The artifacts directory with what `make` puts there, collected within a limit.
    fn collected(most: u64, make: impl FnOnce(&Path)) -> (Manifest, u64) {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = tempfile::tempdir().expect("a spool");
        let artifacts = dir.path().join(layout::ARTIFACTS);
        fs::create_dir(&artifacts).expect("made");
        make(&artifacts);
        let places = Places { tree: File::open(dir.path()).expect("opens"), workspace: None };
        let enough = AtomicBool::new(false);
        let manifest = collect(&places, &[], &Redactor::default(), spool.path(), most, &enough);
        let spooled = fs::read_dir(spool.path()).expect("lists").flatten();
        let spooled = spooled.map(|entry| entry.metadata().expect("its metadata").len()).sum();
        (manifest.expect("collects"), spooled)
    }

    #[test]
    fn small_sparse_files_do_not_add_up_to_more_than_was_on_the_disk() {
        let holes = |dir: &Path| {
            for index in 0..200_u64 {
                let mut file = File::create(dir.join(index.to_string())).expect("made");
                file.write_all(&index.to_le_bytes()).expect("written");
                file.set_len(1 << 20).expect("grown");
            }
        };
        let (manifest, spooled) = collected(u64::MAX, holes);
        assert!(spooled < 20 << 20, "{spooled} bytes of {} files", manifest.files.len());
        assert!(manifest.skipped.iter().all(|skipped| skipped.reason.contains("sparse")));
        // Many small ones that take a block each are what they are.
        let small = |dir: &Path| {
            (0..2000)
                .for_each(|index| fs::write(dir.join(index.to_string()), vec![b'x'; 1000]).expect("written"));
        };
        assert_eq!(collected(u64::MAX, small).0.files.len(), 2000);
    }

    #[test]
    fn what_is_spooled_stays_within_the_limit_and_one_content_counts_once() {
        let (manifest, spooled) = collected(2500, |dir| {
            for name in ["a", "b", "c"] {
                fs::write(dir.join(name), vec![name.as_bytes()[0]; 1000]).expect("written");
            }
            fs::hard_link(dir.join("a"), dir.join("aa")).expect("linked");
        });
        let kept: Vec<_> = manifest.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!((kept, spooled), (vec!["a", "aa", "b"], 2000));
        assert_eq!(manifest.skipped[0].reason, "all files together are more than 2500 bytes");
    }

    #[test]
    fn a_manifest_of_long_names_is_one_that_can_be_read_again() {
        // Each is some 1,900 bytes in the manifest.
        let names = |count: usize| {
            move |dir: &Path| {
                let deep = dir.join("\u{1}".repeat(240)).join("\u{1}".repeat(240)).join("\"".repeat(240));
                fs::create_dir_all(&deep).expect("made");
                (0..count).for_each(|index| {
                    File::create(deep.join(index.to_string())).expect("made");
                });
            }
        };
        let (manifest, _) = collected(u64::MAX, names(6000));
        let json = serde_json::to_vec(&manifest).expect("JSON");
        assert!(manifest.files.len() < 6000 && json.len() < 12 << 20, "{} bytes", json.len());
        let paths: usize = manifest.files.iter().map(|file| in_json(&file.path)).sum();
        assert!((MAX_PATHS - 4096..=MAX_PATHS).contains(&paths), "{paths}");
        let skipped = &manifest.skipped[0];
        assert!(
            skipped.reason.contains("paths of all files") && skipped.path.len() <= MAX_SAID,
            "{skipped:?}"
        );
        assert!(manifest.skipped.last().is_some_and(|last| last.reason.contains("more files were skipped")));
    }
}
