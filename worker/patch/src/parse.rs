//! Reads a patch in git's format: strictly, in one pass, without interpreting what it would do.
//!
//! Everything that git's own `diff --binary` and `format-patch` write is understood: text and binary changes, new,
//! deleted and empty files, mode changes, renames, copies, quoted names, several messages in one file. What is
//! between changes (a mail's header and message) is passed over, but nothing that could be a change is: a hunk or a
//! traditional diff there refuses the whole patch.

use std::collections::BTreeSet;

use git2::Oid;

use crate::{
    git_path::GitPath,
    limits::Limits,
    rule::{Refusal, Rule},
    tree::Mode,
};

mod binary;
mod header;
mod hunks;
mod lines;
mod names;

pub(crate) use binary::{Binary, BinaryData, BinarySide};
pub(crate) use header::ObjectName;
pub(crate) use hunks::{Hunk, LineKind};

use lines::Lines;

/// A patch that is well formed. It borrows the bytes that it was read from.
#[derive(Debug, Clone)]
pub struct Parsed<'a> {
    messages: Vec<Message<'a>>,
    paths: BTreeSet<GitPath>,
    files: u32,
    insertions: u64,
    deletions: u64,
}

impl<'a> Parsed<'a> {
    /// How many files it changes. A rename is one.
    #[must_use]
    pub fn files(&self) -> u32 {
        self.files
    }

    /// Lines it adds, in text files.
    #[must_use]
    pub fn insertions(&self) -> u64 {
        self.insertions
    }

    /// Lines it removes, in text files.
    #[must_use]
    pub fn deletions(&self) -> u64 {
        self.deletions
    }

    /// Every path it names, sorted; a rename gives both.
    pub fn paths(&self) -> impl Iterator<Item = &GitPath> {
        self.paths.iter()
    }

    /// Its messages, each of which applies to the result of the one before.
    pub(crate) fn messages(&self) -> &[Message<'a>] {
        &self.messages
    }
}

/// The changes of one commit. Their order means nothing: each reads the tree as it was before the message.
pub(crate) type Message<'a> = Vec<FileChange<'a>>;

/// One `diff --git` section.
#[derive(Debug, Clone)]
pub(crate) struct FileChange<'a> {
    pub(crate) action: Action,
    /// The mode that the patch expects, if it says so.
    pub(crate) old_mode: Option<Mode>,
    /// The mode that the patch sets, if it says so.
    pub(crate) new_mode: Option<Mode>,
    /// The contents' ids before and after, as far as the patch spells them out.
    pub(crate) ids: Option<(ObjectName, ObjectName)>,
    pub(crate) body: Body<'a>,
}

impl FileChange<'_> {
    /// The ids of the contents before and after, where the patch spells them out whole.
    pub(crate) fn whole_ids(&self) -> (Option<Oid>, Option<Oid>) {
        self.ids.as_ref().map_or((None, None), |(old, new)| (old.whole(), new.whole()))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Modify(GitPath),
    Create(GitPath),
    Delete(GitPath),
    Rename { from: GitPath, to: GitPath },
    Copy { from: GitPath, to: GitPath },
}

impl Action {
    /// The path that is read, and the one that is written.
    pub(crate) fn paths(&self) -> (Option<&GitPath>, Option<&GitPath>) {
        match self {
            Self::Modify(path) => (Some(path), Some(path)),
            Self::Create(path) => (None, Some(path)),
            Self::Delete(path) => (Some(path), None),
            Self::Rename { from, to } | Self::Copy { from, to } => (Some(from), Some(to)),
        }
    }

    /// The path that messages about this change name.
    pub(crate) fn path(&self) -> &GitPath {
        match self {
            Self::Modify(path) | Self::Create(path) | Self::Delete(path) => path,
            Self::Rename { to, .. } | Self::Copy { to, .. } => to,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Body<'a> {
    /// The content stays, or is empty.
    None,
    Text(Vec<Hunk<'a>>),
    Binary(Binary),
}

/// Reads one patch. Zero bytes are the empty patch, which changes nothing.
///
/// # Errors
/// A [`Refusal`] by [`Rule::TooLarge`], [`Rule::TooManyFiles`], [`Rule::Malformed`],
/// [`Rule::Mode`], or one of the rules of [`GitPath::judge`], which every path in the patch must pass.
pub fn parse<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Parsed<'a>, Refusal> {
    if bytes.len() as u64 > limits.max_bytes {
        let message = format!("the patch has {} bytes; the limit is {}", bytes.len(), limits.max_bytes);
        return Err(Refusal::new(Rule::TooLarge, message));
    }
    let mut parsed =
        Parsed { messages: Vec::new(), paths: BTreeSet::new(), files: 0, insertions: 0, deletions: 0 };
    let mut lines = Lines::new(bytes);
    let mut message = Message::new();
    loop {
        let starts_message = skip_prose(&mut lines)?;
        if (starts_message || lines.is_empty()) && !message.is_empty() {
            parsed.messages.push(std::mem::take(&mut message));
        }
        if lines.is_empty() {
            break;
        }
        let change = header::read_change(&mut lines)?;
        parsed.files += 1;
        if parsed.files > limits.max_files {
            let text = format!("the patch changes more than {} files", limits.max_files);
            return Err(Refusal::new(Rule::TooManyFiles, text));
        }
        parsed.count(&change)?;
        message.push(change);
    }
    if parsed.messages.is_empty() && !bytes.is_empty() {
        return Err(Refusal::new(Rule::Malformed, "there is no change in git's format in it"));
    }
    Ok(parsed)
}

impl<'a> Parsed<'a> {
    fn count(&mut self, change: &FileChange<'a>) -> Result<(), Refusal> {
        let (old, new) = change.action.paths();
        for path in [old, new].into_iter().flatten() {
            path.judge()?;
            self.paths.insert(path.clone());
        }
        if let Body::Text(hunks) = &change.body {
            self.insertions += hunks.iter().map(|hunk| hunk.insertions).sum::<u64>();
            self.deletions += hunks.iter().map(|hunk| hunk.deletions).sum::<u64>();
        }
        Ok(())
    }
}

/// Passes over what is not a change, up to the next `diff --git` or the end. Says whether a new message began.
fn skip_prose(lines: &mut Lines<'_>) -> Result<bool, Refusal> {
    let mut starts_message = false;
    while let Some(line) = lines.peek() {
        if line.starts_with(b"diff --git ") {
            break;
        }
        let after = lines.peek_second().unwrap_or_default();
        if line.starts_with(b"--- ") && after.starts_with(b"+++ ") {
            return Err(lines.malformed("a diff without git's own header; make it with `git diff --binary`"));
        }
        if line.starts_with(b"@@ -") || line == b"GIT binary patch" {
            return Err(lines.malformed("a change that belongs to no file"));
        }
        starts_message |= is_message_start(line);
        lines.advance();
    }
    Ok(starts_message)
}

/// The first line of a message in a mailbox: `From`, a commit id, a fixed date.
fn is_message_start(line: &[u8]) -> bool {
    let Some(rest) = line.strip_prefix(b"From ") else { return false };
    let id = rest.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    matches!(id, 40 | 64) && rest.get(id) == Some(&b' ')
}
