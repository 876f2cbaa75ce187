//! What fetches of git repositories keep for later ones: a directory each for namespace, URL and credential, in the
//! daemon's own directory. The daemon makes the directories and bounds them; what is in them is a fetch's affair, and is
//! looked at here by its size and age alone.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use runtimed_api::digest::Digest;
use runtimed_api::ids::{Namespace, SecretName};
use runtimed_api::link::Mirror;
use runtimed_sandbox::tree::TreeName;

/// Where they are, in the daemon's own directory.
const DIRECTORY: &str = "mirrors";
/// How old a draft is that nobody makes any more: no fetch may take so long.
const STALE: Duration = Duration::from_secs(3600);

/// All mirrors of a daemon.
#[derive(Debug)]
pub struct Mirrors {
    directory: PathBuf,
    max_bytes: u64,
    epoch: String,
}

impl Mirrors {
    /// Takes over what an earlier daemon left in its directory `state`. Whatever was being made when it ended is removed;
    /// the rest is verified when it is used for the first time.
    ///
    /// # Errors
    /// The directory cannot be made or listed.
    pub fn open(state: &Path, max_bytes: u64) -> io::Result<Self> {
        let directory = state.join(DIRECTORY);
        DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        // Random, and of the same letters as any other name of ours.
        let mirrors = Self { directory, max_bytes, epoch: TreeName::random().as_str().to_owned() };
        mirrors.bound(Duration::ZERO)?;
        Ok(mirrors)
    }

    /// The mirror for fetches of `url`, made if it is not there; `None` where nothing is kept.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn of(
        &self,
        namespace: &Namespace,
        url: &str,
        credential: Option<&SecretName>,
    ) -> io::Result<Option<Mirror>> {
        if self.max_bytes == 0 {
            return Ok(None);
        }
        // No name holds a NUL, so that no two mirrors share a key.
        let credential = credential.map_or("", SecretName::as_str);
        let key = Digest::of(format!("{namespace}\0{credential}\0{url}").as_bytes());
        let path = self.directory.join(key.hex());
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        let path = path.to_string_lossy().into_owned();
        // Two fit, so that a new one does not push out the one that it was made from.
        Ok(Some(Mirror { path, epoch: self.epoch.clone(), max_bytes: self.max_bytes / 2 }))
    }

    /// Removes what was used longest ago until the rest is within bounds.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn trim(&self) -> io::Result<()> {
        self.bound(STALE)
    }

    fn bound(&self, stale: Duration) -> io::Result<()> {
        let now = SystemTime::now();
        let mut entries = Vec::new();
        for mirror in fs::read_dir(&self.directory)? {
            let mirror = mirror?;
            let Ok(found) = fs::read_dir(mirror.path()) else { continue };
            let made = mirror.metadata().and_then(|about| about.modified()).unwrap_or(now);
            if now.duration_since(made).unwrap_or_default() >= stale {
                // A URL that was asked for once and gave nothing leaves nothing; one that has an entry stays.
                let _kept = fs::remove_dir(mirror.path());
            }
            for entry in found.flatten() {
                let used = entry.metadata().and_then(|about| about.modified()).unwrap_or(now);
                let draft = entry.file_name().to_string_lossy().starts_with("new-");
                if !draft {
                    entries.push((used, size(&entry.path()), entry.path()));
                } else if now.duration_since(used).unwrap_or_default() >= stale {
                    remove(&entry.path());
                }
            }
        }
        entries.sort();
        let mut total: u64 = entries.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in entries {
            if total <= self.max_bytes {
                break;
            }
            remove(&path);
            total -= size;
        }
        Ok(())
    }
}

/// Bytes of the files in a directory; a fetch makes none deeper.
fn size(directory: &Path) -> u64 {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|about| about.len()).sum()
}

/// Takes the entry away in one step, so that a fetch finds it whole or not at all, and then removes it.
fn remove(entry: &Path) {
    let gone = entry.with_file_name(format!("new-{}", TreeName::random().as_str()));
    let removed = fs::rename(entry, &gone).and_then(|()| fs::remove_dir_all(&gone));
    if let Err(error) = removed {
        tracing::warn!(%error, "an entry of a mirror cannot be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(mirror: &Mirror, name: &str, size: usize, age: u64) -> PathBuf {
        let path = Path::new(&mirror.path).join(name);
        fs::create_dir(&path).expect("made");
        fs::write(path.join("pack"), vec![0; size]).expect("written");
        let used = SystemTime::now() - Duration::from_secs(age);
        fs::File::open(&path).and_then(|entry| entry.set_modified(used)).expect("set");
        path
    }

    #[test]
    fn the_longest_unused_goes_first_and_drafts_at_the_next_start() {
        let state = tempfile::tempdir().expect("a directory");
        let mirrors = Mirrors::open(state.path(), 1000).expect("opened");
        let namespace = "default".parse().expect("a name");
        let mirror = mirrors.of(&namespace, "https://h/a", None).expect("made").expect("some");
        let other = mirrors.of(&namespace, "https://h/b", None).expect("made").expect("some");
        let (old, new) = (entry(&mirror, "old", 400, 30), entry(&other, "new", 400, 10));
        let draft = entry(&mirror, "new-x", 400, 20);
        mirrors.trim().expect("trimmed");
        assert!(old.exists() && new.exists() && draft.exists());
        let newest = entry(&mirror, "newest", 400, 0);
        mirrors.trim().expect("trimmed");
        assert!(!old.exists() && new.exists() && newest.exists() && draft.exists());
        drop(Mirrors::open(state.path(), 1000).expect("opened again"));
        assert!(new.exists() && newest.exists() && !draft.exists());
        // The directories of what is gone go as well: anybody can invent URLs.
        let invented = mirrors.of(&namespace, "https://h/c", None).expect("made").expect("some");
        mirrors.trim().expect("trimmed");
        assert!(Path::new(&invented.path).exists());
        fs::File::open(&invented.path)
            .and_then(|directory| directory.set_modified(SystemTime::now() - 2 * STALE))
            .expect("set");
        mirrors.trim().expect("trimmed");
        assert!(!Path::new(&invented.path).exists() && new.exists());
    }

    #[test]
    fn each_namespace_url_and_credential_has_its_own() {
        let state = tempfile::tempdir().expect("a directory");
        let mirrors = Mirrors::open(state.path(), 1000).expect("opened");
        let of = |namespace: &str, url: &str, credential: Option<&str>| {
            let credential = credential.map(|name| name.parse().expect("a name"));
            let made = mirrors.of(&namespace.parse().expect("a name"), url, credential.as_ref());
            made.expect("made").expect("some").path
        };
        let all = [
            of("a", "https://h/a", None),
            of("b", "https://h/a", None),
            of("a", "https://h/b", None),
            of("a", "https://h/a", Some("one")),
            of("a", "https://h/a", Some("two")),
        ];
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert_eq!(of("a", "https://h/a", None), all[0]);
        let nothing = Mirrors::open(state.path(), 0).expect("opened");
        assert!(nothing.of(&"a".parse().expect("a name"), "https://h/a", None).expect("asked").is_none());
    }
}
