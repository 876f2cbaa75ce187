//! One `diff --git` section: its extended header, then its body.

use git2::Oid;

use super::{Action, Body, FileChange, binary, hunks, lines::Lines, names};
use crate::{
    git_path::GitPath,
    rule::{Refusal, Rule},
    tree::Mode,
};

/// An object id of an `index` line: whole, or its first digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObjectName(Vec<u8>);

impl ObjectName {
    /// The id, if all of it is there.
    pub(crate) fn whole(&self) -> Option<Oid> {
        if self.0.len() != 40 {
            return None;
        }
        std::str::from_utf8(&self.0).ok().and_then(|hex| Oid::from_str(hex).ok())
    }

    /// The id of the empty content, as far as it is there.
    fn is_empty_blob(&self) -> bool {
        b"e69de29bb2d1d6434b8b29ae775ad8c2e48c5391".starts_with(&self.0)
    }

    /// The id of no object: the side of a creation or deletion that does not exist.
    pub(crate) fn is_zero(&self) -> bool {
        self.0.iter().all(|byte| *byte == b'0')
    }
}

#[derive(Default)]
struct Header {
    old_mode: Option<Mode>,
    new_mode: Option<Mode>,
    creates: bool,
    deletes: bool,
    rename: (Option<GitPath>, Option<GitPath>),
    copy: (Option<GitPath>, Option<GitPath>),
    ids: Option<(ObjectName, ObjectName)>,
    /// Whether the header says that a content is the same as before: similarity 100 %.
    same: bool,
}

pub(super) fn read_change<'a>(lines: &mut Lines<'a>) -> Result<FileChange<'a>, Refusal> {
    let start = lines.clone();
    let git_line =
        lines.take(b"diff --git ").ok_or_else(|| lines.malformed("expected a line with `diff --git`"))?;
    let mut header = Header::default();
    while read_extended(lines, &mut header)? {}
    let marks = names::read_marks(lines)?;
    let action = action(&header, git_line, marks.as_ref()).map_err(|message| start.malformed(message))?;

    let body = if marks.is_some() {
        Body::Text(hunks::read_hunks(lines)?)
    } else if lines.peek() == Some(b"GIT binary patch") {
        Body::Binary(binary::read_binary(lines)?)
    } else if lines.peek().is_some_and(|line| line.starts_with(b"Binary files ")) {
        let message = "the data of this binary file is missing; make the patch with `git diff --binary`";
        return Err(Refusal::at(Rule::Malformed, action.path(), message));
    } else {
        Body::None
    };
    if !lines.since(&start).ends_with(b"\n") {
        return Err(lines.malformed("the patch is cut short"));
    }
    end_of_body(lines)?;
    let same = header.same;
    let change =
        FileChange { action, old_mode: header.old_mode, new_mode: header.new_mode, ids: header.ids, body };
    agrees(&change, same).map_err(|message| {
        Refusal::at(Rule::Malformed, change.action.path(), format!("{message}, in the header of this file"))
    })?;
    Ok(change)
}

/// After a body comes the next file, the end, an empty line, a mail's signature, or the next mail. A line of any
/// other kind is what a wrong line count leaves over, and would else be lost in silence.
fn end_of_body(lines: &Lines<'_>) -> Result<(), Refusal> {
    match lines.peek() {
        None | Some(b"" | b"--" | b"-- ") => Ok(()),
        Some(line) if line.starts_with(b"diff --git ") || line.starts_with(b"From ") => Ok(()),
        Some(_) => Err(lines.malformed("unexpected line after the changes of a file")),
    }
}

/// Reads one line of the extended header, if the current line is one.
fn read_extended(lines: &mut Lines<'_>, header: &mut Header) -> Result<bool, Refusal> {
    let Some(line) = lines.peek() else { return Ok(false) };
    let malformed = |message| lines.malformed(message);
    let path = |bytes| names::unprefixed(bytes).ok_or_else(|| malformed("a path that is not well formed"));
    if let Some(mode) = line.strip_prefix(b"old mode ") {
        set(&mut header.old_mode, read_mode(mode)?)
    } else if let Some(mode) = line.strip_prefix(b"new mode ") {
        set(&mut header.new_mode, read_mode(mode)?)
    } else if let Some(mode) = line.strip_prefix(b"deleted file mode ") {
        header.deletes = true;
        set(&mut header.old_mode, read_mode(mode)?)
    } else if let Some(mode) = line.strip_prefix(b"new file mode ") {
        header.creates = true;
        set(&mut header.new_mode, read_mode(mode)?)
    } else if let Some(from) = line.strip_prefix(b"rename from ") {
        set(&mut header.rename.0, path(from)?)
    } else if let Some(to) = line.strip_prefix(b"rename to ") {
        set(&mut header.rename.1, path(to)?)
    } else if let Some(from) = line.strip_prefix(b"copy from ") {
        set(&mut header.copy.0, path(from)?)
    } else if let Some(to) = line.strip_prefix(b"copy to ") {
        set(&mut header.copy.1, path(to)?)
    } else if let Some(percent) = line.strip_prefix(b"similarity index ") {
        header.same = percent == b"100%";
        Some(())
    } else if line.starts_with(b"dissimilarity index ") {
        Some(())
    } else if let Some(index) = line.strip_prefix(b"index ") {
        let (old, new, mode) =
            read_index(index).ok_or_else(|| malformed("an `index` line that is not well formed"))?;
        if let Some(mode) = mode {
            header.old_mode.get_or_insert(read_mode(mode)?);
        }
        set(&mut header.ids, (old, new))
    } else {
        return Ok(false);
    }
    .ok_or_else(|| lines.malformed("the same line twice in one header"))?;
    lines.advance();
    Ok(true)
}

