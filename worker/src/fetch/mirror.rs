//! What earlier fetches of the same repository brought, so that it need not come again.
//!
//! A mirror belongs to one namespace, URL and credential, and only fetches of these can reach it. It holds entries, each
//! the packs of one commit at one depth, which are made aside and take their place by one rename: a fetch that is killed
//! leaves nothing that a later one would take for whole. Files are copied in both directions (as reflinks where the
//! file system can), never linked, so that nothing that a command does to its `.git` reaches a mirror.
//!
//! ```text
//! mirrors/KEY/COMMIT-DEPTH/{pack-*.pack, pack-*.idx, shallow, sums}   an entry
//!                         /whole-EPOCH                                it was made, or verified, in this daemon's life
//! mirrors/KEY/new-TREE/                                               one that is being made
//! ```

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use git2::{ObjectType, Oid, Repository};
use runtimed_api::digest::Digest;
use runtimed_api::link::{self, Trees};
use sha2::{Digest as _, Sha256};

use super::protocol::{Base, whole_id};
use super::store;
use crate::diagnostics::say;
use crate::failure::{Failure, storage};

/// Packs of one entry: one that grew by small steps is made anew at some time.
const MAX_PACKS: usize = 12;
/// Commits that are told to a server as there already.
const MAX_HAVES: usize = 4;

/// The mirror of one repository.
#[derive(Debug)]
pub(super) struct Mirror {
    path: PathBuf,
    epoch: String,
    max_bytes: u64,
    /// Names what this fetch makes: random, and no other fetch's.
    mark: String,
}

impl Mirror {
    pub(super) fn new(about: &link::Mirror, trees: &Trees) -> Self {
        let mark = Path::new(&trees.workspace).file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { path: about.path.clone().into(), epoch: about.epoch.clone(), max_bytes: about.max_bytes, mark }
    }

    /// Copies the entry of `wanted`, or else the newest of its depth, into the empty store, and says what that is. Nothing
    /// is lent where there is none, or none that is whole.
    pub(super) fn lend(&self, store: &Repository, wanted: Oid, depth: u32) -> Result<Base, Failure> {
        for entry in self.entries(wanted, depth) {
            match self.copy_out(&entry, store) {
                Ok(shallow) => return Ok(Base { commits: vec![entry.commit], shallow }),
                Err(error) => {
                    // Evicted in this moment, or damaged: the server has it all.
                    say(&format!("an entry of the mirror is not used: {error}"));
                    fs::remove_dir_all(&entry.path).unwrap_or_default();
                    clear(store).map_err(|error| storage("clear the object store", &error))?;
                }
            }
        }
        Ok(Base::default())
    }

    /// Keeps what the store has of `wanted`, whole or not at all. A failure costs the next fetch some time, and nothing else.
    pub(super) fn keep(&self, store: &Repository, wanted: Oid, commit: Oid, depth: u32) {
        let place = self.path.join(format!("{wanted}-{depth}"));
        let now = SystemTime::now();
        // What is used last is evicted last.
        if File::open(&place).and_then(|entry| entry.set_modified(now)).is_ok() {
            return;
        }
        let draft = self.path.join(format!("new-{}", self.mark));
        let kept = complete(store, commit)
            .map_err(|error| io::Error::other(error.message().to_owned()))
            .and_then(|()| self.copy_in(store, &draft))
            .and_then(|fits| if fits { fs::rename(&draft, &place) } else { Ok(()) });
        if let Err(error) = kept {
            say(&format!("the mirror does not keep what was fetched: {error}"));
        }
        // Gone already, unless it could not take its place.
        fs::remove_dir_all(&draft).unwrap_or_default();
    }

    /// The entries to try: of the very commit, then the newest of the depth.
    fn entries(&self, wanted: Oid, depth: u32) -> Vec<Entry> {
        let read = |found: io::Result<fs::DirEntry>| {
            let found = found.ok()?;
            let name = found.file_name().into_string().ok()?;
            let commit = whole_id(name.strip_suffix(&format!("-{depth}"))?)?;
            let used = found.metadata().ok()?.modified().ok()?;
            Some(Entry { path: found.path(), commit, used })
        };
        let mut entries: Vec<_> = fs::read_dir(&self.path).into_iter().flatten().filter_map(read).collect();
        entries.sort_by_key(|entry| (entry.commit != wanted, std::cmp::Reverse(entry.used)));
        entries.truncate(MAX_HAVES);
        entries
    }

