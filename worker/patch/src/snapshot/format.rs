//! The file form of a snapshot: fixed-width numbers, least significant byte first. It is private to one attempt and
//! one build, so it has a version only to be refused.

use git2::Oid;

use super::{FileStat, Known, Snapshot, Time};
use crate::{
    git_path::GitPath,
    tree::{Entry, Mode, TreeId},
};

const MAGIC: &[u8] = b"runtimed snapshot 1\n";

/// The bytes are not a snapshot of this build.
#[derive(Debug, thiserror::Error)]
#[error("the snapshot of the workspace is damaged, or is from another build")]
pub struct SnapshotError;

impl Snapshot {
    /// Its bytes, for a file outside the workspace. About 120 for each file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(self.tree.oid().as_bytes());
        put_time(&mut out, self.taken);
        out.extend_from_slice(&(self.files.len() as u64).to_le_bytes());
        for known in &self.files {
            out.extend_from_slice(&(known.path.as_bytes().len() as u64).to_le_bytes());
            out.extend_from_slice(known.path.as_bytes());
            out.extend_from_slice(&known.entry.mode.raw().to_le_bytes());
            out.extend_from_slice(known.entry.id.as_bytes());
            out.push(u8::from(known.stat.is_some()));
            if let Some(stat) = &known.stat {
                for number in [stat.dev, stat.ino, stat.size] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
                for number in [stat.mode, stat.uid, stat.gid] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
                put_time(&mut out, stat.modified);
                put_time(&mut out, stat.changed);
            }
        }
        out
    }

    /// The snapshot that [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`SnapshotError`] for any other bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let mut input = Input(bytes);
        read(&mut input).filter(|_| input.0.is_empty()).ok_or(SnapshotError)
    }
}

fn put_time(out: &mut Vec<u8>, time: Time) {
    out.extend_from_slice(&time.seconds.to_le_bytes());
    out.extend_from_slice(&time.nanoseconds.to_le_bytes());
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn oid(&mut self) -> Option<Oid> {
        Oid::from_bytes(self.bytes(20)?).ok()
    }

    fn time(&mut self) -> Option<Time> {
        Some(Time { seconds: self.array().map(i64::from_le_bytes)?, nanoseconds: self.u64()? })
    }

    fn stat(&mut self) -> Option<FileStat> {
        Some(FileStat {
            dev: self.u64()?,
            ino: self.u64()?,
            size: self.u64()?,
            mode: self.u32()?,
            uid: self.u32()?,
            gid: self.u32()?,
            modified: self.time()?,
            changed: self.time()?,
        })
    }
}

fn read(input: &mut Input<'_>) -> Option<Snapshot> {
    (input.bytes(MAGIC.len())? == MAGIC).then_some(())?;
    let tree = TreeId::new(input.oid()?);
    let taken = input.time()?;
    let count = input.u64()?;
    let mut files = Vec::new();
    for _ in 0..count {
        let len = usize::try_from(input.u64()?).ok()?;
        let path = GitPath::new(input.bytes(len)?);
        let mode = Mode::from_raw(i32::try_from(input.u32()?).ok()?)?;
        let id = input.oid()?;
        let stat = match input.array()? {
            [0] => None,
            [1] => Some(input.stat()?),
            _ => return None,
        };
        files.push(Known { path, entry: Entry { mode, id }, stat });
    }
    Some(Snapshot { tree, taken, files })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_survives_its_file_and_damage_is_seen() {
        let time = Time { seconds: -3, nanoseconds: 999_999_999 };
        let stat = FileStat {
            dev: 1,
            ino: u64::MAX,
            size: 3,
            mode: 4,
            uid: 5,
            gid: 6,
            modified: time,
            changed: time,
        };
        let entry = Entry { mode: Mode::Executable, id: Oid::ZERO_SHA1 };
        let files = vec![
            Known { path: GitPath::new(b"a\xff"), entry, stat: Some(stat) },
            Known { path: GitPath::new(b"b"), entry, stat: None },
        ];
        let snapshot = Snapshot { tree: TreeId::empty(), taken: time, files };
        let bytes = snapshot.to_bytes();
        assert_eq!(Snapshot::from_bytes(&bytes).unwrap(), snapshot);
        for cut in 0..bytes.len() {
            assert!(Snapshot::from_bytes(&bytes[..cut]).is_err(), "{cut}");
        }
        assert!(Snapshot::from_bytes(&[bytes, vec![0]].concat()).is_err());
    }
}
