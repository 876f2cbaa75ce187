//! Archives: downloaded whole, held to their digest, and only then read, here and nowhere else.
//!
//! What is taken are directories and ordinary files. An archive that holds anything else, or that grows beyond
//! measure when it is unpacked, is refused whole, by the name of the rule: nothing of it reaches the workspace.

mod budget;
mod tar;
mod zip;
mod zstd;

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};

use flate2::read::MultiGzDecoder;
use git2::{ObjectType, Odb, Oid, Repository};
use runtimed_api::problem::Code;
use runtimed_api::rule::Rule;
use runtimed_patch as patch;

use self::budget::Budget;
use crate::failure::{Failure, clean, storage};
use crate::fetch::store::git_failure;
use crate::files::{Files, Misplaced};

/// Stores what the archive holds, and gives its tree.
pub(crate) fn tree(store: &Repository, mut file: File) -> Result<patch::TreeId, Failure> {
    let reading = |error: io::Error| storage("read the archive", &error);
    let mut start = Vec::new();
    (&mut file).take(START).read_to_end(&mut start).map_err(reading)?;
    file.seek(SeekFrom::Start(0)).map_err(reading)?;
    let size = file.metadata().map_err(reading)?.len();
    let budget = Budget::new(size);
    let failed = |error: git2::Error| git_failure("store the archive's files", &error);
    let odb = store.odb().map_err(failed)?;
    let mut unpacked = Unpacked { odb: &odb, files: Files::new().map_err(failed)?, budget: &budget };
    let stream = BufReader::new(&file);
    match Form::of(&start) {
        Some(Form::Tar) => tar::read(budget.bounded(stream), &mut unpacked)?,
        Some(Form::Gzip) => tar::read(budget.bounded(MultiGzDecoder::new(stream)), &mut unpacked)?,
        Some(Form::Zstd) => tar::read(budget.bounded(zstd::Frames::new(stream)), &mut unpacked)?,
        Some(Form::Zip) => zip::read(file, &mut unpacked)?,
        None => return Err(malformed("it is none of tar, tar.gz, tar.zst and zip")),
    }
    unpacked.files.tree(store).map_err(failed)
}

/// Bytes that tell the form.
const START: u64 = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Tar,
    Gzip,
    Zstd,
    Zip,
}

impl Form {
    /// The form, by the first bytes: a name may say anything.
    fn of(start: &[u8]) -> Option<Self> {
        match start {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            // The last is of an archive without entries.
            [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Some(Self::Zip),
            _ if start.get(257..262) == Some(b"ustar") => Some(Self::Tar),
            // An old tar has no mark; one of nothing but zeros has no entries either.
            _ if start.len() == 512 && (is_old_tar(start) || start.iter().all(|byte| *byte == 0)) => {
                Some(Self::Tar)
            }
            _ => None,
        }
    }
}

/// Whether the checksum of a header is right, which it is by chance once in a great many times.
fn is_old_tar(header: &[u8]) -> bool {
    let field = header.get(148..156).and_then(|field| std::str::from_utf8(field).ok());
    let told = field.and_then(|text| u32::from_str_radix(text.trim_matches([' ', '\0']), 8).ok());
    let sum = header.iter().enumerate();
    let sum = sum.map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
    told == Some(sum)
}

/// What was unpacked so far.
struct Unpacked<'a> {
    odb: &'a Odb<'a>,
    files: Files,
    budget: &'a Budget,
}

