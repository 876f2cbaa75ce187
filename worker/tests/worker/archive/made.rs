//! Archives as nobody's tools would write them.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};

/// A tar archive, header by header.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn file(self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.entry(b'0', path, "", mode, content.len() as u64, content)
    }

    pub(crate) fn directory(self, path: &str) -> Self {
        self.entry(b'5', path, "", 0o2755, 0, b"")
    }

    /// An entry without content of any kind.
    pub(crate) fn link(self, kind: u8, path: &str, target: &str) -> Self {
        self.entry(kind, path, target, 0o644, 0, b"")
    }

    /// GNU's way to a long name, for a file that follows.
    pub(crate) fn long_name(self, path: &str) -> Self {
        let text = format!("{path}\0");
        self.entry(b'L', "././@LongLink", "", 0o644, text.len() as u64, text.as_bytes())
            .file("short", 0o644, b"x")
    }

    /// An extended header for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &str)]) -> Self {
        self.extended(b'x', records)
    }

    /// An extended header for all entries.
    pub(crate) fn global(self, records: &[(&str, &str)]) -> Self {
        self.extended(b'g', records)
    }

    /// A file that says it is this long, and is not there.
    pub(crate) fn claimed(self, path: &str, size: u64) -> Self {
        self.entry(b'0', path, "", 0o644, size, b"x")
    }

    pub(crate) fn done(mut self) -> Vec<u8> {
        self.bytes.extend([0; 1024]);
        self.bytes
    }

    fn extended(self, kind: u8, records: &[(&str, &str)]) -> Self {
        let text: String = records
            .iter()
            .map(|(key, value)| {
                let rest = format!(" {key}={value}\n");
                let length =
                    (1..4).map(|digits| rest.len() + digits).find(|n| n.to_string().len() + rest.len() == *n);
                format!("{}{rest}", length.unwrap())
            })
            .collect();
        self.entry(kind, "pax", "", 0o644, text.len() as u64, text.as_bytes())
    }

    fn entry(mut self, kind: u8, path: &str, target: &str, mode: u32, size: u64, content: &[u8]) -> Self {
        let mut header = [0; 512];
        let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
        put(0, path.as_bytes());
        put(100, format!("{mode:07o}").as_bytes());
        put(108, b"0000000");
        put(116, b"0000000");
        if size < 8 << 30 {
            put(124, format!("{size:011o}").as_bytes());
        } else {
            put(124, &[0x80, 0, 0, 0]);
            put(128, &size.to_be_bytes());
        }
        put(136, b"00000000000");
        put(148, b"        ");
        put(156, &[kind]);
        put(157, target.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend(header);
        self.bytes.extend(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// The tar program's own archive of what git tracks in a directory.
#[expect(clippy::disallowed_methods, reason = "the test compares with tar itself")]
pub(crate) fn tar_of(directory: &Path, arguments: &[&str]) -> Vec<u8> {
    let mut tar = std::process::Command::new("tar");
    tar.args(["-C", directory.to_str().unwrap(), "--exclude=.git"]).args(arguments).args(["-", "."]);
    let output = tar.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A zip archive, entry by entry.
#[derive(Debug, Clone, Default)]
pub(crate) struct Zip {
    bytes: Vec<u8>,
    directory: Vec<u8>,
    count: u16,
    last: Option<Vec<u8>>,
}

impl Zip {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn directory(self, path: &str) -> Self {
        self.stored(path, 0o040_755, b"")
    }

    pub(crate) fn stored(self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.entry(path, mode, 0, content, content)
    }

    pub(crate) fn file(self, path: &str, mode: u32, content: &[u8]) -> Self {
        let packed = deflated(content);
        self.entry(path, mode, 8, content, &packed)
    }

    /// A file whose content was packed for the file before, if that was the same.
    pub(crate) fn packed(mut self, path: &str, content: &[u8]) -> Self {
        let packed = self.last.take().unwrap_or_else(|| deflated(content));
        let mut zip = self.entry(path, 0o644, 8, content, &packed);
        zip.last = Some(packed);
        zip
    }

    fn entry(mut self, path: &str, mode: u32, method: u16, content: &[u8], packed: &[u8]) -> Self {
        let offset = u32::try_from(self.bytes.len()).unwrap();
        let common = common(path, method, content, packed);
        self.bytes.extend(b"PK\x03\x04");
        self.bytes.extend(&common);
        self.bytes.extend(path.as_bytes());
        self.bytes.extend(packed);
        self.listed(path, mode, &common, offset)
    }

    fn listed(mut self, path: &str, mode: u32, common: &[u8], offset: u32) -> Self {
        self.directory.extend(b"PK\x01\x02\x14\x03");
        self.directory.extend(common);
        self.directory.extend([0; 6]);
        self.directory.extend((mode << 16).to_le_bytes());
        self.directory.extend(offset.to_le_bytes());
        self.directory.extend(path.as_bytes());
        self.count += 1;
        self
    }

    pub(crate) fn done(self) -> Vec<u8> {
        let Self { mut bytes, directory, count, .. } = self;
        let (offset, size) = (u32::try_from(bytes.len()).unwrap(), u32::try_from(directory.len()).unwrap());
        bytes.extend(directory);
        bytes.extend(b"PK\x05\x06\0\0\0\0");
        bytes.extend(count.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend(size.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        bytes.extend([0; 2]);
        bytes
    }
}

fn deflated(content: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// What both headers of an entry have, from the version that is needed to the length of the extra fields.
fn common(path: &str, method: u16, content: &[u8], packed: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(content);
    let mut bytes = vec![20, 0, 0, 0];
    bytes.extend(method.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(crc.sum().to_le_bytes());
    bytes.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
    bytes.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
    bytes.extend(u16::try_from(path.len()).unwrap().to_le_bytes());
    bytes.extend([0; 2]);
    bytes
}

/// An archive whose one file has another name in its own header than in the list.
pub(crate) fn renamed(zip: &[u8]) -> Vec<u8> {
    let mut zip = zip.to_vec();
    let at = zip.windows(4).position(|window| window == b"aaaa").unwrap();
    zip[at..at + 4].copy_from_slice(b"bbbb");
    zip
}

/// An archive that lists the same bytes under many names, whose own headers lie within one another.
pub(crate) fn overlapping(content: &[u8], count: usize) -> Vec<u8> {
    let mut zip = Zip::new().file("f0", 0o644, content);
    for number in 1..count {
        let common = zip.bytes[4..30].to_vec();
        zip = zip.listed(&format!("f{number}"), 0o644, &common, 0);
    }
    zip.done()
}
