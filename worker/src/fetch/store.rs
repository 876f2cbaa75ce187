//! The worker's own object store: a bare repository that no command can reach.

use std::io::Write;
use std::path::{Path, PathBuf};

use git2::{ErrorClass, Indexer, ObjectType, Odb, Oid, Reference, Repository, RepositoryInitOptions};
use runtimed_api::link::{Trees, layout};
use runtimed_api::problem::Code;

use super::reference::Found;
use crate::failure::{Failure, storage};

/// Where the store lies.
pub(crate) fn path(trees: &Trees) -> PathBuf {
    Path::new(&trees.workspace).join(layout::PRIVATE).join("objects.git")
}

/// Makes the store, or opens the one that an earlier phase made.
pub(crate) fn open_or_create(trees: &Trees) -> Result<Repository, Failure> {
    let path = path(trees);
    // Objects come from a remote: what is written and read is checked against its id, and against what it refers to.
    git2::opts::strict_object_creation(true);
    git2::opts::strict_hash_verification(true);
    let opened = if path.join("HEAD").exists() {
        Repository::open_bare(&path)
    } else {
        let mut options = RepositoryInitOptions::new();
        options.bare(true).external_template(false).no_reinit(true);
        Repository::init_opts(&path, &options)
    };
    opened.map_err(|error| git_failure("open the object store", &error))
}

/// Fills the store from a pack that `write` streams; gives the commit that `wanted` is or leads to, which is there with
/// its tree and all that is in it.
pub(super) fn receive(
    store: &Repository,
    wanted: &Found,
    write: impl FnOnce(&mut dyn Write) -> Result<Vec<Oid>, Failure>,
) -> Result<Oid, Failure> {
    let bad = |error: git2::Error| git_failure(USE, &error);
    let odb = store.odb().map_err(bad)?;
    let mut pack = Pack { packs: packs(store), odb: &odb, start: Vec::new(), indexer: None };
    let shallow = write(&mut pack)?;
    match (pack.indexer, pack.start.get(8..HEADER)) {
        (Some(indexer), _) => drop(indexer.commit().map_err(bad)?),
        // Everything was there already.
        (None, Some([0, 0, 0, 0])) => {}
        (None, _) => return Err(Failure::fault(Code::SourceFailed, "the source sent no pack")),
    }
    cut(store, &shallow).map_err(|error| storage("store where the history is cut", &error))?;
    let commit =
        store.find_object(wanted.id, None).and_then(|found| found.peel(ObjectType::Commit)).map_err(bad)?;
    name(store, wanted).map_err(bad)?;
    Ok(commit.id())
}

/// What cannot be done where what a source sent is damaged, or too large.
pub(super) const USE: &str = "use what the source sent";

/// Where the packs are.
pub(super) fn packs(store: &Repository) -> PathBuf {
    store.path().join("objects").join("pack")
}

/// A pack that arrives. One without objects is not stored.
struct Pack<'a> {
    packs: PathBuf,
    /// What a thin pack may build upon.
    odb: &'a Odb<'a>,
    start: Vec<u8>,
    indexer: Option<Indexer<'a>>,
}

/// Bytes of a pack's header: a mark, a version, and how many objects follow.
const HEADER: usize = 12;

impl Write for Pack<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Some(indexer) = &mut self.indexer {
            return indexer.write(bytes);
        }
        self.start.extend_from_slice(bytes);
        if self.start.get(8..HEADER).is_some_and(|count| count != [0; 4]) {
            // No connectivity check: the history may be cut, and a missing object shows when it is read.
            let indexer =
                Indexer::new(Some(self.odb), &self.packs, 0o444, false).map_err(std::io::Error::other)?;
            self.indexer.insert(indexer).write_all(&self.start)?;
        }
        // Of a pack without objects nothing but its checksum follows.
        if self.indexer.is_none() && self.start.len() > HEADER + 20 {
            return Err(std::io::Error::other("the pack goes on after its end"));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Fills the store from a pack that lies in a file.
pub(crate) fn unpack(store: &Repository, pack: &Path) -> Result<(), Failure> {
    let bad = |error: git2::Error| git_failure("use the uploaded work tree as a pack", &error).lasting();
    let reading = |error: std::io::Error| storage("read the uploaded work tree", &error);
    let mut file = std::fs::File::open(pack).map_err(reading)?;
    let mut indexer = Indexer::new(None, &packs(store), 0o444, false).map_err(bad)?;
    let copied = std::io::copy(&mut file, &mut indexer);
    copied.map_err(|error| error.downcast().map_or_else(reading, bad))?;
    indexer.commit().map_err(bad)?;
    // Its objects are in the store now.
    std::fs::remove_file(pack).map_err(reading)
}

/// Records the commits whose parents were left out, in the form of gitrepository-layout(5).
fn cut(store: &Repository, shallow: &[Oid]) -> std::io::Result<()> {
    if shallow.is_empty() {
        return Ok(());
    }
    let lines: String = shallow.iter().map(|id| format!("{id}\n")).collect();
    std::fs::write(store.path().join("shallow"), lines)
}

/// Keeps the branch or tag that was fetched under its name, for the workspace's own repository to have it.
fn name(store: &Repository, found: &Found) -> Result<(), git2::Error> {
    match found.name.as_deref() {
        Some(name)
            if (name.starts_with(BRANCHES) || name.starts_with(TAGS)) && Reference::is_valid_name(name) =>
        {
            store.reference(name, found.id, true, "fetch").map(drop)
        }
        _ => Ok(()),
    }
}

/// Where branches are.
const BRANCHES: &str = "refs/heads/";
/// Where tags are.
const TAGS: &str = "refs/tags/";

/// The short name of the branch that was fetched, if it was one.
pub(crate) fn branch(store: &Repository) -> Option<String> {
    let mut branches = store.references_glob("refs/heads/*").ok()?;
    let name = branches.names().next()?.ok()?.strip_prefix(BRANCHES)?.to_owned();
    Some(name)
}

/// libgit2 failed on our own store.
pub(crate) fn git_failure(action: &str, error: &git2::Error) -> Failure {
    let code = match error.class() {
        ErrorClass::NoMemory => Code::MemoryExceeded,
        ErrorClass::Os if error.message().contains("No space left") => Code::StorageFull,
        _ => Code::SourceFailed,
    };
    Failure::fault(code, format!("cannot {action}: {}", error.message()))
}
