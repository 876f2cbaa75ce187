//! `.gitignore` files, as they were in the Baseline: what a command writes into one does not hide its own files.

use std::{iter::Peekable, str::Chars};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::git_path::GitPath;

/// A larger file is taken for no list of patterns.
const MAX_BYTES: usize = 1 << 20;

/// All `.gitignore` files of a tree.
#[derive(Debug, Default)]
pub(crate) struct IgnoreRules {
    /// The deepest directories first, for the nearest file decides.
    files: Vec<IgnoreFile>,
}

#[derive(Debug)]
struct IgnoreFile {
    /// Its directory with a slash at the end; empty for the root.
    directory: Vec<u8>,
    patterns: Vec<Pattern>,
    /// Patterns without a slash, which match a name in any directory; and the others, which match a path from here.
    names: (GlobSet, Vec<usize>),
    paths: (GlobSet, Vec<usize>),
}

#[derive(Debug)]
struct Pattern {
    ignores: bool,
    only_directories: bool,
}

impl IgnoreRules {
    /// The rules of these files: the path of each, and its content.
    pub(crate) fn new(files: impl IntoIterator<Item = (GitPath, Vec<u8>)>) -> Self {
        let mut files = files
            .into_iter()
            .filter(|(_, content)| content.len() <= MAX_BYTES)
            .map(|(path, content)| IgnoreFile::parse(path.as_bytes(), &content))
            .collect::<Vec<_>>();
        files.sort_by_key(|file| std::cmp::Reverse(file.directory.len()));
        Self { files }
    }

    /// Whether this path itself is ignored. That a directory above it is has to be seen by who walks down.
    pub(crate) fn is_ignored(&self, path: &[u8], is_directory: bool) -> bool {
        let decided = self.files.iter().find_map(|file| file.judge(path, is_directory));
        decided.unwrap_or(false)
    }
}

impl IgnoreFile {
    fn parse(path: &[u8], content: &[u8]) -> Self {
        let slash = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let mut patterns = Vec::new();
        let mut names = (GlobSetBuilder::new(), Vec::new());
        let mut paths = (GlobSetBuilder::new(), Vec::new());
        for line in content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content).split(|byte| *byte == b'\n') {
            let Some((glob, anchored, pattern)) = read_line(line) else { continue };
            let glob = GlobBuilder::new(&glob).literal_separator(true).backslash_escape(true).build();
            // A pattern that is not well formed matches nothing, as in git.
            let Ok(glob) = glob else { continue };
            let (set, indices) = if anchored { &mut paths } else { &mut names };
            set.add(glob);
            indices.push(patterns.len());
            patterns.push(pattern);
        }
        let build = |(set, indices): (GlobSetBuilder, Vec<usize>)| (set.build().unwrap_or_default(), indices);
        Self { directory: path[..slash].to_vec(), patterns, names: build(names), paths: build(paths) }
    }

    /// What the last pattern that matches says.
    fn judge(&self, path: &[u8], is_directory: bool) -> Option<bool> {
        let below = path.strip_prefix(self.directory.as_slice())?;
        let name = below.rsplit(|byte| *byte == b'/').next().unwrap_or(below);
        let matches = [(&self.names, name), (&self.paths, below)];
        let hits = matches.iter().flat_map(|((set, indices), text)| {
            set.matches(as_path(text)).into_iter().filter_map(|hit| indices.get(hit).copied())
        });
        let hits = hits.filter(|index| is_directory || !self.patterns[*index].only_directories);
        hits.max().map(|index| self.patterns[index].ignores)
    }
}

fn as_path(bytes: &[u8]) -> &std::path::Path {
    std::path::Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(bytes))
}

