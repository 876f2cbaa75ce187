//! Reads files' contents straight out of packs, see gitformat-pack(5). Most of a checkout is inflating, and zlib-rs takes
//! two thirds of the time that libgit2's zlib takes.
//!
//! Only what lies whole in a pack is read here, as the files of a branch's tip mostly do; a delta, a large file and whatever
//! is not as expected are left to libgit2. Who asks holds the content to its id, so nothing that is read has to be believed.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::Path,
};

use flate2::{Decompress, FlushDecompress, Status};
use git2::Oid;

/// The largest content that is read here, in bytes. A pack may lie about a size, and so many are set aside for it.
const MAX_SIZE: u64 = 4 << 20;
/// Bytes of a pack that are read at once.
const CHUNK: usize = 64 << 10;

/// The packs of one repository. Each thread has its own.
pub(crate) struct Packs {
    packs: Vec<Pack>,
    chunk: Vec<u8>,
    inflater: Decompress,
}

impl Packs {
    /// Those that the repository at this path has now, as far as they can be opened.
    pub(crate) fn open(repository: &Path) -> Self {
        let listed = fs::read_dir(repository.join("objects/pack")).into_iter().flatten().flatten();
        let indexes =
            listed.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|it| it == "idx"));
        let packs = indexes.filter_map(|index| Pack::open(&index).ok().flatten()).collect();
        Self { packs, chunk: vec![0; CHUNK], inflater: Decompress::new(true) }
    }

    /// Puts the content of a file into `out`; false where that is for libgit2 to do.
    pub(crate) fn read(&mut self, id: Oid, out: &mut Vec<u8>) -> bool {
        let Self { packs, chunk, inflater } = self;
        packs.iter().any(|pack| matches!(pack.offset(id), Ok(Some(at)) if pack.inflate(at, chunk, inflater, out).unwrap_or(false)))
    }
}

struct Pack {
    index: File,
    pack: File,
    /// How many ids begin with at most this byte.
    fanout: Vec<u32>,
}

/// Bytes of an index before its table of ids.
const HEAD: u64 = 8 + 256 * 4;
/// How the index begins: its mark, and version 2.
const MARK: [u8; 8] = *b"\xfftOc\0\0\0\x02";
/// The bit of an offset that is an index into the table of large offsets.
const LARGE: u32 = 1 << 31;

impl Pack {
    /// `None` for an index of another version.
    fn open(path: &Path) -> io::Result<Option<Self>> {
        let (index, pack) = (File::open(path)?, File::open(path.with_extension("pack"))?);
        if read_at::<8>(&index, 0)? != MARK {
            return Ok(None);
        }
        let mut table = vec![0; 256 * 4];
        index.read_exact_at(&mut table, 8)?;
        let fanout = table.as_chunks().0.iter().map(|count| u32::from_be_bytes(*count)).collect();
        Ok(Some(Self { index, pack, fanout }))
    }

    /// Where the object is in the pack, by a binary search among the ids that begin with its first byte.
    fn offset(&self, id: Oid) -> io::Result<Option<u64>> {
        let bytes = id.as_bytes();
        let first = usize::from(bytes.first().copied().unwrap_or_default());
        let count = |at: usize| self.fanout.get(at).copied().unwrap_or_default();
        let (mut low, mut high) = (if first == 0 { 0 } else { count(first - 1) }, count(first));
        while low < high {
            let middle = low + (high - low) / 2;
            match read_at::<20>(&self.index, HEAD + 20 * u64::from(middle))?.as_slice().cmp(bytes) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return self.offset_of(middle).map(Some),
            }
        }
        Ok(None)
    }

    /// Behind the ids is a checksum for each object, then its offset.
    fn offset_of(&self, number: u32) -> io::Result<u64> {
        let objects = u64::from(self.fanout.last().copied().unwrap_or_default());
        let offsets = HEAD + 24 * objects;
        let small = u32::from_be_bytes(read_at(&self.index, offsets + 4 * u64::from(number))?);
        if small & LARGE == 0 {
            return Ok(small.into());
        }
        read_at(&self.index, offsets + 4 * objects + 8 * u64::from(small & !LARGE)).map(u64::from_be_bytes)
    }

    /// Inflates the object at this offset, if it is a file's content that lies there whole.
    fn inflate(
        &self,
        mut at: u64,
        chunk: &mut [u8],
        inflater: &mut Decompress,
        out: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let mut have = self.pack.read_at(chunk, at)?;
        let Some((size, head)) = blob_head(&chunk[..have]) else { return Ok(false) };
        let mut from = head;
        out.clear();
        // With room for one byte more than there may be, the end of the stream always fits in.
        out.reserve_exact(size + 1);
        inflater.reset(true);
        loop {
            let (read, written) = (inflater.total_in(), out.len());
            let status = inflater.decompress_vec(&chunk[from..have], out, FlushDecompress::None)?;
            if status == Status::StreamEnd {
                return Ok(out.len() == size);
            }
            if inflater.total_in() == read && out.len() == written {
                return Ok(false);
            }
            from += usize::try_from(inflater.total_in() - read).map_err(io::Error::other)?;
            if from == have {
                at += have as u64;
                have = self.pack.read_at(chunk, at)?;
                from = 0;
            }
        }
    }
}

