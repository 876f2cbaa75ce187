//! The entries of a zip archive, stored or deflated.

use std::fs::File;
use std::io::Read;

use flate2::read::DeflateDecoder;
use rawzip::{CompressionMethod, RECOMMENDED_BUFFER_SIZE, ZipArchive};
use runtimed_api::rule::Rule;

use super::{Unpacked, at};
use crate::failure::Failure;

// The type of a file in the upper half of its external attributes, as stat(2) has it.
const TYPE: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const LINK: u32 = 0o120_000;

/// Takes every entry of the central directory.
pub(super) fn read(file: File, unpacked: &mut Unpacked<'_>) -> Result<(), Failure> {
    let (mut buffer, mut local) = (vec![0; RECOMMENDED_BUFFER_SIZE], vec![0; 2 * RECOMMENDED_BUFFER_SIZE]);
    let archive = ZipArchive::from_file(file, &mut buffer).map_err(|error| unpacked.unreadable(&error))?;
    let mut entries = archive.entries(&mut buffer);
    while let Some(entry) = entries.next_entry().map_err(|error| unpacked.unreadable(&error))? {
        unpacked.entry()?;
        let name = entry.file_path();
        let path = name.as_bytes().to_vec();
        let (mode, size, method) =
            (entry.mode().value(), entry.uncompressed_size_hint(), entry.compression_method());
        if entry.flags().is_encrypted() {
            return Err(at(Rule::ARCHIVE_MALFORMED, &path, "it is encrypted"));
        }
        let opened = archive.get_entry(entry.wayfinder()).map_err(|error| unpacked.unreadable(&error))?;
        // Programs that read the one name and programs that read the other would see two archives.
        let header = opened.local_header(&mut local).map_err(|error| unpacked.unreadable(&error))?;
        if header.file_path().as_bytes() != path.as_slice() {
            return Err(at(Rule::ARCHIVE_MALFORMED, &path, "it has another name in its own header"));
        }
        match mode & TYPE {
            LINK => return Err(at(Rule::ARCHIVE_LINK, &path, "it is a symbolic link")),
            _ if path.ends_with(b"/") => {
                unpacked.directory(path.strip_suffix(b"/").unwrap_or(&path))?;
                continue;
            }
            DIRECTORY => {
                unpacked.directory(&path)?;
                continue;
            }
            0 | REGULAR => {}
            _ => return Err(at(Rule::ARCHIVE_SPECIAL_FILE, &path, "it is neither a file nor a directory")),
        }
        let packed: Box<dyn Read> = match method {
            CompressionMethod::STORE => Box::new(opened.reader()),
            CompressionMethod::DEFLATE => Box::new(DeflateDecoder::new(opened.reader())),
            _ => {
                return Err(at(
                    Rule::ARCHIVE_MALFORMED,
                    &path,
                    "its compression is neither none nor deflate",
                ));
            }
        };
        let content = opened.verifying_reader(unpacked.budget.bounded(packed));
        unpacked.file(&path, mode & 0o7777, size, content)?;
    }
    Ok(())
}
