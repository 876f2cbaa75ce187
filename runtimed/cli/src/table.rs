//! Columns for people.

use std::fmt::Write as _;

use crate::style::{Ink, Style};

/// Lines of cells, under a heading.
#[derive(Debug, Clone, Default)]
pub struct Table {
    rows: Vec<Vec<(Ink, String)>>,
}

impl Table {
    /// A table with these headings.
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| (Ink::Bold, (*heading).to_owned())).collect()] }
    }

    /// Adds a line.
    pub fn row(&mut self, cells: impl IntoIterator<Item = (Ink, String)>) {
        self.rows.push(cells.into_iter().map(|(ink, text)| (ink, one_line(&text))).collect());
    }

    /// The text: columns two spaces apart, no space at the end of a line.
    #[must_use]
    pub fn render(&self, style: Style) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|(_, text)| text.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let last = row.iter().rposition(|(_, text)| !text.is_empty()).map_or(0, |last| last + 1);
            for (column, (ink, text)) in row[..last].iter().enumerate() {
                out.push_str(&style.ink(*ink, text));
                if column + 1 < last {
                    let gap = widths[column] + 2 - text.chars().count();
                    // Writing to a String cannot fail.
                    let _infallible = write!(out, "{:gap$}", "");
                }
            }
            out.push('\n');
        }
        out
    }
}

/// What others wrote, in one line. Characters that a terminal would obey, or that change the order in which others are
/// shown, are escaped: a name must not look like another.
#[must_use]
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => line.push(' '),
            _ if c.is_control() || is_invisible(c) => line.extend(c.escape_unicode()),
            _ => line.push(c),
        }
    }
    line
}

/// Marks of direction, and characters without a width.
fn is_invisible(c: char) -> bool {
    let marks = ['\u{61c}', '\u{feff}', '\u{2028}', '\u{2029}', '\u{180e}'];
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || marks.contains(&c)
}

/// Lines of at most `room` characters, broken at spaces; a longer word has a line of its own.
#[must_use]
pub fn wrap(text: &str, room: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A size as a person reads it: three digits and a unit.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    if tenths < 100 {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    } else {
        format!("{} {}", tenths / 10, UNITS[unit])
    }
}

/// A number of things, in singular or plural.
#[must_use]
pub fn count(n: impl Into<u64>, one: &str) -> String {
    let n = n.into();
    let end = match n {
        1 => "",
        _ if one.ends_with('s') => "es",
        _ => "s",
    };
    format!("{n} {one}{end}")
}

/// Microseconds as a person reads them: from `0.4 ms` to `1h 02m`.
#[must_use]
pub fn time(micros: u64) -> String {
    let (millis, seconds) = (micros / 1000, micros / 1_000_000);
    match seconds {
        _ if millis < 1000 => format!("{}.{} ms", millis, micros % 1000 / 100),
        0..60 => format!("{}.{:02} s", seconds, millis % 1000 / 10),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_no_cell_breaks_a_line() {
        let mut table = Table::new(&["NAME", "WHY"]);
        table.row([(Ink::Plain, "a-long-name".to_owned()), (Ink::Plain, "two\nlines\x1b[31m".to_owned())]);
        table.row([(Ink::Plain, "b".to_owned()), (Ink::Plain, String::new())]);
        assert_eq!(table.render(Style::PLAIN), "NAME         WHY\na-long-name  two lines\\u{1b}[31m\nb\n");
    }

    #[test]
    fn a_name_does_not_look_like_another() {
        assert_eq!(one_line("a\u{202e}gnp.exe"), "a\\u{202e}gnp.exe");
        assert_eq!(one_line("a\u{200b}b\u{2066}"), "a\\u{200b}b\\u{2066}");
        assert_eq!(one_line("größe 日本"), "größe 日本");
    }

    #[test]
    fn lines_are_broken_at_spaces() {
        assert_eq!(wrap("one two three four", 9), ["one two", "three", "four"]);
        assert_eq!(wrap("a-very-long-word b", 5), ["a-very-long-word", "b"]);
        assert_eq!(wrap("", 5), [""; 0]);
    }

    #[test]
    fn sizes_and_times() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (10 * 1024 - 1, "9.9 KiB"),
            (10 * 1024, "10 KiB"),
            (1 << 20, "1.0 MiB"),
            (u64::MAX, "16383 PiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        for (micros, text) in [
            (0, "0.0 ms"),
            (450, "0.4 ms"),
            (82_140, "82.1 ms"),
            (1_234_000, "1.23 s"),
            (61_000_000, "1m 01s"),
            (3_720_000_000, "1h 02m"),
        ] {
            assert_eq!(time(micros), text);
        }
    }
}
