//! The hunks of a text change. Their lines stay in the patch's bytes and are read again when they are applied.

use super::lines::Lines;
use crate::rule::Refusal;

/// One `@@` section, complete by its own counts.
#[derive(Debug, Clone)]
pub(crate) struct Hunk<'a> {
    pub(crate) old_start: u64,
    pub(crate) old_lines: u64,
    pub(crate) new_start: u64,
    pub(crate) new_lines: u64,
    pub(crate) insertions: u64,
    pub(crate) deletions: u64,
    body: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineKind {
    Context,
    Deletion,
    Insertion,
}

/// One line of a hunk: its content, with the newline unless the file ends without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HunkLine<'a> {
    pub(crate) kind: LineKind,
    pub(crate) content: &'a [u8],
}

impl<'a> Hunk<'a> {
    pub(crate) fn lines(&self) -> impl Iterator<Item = HunkLine<'a>> + use<'a> {
        let mut lines = Lines::new(self.body);
        std::iter::from_fn(move || next_line(&mut lines))
    }
}

/// Which sides of the file have ended without a newline.
#[derive(Default)]
struct Ended {
    old: bool,
    new: bool,
}

pub(super) fn read_hunks<'a>(lines: &mut Lines<'a>) -> Result<Vec<Hunk<'a>>, Refusal> {
    let mut hunks = Vec::<Hunk<'a>>::new();
    let mut ended = Ended::default();
    while let Some(ranges) = lines.peek().and_then(|line| line.strip_prefix(b"@@ -")) {
        let mut hunk =
            read_ranges(ranges).ok_or_else(|| lines.malformed("a hunk's header is not well formed"))?;
        if hunks.last().is_some_and(|last| hunk.old_start < last.old_start + last.old_lines) {
            return Err(lines.malformed("hunks that overlap or are not in order"));
        }
        lines.advance();
        read_body(lines, &mut hunk, &mut ended)?;
        hunks.push(hunk);
    }
    if hunks.is_empty() {
        return Err(lines.malformed("expected a hunk"));
    }
    Ok(hunks)
}

fn read_body<'a>(lines: &mut Lines<'a>, hunk: &mut Hunk<'a>, ended: &mut Ended) -> Result<(), Refusal> {
    let start = lines.clone();
    let (mut old, mut new) = (0, 0);
    while old < hunk.old_lines || new < hunk.new_lines {
        let here = lines.clone();
        let line = next_line(lines)
            .ok_or_else(|| here.malformed("a hunk that is cut short, or a line of no kind"))?;
        let (in_old, in_new) = (line.kind != LineKind::Insertion, line.kind != LineKind::Deletion);
        if (in_old && ended.old) || (in_new && ended.new) {
            return Err(here.malformed("a line after the one that ends the file without a newline"));
        }
        old += u64::from(in_old);
        new += u64::from(in_new);
        hunk.insertions += u64::from(!in_old);
        hunk.deletions += u64::from(!in_new);
        let whole = line.content.ends_with(b"\n");
        ended.old |= in_old && !whole;
        ended.new |= in_new && !whole;
    }
    if old > hunk.old_lines || new > hunk.new_lines {
        return Err(lines.malformed("a hunk with more lines than its header says"));
    }
    hunk.body = lines.since(&start);
    Ok(())
}

/// Reads one line and the note that it has no newline, if there is one. A line that is empty is an empty line of
/// context whose space a mailer has eaten.
fn next_line<'a>(lines: &mut Lines<'a>) -> Option<HunkLine<'a>> {
    let whole = lines.peek_whole()?;
    if !whole.ends_with(b"\n") {
        return None;
    }
    let (kind, content) = match whole {
        b"\n" => (LineKind::Context, whole),
        [b' ', content @ ..] => (LineKind::Context, content),
        [b'-', content @ ..] => (LineKind::Deletion, content),
        [b'+', content @ ..] => (LineKind::Insertion, content),
        _ => return None,
    };
    lines.advance();
    // The words of the note are in the writer's language; git wants at least so much of it.
    let is_note = |line: &[u8]| line.starts_with(b"\\ ") && line.ends_with(b"\n") && line.len() >= 12;
    let ends_file = lines.peek_whole().is_some_and(is_note);
    if ends_file {
        lines.advance();
    }
    let content = if ends_file { content.strip_suffix(b"\n").unwrap_or(content) } else { content };
    Some(HunkLine { kind, content })
}

/// `1,2 +3,4 @@ heading`, where a count of one may be left out.
fn read_ranges<'a>(text: &[u8]) -> Option<Hunk<'a>> {
    let (old_start, old_lines, rest) = read_range(text)?;
    let (new_start, new_lines, rest) = read_range(rest.strip_prefix(b" +")?)?;
    let whole = rest.starts_with(b" @@") && (old_lines > 0 || new_lines > 0);
    let body = &[][..];
    whole.then_some(Hunk { old_start, old_lines, new_start, new_lines, insertions: 0, deletions: 0, body })
}

fn read_range(text: &[u8]) -> Option<(u64, u64, &[u8])> {
    let (start, rest) = read_number(text)?;
    match rest.strip_prefix(b",") {
        Some(rest) => read_number(rest).map(|(count, rest)| (start, count, rest)),
        None => Some((start, 1, rest)),
    }
}

/// At most nine digits, so that sums of them cannot overflow.
fn read_number(text: &[u8]) -> Option<(u64, &[u8])> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = std::str::from_utf8(&text[..digits]).ok()?;
    (digits <= 9).then_some(())?;
    Some((number.parse().ok()?, &text[digits..]))
}
