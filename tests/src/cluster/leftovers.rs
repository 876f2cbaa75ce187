//! What is left of Runs: in files, in the roots, and after a drain.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Cluster;

impl Cluster {
    /// The files of daemons and controller, and of the trees, that hold these bytes; those that go away meanwhile hold none.
    ///
    /// # Panics
    /// A file that is there cannot be read.
    #[must_use]
    pub fn files_with(&self, bytes: &[u8]) -> Vec<PathBuf> {
        let mut pending = vec![self.state.path().to_owned(), self.trees.path().to_owned()];
        let mut found = Vec::new();
        while let Some(path) = pending.pop() {
            let read = if path.is_dir() {
                fs::read_dir(&path).map(|entries| {
                    pending.extend(entries.flatten().map(|entry| entry.path()));
                    false
                })
            } else {
                fs::read(&path).map(|held| held.windows(bytes.len()).any(|window| window == bytes))
            };
            match read {
                Ok(true) => found.push(path),
                Ok(false) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => panic!("{}: {error}", path.display()),
            }
        }
        found
    }

    /// What is left in the three roots of every daemon.
    #[must_use]
    pub fn left_in_roots(&self) -> Vec<PathBuf> {
        let mut left = Vec::new();
        for index in 0..self.daemons.len() {
            for root in ["tmp", "home", "workspace"] {
                let path = self.trees.path().join(index.to_string()).join(root);
                left.extend(fs::read_dir(path).expect("a root").flatten().map(|entry| entry.path()));
            }
        }
        left
    }

    /// Drains every daemon, and says what is left in their roots and state.
    ///
    /// # Panics
    /// A daemon does not drain in order.
    pub fn drain(&mut self) -> Vec<PathBuf> {
        self.try_drain().unwrap_or_else(|why| panic!("{why}"))
    }

    /// Drains every daemon, and says what is left in their roots and state.
    ///
    /// # Errors
    /// A daemon does not drain in order.
    ///
    /// # Panics
    /// A directory cannot be listed.
    pub fn try_drain(&mut self) -> Result<Vec<PathBuf>, String> {
        for server in self.daemons.iter_mut().flatten() {
            server.signal(rustix::process::Signal::TERM);
        }
        for server in self.daemons.iter_mut().flatten() {
            let status = server.wait(Duration::from_secs(60));
            if !status.success() {
                return Err(format!("{} drained with {status}: {}", server.name(), server.said()));
            }
        }
        let mut left = self.left_in_roots();
        for index in 0..self.daemons.len() {
            // The state has a random name in its place; directories in it are spools, but for the mirrors, which are kept for the
            // next start, within their bound.
            // With the exclusive tier the trees are beside it.
            let (trees, states): (Vec<_>, Vec<_>) = directories(&self.state_dir(index))
                .into_iter()
                .partition(|path| path.to_string_lossy().contains("/exclusive-"));
            left.extend(trees.iter().flat_map(|root| directories(root)));
            let spools = states.iter().flat_map(|state| directories(state));
            left.extend(spools.filter(|path| !path.ends_with("mirrors")));
        }
        Ok(left)
    }
}

fn directories(place: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(place).expect("it can be listed");
    entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}