fn set<T>(slot: &mut Option<T>, value: T) -> Option<()> {
    slot.replace(value).is_none().then_some(())
}

fn read_mode(text: &[u8]) -> Result<Mode, Refusal> {
    Mode::from_octal(text).ok_or_else(|| {
        let message =
            format!("mode {:?}; only 100644, 100755 and 120000 are allowed", String::from_utf8_lossy(text));
        Refusal::new(Rule::Mode, message)
    })
}

fn read_index(text: &[u8]) -> Option<(ObjectName, ObjectName, Option<&[u8]>)> {
    let (ids, mode) = match text.iter().position(|byte| *byte == b' ') {
        Some(space) => (&text[..space], Some(&text[space + 1..])),
        None => (text, None),
    };
    let dots = ids.windows(2).position(|pair| pair == b"..")?;
    let name = |hex: &[u8]| {
        let good =
            (4..=40).contains(&hex.len()) && hex.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        good.then(|| ObjectName(hex.to_vec()))
    };
    Some((name(&ids[..dots])?, name(&ids[dots + 2..])?, mode))
}

/// What the section does, and to which path: every line that names one must agree.
fn action(header: &Header, git_line: &[u8], marks: Option<&names::Marks>) -> Result<Action, &'static str> {
    let moved = match (&header.rename, &header.copy) {
        ((None, None), (None, None)) => None,
        ((Some(from), Some(to)), (None, None)) => Some(Action::Rename { from: from.clone(), to: to.clone() }),
        ((None, None), (Some(from), Some(to))) => Some(Action::Copy { from: from.clone(), to: to.clone() }),
        _ => return Err("a rename or copy without both of its names"),
    };
    if usize::from(moved.is_some()) + usize::from(header.creates) + usize::from(header.deletes) > 1 {
        return Err("a file cannot be created, deleted, renamed and copied at once");
    }
    let action = match (moved, marks) {
        (Some(action), _) => action,
        (None, Some(marks)) => {
            let path = marks.new.as_ref().or(marks.old.as_ref()).ok_or("a file without a name")?;
            header.plain(path.clone())
        }
        (None, None) => header.plain(names::same_name(git_line).ok_or("the file's name is not well formed")?),
    };
    let (old, new) = action.paths();
    if let Some(marks) = marks
        && (marks.old.as_ref(), marks.new.as_ref()) != (old, new)
    {
        return Err("the lines with `---` and `+++` contradict the header");
    }
    if matches!(&action, Action::Rename { from, to } | Action::Copy { from, to } if from == to) {
        return Err("a rename or copy of a file to itself");
    }
    let (left, right) = (old.or(new), new.or(old));
    if !left.zip(right).is_some_and(|(left, right)| names::names_both(git_line, left, right)) {
        return Err("the line with `diff --git` contradicts the other names");
    }
    Ok(action)
}

impl Header {
    fn plain(&self, path: GitPath) -> Action {
        match (self.creates, self.deletes) {
            (true, _) => Action::Create(path),
            (_, true) => Action::Delete(path),
            _ => Action::Modify(path),
        }
    }
}

/// Contradictions between the header and the body that would make the result depend on who reads it.
fn agrees(change: &FileChange<'_>, same: bool) -> Result<(), &'static str> {
    let has_body = !matches!(change.body, Body::None);
    if let Body::Text(hunks) = &change.body {
        match change.action {
            Action::Create(_) if hunks.iter().any(|hunk| hunk.old_lines > 0) => {
                return Err("a new file that has old lines");
            }
            Action::Delete(_) if hunks.iter().any(|hunk| hunk.new_lines > 0) => {
                return Err("a deleted file that keeps lines");
            }
            _ => {}
        }
    }
    if let Some((old, new)) = &change.ids {
        let (creates, deletes) =
            (matches!(change.action, Action::Create(_)), matches!(change.action, Action::Delete(_)));
        if old.is_zero() != creates || new.is_zero() != deletes {
            return Err("ids that contradict what happens to the file");
        }
        let empty = if creates { new.is_empty_blob() } else { deletes && old.is_empty_blob() };
        if !has_body && !empty {
            return Err("a change of content that is missing");
        }
    }
    match change.action {
        Action::Modify(_) if !has_body && change.new_mode.is_none() => Err("no change at all"),
        Action::Modify(_) if change.new_mode.is_some() && change.old_mode.is_none() => {
            Err("a new mode without the old one")
        }
        Action::Create(_) | Action::Delete(_) if !has_body && change.ids.is_none() => {
            Err("an empty file without its id, as if it were cut short")
        }
        Action::Rename { .. } | Action::Copy { .. } if !has_body && !same => {
            Err("a rename or copy with a change of content that is missing")
        }
        Action::Create(_) if change.old_mode.is_some() => Err("an old mode of a new file"),
        Action::Delete(_) if change.new_mode.is_some() => Err("a new mode of a deleted file"),
        _ => Ok(()),
    }
}
