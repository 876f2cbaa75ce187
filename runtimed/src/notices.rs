//! What the kernel tells of files: that a secret's source was replaced, or that a mode was taken away.
//!
//! One inotify instance serves the whole daemon, for their number is bounded for the uid on the whole node. Sources are
//! real Secret mounts: chains of links, of which the kubelet replaces one. So every directory on the way is watched, for
//! the names that the way leads through. Modes are those of directories that the daemon's uid owns and that a Run may
//! know by path: a Run of the same uid may chmod them, which no mechanism of the base tier forbids; they are mended
//! through descriptors that were opened before.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::metrics::Metrics;

/// A source that is replaced in several steps is looked at once, after the last of them.
const SETTLE: Duration = Duration::from_millis(50);
/// From one mending to the next, at least: whoever takes modes away in a loop costs no core.
const PAUSE: Duration = Duration::from_millis(5);
/// From one line in the daemon's log about taken modes to the next.
const QUIET: Duration = Duration::from_secs(60);
/// Links on the way to one source, as many as the kernel follows (`path_resolution(7)`).
const MAX_LINKS: u32 = 40;

/// What the kernel is asked to tell, and who is told.
#[derive(Debug)]
pub struct Notices {
    /// Or why there is none: the uid's instances are used up.
    inotify: Result<OwnedFd, Errno>,
    watched: Mutex<BTreeMap<i32, Watched>>,
    /// Counts changes of sources.
    sources: watch::Sender<u64>,
}

/// A directory that is watched.
#[derive(Debug, Default)]
struct Watched {
    /// Entries that lead to a source.
    names: BTreeSet<OsString>,
    /// Its own mode is to stay.
    kept: Option<Kept>,
}

/// A directory whose mode is to stay.
#[derive(Debug)]
struct Kept {
    path: PathBuf,
    dir: File,
    mode: u32,
    said: Option<Instant>,
}

/// What a look at the waiting events came to.
#[derive(Debug, Default)]
struct Seen {
    source: bool,
    mode: bool,
}

impl Default for Notices {
    fn default() -> Self {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC);
        if let Err(error) = &inotify {
            tracing::warn!(%error, "inotify is unavailable: secrets are not rotated while a Run uses them");
        }
        Self { inotify, watched: Mutex::default(), sources: watch::Sender::new(0) }
    }
}

impl Notices {
    /// Tells of changes of any source that is watched; whoever is told looks whether it is its own.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.sources.subscribe()
    }

    /// Watches everything that `source` depends on. What is watched once stays so: the sources are those of the
    /// configuration.
    ///
    /// # Errors
    /// The kernel takes no more watches, or a directory on the way cannot be read.
    pub fn watch_source(&self, source: &Path) -> io::Result<()> {
        let inotify = self.inotify.as_ref().map_err(|errno| *errno)?;
        let flags = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE;
        for (dir, name) in way(source) {
            let wd = inotify::add_watch(inotify, &dir, flags | WatchFlags::MASK_ADD | WatchFlags::ONLYDIR)?;
            self.lock().entry(wd).or_default().names.insert(name);
        }
        Ok(())
    }

    /// Keeps the mode of a directory that must stay open to its owner, if that is us: nobody else's can be taken away.
    ///
    /// # Errors
    /// It cannot be opened or watched.
    pub fn keep_mode(&self, path: &Path) -> io::Result<()> {
        let dir = File::open(path)?;
        let metadata = dir.metadata()?;
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Ok(());
        }
        let inotify = self.inotify.as_ref().map_err(|errno| *errno)?;
        let flags = WatchFlags::ATTRIB | WatchFlags::MASK_ADD | WatchFlags::ONLYDIR;
        let wd = inotify::add_watch(inotify, path, flags)?;
        let kept = Kept { path: path.to_owned(), dir, mode: metadata.mode() & 0o7777, said: None };
        self.lock().entry(wd).or_default().kept = Some(kept);
        Ok(())
    }

    /// Listens for ever.
    pub async fn run(&self, metrics: &Metrics) {
        let Ok(inotify) = &self.inotify else { return std::future::pending().await };
        #[expect(
            deprecated,
            reason = "what is borrowed here has one descriptor for as long as it is waited for"
        )]
        let waiting = AsyncFd::with_interest(inotify.as_fd(), Interest::READABLE);
        let waiting = match waiting {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::error!(%error, "inotify cannot be waited for: secrets are not rotated");
                return std::future::pending().await;
            }
        };
        loop {
            match waiting.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                Err(error) => {
                    tracing::error!(%error, "inotify cannot be waited for: secrets are not rotated");
                    return std::future::pending().await;
                }
            }
            let mut seen = self.look();
            if seen.source {
                tokio::time::sleep(SETTLE).await;
                seen.mode |= self.look().mode;
                self.sources.send_modify(|changes| *changes += 1);
            }
            if seen.mode {
                metrics.modes_mended.inc_by(self.mend());
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Takes in every event that waits.
    fn look(&self) -> Seen {
        let mut seen = Seen::default();
        let Ok(inotify) = &self.inotify else { return seen };
        let mut watched = self.lock();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(inotify, &mut buffer);
        while let Ok(event) = events.next() {
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                seen = Seen { source: true, mode: true };
            } else if event.events().contains(ReadFlags::IGNORED) {
                // The directory is gone, as that of a former value is.
                watched.remove(&event.wd());
            } else if let Some(watched) = watched.get(&event.wd()) {
                match event.file_name() {
                    Some(name) => seen.source |= watched.names.contains(OsStr::from_bytes(name.to_bytes())),
                    None => seen.mode |= watched.kept.is_some(),
                }
            }
        }
        seen
    }

    /// Gives back the modes that were taken away, and says how many.
    fn mend(&self) -> u64 {
        let mut mended = 0;
        for kept in self.lock().values_mut().filter_map(|watched| watched.kept.as_mut()) {
            let Ok(metadata) = kept.dir.metadata() else { continue };
            if metadata.mode() & 0o7777 == kept.mode {
                continue;
            }
            let result = kept.dir.set_permissions(fs::Permissions::from_mode(kept.mode));
            mended += u64::from(result.is_ok());
            if kept.said.is_none_or(|said| said.elapsed() > QUIET) {
                kept.said = Some(Instant::now());
                let (path, was) = (kept.path.display(), format!("{:04o}", metadata.mode() & 0o7777));
                if let Err(error) = result {
                    tracing::error!(%path, was, %error, "a directory's mode cannot be mended");
                } else {
                    tracing::warn!(%path, was, "somebody took a directory's mode away; it is mended");
                }
            }
        }
        mended
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i32, Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The directory entries that decide what a path leads to: each link on the way, and what is at the end.
#[must_use]
pub fn way(path: &Path) -> Vec<(PathBuf, OsString)> {
    let mut pending: VecDeque<OsString> = parts(path).collect();
    let (mut at, mut entries, mut followed) = (PathBuf::from("/"), Vec::new(), 0);
    while let Some(name) = pending.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        let here = at.join(&name);
        match fs::read_link(&here) {
            Ok(target) if followed < MAX_LINKS => {
                followed += 1;
                entries.push((at.clone(), name));
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                    pending.push_front(part);
                }
            }
            _ if pending.is_empty() => entries.push((std::mem::take(&mut at), name)),
            _ => at = here,
        }
    }
    entries
}

