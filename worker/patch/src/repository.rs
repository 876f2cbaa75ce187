//! A `.git` for the workspace of a Run: complete, ordinary, and without anything to steal or to trip over.
//!
//! It is the command's to use, and nobody else's to believe: a capture never looks at it.

use std::{fs, io, path::Path};

use git2::{Index, IndexEntry, IndexTime, Oid, Repository};

use crate::{
    snapshot::{FileStat, Snapshot},
    tree::{TreeId, flatten},
};

mod url;

pub use url::without_credentials;

/// What the workspace's repository says of itself.
#[derive(Debug, Clone, Copy)]
pub struct RepositoryOptions<'a> {
    /// The commit that `HEAD` is at.
    pub commit: Oid,
    /// The branch that `HEAD` is on, by its short name; without one `HEAD` is detached.
    pub branch: Option<&'a str>,
    /// Where it came from, if from anywhere. User names, passwords and queries are left out.
    pub origin: Option<&'a str>,
}

/// Why there is no repository.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// A file cannot be read or written.
    #[error("cannot make the workspace's repository at {path}")]
    Io {
        /// Within the repository.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The branch's name is not one that git allows.
    #[error("{0:?} is not a name for a branch")]
    BranchName(String),
    /// The object store failed, or does not have the commit.
    #[error("the object store cannot be used")]
    Store(#[from] git2::Error),
}

/// Makes `.git` in `workspace`, where `snapshot` was just checked out, from the private bare repository `source`. Its
/// objects are copied (as reflinks where the file system can), never linked, so nothing that the command does to them
/// reaches `source`. `git status` shows the differences between the commit and the snapshot, and nothing else.
///
/// # Errors
/// [`RepositoryError`]. `.git` may then be there in part: the workspace is of no use.
pub fn make_repository(
    source: &Repository,
    workspace: &Path,
    snapshot: &Snapshot,
    options: &RepositoryOptions<'_>,
) -> Result<(), RepositoryError> {
    let branch = options.branch.map(|name| format!("refs/heads/{name}"));
    if let Some(name) = branch.as_deref().filter(|name| !git2::Reference::is_valid_name(name)) {
        return Err(RepositoryError::BranchName(name.to_owned()));
    }
    let head_tree = TreeId::new(source.find_commit(options.commit)?.tree_id());
    let target = workspace.join(".git");
    let made = Made { target: &target };
    for directory in ["", "objects/info", "objects/pack", "refs/heads", "refs/tags", "info"] {
        made.directory(directory)?;
    }
    copy_objects(source.path(), &made)?;
    if source.path().join("shallow").exists() {
        made.copy(&source.path().join("shallow"), "shallow")?;
    }
    made.write("packed-refs", &packed_refs(source, branch.as_deref(), options.commit)?)?;
    made.write("config", config(branch.as_deref(), options.origin).as_bytes())?;
    let head = branch.map_or_else(|| format!("{}\n", options.commit), |name| format!("ref: {name}\n"));
    made.write("HEAD", head.as_bytes())?;
    write_index(source, &target.join("index"), head_tree, snapshot)?;
    Ok(())
}

/// Copies packs and loose objects. Whatever else a mirror keeps beside them stays there.
fn copy_objects(source: &Path, made: &Made<'_>) -> Result<(), RepositoryError> {
    let objects = source.join("objects");
    for directory in list(&objects)? {
        let is_loose = directory.len() == 2 && directory.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_loose && directory != "pack" {
            continue;
        }
        made.directory(&format!("objects/{directory}"))?;
        for name in list(&objects.join(&directory))? {
            let wanted = is_loose || [".pack", ".idx", ".rev"].iter().any(|kind| name.ends_with(kind));
            if wanted && !name.starts_with("tmp_") {
                let path = format!("{directory}/{name}");
                made.copy(&objects.join(&path), &format!("objects/{path}"))?;
            }
        }
    }
    Ok(())
}

/// All references of the source as a clone has them: its branches as the remote's, its tags as they are.
fn packed_refs(source: &Repository, branch: Option<&str>, commit: Oid) -> Result<Vec<u8>, git2::Error> {
    let mut lines = std::collections::BTreeMap::new();
    for reference in source.references()? {
        let reference = reference?;
        let Some(target) = reference.target() else { continue };
        let name = String::from_utf8_lossy(reference.name_bytes()).into_owned();
        if let Some(short) = name.strip_prefix("refs/heads/") {
            lines.insert(format!("refs/remotes/origin/{short}"), target);
        } else if name.starts_with("refs/tags/") || name.starts_with("refs/remotes/origin/") {
            lines.insert(name, target);
        }
    }
    if let Some(branch) = branch {
        lines.insert(branch.to_owned(), commit);
    }
    let lines = lines.into_iter().map(|(name, target)| format!("{target} {name}\n"));
    Ok(std::iter::once("# pack-refs with: sorted \n".to_owned())
        .chain(lines)
        .collect::<String>()
        .into_bytes())
}

fn config(branch: Option<&str>, origin: Option<&str>) -> String {
    let mut text =
        "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n"
            .to_owned();
    if let Some(origin) = origin {
        let url = quote(&without_credentials(origin));
        text +=
            &format!("[remote \"origin\"]\n\turl = {url}\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n");
        if let Some(branch) = branch {
            let short = quote(branch.trim_start_matches("refs/heads/"));
            text += &format!("[branch {short}]\n\tremote = origin\n\tmerge = {}\n", quote(branch));
        }
    }
    text
}

/// A value or name in git's configuration, in quotes.
fn quote(value: &str) -> String {
    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('\t', "\\t");
    format!("\"{escaped}\"")
}

/// An index of the commit's tree. What the snapshot holds unchanged gets its stat data, so that git need not read it.
fn write_index(repo: &Repository, path: &Path, head: TreeId, snapshot: &Snapshot) -> Result<(), git2::Error> {
    let mut index = Index::open(path)?;
    for (path, entry) in flatten(repo, head)? {
        let known = snapshot.files().binary_search_by(|known| known.path.cmp(&path));
        let known = known.ok().map(|at| &snapshot.files()[at]).filter(|known| known.entry == entry);
        let mut line = IndexEntry {
            ctime: IndexTime::new(0, 0),
            mtime: IndexTime::new(0, 0),
            dev: 0,
            ino: 0,
            mode: entry.mode.raw(),
            uid: 0,
            gid: 0,
            file_size: 0,
            id: entry.id,
            flags: 0,
            flags_extended: 0,
            path: path.as_bytes().to_vec(),
        };
        if let Some(stat) = known.and_then(|known| known.stat) {
            fill(&mut line, &stat);
        }
        index.add(&line)?;
    }
    index.write()
}

/// The index keeps the low 32 bits of each number.
fn fill(line: &mut IndexEntry, stat: &FileStat) {
    let low = |number: u64| u32::try_from(number & u64::from(u32::MAX)).unwrap_or_default();
    let time = |time: crate::snapshot::Time| {
        let seconds = low(time.seconds.cast_unsigned()).cast_signed();
        IndexTime::new(seconds, low(time.nanoseconds))
    };
    line.ctime = time(stat.changed);
    line.mtime = time(stat.modified);
    (line.dev, line.ino, line.file_size) = (low(stat.dev), low(stat.ino), low(stat.size));
    (line.uid, line.gid) = (stat.uid, stat.gid);
}

/// The repository being made. Errors name the path within it.
struct Made<'a> {
    target: &'a Path,
}

impl Made<'_> {
    fn directory(&self, name: &str) -> Result<(), RepositoryError> {
        fs::create_dir_all(self.target.join(name)).map_err(|source| failed(name, source))
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), RepositoryError> {
        fs::write(self.target.join(name), content).map_err(|source| failed(name, source))
    }

    fn copy(&self, from: &Path, name: &str) -> Result<(), RepositoryError> {
        fs::copy(from, self.target.join(name)).map(drop).map_err(|source| failed(name, source))
    }
}

fn failed(path: &str, source: io::Error) -> RepositoryError {
    RepositoryError::Io { path: path.to_owned(), source }
}

fn list(directory: &Path) -> Result<Vec<String>, RepositoryError> {
    let failed = |source| failed(&directory.display().to_string(), source);
    let names = fs::read_dir(directory).map_err(failed)?;
    let names = names.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect::<io::Result<_>>().map_err(failed)
}
