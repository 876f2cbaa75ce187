//! Who asks: people and daemons by a file of hashes, attempts by tokens that are made and never stored.

mod attempts;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use runtimed_api::ids::Namespace;
use runtimed_api::parse;
use runtimed_api::problem::{Code, Problem};
use runtimed_api::tokens::{DaemonToken, PersonToken, Role, Tokens};

pub use attempts::AttemptTokens;
pub(crate) use attempts::suffix;

/// The largest file of tokens, in bytes: some 100,000 tokens.
const MAX_FILE: u64 = 32 * 1024 * 1024;

/// A file of tokens that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// It cannot be read.
    #[error("the tokens file {} cannot be read: {source}; make it readable to this user", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("the tokens file {} is not valid: {why}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// The file of tokens, read again when it changes. A change that cannot be read leaves what was known in force.
#[derive(Debug)]
pub struct Authority {
    path: PathBuf,
    known: RwLock<Known>,
}

#[derive(Debug)]
struct Known {
    tokens: Arc<Tokens>,
    stamp: Option<Stamp>,
}

/// Tells one state of a file from another.
type Stamp = (u64, i64, i64, u64);

impl Authority {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read, or is not valid.
    pub fn open(path: &Path) -> Result<Self, TokensError> {
        let stamp = stamp(path);
        let tokens = Arc::new(read(path)?);
        Ok(Self { path: path.to_owned(), known: RwLock::new(Known { tokens, stamp }) })
    }

    /// The person who asks.
    ///
    /// # Errors
    /// No token, or one that is no person's.
    pub fn person(&self, headers: &HeaderMap) -> Result<PersonToken, Problem> {
        let token = bearer(headers)?;
        let tokens = self.tokens();
        match tokens.person(token) {
            Some(person) => Ok(person.clone()),
            None if tokens.daemon(token).is_some() => {
                Err(Problem::new(Code::Forbidden, "this is a daemon's token, and people's is needed"))
            }
            None => Err(unknown()),
        }
    }

    /// The daemon that asks.
    ///
    /// # Errors
    /// No token, or one that is no daemon's.
    pub fn daemon(&self, headers: &HeaderMap) -> Result<DaemonToken, Problem> {
        let token = bearer(headers)?;
        let tokens = self.tokens();
        match tokens.daemon(token) {
            Some(daemon) => Ok(daemon.clone()),
            None if tokens.person(token).is_some() => {
                Err(Problem::new(Code::Forbidden, "this is a person's token, and a daemon's is needed"))
            }
            None => Err(unknown()),
        }
    }

    /// What the file says now. The look at the file costs a microsecond, so each use is the moment to see a change.
    fn tokens(&self) -> Arc<Tokens> {
        let now = stamp(&self.path);
        {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            if known.stamp == now {
                return Arc::clone(&known.tokens);
            }
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.stamp != now {
            known.stamp = now;
            match read(&self.path) {
                Ok(tokens) => {
                    tracing::info!(
                        people = tokens.people.len(),
                        daemons = tokens.daemons.len(),
                        "tokens were read"
                    );
                    known.tokens = Arc::new(tokens);
                }
                Err(error) => tracing::error!(%error, "the tokens that were known stay in force"),
            }
        }
        Arc::clone(&known.tokens)
    }
}

/// Whether a person may do what this role may, in this namespace.
///
/// # Errors
/// The role is too small, or the namespace is another's.
pub fn allow(person: &PersonToken, role: Role, namespace: &Namespace) -> Result<(), Problem> {
    if !person.may_use(namespace) {
        let message = format!("{} may not use namespace {namespace}", person.subject);
        return Err(Problem::new(Code::Forbidden, message).hint("ask an admin, or choose another namespace"));
    }
    if person.role < role {
        let message = format!("{} is {:?} and this takes {role:?}", person.subject, person.role);
        return Err(Problem::new(Code::Forbidden, message));
    }
    Ok(())
}

/// The token of a request.
///
/// # Errors
/// There is none.
pub fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let missing = || {
        Problem::new(Code::Unauthenticated, "no token was given").hint("send `Authorization: Bearer TOKEN`")
    };
    let value = headers.get(AUTHORIZATION).ok_or_else(missing)?.to_str().map_err(|_| unknown())?;
    let (scheme, token) = value.split_once(' ').ok_or_else(missing)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(missing()) }
}

/// What is said of any token that is not good, and no more.
#[must_use]
pub fn unknown() -> Problem {
    Problem::new(Code::Unauthenticated, "the token is not known")
        .hint("check the token, and the server it is for")
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.size()))
}

fn read(path: &Path) -> Result<Tokens, TokensError> {
    let unread = |source| TokensError::Read { path: path.to_owned(), source };
    let invalid = |why: String| TokensError::Invalid { path: path.to_owned(), why };
    if fs::metadata(path).map_err(unread)?.len() > MAX_FILE {
        return Err(invalid(format!("it is larger than {MAX_FILE} bytes")));
    }
    let text = fs::read_to_string(path).map_err(unread)?;
    let document =
        toml::Deserializer::parse(&text).map_err(|error| invalid(first_line(&error.to_string())))?;
    let tokens: Tokens = parse::from(document).map_err(|error| invalid(first_line(&error.0)))?;
    check(&tokens).map_err(invalid)?;
    Ok(tokens)
}

/// TOML's errors draw a picture beneath their first line; one sentence is wanted, and no line of the file.
fn first_line(text: &str) -> String {
    text.lines()
        .filter(|line| !line.trim_start().starts_with('|') && !line.contains(" | "))
        .collect::<Vec<_>>()
        .join(" ")
}

fn check(tokens: &Tokens) -> Result<(), String> {
    let mut hashes = std::collections::BTreeSet::new();
    let all = tokens.people.iter().map(|p| p.hash).chain(tokens.daemons.iter().map(|d| d.hash));
    for hash in all {
        if !hashes.insert(hash) {
            return Err(format!(
                "the hash {hash} is there twice: each token is one person's or one Runtime's"
            ));
        }
    }
    for person in &tokens.people {
        if person.subject.is_empty()
            || person.subject.len() > 200
            || person.subject.contains(char::is_control)
        {
            return Err("a subject is 1 to 200 characters without control characters".to_owned());
        }
        for namespace in person.namespaces.iter().filter(|namespace| *namespace != "*") {
            namespace.parse::<Namespace>().map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
