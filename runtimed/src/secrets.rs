//! Secrets: who may use which, and their values, read and checked.

pub mod credential;
mod protected;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use runtimed_api::ids::{Namespace, SecretName};
use runtimed_api::problem::{Code, Problem};
use runtimed_api::rule::{Refusal, Rule};
use runtimed_api::run::spec::{RunSpec, SecretUse};
use runtimed_api::session::SecretValue;
use zeroize::Zeroizing;

use crate::config;
pub use protected::protected;
pub(crate) use protected::{configured, own};

/// The largest value: a token or a key is far smaller.
const MAX_BYTES: u64 = 64 * 1024;

/// The smallest value: a shorter one could not be masked without masking half of the log.
const MIN_BYTES: usize = 8;

/// Bytes of all secrets of a Run, former values included.
pub const MAX_TOGETHER: usize = runtimed_api::session::MAX_SECRETS_BYTES;

/// Where the value of a configured secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Which secret.
    pub name: SecretName,
    /// The file, or the way of links to it.
    pub path: PathBuf,
}

/// A value to stage, and the secrets of the Run that are it.
#[derive(Debug)]
pub struct Staged {
    /// The file's name in the staging directory.
    pub file: String,
    /// Its mode.
    pub mode: u32,
    /// The bytes.
    pub value: SecretValue,
    /// Every use that this file serves: two names of one source share one file.
    pub uses: Vec<SecretUse>,
    /// Where another value may come from; absent for one that was submitted.
    pub source: Option<Source>,
}

/// Judges whether every secret that a Run asks for is there for its namespace.
#[must_use]
pub fn judge(
    spec: &RunSpec,
    namespace: &Namespace,
    configured: &BTreeMap<SecretName, config::Secret>,
    submitted: &BTreeMap<SecretName, SecretValue>,
) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    for secret in &spec.secrets {
        let subject = format!("spec.secrets.{}", secret.name);
        if submitted.contains_key(&secret.name) {
            continue;
        }
        match configured.get(&secret.name) {
            Some(known) if known.kind != config::SecretKind::Opaque => refusals.push(Refusal::new(
                Rule::SECRET_NAMESPACE,
                subject,
                "it is a git credential, which no command may read",
            )),
            known => refusals.extend(unusable(known, namespace, &subject)),
        }
    }
    refusals.extend(credential::judge(spec, namespace, configured, submitted));
    refusals
}

fn unusable(known: Option<&config::Secret>, namespace: &Namespace, subject: &str) -> Option<Refusal> {
    let Some(known) = known else {
        return Some(
            Refusal::new(
                Rule::SECRET_UNKNOWN,
                subject,
                "this Runtime has no such secret, and none was submitted",
            )
            .hint("submit the value with --secret NAME=FILE, or ask the operator for it"),
        );
    };
    let allowed = known.namespaces.iter().any(|name| name == "*" || name == namespace.as_str());
    (!allowed).then(|| {
        Refusal::new(
            Rule::SECRET_NAMESPACE,
            subject,
            format!("namespace {namespace} may not use that secret"),
        )
    })
}

/// Reads and checks every value that a Run asks for.
///
/// # Errors
/// A value is missing, unreadable, empty, blank, too short or too large. The problem names the secret, never its value.
pub fn read(
    uses: &[SecretUse],
    configured: &BTreeMap<SecretName, config::Secret>,
    submitted: &BTreeMap<SecretName, SecretValue>,
) -> Result<Vec<Staged>, Problem> {
    let mut staged: Vec<Staged> = Vec::new();
    let mut sources: BTreeMap<&str, usize> = BTreeMap::new();
    for secret in uses {
        let name = &secret.name;
        let source =
            configured.get(name).filter(|_| !submitted.contains_key(name)).map(|known| &known.source);
        if let Some(index) = source.and_then(|source| sources.get(source.as_str()))
            && secret.file.is_none()
            && staged[*index].mode == secret.mode.unwrap_or_default().bits()
        {
            staged[*index].uses.push(secret.clone());
            continue;
        }
        let (value, place) = match (submitted.get(name), source) {
            (Some(value), _) => (check(value.expose()).map_err(|why| invalid(name, why))?, None),
            (None, Some(source)) => {
                let place = Source { name: name.clone(), path: path_of(source) };
                (read_source(&place)?, Some(place))
            }
            (None, None) => return Err(invalid(name, "nobody configured it")),
        };
        if let Some(source) = source {
            sources.insert(source, staged.len());
        }
        staged.push(Staged {
            file: secret.file.clone().unwrap_or_else(|| name.to_string()),
            mode: secret.mode.unwrap_or_default().bits(),
            value,
            uses: vec![secret.clone()],
            source: place,
        });
    }
    Ok(staged)
}

