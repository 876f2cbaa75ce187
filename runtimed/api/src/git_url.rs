//! Where a git source is: on a server, over https or ssh, or on the machine that fetches.
//!
//! The forms are those of git-fetch(1), but for those that git reads as options, as commands, or without encryption.

use std::fmt;

use crate::https_url::{HttpsUrl, host_and_port, is_printable};

/// Where a git source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GitUrl {
    /// `/path`: a repository on the machine that fetches.
    Local(String),
    /// `https://host[:port]/path`
    Https(HttpsUrl),
    /// `ssh://[user@]host[:port]/path`, or `[user@]host:path`.
    Ssh(SshUrl),
}

/// A repository that is reached over ssh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshUrl {
    user: String,
    host: String,
    port: Option<u16>,
    path: String,
}

/// Why a text is no URL of a git source. It never repeats a user or a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GitUrlError {
    /// It is longer than 2048 bytes, or has spaces or control characters in it.
    #[error("the URL is too long, or holds spaces or control characters")]
    Unprintable,
    /// `http://` or `git://`.
    #[error("the connection would not be encrypted")]
    Unencrypted,
    /// Another scheme, or none.
    #[error("the URL is none of https://…, ssh://… and host:path")]
    Scheme,
    /// A user or a password where none may be.
    #[error("the URL holds a user or password")]
    Login,
    /// A part of it is missing, or no program should be given it.
    #[error("the URL's user, host, port or path is missing, or is not one")]
    Part,
}

/// The longest URL, in bytes.
const MAX_BYTES: usize = 2048;
/// Whom git servers know.
const USUAL_USER: &str = "git";

impl GitUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// [`GitUrlError`].
    pub fn parse(text: &str) -> Result<Self, GitUrlError> {
        if text.starts_with('/') {
            let plain = text.len() <= MAX_BYTES && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
            return if plain { Ok(Self::Local(text.to_owned())) } else { Err(GitUrlError::Unprintable) };
        }
        if text.len() > MAX_BYTES || !is_printable(text) {
            return Err(GitUrlError::Unprintable);
        }
        match text.split_once("://") {
            Some(("https", rest)) => {
                let authority = rest.split('/').next().unwrap_or_default();
                if authority.contains('@') {
                    return Err(GitUrlError::Login);
                }
                if rest.is_empty() { Err(GitUrlError::Part) } else { https(text) }
            }
            Some(("ssh", rest)) => {
                let slash = rest.find('/').ok_or(GitUrlError::Part)?;
                let (authority, path) = rest.split_at(slash);
                // `/~user/path` is relative to that user's home, as git has it.
                let path = path.strip_prefix('/').filter(|path| path.starts_with('~')).unwrap_or(path);
                Ok(Self::Ssh(ssh(authority, path)?))
            }
            Some(("http" | "git", _)) => Err(GitUrlError::Unencrypted),
            // `ext::command` and its like are git's own, and execute what they name.
            Some(_) => Err(GitUrlError::Scheme),
            None if text.contains("::") && !text.contains("]:") => Err(GitUrlError::Scheme),
            None => scp_like(text),
        }
    }
}

fn https(text: &str) -> Result<GitUrl, GitUrlError> {
    HttpsUrl::parse(text).map(GitUrl::Https).ok_or(GitUrlError::Part)
}

/// `[user@]host:path`, which has no port: what follows the first colon after the host is the path.
fn scp_like(text: &str) -> Result<GitUrl, GitUrlError> {
    let start = text.find("]:").map_or(0, |bracket| bracket + 1);
    let colon = text.get(start..).and_then(|rest| rest.find(':')).ok_or(GitUrlError::Scheme)? + start;
    let (authority, path) = (&text[..colon], &text[colon + 1..]);
    if authority.contains('/') {
        return Err(GitUrlError::Scheme);
    }
    Ok(GitUrl::Ssh(ssh(authority, path)?))
}