/// The glob of a line, whether it is bound to the file's own directory, and what it says.
fn read_line(line: &[u8]) -> Option<(String, bool, Pattern)> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // Bytes that are no UTF-8 cannot be in a glob here; such a line is passed over.
    let line = trim_spaces(std::str::from_utf8(line).ok()?);
    if line.starts_with('#') {
        return None;
    }
    let (ignores, line) = line.strip_prefix('!').map_or((true, line), |rest| (false, rest));
    let (only_directories, line) = line.strip_suffix('/').map_or((false, line), |rest| (true, rest));
    let anchored = line.contains('/');
    // No path has an empty component, so such a pattern matches none.
    if line.is_empty() || line == "/" || line.contains("//") || (only_directories && line.ends_with('/')) {
        return None;
    }
    let line = line.strip_prefix('/').unwrap_or(line);
    Some((glob(line)?, anchored, Pattern { ignores, only_directories }))
}

/// The pattern as a glob of ours, or `None` if it matches nothing. git knows no choices in braces, so those are escaped;
/// several stars are `**` between slashes only, else one; and no class matches a slash.
fn glob(pattern: &str) -> Option<String> {
    let mut glob = String::with_capacity(pattern.len());
    let mut rest = pattern.chars().peekable();
    while let Some(next) = rest.next() {
        match next {
            '\\' => {
                glob.push(next);
                glob.push(rest.next()?);
            }
            '*' => {
                let starts = glob.is_empty() || glob.ends_with('/');
                let mut several = false;
                while rest.next_if_eq(&'*').is_some() {
                    several = true;
                }
                let whole = several && starts && rest.peek().is_none_or(|after| *after == '/');
                glob.push_str(if whole { "**" } else { "*" });
            }
            '[' => class(&mut glob, &mut rest)?,
            '{' | '}' => glob.extend(['\\', next]),
            other => glob.push(other),
        }
    }
    Some(glob)
}

/// The rest of a class. A bracket right at its start is one of its members.
fn class(glob: &mut String, rest: &mut Peekable<Chars<'_>>) -> Option<()> {
    glob.push('[');
    let negated = rest.next_if(|next| matches!(next, '!' | '^')).is_some();
    if negated {
        glob.push('!');
    }
    glob.extend(rest.next_if_eq(&']'));
    if negated {
        glob.push('/');
    }
    loop {
        match rest.next()? {
            ']' => break,
            // An escaped member that means something in a class is beyond our globs.
            '\\' => glob.push(rest.next().filter(|member| !matches!(member, ']' | '-' | '!' | '^'))?),
            member => glob.push(member),
        }
    }
    glob.push(']');
    Some(())
}

/// Spaces at the end do not count, unless the first of them is escaped.
fn trim_spaces(line: &str) -> &str {
    let trimmed = line.trim_end_matches(' ');
    let escaped = trimmed.len() < line.len() && trimmed.ends_with('\\') && !trimmed.ends_with("\\\\");
    if escaped { &line[..=trimmed.len()] } else { trimmed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_file_and_its_last_pattern_decide() {
        let rules = IgnoreRules::new([
            (
                GitPath::new(b".gitignore"),
                b"*.log\n/build\ntmp/\n# no\n\\#yes\na/**/z\n{x}\nend\\ \n".to_vec(),
            ),
            (GitPath::new(b"sub/.gitignore"), b"!keep.log\n*.o\n!*.o\n*.o\r\n".to_vec()),
        ]);
        for (path, is_directory, ignored) in [
            ("x.log", false, true),
            ("deep/x.log", false, true),
            ("sub/keep.log", false, false),
            ("sub/x.o", false, true),
            ("x.o", false, false),
            ("build", true, true),
            ("deep/build", true, false),
            ("tmp", false, false),
            ("deep/tmp", true, true),
            ("#yes", false, true),
            ("# no", false, false),
            ("a/z", false, true),
            ("a/b/c/z", false, true),
            ("{x}", false, true),
            ("x", false, false),
            ("end ", false, true),
            ("end", false, false),
        ] {
            assert_eq!(rules.is_ignored(path.as_bytes(), is_directory), ignored, "{path}");
        }
    }
}