impl Unpacked<'_> {
    /// Counts an entry, whatever it is.
    fn entry(&mut self) -> Result<(), Failure> {
        self.budget
            .entry()
            .map_err(|()| self.budget.refusal().unwrap_or_else(|| malformed("it is too large")))
    }

    /// Stores an ordinary file of `size` bytes.
    fn file(&mut self, path: &[u8], mode: u32, size: u64, mut content: impl Read) -> Result<(), Failure> {
        if mode & 0o7000 != 0 {
            return Err(at(Rule::ARCHIVE_MODE, path, "its mode has the setuid, setgid or sticky bit"));
        }
        self.files.claim(path).map_err(|misplaced| refused(path, misplaced))?;
        let id = self.blob(path, size, &mut content)?;
        let put = self.files.put(path.to_vec(), id, mode & 0o100 != 0);
        put.map_err(|error| git_failure("store the archive's files", &error))
    }

    /// Takes note of a directory.
    fn directory(&mut self, path: &[u8]) -> Result<(), Failure> {
        self.files.claim_directory(path).map_err(|misplaced| refused(path, misplaced))
    }

    fn blob(&self, path: &[u8], size: u64, content: &mut impl Read) -> Result<Oid, Failure> {
        if size > budget::MAX_BYTES {
            return Err(at(Rule::ARCHIVE_TOO_LARGE, path, "it alone is larger than the archive may be"));
        }
        let storing = |error: git2::Error| git_failure("store the archive's files", &error);
        let length =
            usize::try_from(size).map_err(|_| at(Rule::ARCHIVE_TOO_LARGE, path, "it is too large"))?;
        let mut blob = self.odb.writer(length, ObjectType::Blob).map_err(storing)?;
        let (mut left, mut chunk) = (size, vec![0; CHUNK]);
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let piece = chunk.get_mut(..want).unwrap_or_default();
            let count = content.read(piece).map_err(|error| self.unreadable(&error))?;
            if count == 0 {
                return Err(at(Rule::ARCHIVE_MALFORMED, path, "it ends before its end"));
            }
            blob.write_all(piece.get(..count).unwrap_or_default())
                .map_err(|error| storage("store the archive's files", &error))?;
            left -= u64::try_from(count).unwrap_or(left);
        }
        // One byte more has it say whether that was all, and whether the checksum is right.
        if content.read(&mut [0]).map_err(|error| self.unreadable(&error))? > 0 {
            return Err(at(Rule::ARCHIVE_MALFORMED, path, "it is longer than it says"));
        }
        blob.finalize().map_err(storing)
    }

    /// Why the archive cannot be read further: it is over its budget, or damaged.
    fn unreadable(&self, error: &dyn std::fmt::Display) -> Failure {
        self.budget.refusal().unwrap_or_else(|| malformed(&error.to_string()))
    }
}

/// Bytes that are copied at once.
const CHUNK: usize = 64 * 1024;

/// What every refusal of an archive is about.
const SUBJECT: &str = "spec.source.archive";

fn malformed(why: &str) -> Failure {
    let mut why = why.to_owned();
    clean(&mut why);
    Failure::refused(Rule::ARCHIVE_MALFORMED, SUBJECT, format!("it cannot be read: {why}"))
        .hint("use tar, tar.gz, tar.zst, or zip with deflate")
}

fn refused(path: &[u8], misplaced: Misplaced) -> Failure {
    match misplaced {
        Misplaced::Path(refusal) => {
            let rule = match refusal.rule {
                patch::Rule::PathDotGit => Rule::ARCHIVE_DOT_GIT,
                patch::Rule::Traversal => Rule::ARCHIVE_TRAVERSAL,
                _ => Rule::ARCHIVE_PATH_INVALID,
            };
            at(rule, path, &refusal.message)
        }
        Misplaced::Taken => {
            at(Rule::ARCHIVE_DUPLICATE, path, "another entry has its path, or lies beneath it")
        }
    }
}

fn at(rule: Rule, path: &[u8], why: &str) -> Failure {
    let shown: String = String::from_utf8_lossy(path).chars().take(200).collect();
    Failure::refused(rule, SUBJECT, format!("{shown:?}: {why}"))
}

/// The bytes are not those that the Run names.
pub(super) fn other_bytes() -> Failure {
    Failure::refused(Rule::ARCHIVE_DIGEST, SUBJECT, "the archive's bytes are not those of the digest")
        .hint("look what is at the URL now; a URL whose content never changes is the better one")
}

/// The download failed on our side.
pub(super) fn too_long(most: u64) -> Failure {
    Failure::fault(Code::SourceFailed, format!("the archive has more than {most} bytes")).lasting()
}
