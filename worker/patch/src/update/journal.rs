//! What an update will do, as a file: one line for each path.

use git2::Oid;

use crate::{
    git_path::{GitPath, quote, unquote},
    tree::{Difference, Entry, Mode},
};

/// One path and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Operation {
    pub(super) path: GitPath,
    pub(super) old: Option<Entry>,
    pub(super) new: Option<Entry>,
}

impl From<Difference> for Operation {
    fn from(Difference { path, old, new }: Difference) -> Self {
        Self { path, old, new }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Journal {
    pub(super) operations: Vec<Operation>,
}

const HEAD: &str = "runtimed update 1";

impl Journal {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = format!("{HEAD}\n").into_bytes();
        for Operation { path, old, new } in &self.operations {
            for entry in [old, new] {
                let text =
                    entry.map_or_else(|| "- ".to_owned(), |entry| format!("{} {} ", entry.mode, entry.id));
                out.extend_from_slice(text.as_bytes());
            }
            out.push(b'"');
            let mut quoted = Vec::new();
            // A leading control byte makes any name quoted; the quotes of the others are their own.
            quote(&mut quoted, b"", &[b"\x01", path.as_bytes()].concat());
            out.extend_from_slice(&quoted[1..]);
            out.push(b'\n');
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut lines = bytes.strip_suffix(b"\n")?.split(|byte| *byte == b'\n');
        (lines.next()? == HEAD.as_bytes()).then_some(())?;
        let operations = lines.map(decode_line).collect::<Option<_>>()?;
        Some(Self { operations })
    }
}

fn decode_line(line: &[u8]) -> Option<Operation> {
    let (old, rest) = decode_entry(line)?;
    let (new, rest) = decode_entry(rest)?;
    let (path, rest) = unquote(rest)?;
    let path = GitPath::new(path.strip_prefix(b"\x01")?);
    path.judge().ok()?;
    rest.is_empty().then_some(Operation { path, old, new })
}

fn decode_entry(line: &[u8]) -> Option<(Option<Entry>, &[u8])> {
    if let Some(rest) = line.strip_prefix(b"- ") {
        return Some((None, rest));
    }
    let (mode, rest) = line.split_at_checked(6)?;
    let (id, rest) = rest.strip_prefix(b" ")?.split_at_checked(40)?;
    let id = Oid::from_str(std::str::from_utf8(id).ok()?).ok()?;
    Some((Some(Entry { mode: Mode::from_octal(mode)?, id }), rest.strip_prefix(b" ")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_survives_its_file() {
        let entry = Some(Entry { mode: Mode::Symlink, id: Oid::ZERO_SHA1 });
        let names: [&[u8]; 4] = [b"plain", b"new\nline", b"\xff \"q\"", b"\\"];
        let operations =
            names.map(|name| Operation { path: GitPath::new(name), old: entry, new: None }).to_vec();
        let journal = Journal { operations };
        let bytes = journal.encode();
        assert_eq!(Journal::decode(&bytes), Some(journal));
        assert_eq!(Journal::decode(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Journal::decode(b"runtimed update 1\n- - \"\\001../x\"\n"), None);
    }
}