/// The size of a file's content whose entry begins so, and how many bytes that takes: a kind, and the size in groups of
/// bits, the lowest first. `None` for other kinds and for what is too large.
fn blob_head(bytes: &[u8]) -> Option<(usize, usize)> {
    const BLOB: u8 = 3;
    let (first, rest) = bytes.split_first()?;
    if (first >> 4) & 7 != BLOB {
        return None;
    }
    let (mut size, mut last, mut used) = (u64::from(first & 15), *first, 1);
    let mut rest = rest.iter();
    while last & 0x80 != 0 {
        last = *rest.next()?;
        size |= u64::from(last & 0x7f) << (4 + 7 * (used - 1));
        used += 1;
        if size > MAX_SIZE || used > 5 {
            return None;
        }
    }
    Some((usize::try_from(size).ok()?, used))
}

fn read_at<const N: usize>(file: &File, at: u64) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use git2::{ObjectType, Repository};

    use super::*;

    /// A repository with one pack of files: small, empty, larger than a chunk, and alike enough for deltas.
    fn packed() -> (tempfile::TempDir, Repository, Vec<Oid>) {
        let directory = tempfile::tempdir().unwrap();
        let repository = Repository::init_bare(directory.path()).unwrap();
        let mut state = 1_u32;
        let mut noise = |count: usize| {
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.to_be_bytes()[0]
            };
            (0..count).map(|_| next()).collect::<Vec<_>>()
        };
        let large = noise(5 * CHUNK);
        let alike = [large.as_slice(), b"and a little more"].concat();
        let mut contents =
            vec![large, alike, Vec::new(), b"a\n".to_vec(), vec![b'x'; 3 * CHUNK], noise(CHUNK)];
        contents.extend((0..300).map(noise));
        let ids: Vec<Oid> = contents.iter().map(|content| repository.blob(content).unwrap()).collect();
        let mut builder = repository.packbuilder().unwrap();
        ids.iter().for_each(|id| builder.insert_object(*id, None).unwrap());
        let place = directory.path().join("objects/pack");
        builder.write(&place, 0o644).unwrap();
        drop(builder);
        (directory, repository, ids)
    }

    fn path(directory: &Path, extension: &str) -> std::path::PathBuf {
        let entries = fs::read_dir(directory.join("objects/pack")).unwrap();
        entries
            .map(|entry| entry.unwrap().path())
            .find(|path| path.extension().unwrap() == extension)
            .unwrap()
    }

    #[test]
    fn what_lies_whole_in_a_pack_is_what_libgit2_reads() {
        let (directory, repository, ids) = packed();
        let odb = repository.odb().unwrap();
        let (mut packs, mut out) = (Packs::open(directory.path()), Vec::new());
        let mut found = 0;
        for id in &ids {
            if packs.read(*id, &mut out) {
                assert_eq!(out, odb.read(*id).unwrap().data());
                found += 1;
            }
        }
        // One of the two that are alike is a delta.
        assert_eq!(found, ids.len() - 1);
        let absent = Oid::from_str(&"ab".repeat(20)).unwrap();
        let commitless = odb.write(ObjectType::Tree, b"").unwrap();
        assert!(!packs.read(absent, &mut out) && !packs.read(commitless, &mut out));
    }

    #[test]
    fn damage_is_left_to_libgit2_or_gives_another_content() {
        let (directory, _, ids) = packed();
        for extension in ["pack", "idx"] {
            let path = path(directory.path(), extension);
            let whole = fs::read(&path).unwrap();
            let mut permissions = fs::metadata(&path).unwrap().permissions();
            std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
            fs::set_permissions(&path, permissions).unwrap();
            let step = (whole.len() / 200).max(1);
            for at in (0..whole.len()).step_by(step) {
                let mut damaged = whole.clone();
                damaged[at] ^= 0xff;
                for bytes in [&whole[..at], &damaged] {
                    fs::write(&path, bytes).unwrap();
                    let (mut packs, mut out) = (Packs::open(directory.path()), Vec::new());
                    for id in ids.iter().step_by(10) {
                        let found = packs.read(*id, &mut out);
                        assert!(!found || out.len() as u64 <= MAX_SIZE);
                    }
                }
            }
            fs::write(&path, &whole).unwrap();
        }
    }

    #[test]
    fn a_size_that_is_too_large_is_not_believed() {
        assert_eq!(blob_head(&[0x3f]), Some((15, 1)));
        assert_eq!(blob_head(&[0xb0, 0x01]), Some((16, 2)));
        assert_eq!(blob_head(&[0xb0, 0x80, 0x80, 0x10]), Some((4 << 20, 4)));
        assert_eq!(blob_head(&[0xb1, 0x80, 0x80, 0x10]), None);
        assert_eq!(blob_head(&[0xbf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]), None);
        for other in [&[][..], &[0xb0], &[0x10], &[0x60], &[0x70]] {
            assert_eq!(blob_head(other), None);
        }
    }
}
