//! Writes the differences of two trees as a patch in git's format: whole ids, binary data, no renames.
//!
//! The headers are written here, and libgit2 is asked only for the hunks and binary data of two contents. Nothing of
//! a repository, its attributes or anybody's configuration has a say, so the same two trees give the same bytes.

use std::io::{self, Write};

use git2::{DiffOptions, Oid};

use crate::{
    git_path::quote,
    objects::Objects,
    tree::{Difference, Entry},
};

/// What was written.
#[derive(Debug, Default)]
pub(crate) struct EmitStats {
    pub(crate) insertions: u64,
    pub(crate) deletions: u64,
    pub(crate) bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum EmitError {
    #[error("the patch is larger than its limit")]
    TooLarge,
    #[error("cannot write the patch")]
    Write(#[source] io::Error),
    #[error(transparent)]
    Store(#[from] git2::Error),
}

/// Writes all of `differences`, in their order, in at most `max` bytes.
pub(crate) fn emit(
    objects: &Objects<'_>,
    differences: &[Difference],
    max: u64,
    out: &mut dyn Write,
) -> Result<EmitStats, EmitError> {
    let mut emitter = Emitter { objects, max, out, stats: EmitStats::default(), section: Vec::new() };
    for Difference { path, old, new } in differences {
        let path = path.as_bytes();
        match (old, new) {
            // A file that becomes a symlink is one file gone and another made, as in git.
            (Some(old), Some(new)) if old.mode.is_regular() != new.mode.is_regular() => {
                emitter.section(path, Some(*old), None)?;
                emitter.section(path, None, Some(*new))?;
            }
            (old, new) => emitter.section(path, *old, *new)?,
        }
    }
    Ok(emitter.stats)
}

/// Writes what cannot be read in the patch of `differences`: names, which may be quoted there, and the contents of binary
/// files, before and after, which are compressed. `None` if it is more than `max` bytes.
pub(crate) fn reveal(
    objects: &Objects<'_>,
    differences: &[Difference],
    max: u64,
    out: &mut dyn Write,
) -> Result<Option<u64>, EmitError> {
    let mut written = 0_u64;
    let mut put = |bytes: &[u8]| {
        written += bytes.len() as u64 + 1;
        if written > max {
            return Ok(false);
        }
        out.write_all(bytes).and_then(|()| out.write_all(b"\n")).map(|()| true).map_err(EmitError::Write)
    };
    for Difference { path, old, new } in differences {
        let mut contents = Vec::new();
        for entry in [old, new].into_iter().flatten() {
            let Some(content) = objects.blob(entry.id, max)? else { return Ok(None) };
            contents.push(content);
        }
        let binary = contents.iter().any(|content| is_binary(content));
        contents.retain(|_| binary);
        for bytes in std::iter::once(path.as_bytes()).chain(contents.iter().map(Vec::as_slice)) {
            if !put(bytes)? {
                return Ok(None);
            }
        }
    }
    Ok(Some(written))
}

struct Emitter<'a, 'r> {
    objects: &'a Objects<'r>,
    max: u64,
    out: &'a mut dyn Write,
    stats: EmitStats,
    /// The section of one file, before it is written.
    section: Vec<u8>,
}

impl Emitter<'_, '_> {
    fn section(&mut self, path: &[u8], old: Option<Entry>, new: Option<Entry>) -> Result<(), EmitError> {
        self.section.clear();
        self.header(path, old, new);
        if old.map(|entry| entry.id) != new.map(|entry| entry.id) {
            self.body(path, old, new)?;
        }
        self.stats.bytes += self.section.len() as u64;
        if self.stats.bytes > self.max {
            return Err(EmitError::TooLarge);
        }
        self.out.write_all(&self.section).map_err(EmitError::Write)
    }

    fn header(&mut self, path: &[u8], old: Option<Entry>, new: Option<Entry>) {
        let out = &mut self.section;
        out.extend_from_slice(b"diff --git ");
        quote(out, b"a/", path);
        out.push(b' ');
        quote(out, b"b/", path);
        out.push(b'\n');
        let mut mode = String::new();
        match (old, new) {
            (None, Some(new)) => out.extend_from_slice(format!("new file mode {}\n", new.mode).as_bytes()),
            (Some(old), None) => {
                out.extend_from_slice(format!("deleted file mode {}\n", old.mode).as_bytes());
            }
            (Some(old), Some(new)) if old.mode != new.mode => {
                out.extend_from_slice(format!("old mode {}\nnew mode {}\n", old.mode, new.mode).as_bytes());
            }
            (Some(old), _) => mode = format!(" {}", old.mode),
            (None, None) => {}
        }
        let [old, new] = [old, new].map(|entry| entry.map_or(Oid::ZERO_SHA1, |entry| entry.id));
        if old != new {
            out.extend_from_slice(format!("index {old}..{new}{mode}\n").as_bytes());
        }
    }

    fn body(&mut self, path: &[u8], old: Option<Entry>, new: Option<Entry>) -> Result<(), EmitError> {
        let read = |entry: Option<Entry>| match entry {
            // The old side is bounded as well: a patch that deletes it holds all of it.
            Some(entry) => self.objects.blob(entry.id, MAX_CONTENT)?.ok_or(EmitError::TooLarge),
            None => Ok(Vec::new()),
        };
        let (before, after) = (read(old)?, read(new)?);
        let binary = is_binary(&before) || is_binary(&after);
        if !binary && before != after {
            self.mark(b"--- ", b"a/", path, old.is_some());
            self.mark(b"+++ ", b"b/", path, new.is_some());
        }
        let mut options = DiffOptions::new();
        options.context_lines(3).interhunk_lines(0).indent_heuristic(true).max_size(-1);
        options.force_text(!binary).force_binary(binary).show_binary(binary);
        let mut patch = git2::Patch::from_buffers(&before, None, &after, None, Some(&mut options))?;
        let room = self.max - self.stats.bytes;
        let (section, stats) = (&mut self.section, &mut self.stats);
        let printed = patch.print(&mut |_, _, line| {
            match line.origin() {
                'F' => return true,
                '+' => stats.insertions += 1,
                '-' => stats.deletions += 1,
                _ => {}
            }
            if let ' ' | '+' | '-' = line.origin() {
                section.extend_from_slice(line.origin().encode_utf8(&mut [0; 4]).as_bytes());
            }
            section.extend_from_slice(line.content());
            section.len() as u64 <= room
        });
        if self.section.len() as u64 > room {
            return Err(EmitError::TooLarge);
        }
        Ok(printed?)
    }

    /// `--- a/name`, with the tab behind it that git writes where an unquoted name holds a space.
    fn mark(&mut self, sign: &[u8], prefix: &[u8], path: &[u8], exists: bool) {
        self.section.extend_from_slice(sign);
        if exists {
            let start = self.section.len();
            quote(&mut self.section, prefix, path);
            if self.section.get(start) != Some(&b'"') && path.contains(&b' ') {
                self.section.push(b'\t');
            }
        } else {
            self.section.extend_from_slice(b"/dev/null");
        }
        self.section.push(b'\n');
    }
}

/// The largest content that is compared. libgit2 does its arithmetic in 32 bits beyond it.
const MAX_CONTENT: u64 = 1 << 30;

/// git's own test: a NUL among the first 8000 bytes.
fn is_binary(content: &[u8]) -> bool {
    content.iter().take(8000).any(|byte| *byte == 0)
}
