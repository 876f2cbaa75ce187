//! New objects of one check or capture: in memory until someone wants to keep them.

use std::{cell::RefCell, io::Write as _};

use git2::{ConfigLevel, ObjectType, Odb, Oid, Repository};
use sha1::{Digest as _, Sha1};

/// The id of a blob with this content. Not by libgit2, whose SHA-1 looks for collisions and takes five times as long: here
/// a content is compared with an id that is known.
pub(crate) fn blob_id(content: &[u8]) -> Result<Oid, git2::Error> {
    let head = format!("blob {}\0", content.len());
    Oid::from_bytes(&Sha1::new().chain_update(head).chain_update(content).finalize())
}

/// Reads from a repository, writes to memory. The repository's handle sees the new objects as long as it lives;
/// its files do not change.
pub(crate) struct Objects<'r> {
    repo: &'r Repository,
    odb: Odb<'r>,
    written: RefCell<Vec<Oid>>,
}

/// Above the loose store and the packs, so that it takes every write.
const MEMORY_PRIORITY: i32 = 1000;

impl<'r> Objects<'r> {
    pub(crate) fn new(repo: &'r Repository) -> Result<Self, git2::Error> {
        let odb = repo.odb()?;
        odb.add_new_mempack_backend(MEMORY_PRIORITY)?;
        Ok(Self { repo, odb, written: RefCell::default() })
    }

    pub(crate) fn repo(&self) -> &'r Repository {
        self.repo
    }

    /// Writes an object, to memory, unless the repository has it.
    pub(crate) fn write(&self, kind: ObjectType, bytes: &[u8]) -> Result<Oid, git2::Error> {
        let id = self.odb.write(kind, bytes)?;
        self.written.borrow_mut().push(id);
        Ok(id)
    }

    /// A blob of at most `max` bytes; `None` if it is larger. The header is read first, so that a large one costs nothing.
    pub(crate) fn blob(&self, id: Oid, max: u64) -> Result<Option<Vec<u8>>, git2::Error> {
        let (size, _) = self.odb.read_header(id)?;
        if size as u64 > max {
            return Ok(None);
        }
        Ok(Some(self.odb.read(id)?.data().to_vec()))
    }

    pub(crate) fn into_written(self) -> Vec<Oid> {
        let mut written = self.written.into_inner();
        written.sort_unstable();
        written.dedup();
        written
    }
}

/// Objects among which deltas are looked for.
const FEW: usize = 32;

/// Writes objects that so far are only in memory to the repository's files, as one pack.
pub(crate) fn persist(repo: &Repository, ids: &[Oid]) -> Result<(), git2::Error> {
    if ids.is_empty() {
        return Ok(());
    }
    if ids.len() > FEW {
        // Looking for deltas takes longer than all the rest, and gains nothing in a store that is read once. This is the only
        // setting by which libgit2 lets it be.
        repo.config()?.open_level(ConfigLevel::Local)?.set_i64("pack.deltaCacheSize", 1)?;
    }
    let mut builder = repo.packbuilder()?;
    builder.set_threads(1);
    for id in ids {
        builder.insert_object(*id, None)?;
    }
    let odb = repo.odb()?;
    let mut writer = odb.packwriter()?;
    let mut failed = None;
    builder.foreach(|bytes| match writer.write_all(bytes) {
        Ok(()) => true,
        Err(error) => {
            failed = Some(error.to_string());
            false
        }
    })?;
    match failed {
        Some(message) => Err(git2::Error::from_str(&message)),
        None => writer.commit().map(|_| ()),
    }
}
