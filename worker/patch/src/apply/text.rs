//! Applies hunks to a text, with git's rules: context must match exactly, at the line that the hunk names or, if the
//! text has moved, at the nearest line where it does.

use crate::parse::{Hunk, LineKind};

/// What it costs to look at one more place, beside the bytes that it has in common with the hunk.
const LOOK: usize = 256;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum TextError {
    /// The hunk at this line of the old file, by its own header.
    Mismatch(u64),
    TooLarge,
    /// Hunks and text are so alike that finding their places would take too long.
    TooAlike,
}

/// The text after all hunks, of at most `max` bytes. `search` is how many bytes may still be passed over and compared to find
/// where they belong.
pub(super) fn apply(
    before: &[u8],
    hunks: &[Hunk<'_>],
    max: u64,
    search: &mut u64,
) -> Result<Vec<u8>, TextError> {
    let mut after = Vec::with_capacity(before.len());
    let mut place = Place { text: before, at: 0, line: 0 };
    // How many lines the hunks so far have added, or removed if negative.
    let mut grown = 0_i64;
    for hunk in hunks {
        let sides = Sides::of(hunk);
        let mismatch = TextError::Mismatch(hunk.old_start);
        let wanted = hunk.new_start.saturating_sub(u64::from(hunk.new_lines > 0));
        let Some(wanted) = wanted.checked_add_signed(-grown) else { return Err(mismatch) };
        let Some(found) = sides.find(place, wanted, hunk.old_start <= 1, search) else {
            return Err(if *search == 0 { TextError::TooAlike } else { mismatch });
        };
        after.extend_from_slice(&before[place.at..found.at]);
        after.extend_from_slice(&sides.new);
        if after.len() as u64 > max {
            return Err(TextError::TooLarge);
        }
        place = Place { text: before, at: found.at + sides.old.len(), line: found.line + hunk.old_lines };
        grown += signed(hunk.new_lines) - signed(hunk.old_lines);
    }
    after.extend_from_slice(&before[place.at..]);
    Ok(after)
}

/// Nothing is found any more once there is none left.
fn spend(search: &mut u64, bytes: usize) -> Option<()> {
    *search = search.saturating_sub(bytes as u64);
    (*search > 0).then_some(())
}

fn signed(lines: u64) -> i64 {
    i64::try_from(lines).unwrap_or(i64::MAX)
}

/// A line of the old text.
#[derive(Clone, Copy)]
struct Place<'t> {
    text: &'t [u8],
    at: usize,
    line: u64,
}

impl Place<'_> {
    fn next(self, search: &mut u64) -> Option<Self> {
        let rest = &self.text[self.at..];
        let newline = rest.iter().position(|byte| *byte == b'\n');
        let len = newline.map_or(rest.len(), |newline| newline + 1);
        spend(search, len)?;
        newline.map(|_| Self { at: self.at + len, line: self.line + 1, ..self })
    }

    /// The line before, but not before `first`.
    fn previous(self, first: Self, search: &mut u64) -> Option<Self> {
        if self.at <= first.at {
            return None;
        }
        let before = &self.text[first.at..self.at - 1];
        let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        spend(search, before.len() - start)?;
        Some(Self { at: first.at + start, line: self.line - 1, ..self })
    }
}

/// A hunk as two texts: what must be there, and what comes in its place.
struct Sides {
    old: Vec<u8>,
    new: Vec<u8>,
    /// No context follows, so it belongs at the end of the file.
    ends: bool,
}

impl Sides {
    fn of(hunk: &Hunk<'_>) -> Self {
        let mut sides = Self { old: Vec::new(), new: Vec::new(), ends: true };
        for line in hunk.lines() {
            if line.kind != LineKind::Insertion {
                sides.old.extend_from_slice(line.content);
            }
            if line.kind != LineKind::Deletion {
                sides.new.extend_from_slice(line.content);
            }
            sides.ends = line.kind != LineKind::Context;
        }
        sides
    }