    fn copy_out(&self, entry: &Entry, store: &Repository) -> io::Result<Vec<Oid>> {
        let packs = store::packs(store);
        let known = entry.path.join(format!("whole-{}", self.epoch));
        let sums = fs::read_to_string(entry.path.join("sums"))?;
        let verify = !known.exists();
        let mut names = Vec::new();
        for line in sums.lines() {
            let (digest, name) = line.split_once(' ').ok_or(io::ErrorKind::InvalidData)?;
            if !is_pack_file(name) && name != SHALLOW {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let to = if name == SHALLOW { store.path().join(SHALLOW) } else { packs.join(name) };
            fs::copy(entry.path.join(name), &to)?;
            if verify && sum(&to)?.to_string() != digest {
                return Err(io::Error::other(format!("{name} is not what it was")));
            }
            names.push(name);
        }
        let count = names.iter().filter(|name| name.ends_with(".pack")).count();
        if count == 0 || count > MAX_PACKS {
            return Err(io::Error::other("it has no pack, or too many"));
        }
        if verify {
            File::create(known)?;
        }
        shallow(store)
    }

    /// Copies the store's packs to a new directory; false if they are more than an entry may have.
    fn copy_in(&self, store: &Repository, draft: &Path) -> io::Result<bool> {
        fs::create_dir(draft)?;
        let mut sums = String::new();
        let mut left = self.max_bytes;
        let packs = fs::read_dir(store::packs(store))?.map(|entry| Ok(entry?.path()));
        let cut = store.path().join(SHALLOW);
        let files = packs.chain(cut.exists().then_some(Ok(cut))).collect::<io::Result<Vec<_>>>()?;
        for from in files {
            let name = from.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !is_pack_file(&name) && name != SHALLOW {
                continue;
            }
            let size = fs::metadata(&from)?.len();
            let Some(rest) = left.checked_sub(size) else { return Ok(false) };
            left = rest;
            let to = draft.join(&name);
            fs::copy(&from, &to)?;
            sums.push_str(&format!("{} {name}\n", sum(&to)?));
        }
        File::create_new(draft.join("sums"))?.write_all(sums.as_bytes())?;
        File::create_new(draft.join(format!("whole-{}", self.epoch)))?;
        Ok(true)
    }
}

#[derive(Debug)]
struct Entry {
    path: PathBuf,
    commit: Oid,
    used: SystemTime,
}

/// The file that says where a history is cut.
const SHALLOW: &str = "shallow";

fn is_pack_file(name: &str) -> bool {
    let stem = name.strip_suffix(".pack").or_else(|| name.strip_suffix(".idx"));
    stem.and_then(|stem| stem.strip_prefix("pack-"))
        .is_some_and(|id| id.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn shallow(store: &Repository) -> io::Result<Vec<Oid>> {
    let text = match fs::read_to_string(store.path().join(SHALLOW)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text?,
    };
    text.lines().map(|line| whole_id(line).ok_or_else(|| io::ErrorKind::InvalidData.into())).collect()
}

fn clear(store: &Repository) -> io::Result<()> {
    for entry in fs::read_dir(store::packs(store))? {
        fs::remove_file(entry?.path())?;
    }
    match fs::remove_file(store.path().join(SHALLOW)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sum(path: &Path) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut file = File::open(path)?;
    let mut chunk = vec![0; 256 * 1024];
    loop {
        let count = io::Read::read(&mut file, &mut chunk)?;
        if count == 0 {
            return Ok(Digest::from_bytes(hash.finalize().into()));
        }
        hash.update(chunk.get(..count).unwrap_or_default());
    }
}

/// Looks that everything in the commit's tree is there: an entry that lacks something would fail every later Run.
fn complete(store: &Repository, commit: Oid) -> Result<(), git2::Error> {
    let odb = store.odb()?;
    let mut seen = std::collections::HashSet::new();
    let mut pending = vec![store.find_commit(commit)?.tree_id()];
    while let Some(id) = pending.pop() {
        for entry in &store.find_tree(id)? {
            match entry.kind() {
                Some(ObjectType::Tree) if seen.insert(entry.id()) => pending.push(entry.id()),
                Some(ObjectType::Blob) if !odb.exists(entry.id()) => {
                    return Err(git2::Error::from_str("an object is missing"));
                }
                _ => {}
            }
        }
    }
    Ok(())
}
