//! A path inside a tree: bytes, as git keeps them, and their quoted form.

use std::fmt;

use crate::rule::{Refusal, Rule};

mod disguise;

pub(crate) use disguise::{Disguise, disguise};

/// The longest component that Linux file systems hold (`NAME_MAX`).
pub(crate) const MAX_COMPONENT: usize = 255;
/// The longest path that a system call takes (`PATH_MAX`).
pub(crate) const MAX_PATH: usize = 4096;
/// The deepest path, in components. Walks hold a descriptor for each directory on the way, of which a process has
/// 1024 by default; no repository that people work in comes near.
pub(crate) const MAX_DEPTH: usize = 256;

/// A path relative to the root of a tree. Any bytes; `/` separates components. It is not judged when it is made:
/// [`GitPath::judge`] does that.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GitPath(Box<[u8]>);

impl GitPath {
    /// The path with exactly these bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The bytes, as a tree holds them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its components, from the root. An empty path has one empty component.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/')
    }

    /// What it is called in its directory.
    pub(crate) fn name(&self) -> &[u8] {
        self.as_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }

    /// Refuses what no tree of ours may hold, on any file system that a person may check it out to.
    ///
    /// # Errors
    /// [`Rule::Traversal`], [`Rule::PathDotGit`] or [`Rule::PathInvalid`], naming this path.
    pub fn judge(&self) -> Result<(), Refusal> {
        if self.0.len() >= MAX_PATH {
            return Err(Refusal::at(Rule::PathInvalid, self, format!("the path has {} bytes", self.0.len())));
        }
        if self.components().count() > MAX_DEPTH {
            return Err(Refusal::at(Rule::PathInvalid, self, "the path has more than 256 components"));
        }
        if self.0.contains(&0) {
            return Err(Refusal::at(Rule::Traversal, self, "the path contains a NUL byte"));
        }
        for component in self.components() {
            let (rule, message) = match component {
                b"" if self.0.first() == Some(&b'/') => (Rule::Traversal, "the path is absolute"),
                b"" => (Rule::Traversal, "the path has an empty component"),
                b"." | b".." => (Rule::Traversal, "the path has a component that is `.` or `..`"),
                name if name.len() > MAX_COMPONENT => {
                    (Rule::PathInvalid, "a component of the path has more than 255 bytes")
                }
                name if disguise(name) == Some(Disguise::DotGit) => {
                    (Rule::PathDotGit, "some file systems take a component of the path for .git")
                }
                _ => continue,
            };
            return Err(Refusal::at(rule, self, message));
        }
        Ok(())
    }
}

/// As git prints it: plain if it can be, else in double quotes with C escapes. Lossless.
impl fmt::Display for GitPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Vec::with_capacity(self.0.len() + 2);
        quote(&mut out, b"", &self.0);
        f.write_str(&String::from_utf8_lossy(&out))
    }
}

impl fmt::Debug for GitPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Appends `prefix` and `path` as git does in a patch: quoted if a byte needs it.
pub(crate) fn quote(out: &mut Vec<u8>, prefix: &[u8], path: &[u8]) {
    let plain = |byte: &u8| matches!(byte, 0x20..=0x7e) && !matches!(byte, b'"' | b'\\');
    if path.iter().all(plain) {
        out.extend_from_slice(prefix);
        out.extend_from_slice(path);
        return;
    }
    out.push(b'"');
    out.extend_from_slice(prefix);
    for &byte in path {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0x07 => out.extend_from_slice(b"\\a"),
            0x08 => out.extend_from_slice(b"\\b"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            0x0b => out.extend_from_slice(b"\\v"),
            0x0c => out.extend_from_slice(b"\\f"),
            b'\r' => out.extend_from_slice(b"\\r"),
            0x20..=0x7e => out.push(byte),
            other => out.extend_from_slice(format!("\\{other:03o}").as_bytes()),
        }
    }
    out.push(b'"');
}

/// Reads one quoted string at the start of `input`; gives its bytes and what follows the closing quote.
pub(crate) fn unquote(input: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut rest = input.strip_prefix(b"\"")?;
    let mut out = Vec::new();
    loop {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        match byte {
            b'"' => return Some((out, rest)),
            b'\\' => {
                let (&escape, after) = rest.split_first()?;
                rest = after;
                out.push(match escape {
                    b'"' | b'\\' => escape,
                    b'a' => 0x07,
                    b'b' => 0x08,
                    b't' => b'\t',
                    b'n' => b'\n',
                    b'v' => 0x0b,
                    b'f' => 0x0c,
                    b'r' => b'\r',
                    b'0'..=b'3' => {
                        let (digits, after) = rest.split_at_checked(2)?;
                        rest = after;
                        octal(escape, digits)?
                    }
                    _ => return None,
                });
            }
            plain => out.push(plain),
        }
    }
}

fn octal(first: u8, rest: &[u8]) -> Option<u8> {
    rest.iter().try_fold(first - b'0', |value, digit| {
        matches!(digit, b'0'..=b'7').then(|| (value << 3) | (digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_is_gits_and_lossless() {
        let mut out = Vec::new();
        quote(&mut out, b"a/", b"caf\xc3\xa9 \"x\"\t");
        assert_eq!(out, br#""a/caf\303\251 \"x\"\t""#);
        assert_eq!(unquote(&out), Some((b"a/caf\xc3\xa9 \"x\"\t".to_vec(), &b""[..])));
        for byte in 0..=255_u8 {
            let mut out = Vec::new();
            quote(&mut out, b"", &[b'\x01', byte]);
            assert_eq!(unquote(&out), Some((vec![b'\x01', byte], &b""[..])), "{byte}");
        }
    }

    #[test]
    fn a_broken_quote_is_no_path() {
        for broken in [&b"\"abc"[..], b"\"\\", b"\"\\x41\"", b"\"\\08\"", b"\"\\477\"", b"abc"] {
            assert_eq!(unquote(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn paths_that_leave_the_tree_are_refused() {
        for (path, rule) in [
            (&b"../x"[..], Rule::Traversal),
            (b"a/../b", Rule::Traversal),
            (b"/etc/passwd", Rule::Traversal),
            (b"a//b", Rule::Traversal),
            (b"a/", Rule::Traversal),
            (b"./a", Rule::Traversal),
            (b"a\0b", Rule::Traversal),
            (b"", Rule::Traversal),
            (b".git/hooks/pre-commit", Rule::PathDotGit),
            (&[b'a'; 256], Rule::PathInvalid),
            (&[b"a/".repeat(256), b"a".to_vec()].concat(), Rule::PathInvalid),
            (&[b"a/".repeat(2048), b"a".to_vec()].concat(), Rule::PathInvalid),
        ] {
            assert_eq!(GitPath::new(path).judge().unwrap_err().rule, rule, "{path:?}");
        }
        for path in [&b"a"[..], b"a/b c/d", b"..a/b..", b".gitignore", b"\xff\xfe", b"...", &[b'a'; 255]] {
            GitPath::new(path).judge().unwrap();
        }
    }
}
