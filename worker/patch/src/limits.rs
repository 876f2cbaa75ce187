//! How much a stack of patches may cost.

/// Bounds on a stack of patches. The bytes come from elsewhere, so each is enforced before the work is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one patch. Default 64 MiB.
    pub max_bytes: u64,
    /// Changed files of one patch. Default 10,000.
    pub max_files: u32,
    /// Patches in one stack. Default 16.
    pub max_patches: u32,
    /// Bytes of all resulting files of the stack together, which bounds what compressed data and repeated
    /// copies expand to. They are held in memory. Default 512 MiB.
    pub max_expanded_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: 64 << 20, max_files: 10_000, max_patches: 16, max_expanded_bytes: 512 << 20 }
    }
}