/// Reads and checks the value of a configured secret as it is now.
///
/// # Errors
/// As [`read`].
pub fn read_source(source: &Source) -> Result<SecretValue, Problem> {
    let bytes = file(&source.path).map_err(|why| invalid(&source.name, &why))?;
    check(&bytes).map_err(|why| invalid(&source.name, why))
}

/// Whether a configured secret could be used now.
///
/// # Errors
/// Why not, without its value.
pub fn try_source(name: &SecretName, known: &config::Secret) -> Result<(), Problem> {
    match known.kind {
        config::SecretKind::GitHttps | config::SecretKind::GitSsh => {
            credential::read_configured(name, known).map(drop)
        }
        config::SecretKind::Opaque => {
            read_source(&Source { name: name.clone(), path: path_of(&known.source) }).map(drop)
        }
    }
}

/// What a value must be: bytes enough to be masked, without the newline that editors add.
fn check(bytes: &[u8]) -> Result<SecretValue, &'static str> {
    let value = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let value = value.strip_suffix(b"\r").unwrap_or(value);
    if value.is_empty() {
        Err("it is empty")
    } else if value.trim_ascii().is_empty() {
        Err("it is blank")
    } else if value.len() < MIN_BYTES {
        Err("it is shorter than 8 bytes, too short to be masked in the log")
    } else if value.contains(&0) {
        Err("it holds a NUL byte")
    } else if value.len() as u64 > MAX_BYTES {
        Err("it is larger than 64 KiB")
    } else {
        Ok(SecretValue::new(value.to_vec()))
    }
}

/// Reads a source. Real Secret mounts are chains of symlinks of any owner, so links are followed; what is at the end
/// must be a regular file.
fn file(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let place = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    // O_NONBLOCK: a FIFO in the place of the file must not hold the daemon up.
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let opened: File = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(place)?;
    if !opened.metadata().map_err(place)?.is_file() {
        return Err(format!("{} is not a regular file", path.display()));
    }
    // One allocation, so that no half-grown copy is left in memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_BYTES).unwrap_or(0) + 2));
    opened.take(MAX_BYTES + 2).read_to_end(&mut bytes).map_err(place)?;
    Ok(bytes)
}

fn invalid(name: &SecretName, why: &str) -> Problem {
    Problem::new(Code::SecretInvalid, format!("secret {name} cannot be used: {why}"))
}

/// The path in a source as it is configured.
#[must_use]
pub fn path_of(source: &str) -> PathBuf {
    PathBuf::from(source.strip_prefix("file:").or_else(|| source.strip_prefix("dir:")).unwrap_or(source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn configured(path: &Path, names: &[&str]) -> BTreeMap<SecretName, config::Secret> {
        let secret = config::Secret {
            source: format!("file:{}", path.display()),
            namespaces: vec!["*".to_owned()],
            kind: config::SecretKind::Opaque,
            hosts: Vec::new(),
        };
        names.iter().map(|name| (name.parse().expect("a name"), secret.clone())).collect()
    }

    fn uses(names: &[&str]) -> Vec<SecretUse> {
        let name = |name: &&str| name.parse().expect("a name");
        names.iter().map(|n| SecretUse { name: name(n), env: None, file: None, mode: None }).collect()
    }

    #[test]
    fn two_names_of_one_source_share_one_file_and_the_newline_goes() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("real"), "a-long-token\n").expect("written");
        symlink("real", dir.path().join("data")).expect("linked");
        symlink("data", dir.path().join("token")).expect("linked");
        let names = ["transaction", "context-subject"];
        let known = configured(&dir.path().join("token"), &names);
        let staged = read(&uses(&names), &known, &BTreeMap::new()).expect("reads");
        assert_eq!(staged.len(), 1);
        assert_eq!(staged[0].uses.len(), 2);
        assert_eq!(staged[0].value.expose(), b"a-long-token");
    }

    #[test]
    fn a_bad_value_names_its_secret_and_not_itself() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("token");
        for (text, word) in [
            (Some(String::new()), "empty"),
            (Some("\n".to_owned()), "empty"),
            (Some("         \n".to_owned()), "blank"),
            (Some("hunter2".to_owned()), "shorter"),
            (Some("hunter2".repeat(10_000)), "larger"),
            (None, "cannot be read"),
        ] {
            match text {
                Some(text) => fs::write(&path, text).expect("written"),
                None => fs::remove_file(&path).expect("removed"),
            }
            let error = read(&uses(&["transaction"]), &configured(&path, &["transaction"]), &BTreeMap::new())
                .expect_err("refused");
            assert!(error.message.contains("secret transaction") && error.message.contains(word), "{error}");
            assert!(!error.message.contains("hunter2"), "{error}");
        }
    }
}
