//! How much one Run may keep: which file is one too many, and why.

use std::collections::HashSet;

use runtimed_api::digest::Digest;
use runtimed_sandbox::beneath::Meta;
use runtimed_store::MAX_BLOB;

use super::naming::in_json;

/// Files of one Run.
const MAX_FILES: usize = 20_000;
/// Bytes of one Run.
const MAX_TOTAL: u64 = 16 << 30;
/// Bytes that the paths of one Run's files may take in its manifest, which is held in memory, and of which the controller
/// reads 16 MiB.
pub(super) const MAX_PATHS: usize = 8 << 20;
/// Files together may be so many times as large as what they take on the disk: more is holes.
const SPARSE: u64 = 16;
/// What that does not count for: a file system may keep small files in their inodes.
const SPARSE_FROM: u64 = 1 << 20;
/// What a file counts for at least that takes nothing.
const BLOCK: u64 = 512;

/// What was taken so far, and how much it may be.
pub(super) struct Bounds {
    /// Bytes that the spool may hold.
    most: u64,
    files: usize,
    /// Bytes that their paths take in the manifest.
    paths: usize,
    /// Bytes in the spool.
    total: u64,
    /// The contents in the spool.
    kept: HashSet<Digest>,
    /// Bytes of the files that were taken, and what they take where they are.
    seen: u64,
    allocated: u64,
}

impl Bounds {
    pub(super) fn new(most: u64) -> Self {
        let most = most.min(MAX_TOTAL);
        Self { most, files: 0, paths: 0, total: 0, kept: HashSet::new(), seen: 0, allocated: 0 }
    }

    /// Why there is no room in the manifest for a file of this name.
    pub(super) fn refuse_name(&self, path: &str) -> Option<String> {
        if self.files >= MAX_FILES {
            Some(format!("more than {MAX_FILES} files"))
        } else if self.paths + in_json(path) > MAX_PATHS {
            Some(format!("the paths of all files together are more than {MAX_PATHS} bytes"))
        } else {
            None
        }
    }

    /// Why there is no room in the spool for what this file holds.
    pub(super) fn refuse_content(&self, meta: &Meta) -> Option<String> {
        if meta.size > MAX_BLOB {
            Some(format!("{} bytes are more than {MAX_BLOB}", meta.size))
        } else if self.total.saturating_add(meta.size) > self.most {
            Some(format!("all files together are more than {} bytes", self.most))
        } else if self.is_sparse(meta) {
            Some("it is sparse: most of it is holes".to_owned())
        } else {
            None
        }
    }

    /// Counts a file that is in the spool now, with `size` bytes under this digest.
    pub(super) fn took(&mut self, path: &str, meta: &Meta, digest: Digest, size: u64) {
        self.files += 1;
        self.paths += in_json(path);
        if self.kept.insert(digest) {
            self.total += size;
        }
        self.seen += meta.size;
        self.allocated += meta.allocated.max(BLOCK);
    }

    /// Whether it is mostly holes, or one too many of small files that are: what takes little room where it is would take
    /// much in the spool and in the store.
    fn is_sparse(&self, meta: &Meta) -> bool {
        let sparse = |size: u64, allocated: u64| {
            size > SPARSE_FROM && size > allocated.max(BLOCK).saturating_mul(SPARSE)
        };
        sparse(meta.size, meta.allocated)
            || sparse(
                self.seen.saturating_add(meta.size),
                self.allocated.saturating_add(meta.allocated.max(BLOCK)),
            )
    }
}