fn ssh(authority: &str, path: &str) -> Result<SshUrl, GitUrlError> {
    let (user, place) = authority.rsplit_once('@').unwrap_or((USUAL_USER, authority));
    if user.contains(':') {
        return Err(GitUrlError::Login);
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-+".contains(&b);
    let is_user = !user.is_empty() && user.len() <= 64 && !user.starts_with('-') && user.bytes().all(plain);
    let (host, port) = host_and_port(place).ok_or(GitUrlError::Part)?;
    if !is_user || path.is_empty() || path == "/" || path.starts_with('-') {
        return Err(GitUrlError::Part);
    }
    Ok(SshUrl { user: user.to_owned(), host, port, path: path.to_owned() })
}

impl SshUrl {
    /// Whom to log in as; `git` where the URL does not say.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The host's name or address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The TCP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(22)
    }

    /// The path on the server; relative to the user's home unless it begins with a slash.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for SshUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.path.starts_with('/') { "" } else { "/" };
        write!(f, "ssh://{}@{}", self.user, self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))?;
        write!(f, "{slash}{}", self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ssh_parts(text: &str) -> (String, String, u16, String) {
        match GitUrl::parse(text) {
            Ok(GitUrl::Ssh(url)) => {
                (url.user().to_owned(), url.host().to_owned(), url.port(), url.path().to_owned())
            }
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn both_forms_of_an_ssh_url_are_read() {
        for (text, user, host, port, path) in [
            ("ssh://git@git.example/a/b.git", "git", "git.example", 22, "/a/b.git"),
            ("ssh://me@Git.Example:2222/a.git", "me", "git.example", 2222, "/a.git"),
            ("ssh://[::1]:2222/a.git", "git", "::1", 2222, "/a.git"),
            ("ssh://git.example/~me/a.git", "git", "git.example", 22, "~me/a.git"),
            ("git@git.example:a/b.git", "git", "git.example", 22, "a/b.git"),
            ("git.example:/srv/a.git", "git", "git.example", 22, "/srv/a.git"),
            ("me@[::1]:a.git", "me", "::1", 22, "a.git"),
        ] {
            assert_eq!(ssh_parts(text), (user.to_owned(), host.to_owned(), port, path.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_a_program_could_take_for_an_option_or_a_command_is_refused() {
        use GitUrlError::{Login, Part, Scheme, Unencrypted, Unprintable};
        for (bad, why) in [
            ("ssh://-oProxyCommand=touch%20x/a.git", Part),
            ("ssh://-l@h/a.git", Part),
            ("-oProxyCommand=x:a.git", Part),
            ("git@-h:a.git", Part),
            ("h:-u", Part),
            ("h:", Part),
            ("ssh://h", Part),
            ("ssh://h/", Part),
            ("ssh://h:0/a", Part),
            ("ssh://@h/a", Part),
            ("ssh://a;b@h/a", Part),
            ("ssh://u:p@h/a", Login),
            ("https://u:p@h/a", Login),
            ("https://", Part),
            ("https://h/x?y", Part),
            ("http://h/a", Unencrypted),
            ("git://h/a", Unencrypted),
            ("file:///a", Scheme),
            ("ext::sh -c x", Unprintable),
            ("ext::sh", Scheme),
            ("--upload-pack=x", Scheme),
            ("a/b:c", Scheme),
            ("relative", Scheme),
            ("", Scheme),
            ("h:a\nb", Unprintable),
        ] {
            assert_eq!(GitUrl::parse(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn a_url_is_shown_without_more_than_it_had() {
        for (text, shown) in [
            ("git@git.example:a.git", "ssh://git@git.example/a.git"),
            ("ssh://git.example:22/a.git", "ssh://git@git.example:22/a.git"),
        ] {
            let Ok(GitUrl::Ssh(url)) = GitUrl::parse(text) else { panic!("{text}") };
            assert_eq!(url.to_string(), shown);
        }
    }
}