    /// Where it matches: at `first` or later, nearest to the line `wanted`. As in git, a hunk at the first line
    /// must match there, and one without context after it must match at the end.
    fn find<'t>(&self, first: Place<'t>, wanted: u64, begins: bool, search: &mut u64) -> Option<Place<'t>> {
        let mut start = first;
        while start.line < wanted
            && let Some(next) = start.next(search)
        {
            start = next;
        }
        let (mut forward, mut backward) = (Some(start), Some(start));
        let fits =
            |place: &Place<'t>, search: &mut u64| (!begins || place.at == 0) && self.matches(*place, search);
        if fits(&start, search) {
            return Some(start);
        }
        while forward.is_some() || backward.is_some() {
            forward = forward.and_then(|place| place.next(search));
            backward = backward.and_then(|place| place.previous(first, search));
            for place in [forward, backward].into_iter().flatten() {
                if fits(&place, search) {
                    return Some(place);
                }
            }
        }
        None
    }

    fn matches(&self, place: Place<'_>, search: &mut u64) -> bool {
        let rest = &place.text[place.at..];
        let pairs = rest.chunks(LOOK).zip(self.old.chunks(LOOK));
        let common =
            pairs.take_while(|(rest, old)| rest.starts_with(old)).map(|(_, old)| old.len()).sum::<usize>();
        if spend(search, LOOK + common).is_none() || common < self.old.len() {
            return false;
        }
        let at_end = rest.len() == self.old.len();
        let whole_lines = self.old.is_empty() || self.old.ends_with(b"\n") || at_end;
        whole_lines && (at_end || !self.ends)
    }
}

#[cfg(test)]
mod tests {
    use super::TextError;
    use crate::{
        limits::Limits,
        parse::{Body, parse},
    };

    fn apply(before: &str, hunks: &str) -> Result<String, TextError> {
        let patch = format!("diff --git a/f b/f\n--- a/f\n+++ b/f\n{hunks}");
        let parsed = parse(patch.as_bytes(), &Limits::default()).unwrap();
        let Body::Text(hunks) = &parsed.messages()[0][0].body else { panic!("no text") };
        let mut search = 1 << 20;
        super::apply(before.as_bytes(), hunks, 1 << 20, &mut search)
            .map(|after| String::from_utf8(after).unwrap())
    }

    #[test]
    fn the_search_among_lines_that_are_all_alike_comes_to_an_end() {
        let lines = 2000;
        let hunk = format!("@@ -9,{} +9,{lines} @@\n{}-b\n", lines + 1, " a\n".repeat(lines));
        let text = "a\n".repeat(2 * lines);
        assert_eq!(apply(&text, &hunk), Err(TextError::TooAlike));
        // Near its place it costs little, and a text that is too short costs no more than it has.
        let near = hunk.replace("-9,", "-1991,").replace("+9,", "+1991,");
        assert_eq!(apply(&format!("{text}b\n"), &near), Ok("a\n".repeat(2 * lines)));
        assert_eq!(apply("a", "@@ -900 +900 @@\n-b\n+c\n"), Err(TextError::Mismatch(900)));
    }

    #[test]
    fn a_hunk_whose_text_has_moved_is_found_at_the_nearest_match() {
        let hunk = "@@ -2,3 +2,3 @@\n b\n-c\n+C\n d\n";
        assert_eq!(apply("a\nb\nc\nd\n", hunk).unwrap(), "a\nb\nC\nd\n");
        assert_eq!(apply("x\nx\nx\na\nb\nc\nd\n", hunk).unwrap(), "x\nx\nx\na\nb\nC\nd\n");
        assert_eq!(apply("b\nc\nd\nz\nb\nc\nd\n", hunk).unwrap(), "b\nC\nd\nz\nb\nc\nd\n");
    }

    #[test]
    fn the_first_and_the_last_hunk_are_anchored() {
        let first = "@@ -1,2 +1,2 @@\n-a\n+A\n b\n";
        assert_eq!(apply("x\na\nb\n", first), Err(TextError::Mismatch(1)));
        let last = "@@ -2,2 +2,2 @@\n b\n-c\n+C\n";
        assert_eq!(apply("a\nb\nc\n", last).unwrap(), "a\nb\nC\n");
        assert!(apply("a\nb\nc\nd\n", last).is_err());
    }

    #[test]
    fn a_missing_newline_is_part_of_the_line() {
        let hunk = "@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+b\n";
        assert_eq!(apply("a\nb", hunk).unwrap(), "a\nb\n");
        assert!(apply("a\nb\n", hunk).is_err());
        assert!(apply("a\nbc", hunk).is_err());
    }

    #[test]
    fn context_that_is_absent_does_not_apply() {
        assert!(apply("", "@@ -1 +1 @@\n-a\n+b\n").is_err());
        assert!(apply("a\r\n", "@@ -1 +1 @@\n-a\n+b\n").is_err());
        assert!(apply("aa\n", "@@ -1 +1 @@\n-a\n+b\n").is_err());
    }
}
