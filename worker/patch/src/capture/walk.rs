//! Walks a workspace by descriptors, without recursion, and compares it with a snapshot.

use std::{
    collections::{BTreeMap, HashMap},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use git2::{ObjectType, Oid, Repository};
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode as Permissions, OFlags, openat, statat},
    io::Errno,
};

use super::{
    CaptureError, CaptureOptions, SkipReason, Skipped,
    content::{give_permissions, read_file, read_symlink},
    untracked::{Directory, Untracked},
};
use crate::{
    git_path::GitPath,
    rule::Rule,
    snapshot::{FileStat, Known, Snapshot},
    tree::Mode,
};

/// What a walk found.
#[derive(Debug, Default)]
pub(super) struct Walked {
    pub(super) changed: BTreeMap<GitPath, Changed>,
    pub(super) removed: Vec<GitPath>,
    pub(super) skipped: Vec<Skipped>,
    pub(super) skipped_total: u64,
    pub(super) ignored_total: u64,
}

/// A file whose mode or content is new.
#[derive(Debug)]
pub(super) struct Changed {
    pub(super) mode: Mode,
    pub(super) content: Vec<u8>,
}

/// Named in the report; more are only counted.
const MAX_SKIPPED: usize = 100;

pub(super) fn walk(
    workspace: BorrowedFd<'_>,
    snapshot: &Snapshot,
    options: &CaptureOptions,
    open: &dyn Fn() -> Result<Repository, git2::Error>,
) -> Result<Walked, CaptureError> {
    let index = snapshot.files().iter().enumerate().map(|(at, known)| (known.path.as_bytes(), at)).collect();
    let mut walk = Walk {
        snapshot,
        options,
        index,
        seen: vec![false; snapshot.len()],
        unreadable: Vec::new(),
        entries: 0,
        changed_bytes: 0,
        untracked: Untracked::new(snapshot, options.ignored, open),
        walked: Walked::default(),
    };
    let root = open_directory(workspace, b".").map_err(|source| io_error(b".", source))?;
    let mut frames = vec![walk.enter(root, Vec::new())?];
    while let Some(frame) = frames.last_mut() {
        let Some(name) = frame.names.pop() else {
            frames.pop();
            continue;
        };
        if let Some(below) = walk.visit(frame, &name)? {
            frames.push(below);
        }
    }
    Ok(walk.finish())
}

/// A directory whose names are being visited.
struct Frame {
    descriptor: OwnedFd,
    directory: Directory,
    names: Vec<Vec<u8>>,
}

struct Walk<'a> {
    snapshot: &'a Snapshot,
    options: &'a CaptureOptions,
    index: HashMap<&'a [u8], usize>,
    seen: Vec<bool>,
    /// Files and directories whose tracked content counts as unchanged.
    unreadable: Vec<Vec<u8>>,
    entries: usize,
    changed_bytes: u64,
    untracked: Untracked<'a>,
    walked: Walked,
}

