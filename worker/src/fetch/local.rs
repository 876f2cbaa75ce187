//! A repository on this machine, read as it lies there.
//!
//! It may belong to another user, which is why it is opened as a bare one: nothing of its configuration is obeyed here
//! that could matter. Objects are taken over by packing them, so that no file is shared with it and a depth can be had.

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;

use git2::{Config, ConfigLevel, ErrorCode, ObjectType, Oid, PackBuilder, Repository};
use runtimed_api::problem::Code;

use super::reference::{Found, Reference, missing};
use super::store::git_failure;
use crate::failure::Failure;

/// A repository on this machine.
pub(super) struct Local {
    repository: Repository,
}

impl Local {
    /// Opens the repository at `path`: a bare one, or one with a `.git` directory.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let opened = Repository::open_bare(path.join(".git")).or_else(|_| Repository::open_bare(path));
        let repository = opened.map_err(|error| {
            let message = format!(
                "there is no git repository at {} that can be read: {}",
                path.display(),
                error.message()
            );
            Failure::fault(Code::SourceFailed, message)
                .lasting()
                .hint("give the path of a bare repository, or of a clone with a .git directory")
        })?;
        Ok(Self { repository })
    }

    /// What `reference` stands for.
    pub(super) fn find(&self, reference: &Reference) -> Result<Found, Failure> {
        let found = match reference {
            Reference::Commit(id) => {
                self.repository.find_commit(*id).map(|commit| Found { id: commit.id(), name: None })
            }
            Reference::Head | Reference::Named(_) => self.named(&reference.candidates()),
        };
        found.map_err(|error| match error.code() {
            ErrorCode::NotFound | ErrorCode::UnbornBranch | ErrorCode::InvalidSpec | ErrorCode::Peel => {
                missing(reference)
            }
            _ => git_failure("read the repository", &error),
        })
    }

    /// The commit of the first candidate that is there, and the name that it leads to.
    fn named(&self, candidates: &[String]) -> Result<Found, git2::Error> {
        let found = candidates.iter().find_map(|name| self.repository.find_reference(name).ok());
        let absent = || git2::Error::new(ErrorCode::NotFound, git2::ErrorClass::Reference, "no such ref");
        let found = found.ok_or_else(absent)?.resolve()?;
        Ok(Found { id: found.peel_to_commit()?.id(), name: found.name().ok().map(str::to_owned) })
    }

    /// Writes the pack of `wanted` to `pack`, and says at which commits its history was cut.
    ///
    /// `settings` is a file that it may write.
    pub(super) fn fetch(
        &self,
        wanted: Oid,
        depth: u32,
        settings: &Path,
        pack: &mut dyn Write,
    ) -> Result<Vec<Oid>, Failure> {
        let failed = |error: git2::Error| git_failure("read the repository", &error);
        if depth > 0 {
            self.pack_without_deltas(settings).map_err(failed)?;
        }
        let mut builder = self.repository.packbuilder().map_err(failed)?;
        builder.set_threads(1);
        let shallow = self.history(&mut builder, wanted, depth).map_err(failed)?;
        let mut wrote = Ok(());
        builder
            .foreach(|bytes| {
                wrote = pack.write_all(bytes);
                wrote.is_ok()
            })
            .map_err(|error| match wrote {
                Err(wrote) => crate::failure::storage("store the fetched objects", &wrote),
                Ok(()) => failed(error),
            })?;
        Ok(shallow)
    }

    /// Looking for deltas takes most of the time, and gains nothing in a pack of one commit that is read once. libgit2 has
    /// no switch for it; these settings leave it no window to look in. The repository's own settings no longer count.
    fn pack_without_deltas(&self, settings: &Path) -> Result<(), git2::Error> {
        let text = "[core]\n\tbigFileThreshold = 1\n[pack]\n\tdeltaCacheSize = 1\n\twindowMemory = 1\n";
        std::fs::write(settings, text).map_err(|error| git2::Error::from_str(&error.to_string()))?;
        let mut config = Config::new()?;
        config.add_file(settings, ConfigLevel::App, true)?;
        self.repository.set_config(&config)
    }

    /// Adds the commits to a depth (0 is all of them) with everything they hold. The result is the commits whose parents are left out.
    fn history(&self, builder: &mut PackBuilder<'_>, tip: Oid, depth: u32) -> Result<Vec<Oid>, git2::Error> {
        let mut seen = HashSet::from([tip]);
        let mut trees = HashSet::new();
        let mut shallow = Vec::new();
        let mut level = vec![tip];
        let mut left = if depth == 0 { u32::MAX } else { depth };
        while !level.is_empty() {
            left -= 1;
            let mut parents = Vec::new();
            for id in level {
                let commit = self.repository.find_commit(id)?;
                builder.insert_object(id, None)?;
                self.tree(builder, commit.tree_id(), &mut trees)?;
                // A source that is itself cut has parents by name that are not there.
                let odb = self.repository.odb()?;
                if commit.parent_ids().any(|parent| left == 0 || !odb.exists(parent)) {
                    shallow.push(id);
                } else {
                    parents.extend(commit.parent_ids().filter(|parent| seen.insert(*parent)));
                }
            }
            level = parents;
        }
        Ok(shallow)
    }

    /// Adds a tree with everything in it that was not met before; submodules lead nowhere.
    fn tree(
        &self,
        builder: &mut PackBuilder<'_>,
        top: Oid,
        seen: &mut HashSet<Oid>,
    ) -> Result<(), git2::Error> {
        let mut pending = vec![top];
        while let Some(id) = pending.pop() {
            if !seen.insert(id) {
                continue;
            }
            builder.insert_object(id, None)?;
            for entry in &self.repository.find_tree(id)? {
                match entry.kind() {
                    Some(ObjectType::Tree) => pending.push(entry.id()),
                    Some(ObjectType::Blob) if seen.insert(entry.id()) => {
                        builder.insert_object(entry.id(), entry.name().ok())?;
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}
