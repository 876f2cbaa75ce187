//! The entries of a tar archive: ustar, GNU and pax.

use std::io::Read;

use ::tar::{Archive, Entry, EntryType, PaxExtensions};
use runtimed_api::rule::Rule;

use super::{Unpacked, at, malformed};
use crate::failure::Failure;

/// Bytes of one extended header: a path, and what else people put there.
const MAX_EXTENDED: u64 = 1 << 20;

/// Takes every entry.
///
/// The entries are read raw, for the library would read an extended header of any length into memory.
pub(super) fn read(stream: impl Read, unpacked: &mut Unpacked<'_>) -> Result<(), Failure> {
    let mut archive = Archive::new(stream);
    let entries = archive.entries().map_err(|error| unpacked.unreadable(&error))?.raw(true);
    let mut extended = Extended::default();
    for entry in entries {
        let mut entry = entry.map_err(|error| unpacked.unreadable(&error))?;
        unpacked.entry()?;
        match entry.header().entry_type() {
            EntryType::GNULongName => {
                let text = header(&mut entry, unpacked)?;
                let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
                extended.path = Some(text.get(..end).unwrap_or_default().to_vec());
            }
            EntryType::XHeader => extended.read(&header(&mut entry, unpacked)?)?,
            // git writes the commit's id into one; one that means more would change entries behind our back.
            EntryType::XGlobalHeader => {
                let mut global = Extended::default();
                global.read(&header(&mut entry, unpacked)?)?;
                if global.path.is_some() || global.size.is_some() {
                    return Err(malformed("a global header names a path or a size"));
                }
            }
            // The long name of a link's target; the link itself follows, and is refused.
            EntryType::GNULongLink => drop(header(&mut entry, unpacked)?),
            kind => take(&mut entry, kind, std::mem::take(&mut extended), unpacked)?,
        }
    }
    Ok(())
}

/// What extended headers say of the next entry.
#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

impl Extended {
    fn read(&mut self, text: &[u8]) -> Result<(), Failure> {
        for record in PaxExtensions::new(text) {
            let record = record.map_err(|error| malformed(&error.to_string()))?;
            match record.key_bytes() {
                b"path" => self.path = Some(record.value_bytes().to_vec()),
                b"size" => {
                    let size = record.value().ok().and_then(|size| size.parse().ok());
                    self.size = Some(size.ok_or_else(|| malformed("a size is no number"))?);
                }
                key if key.starts_with(b"GNU.sparse") => self.sparse = true,
                _ => {}
            }
        }
        Ok(())
    }
}

fn header<R: Read>(entry: &mut Entry<'_, R>, unpacked: &Unpacked<'_>) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    entry.take(MAX_EXTENDED + 1).read_to_end(&mut text).map_err(|error| unpacked.unreadable(&error))?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_EXTENDED {
        return Err(malformed("an extended header has more than 1 MiB"));
    }
    Ok(text)
}

fn take<R: Read>(
    entry: &mut Entry<'_, R>,
    kind: EntryType,
    extended: Extended,
    unpacked: &mut Unpacked<'_>,
) -> Result<(), Failure> {
    let path = extended.path.unwrap_or_else(|| entry.header().path_bytes().into_owned());
    let size = entry.header().entry_size().map_err(|error| malformed(&error.to_string()))?;
    // Where the next entry begins was decided by the entry's own header.
    if extended.size.is_some_and(|told| told != size) {
        return Err(at(Rule::ARCHIVE_MALFORMED, &path, "its two sizes differ"));
    }
    let plain = plain(&path);
    match kind {
        EntryType::Directory => {
            // A directory without files is not in any tree; one that leads out is refused all the same.
            if plain.is_empty() { Ok(()) } else { unpacked.directory(plain) }
        }
        EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => unpacked.directory(plain),
        EntryType::Regular | EntryType::Continuous if extended.sparse => {
            Err(at(Rule::ARCHIVE_SPECIAL_FILE, &path, "it is sparse"))
        }
        EntryType::Regular | EntryType::Continuous => {
            let mode = entry.header().mode().map_err(|error| malformed(&error.to_string()))?;
            let plain = plain.to_vec();
            unpacked.file(&plain, mode, size, entry)
        }
        EntryType::Link => Err(at(Rule::ARCHIVE_LINK, &path, "it is a hard link")),
        EntryType::Symlink => Err(at(Rule::ARCHIVE_LINK, &path, "it is a symbolic link")),
        EntryType::GNUSparse => Err(at(Rule::ARCHIVE_SPECIAL_FILE, &path, "it is sparse")),
        _ => Err(at(Rule::ARCHIVE_SPECIAL_FILE, &path, "it is neither a file nor a directory")),
    }
}

/// The path without what `tar -C x .` puts before it, and without a directory's slash.
fn plain(path: &[u8]) -> &[u8] {
    let mut path = path;
    while let Some(rest) = path.strip_prefix(b"./") {
        path = rest;
    }
    let path = path.strip_suffix(b"/").unwrap_or(path);
    if path == b"." { b"" } else { path }
}