/// The components that mean something, `..` among them.
fn parts(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::sync::Arc;

    /// A Secret volume as a kubelet makes it.
    fn volume(dir: &Path, value: &str) {
        fs::create_dir(dir.join("..one")).expect("made");
        fs::write(dir.join("..one/token"), value).expect("written");
        symlink("..one", dir.join("..data")).expect("linked");
        symlink("..data/token", dir.join("token")).expect("linked");
    }

    /// Another value in its place, as a kubelet does it.
    fn swap(dir: &Path, value: &str) {
        fs::create_dir(dir.join("..two")).expect("made");
        fs::write(dir.join("..two/token"), value).expect("written");
        symlink("..two", dir.join("..data_tmp")).expect("linked");
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).expect("renamed");
        fs::remove_dir_all(dir.join("..one")).expect("removed");
    }

    #[test]
    fn the_way_names_every_link_and_the_end() {
        let place = tempfile::tempdir().expect("a directory");
        let dir = place.path().canonicalize().expect("a path");
        volume(&dir, "x");
        let names: Vec<_> = way(&dir.join("token")).into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["token", "..data", "token"]);
        symlink("loop", dir.join("loop")).expect("linked");
        assert!(way(&dir.join("loop")).len() <= 41);
        symlink(&dir, dir.join("here")).expect("linked");
        let entries = way(&dir.join("here/../absent"));
        assert_eq!(entries.last(), Some(&(dir.parent().expect("a parent").to_owned(), "absent".into())));
    }

    fn listening() -> (Arc<Notices>, Arc<Metrics>, tokio::task::JoinHandle<()>) {
        let (notices, metrics) = (Arc::new(Notices::default()), Arc::new(Metrics::default()));
        let (told, counted) = (Arc::clone(&notices), Arc::clone(&metrics));
        let task = tokio::spawn(async move { told.run(&counted).await });
        (notices, metrics, task)
    }

    #[tokio::test]
    async fn a_swapped_volume_is_told_again_and_again() {
        let place = tempfile::tempdir().expect("a directory");
        volume(place.path(), "first");
        let (notices, _metrics, task) = listening();
        let source = place.path().join("token");
        notices.watch_source(&source).expect("watched");
        let mut changes = notices.changes();
        fs::write(place.path().join("noise"), "x").expect("written");
        swap(place.path(), "second");
        changes.changed().await.expect("told");
        assert_eq!(fs::read_to_string(&source).expect("read"), "second");
        // What the value lies in is another directory now.
        notices.watch_source(&source).expect("watched again");
        fs::write(place.path().join("..two/token"), "third").expect("written");
        changes.changed().await.expect("told again");
        task.abort();
    }

    #[tokio::test]
    async fn a_mode_that_is_taken_away_comes_back() {
        let place = tempfile::tempdir().expect("a directory");
        let dir = place.path().join("state");
        fs::create_dir(&dir).expect("made");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("set");
        let (notices, metrics, task) = listening();
        notices.keep_mode(&dir).expect("kept");
        for mode in [0o000, 0o500, 0o777] {
            fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).expect("taken away");
            let mended = async {
                while fs::metadata(&dir).expect("it is there").mode() & 0o7777 != 0o700 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), mended).await.expect("mended");
        }
        assert!(metrics.modes_mended.get() >= 3);
        task.abort();
    }
}
