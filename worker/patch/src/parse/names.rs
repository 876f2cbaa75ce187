//! The names in a section's header: prefixed or not, quoted or not.

use super::lines::Lines;
use crate::{
    git_path::{GitPath, unquote},
    rule::Refusal,
};

/// What `--- old` and `+++ new` say; `/dev/null` is `None`.
pub(super) struct Marks {
    pub(super) old: Option<GitPath>,
    pub(super) new: Option<GitPath>,
}

/// Reads the two lines, if they are there.
pub(super) fn read_marks(lines: &mut Lines<'_>) -> Result<Option<Marks>, Refusal> {
    let Some(line) = lines.peek().and_then(|line| line.strip_prefix(b"--- ")) else { return Ok(None) };
    let bad = "a path without a prefix such as a/ or b/, or not well formed";
    let old = mark(line).ok_or_else(|| lines.malformed(bad))?;
    lines.advance();
    let Some(line) = lines.peek().and_then(|line| line.strip_prefix(b"+++ ")) else {
        return Err(lines.malformed("expected a line with `+++`"));
    };
    let new = mark(line).ok_or_else(|| lines.malformed(bad))?;
    lines.advance();
    Ok(Some(Marks { old, new }))
}

/// git ends an unquoted name that holds a space with a tab.
fn mark(text: &[u8]) -> Option<Option<GitPath>> {
    let text = text.strip_suffix(b"\t").unwrap_or(text);
    if text == b"/dev/null" {
        return Some(None);
    }
    prefixed(text).map(Some)
}

/// A whole name as `rename from` and its like have it.
pub(super) fn unprefixed(text: &[u8]) -> Option<GitPath> {
    whole(text).map(|name| GitPath::new(&name))
}

/// The name that both halves of a `diff --git` line have, where no other line names it.
pub(super) fn same_name(git_line: &[u8]) -> Option<GitPath> {
    splits(git_line).find_map(|(left, right)| {
        let name = prefixed(left)?;
        (prefixed(right)? == name).then_some(name)
    })
}

/// Whether a `diff --git` line can be read as these two names.
pub(super) fn names_both(git_line: &[u8], old: &GitPath, new: &GitPath) -> bool {
    splits(git_line)
        .any(|(left, right)| prefixed(left).as_ref() == Some(old) && prefixed(right).as_ref() == Some(new))
}

/// The ways to cut a line in two names. A quoted name ends at its quote, so there is at most one cut behind it.
fn splits(line: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let quoted = line
        .starts_with(b"\"")
        .then(|| unquote(line).map_or(line.len(), |(_, rest)| line.len() - rest.len()));
    let cuts = quoted.map_or(0..line.len(), |end| end..line.len().min(end + 1));
    // A name that does not end where a prefix or a quote begins is no cut, which keeps this linear in practice.
    cuts.filter(|&at| line[at] == b' ' && has_prefix(&line[at + 1..]))
        .map(|at| (&line[..at], &line[at + 1..]))
}

fn has_prefix(text: &[u8]) -> bool {
    text.starts_with(b"\"") || text.get(1) == Some(&b'/')
}

/// A name behind its prefix. git's prefixes are one letter: a/ and b/, or i/ w/ c/ o/ 1/ 2/ if so configured.
fn prefixed(text: &[u8]) -> Option<GitPath> {
    let name = whole(text)?;
    match name.as_slice() {
        [b'a' | b'b' | b'c' | b'i' | b'o' | b'w' | b'1' | b'2', b'/', path @ ..] if !path.is_empty() => {
            Some(GitPath::new(path))
        }
        _ => None,
    }
}

fn whole(text: &[u8]) -> Option<Vec<u8>> {
    if text.starts_with(b"\"") {
        return unquote(text).and_then(|(name, rest)| rest.is_empty().then_some(name));
    }
    (!text.is_empty()).then(|| text.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_other_names_is_cut_in_its_middle() {
        for (line, name) in [
            ("a/x b/x", "x"),
            ("a/x b/x b/x b/x", "x b/x"),
            ("a/my file b/my file", "my file"),
            ("a/end  b/end ", "end "),
            (r#""a/t\tb" "b/t\tb""#, "t\tb"),
        ] {
            assert_eq!(same_name(line.as_bytes()), Some(GitPath::new(name.as_bytes())), "{line}");
        }
        for line in ["a/x b/y", "x x", "a/x", "a/ b/", r#""a/x b/x"#, "sub/x sub/x"] {
            assert_eq!(same_name(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn one_side_may_be_quoted() {
        let (old, new) = (GitPath::new(b"plain name"), GitPath::new(b"t\tb"));
        assert!(names_both(br#"a/plain name "b/t\tb""#, &old, &new));
        assert!(names_both(br#""a/t\tb" b/plain name"#, &new, &old));
        assert!(!names_both(br#""a/t\tb" b/plain name"#, &old, &new));
    }
}
