//! How much a Run may use.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Span;
use crate::quantity::Bytes;

/// How much a Run may use. An absent limit takes the Runtime's default, and then the built-in one of
/// [`Limits::BUILT_IN`]; a limit that is absent there too does not exist.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Wall time of one attempt's command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// CPU time of each process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Span>,
    /// Memory of the whole tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Processes of the whole tree, each of their threads counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
    /// Open files of each process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u32>,
    /// Size of each file it writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_size: Option<Bytes>,
    /// Disk of its three trees together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Bytes>,
    /// Bytes of log that are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<Bytes>,
    /// How long it may wait for a daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<Span>,
    /// Between TERM and KILL; 5s without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<Span>,
}

impl Limits {
    /// What holds where neither Run nor Runtime say anything.
    pub const BUILT_IN: Self = Self {
        timeout: Some(Span::from_secs(3600)),
        cpu: None,
        memory: None,
        processes: None,
        open_files: Some(4096),
        file_size: None,
        disk: None,
        log: Some(Bytes::mib(64)),
        queue: Some(Span::from_secs(3600)),
        grace: Some(Span::from_secs(5)),
    };

    /// No limit is given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// These limits, and where one is absent that of `fallback`.
    #[must_use]
    pub fn or(&self, fallback: &Self) -> Self {
        Self {
            timeout: self.timeout.or(fallback.timeout),
            cpu: self.cpu.or(fallback.cpu),
            memory: self.memory.or(fallback.memory),
            processes: self.processes.or(fallback.processes),
            open_files: self.open_files.or(fallback.open_files),
            file_size: self.file_size.or(fallback.file_size),
            disk: self.disk.or(fallback.disk),
            log: self.log.or(fallback.log),
            queue: self.queue.or(fallback.queue),
            grace: self.grace.or(fallback.grace),
        }
    }
}

/// A limit, as an Outcome names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum LimitName {
    /// CPU time.
    Cpu,
    /// Memory of the tree.
    Memory,
    /// Processes of the tree.
    Processes,
    /// Size of one file.
    FileSize,
    /// Disk of the trees.
    Disk,
    /// Bytes of log.
    Log,
}
