//! Names that some file system takes for `.git`, `.gitmodules` or `.gitattributes`.
//!
//! HFS+ ignores certain code points and folds case; NTFS folds case, drops trailing dots and spaces, takes what
//! follows a `:` for a stream, `\` for a separator, and answers to a short name (`GIT~1`). A patch made here may be
//! checked out there, so one normal form covers all of them at once.

/// What a name is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disguise {
    /// `.git` itself.
    DotGit,
    /// `.gitmodules`.
    Modules,
    /// `.gitattributes`.
    Attributes,
}

/// What a component is taken for, if for anything of git's.
pub(crate) fn disguise(component: &[u8]) -> Option<Disguise> {
    component.split(|byte| *byte == b'\\').find_map(|name| {
        let folded = fold(name);
        match folded.as_slice() {
            b".git" => Some(Disguise::DotGit),
            b".gitmodules" => Some(Disguise::Modules),
            b".gitattributes" => Some(Disguise::Attributes),
            other => short_name(other),
        }
    })
}

/// NTFS short names: the first letters and a number, or after many collisions a hash of the long name.
fn short_name(folded: &[u8]) -> Option<Disguise> {
    let tilde = folded.iter().position(|byte| *byte == b'~')?;
    let (stem, number) = (&folded[..tilde], &folded[tilde + 1..]);
    if number.is_empty() || !number.iter().all(u8::is_ascii_digit) {
        return None;
    }
    match stem {
        b"git" => Some(Disguise::DotGit),
        b"gitmod" | b"gi7eba" => Some(Disguise::Modules),
        b"gitatt" | b"gi7d29" => Some(Disguise::Attributes),
        _ => None,
    }
}

fn fold(name: &[u8]) -> Vec<u8> {
    let mut folded = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b':' {
            break;
        }
        if let Some(len) = ignored_on_hfs(rest) {
            rest = &rest[len..];
            continue;
        }
        folded.push(byte.to_ascii_lowercase());
        rest = after;
    }
    while let Some(b'.' | b' ') = folded.last() {
        folded.pop();
    }
    folded
}

/// The length of an encoded code point at the start that HFS+ ignores when it compares names: U+200C to U+200F,
/// U+202A to U+202E, U+206A to U+206F, U+FEFF.
fn ignored_on_hfs(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [0xe2, 0x80, 0x8c..=0x8f | 0xaa..=0xae, ..]
        | [0xe2, 0x81, 0xaa..=0xaf, ..]
        | [0xef, 0xbb, 0xbf, ..] => Some(3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_disguise_of_dot_git_is_seen() {
        for name in [
            ".git",
            ".GIT",
            ".gIt",
            "GIT~1",
            "git~2",
            ".git.",
            ".git ",
            ".git. . .",
            ".git::$INDEX_ALLOCATION",
            ".git:x",
            ".g\u{200c}it",
            "\u{feff}.git",
            ".git\u{202e}",
            ".\u{206a}G\u{200d}it. ",
            "GIT~1 ",
            "x\\.git\\hooks",
            ".git\\config",
        ] {
            assert_eq!(disguise(name.as_bytes()), Some(Disguise::DotGit), "{name:?}");
        }
        assert_eq!(disguise(b".GitModules."), Some(Disguise::Modules));
        assert_eq!(disguise(b"GITMOD~1"), Some(Disguise::Modules));
        assert_eq!(disguise(b"gi7d29~1"), Some(Disguise::Attributes));
    }

    #[test]
    fn ordinary_names_are_not() {
        for name in [
            "git",
            ".gitignore",
            ".github",
            "git~",
            "git~a",
            ".git-blame",
            "a.git",
            "..git",
            ".gi\u{e9}t",
            "~1",
        ] {
            assert_eq!(disguise(name.as_bytes()), None, "{name:?}");
        }
    }
}