impl Walk<'_> {
    /// Lists a directory. Its names count before they are looked at, so that a huge one is not held in memory.
    fn enter(&mut self, descriptor: OwnedFd, prefix: Vec<u8>) -> Result<Frame, CaptureError> {
        let failed = |error: Errno| io_error(&prefix, error.into());
        let mut names = Vec::new();
        let mut entries = Dir::read_from(&descriptor).map_err(failed)?;
        while let Some(entry) = entries.read() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            self.entries += 1;
            if self.entries > self.options.max_entries {
                return Err(CaptureError::TooManyEntries(self.options.max_entries));
            }
            names.push(name.to_vec());
        }
        Ok(Frame { descriptor, directory: Directory::new(prefix), names })
    }

    /// Looks at one name; gives the directory to go into, if it is one.
    fn visit(&mut self, frame: &Frame, name: &[u8]) -> Result<Option<Frame>, CaptureError> {
        let path = [&frame.directory.prefix, name].concat();
        if path == b".git" {
            return Ok(None);
        }
        let known = self.index.get(path.as_slice()).map(|at| (*at, &self.snapshot.files()[*at]));
        if known.is_none()
            && let Err(refusal) = GitPath::new(&path).judge()
        {
            let nested = name == b".git" && refusal.rule == Rule::PathDotGit;
            self.skip(&path, if nested { SkipReason::NestedRepository } else { SkipReason::UnusablePath });
            return Ok(None);
        }
        let stat = match statat(&frame.descriptor, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::ACCESS) => {
                self.unreadable(path);
                return Ok(None);
            }
            Err(error) => return Err(io_error(&path, error.into())),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::Directory => self.directory(frame, name, path, stat.st_mode),
            FileType::RegularFile | FileType::Symlink => {
                let mode = match kind {
                    FileType::Symlink => Mode::Symlink,
                    _ if stat.st_mode & 0o100 != 0 => Mode::Executable,
                    _ => Mode::File,
                };
                self.file(frame, name, &path, mode, &FileStat::of(&stat), known)?;
                Ok(None)
            }
            _ => {
                self.skip(&path, SkipReason::SpecialFile);
                Ok(None)
            }
        }
    }

    fn directory(
        &mut self,
        frame: &Frame,
        name: &[u8],
        mut path: Vec<u8>,
        mode: u32,
    ) -> Result<Option<Frame>, CaptureError> {
        path.push(b'/');
        if !self.untracked.is_tracked(&path)
            && self.untracked.is_ignored(&frame.directory, &path[..path.len() - 1], true)?
        {
            self.walked.ignored_total += 1;
            return Ok(None);
        }
        if mode & 0o500 != 0o500 {
            // It may be opened and yet not searched. If it is not ours, what follows says so.
            give_permissions(frame.descriptor.as_fd(), name, 0o700);
        }
        match open_directory(frame.descriptor.as_fd(), name) {
            Ok(directory) => self.enter(directory, path).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                path.pop();
                self.unreadable(path);
                Ok(None)
            }
            Err(error) => Err(io_error(&path, error)),
        }
    }

    fn file(
        &mut self,
        frame: &Frame,
        name: &[u8],
        path: &[u8],
        mode: Mode,
        stat: &FileStat,
        known: Option<(usize, &Known)>,
    ) -> Result<(), CaptureError> {
        match known {
            Some((at, known)) => {
                self.seen[at] = true;
                if self.snapshot.is_unchanged(known, stat) {
                    return Ok(());
                }
            }
            None if self.untracked.is_ignored(&frame.directory, path, false)? => {
                self.walked.ignored_total += 1;
                return Ok(());
            }
            None => {}
        }
        let Some(content) = self.read(frame, name, path, mode, known.map(|(_, known)| known))? else {
            return Ok(());
        };
        if let Some((_, known)) = known
            && known.entry.mode == mode
            && known.entry.id == Oid::hash_object(ObjectType::Blob, &content)?
        {
            return Ok(());
        }
        self.changed_bytes += content.len() as u64;
        if self.changed_bytes > self.options.max_changed_bytes {
            return Err(self.too_large(path));
        }
        self.walked.changed.insert(GitPath::new(path), Changed { mode, content });
        if self.walked.changed.len() > self.options.max_files {
            return Err(CaptureError::TooManyFiles(self.options.max_files));
        }
        Ok(())
    }

    /// The content of a file, unless its permissions forbid it. A file that may turn out to be unchanged is read if
    /// it is no larger than it was, whatever has been read so far.
    fn read(
        &mut self,
        frame: &Frame,
        name: &[u8],
        path: &[u8],
        mode: Mode,
        known: Option<&Known>,
    ) -> Result<Option<Vec<u8>>, CaptureError> {
        let old_size = known.and_then(|known| known.stat).map_or(0, |stat| stat.size);
        let max = old_size.max(self.options.max_changed_bytes - self.changed_bytes);
        let directory = frame.descriptor.as_fd();
        let content = match mode {
            Mode::Symlink => read_symlink(directory, name).map(Some),
            _ => read_file(directory, name, max),
        };
        match content {
            Ok(Some(content)) => Ok(Some(content)),
            Ok(None) => Err(self.too_large(path)),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                self.unreadable(path.to_vec());
                Ok(None)
            }
            Err(error) => Err(io_error(path, error)),
        }
    }

    fn too_large(&self, path: &[u8]) -> CaptureError {
        CaptureError::ContentTooLarge { path: GitPath::new(path), limit: self.options.max_changed_bytes }
    }

    fn skip(&mut self, path: &[u8], reason: SkipReason) {
        self.walked.skipped_total += 1;
        if self.walked.skipped.len() < MAX_SKIPPED {
            self.walked.skipped.push(Skipped { path: GitPath::new(path), reason });
        }
    }

    fn unreadable(&mut self, path: Vec<u8>) {
        self.skip(&path, SkipReason::Unreadable);
        self.unreadable.push(path);
    }

    fn finish(mut self) -> Walked {
        for (known, seen) in self.snapshot.files().iter().zip(&self.seen) {
            let path = known.path.as_bytes();
            let within = |above: &Vec<u8>| {
                path.strip_prefix(above.as_slice()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
            };
            let kept = known.entry.mode == Mode::Gitlink || self.unreadable.iter().any(within);
            if !seen && !kept {
                self.walked.removed.push(known.path.clone());
            }
        }
        self.walked.skipped.sort_by(|a, b| a.path.cmp(&b.path));
        self.walked
    }
}

fn open_directory(parent: BorrowedFd<'_>, name: &[u8]) -> std::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(parent, name, flags, Permissions::empty())?)
}

fn io_error(path: &[u8], source: std::io::Error) -> CaptureError {
    CaptureError::Io { path: GitPath::new(path), source }
}
