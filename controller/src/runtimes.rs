//! The Runtimes, from a directory of YAML files.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use runtimed_api::ids::{Namespace, RuntimeName};
use runtimed_api::parse;
use runtimed_api::rule::{Refusal, Rule};
use runtimed_api::runtime::Runtime;

/// The largest file, in bytes.
const MAX_FILE: u64 = 256 * 1024;

/// A directory of Runtimes that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RuntimesError {
    /// It, or a file in it, cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not a Runtime.
    #[error("{} is not a Runtime: {why}", path.display())]
    Invalid {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Two files name one Runtime.
    #[error("the Runtime {name} is in {} and in {}: remove one", first.display(), second.display())]
    Twice {
        /// The Runtime.
        name: RuntimeName,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// There is no file.
    #[error("{} holds no .yaml file: put a `kind: Runtime` there", .0.display())]
    Empty(PathBuf),
}

/// The Runtimes, by name.
#[derive(Debug, Clone)]
pub struct Runtimes {
    by_name: Arc<BTreeMap<RuntimeName, Runtime>>,
}

impl Runtimes {
    /// Reads every `*.yaml` and `*.yml` of a directory: one Runtime each.
    ///
    /// # Errors
    /// See [`RuntimesError`].
    pub fn read(directory: &Path) -> Result<Self, RuntimesError> {
        let unread = |path: &Path, source| RuntimesError::Read { path: path.to_owned(), source };
        let mut files = Vec::new();
        for entry in fs::read_dir(directory).map_err(|error| unread(directory, error))? {
            let path = entry.map_err(|error| unread(directory, error))?.path();
            if matches!(path.extension().and_then(|e| e.to_str()), Some("yaml" | "yml")) {
                files.push(path);
            }
        }
        files.sort();
        let mut by_name = BTreeMap::new();
        let mut origin: BTreeMap<RuntimeName, PathBuf> = BTreeMap::new();
        for path in files {
            let invalid = |why: String| RuntimesError::Invalid { path: path.clone(), why };
            if fs::metadata(&path).map_err(|error| unread(&path, error))?.len() > MAX_FILE {
                return Err(invalid(format!("it is larger than {MAX_FILE} bytes")));
            }
            let text = fs::read_to_string(&path).map_err(|error| unread(&path, error))?;
            let runtime: Runtime = parse::from(yaml_serde::Deserializer::from_str(&text))
                .map_err(|error| invalid(error.to_string()))?;
            let name = runtime.metadata.name.clone();
            if let Some(first) = origin.insert(name.clone(), path.clone()) {
                return Err(RuntimesError::Twice { name, first, second: path });
            }
            by_name.insert(name, runtime);
        }
        if by_name.is_empty() {
            return Err(RuntimesError::Empty(directory.to_owned()));
        }
        Ok(Self { by_name: Arc::new(by_name) })
    }

    /// The Runtime of this name.
    #[must_use]
    pub fn get(&self, name: &RuntimeName) -> Option<&Runtime> {
        self.by_name.get(name)
    }

    /// Every Runtime, by name.
    pub fn all(&self) -> impl Iterator<Item = &Runtime> {
        self.by_name.values()
    }

    /// The Runtime of this name, if it serves the namespace.
    ///
    /// # Errors
    /// There is none, or it does not.
    pub fn serving(&self, name: &RuntimeName, namespace: &Namespace) -> Result<&Runtime, Refusal> {
        let runtime = self.get(name).ok_or_else(|| {
            let known: Vec<_> = self.by_name.keys().map(RuntimeName::as_str).collect();
            Refusal::new(Rule::RUNTIME_UNKNOWN, "spec.runtime", format!("there is no Runtime {name}"))
                .hint(format!("there are: {}", known.join(", ")))
        })?;
        let serves = runtime.spec.namespaces.iter().any(|n| n == "*" || n == namespace.as_str());
        serves.then_some(runtime).ok_or_else(|| {
            let message = format!("Runtime {name} does not serve namespace {namespace}");
            Refusal::new(Rule::RUNTIME_NAMESPACE, "spec.runtime", message)
                .hint("add the namespace to the Runtime's `namespaces`, or choose another Runtime")
        })
    }
}

/// The directory of Runtimes, read again when it changes. A change that cannot be read leaves what was known in force.
#[derive(Debug)]
pub struct Catalogue {
    directory: PathBuf,
    known: RwLock<(Runtimes, Vec<Stamp>)>,
}

/// Tells one state of a file from another: inode, change in nanoseconds, size.
type Stamp = (u64, i128, u64);

impl Catalogue {
    /// Reads the directory.
    ///
    /// # Errors
    /// See [`RuntimesError`].
    pub fn open(directory: &Path) -> Result<Self, RuntimesError> {
        let stamps = stamps(directory);
        let known = RwLock::new((Runtimes::read(directory)?, stamps));
        Ok(Self { directory: directory.to_owned(), known })
    }

    /// What the directory says now. The look at a few files costs microseconds, so each use is the moment to see a change.
    #[must_use]
    pub fn now(&self) -> Runtimes {
        let stamps = stamps(&self.directory);
        {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            if known.1 == stamps {
                return known.0.clone();
            }
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.1 != stamps {
            match Runtimes::read(&self.directory) {
                Ok(runtimes) => {
                    tracing::info!(count = runtimes.by_name.len(), "Runtimes were read");
                    known.0 = runtimes;
                }
                Err(error) => tracing::error!(%error, "the Runtimes that were known stay in force"),
            }
            known.1 = stamps;
        }
        known.0.clone()
    }
}

/// The states of all that is in the directory, links followed: a mounted ConfigMap is changed by swapping a link.
fn stamps(directory: &Path) -> Vec<Stamp> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let stamp = |path: PathBuf| {
        let meta = fs::metadata(path).ok()?;
        let changed = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        Some((meta.ino(), changed, meta.size()))
    };
    let mut stamps: Vec<Stamp> = entries.flatten().filter_map(|entry| stamp(entry.path())).collect();
    stamps.sort_unstable();
    stamps
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASH: &str = "apiVersion: runtimed.dev/v1alpha1\nkind: Runtime\nmetadata: { name: bash }\nspec: { namespaces: [team-a] }\n";

    #[test]
    fn a_runtime_serves_its_namespaces_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("bash.yaml"), BASH).expect("written");
        fs::write(dir.path().join("notes.txt"), "no Runtime").expect("written");
        let runtimes = Runtimes::read(dir.path()).expect("reads");
        let bash = "bash".parse().expect("a name");
        assert!(runtimes.serving(&bash, &"team-a".parse().expect("a name")).is_ok());
        let refusal = runtimes.serving(&bash, &"team-b".parse().expect("a name")).expect_err("refused");
        assert_eq!(refusal.rule, Rule::RUNTIME_NAMESPACE);
        let refusal = runtimes.serving(&"zsh".parse().expect("a name"), &"team-a".parse().expect("a name"));
        assert_eq!(refusal.expect_err("refused").rule, Rule::RUNTIME_UNKNOWN);
    }

    #[test]
    fn a_change_is_seen_and_a_bad_one_changes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("bash.yaml"), BASH).expect("written");
        let catalogue = Catalogue::open(dir.path()).expect("reads");
        let names =
            || catalogue.now().all().map(|runtime| runtime.metadata.name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(), ["bash"]);
        fs::write(dir.path().join("zsh.yaml"), BASH.replace("bash", "zsh")).expect("written");
        assert_eq!(names(), ["bash", "zsh"]);
        fs::write(dir.path().join("zsh.yaml"), "nothing of ours").expect("written");
        assert_eq!(names(), ["bash", "zsh"]);
        fs::remove_file(dir.path().join("zsh.yaml")).expect("removed");
        assert_eq!(names(), ["bash"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_file() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(matches!(Runtimes::read(dir.path()), Err(RuntimesError::Empty(_))));
        fs::write(dir.path().join("a.yaml"), BASH).expect("written");
        fs::write(dir.path().join("b.yml"), BASH).expect("written");
        let error = Runtimes::read(dir.path()).expect_err("refused").to_string();
        assert!(error.contains("a.yaml") && error.contains("b.yml"), "{error}");
        fs::write(dir.path().join("b.yml"), BASH.replace("namespaces", "namespace")).expect("written");
        let error = Runtimes::read(dir.path()).expect_err("refused").to_string();
        assert!(error.contains("b.yml") && error.contains("did you mean `namespaces`?"), "{error}");
    }
}
