//! Reading what a Run made, only as bytes.
//!
//! Every path is resolved beneath a directory descriptor by the kernel (`openat2`), through no link and into no other
//! mount; only regular files are opened, so that nothing blocks, and reading is capped. The Run's processes must be
//! dead, for a size that was checked may otherwise change while the file is read.

mod walk;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

pub use self::walk::{Entry, Limits, Walk, walk};
use crate::dirs::{CONTAINED, MODE_BITS, widen};

/// What kind of thing a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A unix socket.
    Socket,
    /// A block or character device.
    Device,
}

impl Kind {
    pub(crate) fn of_stat(stat: &Stat) -> Self {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            _ => Self::Device,
        }
    }

    /// The kind's name in a sentence.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "regular file",
            Self::Directory => "directory",
            Self::Symlink => "symbolic link",
            Self::Fifo => "named pipe",
            Self::Socket => "socket",
            Self::Device => "device",
        }
    }
}

/// What a name's inode says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// What it is.
    pub kind: Kind,
    /// Length in bytes.
    pub size: u64,
    /// Allocated bytes; far fewer than `size` in a sparse file.
    pub allocated: u64,
    /// Names that the inode has.
    pub nlink: u64,
    /// Permission bits with set-id and sticky bits.
    pub mode: u32,
    /// The device and inode number, which together identify it.
    pub dev: u64,
    /// See `dev`.
    pub ino: u64,
}

impl Meta {
    fn of(stat: &Stat) -> Self {
        Self {
            kind: Kind::of_stat(stat),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            allocated: u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512),
            nlink: links(stat),
            mode: stat.st_mode & MODE_BITS,
            dev: stat.st_dev,
            ino: stat.st_ino,
        }
    }
}

#[cfg_attr(
    target_arch = "x86_64",
    expect(clippy::useless_conversion, reason = "the count is 32 bits wide on other architectures")
)]
fn links(stat: &Stat) -> u64 {
    stat.st_nlink.into()
}

/// Why something beneath a directory is not read.
#[derive(Debug, thiserror::Error)]
pub enum BeneathError {
    /// Nothing has that name.
    #[error("{path} does not exist")]
    Missing {
        /// The path that was asked for, as in every variant.
        path: PathBuf,
    },
    /// The path is a symbolic link or leads through one.
    #[error("{path} is, or leads through, a symbolic link, which is never followed")]
    Symlink {
        /// See [`BeneathError::Missing`].
        path: PathBuf,
    },
    /// It is there and is not a regular file.
    #[error("{path} is a {}, and only regular files are read", kind.name())]
    NotRegular {
        /// See [`BeneathError::Missing`].
        path: PathBuf,
        /// What it is.
        kind: Kind,
    },
    /// The path is absolute or contains `..`.
    #[error("{path} leads out of its directory")]
    Escapes {
        /// See [`BeneathError::Missing`].
        path: PathBuf,
    },
    /// The path leads into another mount.
    #[error("{path} is on another mount, which is never entered")]
    OtherMount {
        /// See [`BeneathError::Missing`].
        path: PathBuf,
    },
    /// Its mode, or that of a directory on the way, forbids reading.
    #[error("{path} may not be read by this uid")]
    Permission {
        /// See [`BeneathError::Missing`].
        path: PathBuf,
    },
    /// It is larger than the caller takes.
    #[error("{path} has {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// See [`BeneathError::Missing`].
        path: PathBuf,
        /// Its size in bytes, or the limit plus one when it grew while it was read.
        size: u64,
        /// The caller's limit in bytes.
        limit: u64,
    },
    /// A walk reached the caller's limit of entries or depth, and ended.
    #[error("there are more entries, or deeper ones, than the limit beneath {path}")]
    TooMany {
        /// See [`BeneathError::Missing`].
        path: PathBuf,
    },
    /// Something moved the directories that were being read.
    #[error("{path} changed while it was read")]
    Changed {
        /// See [`BeneathError::Missing`].
        path: PathBuf,
    },
    /// Anything else.
    #[error("cannot read {path}")]
    Io {
        /// See [`BeneathError::Missing`].
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: Errno,
    },
}

impl BeneathError {
    fn new(path: &Path, errno: Errno) -> Self {
        let path = path.to_owned();
        match errno {
            Errno::NOENT | Errno::NOTDIR => Self::Missing { path },
            Errno::LOOP => Self::Symlink { path },
            Errno::XDEV => Self::OtherMount { path },
            Errno::ACCESS | Errno::PERM => Self::Permission { path },
            source => Self::Io { path, source },
        }
    }
}

/// Opens a regular file for reading. The owner of a file, or of a directory on the way, whose mode forbids that is given the
/// right, so the tree must not be in use.
///
/// # Errors
/// [`BeneathError`] says which rule the path or the file breaks.
pub fn open_file(dir: BorrowedFd<'_>, rel: &Path) -> Result<(File, Meta), BeneathError> {
    match open_file_as_it_is(dir, rel) {
        Err(BeneathError::Permission { .. }) => {
            mend(dir, rel)?;
            open_file_as_it_is(dir, rel)
        }
        opened => opened,
    }
}

/// Adds the owner's right to read to everything on the way to `rel`, through descriptors that follow no link.
fn mend(dir: BorrowedFd<'_>, rel: &Path) -> Result<(), BeneathError> {
    let failed = |errno| BeneathError::new(rel, errno);
    check_relative(rel)?;
    widen(dir, 0o500).map_err(failed)?;
    let mut at = dir.try_clone_to_owned().map_err(|_| failed(Errno::MFILE))?;
    for part in rel.components() {
        at = resolve(at.as_fd(), Path::new(part.as_os_str()), OFlags::PATH).map_err(failed)?;
        match Kind::of_stat(&rustix::fs::fstat(&at).map_err(failed)?) {
            Kind::Directory => widen(at.as_fd(), 0o500),
            Kind::File => widen(at.as_fd(), 0o400),
            // Whoever opens it says why that is not done.
            _ => Ok(false),
        }
        .map_err(failed)?;
    }
    Ok(())
}

fn open_file_as_it_is(dir: BorrowedFd<'_>, rel: &Path) -> Result<(File, Meta), BeneathError> {
    let failed = |errno| BeneathError::new(rel, errno);
    check_relative(rel)?;
    // Looked at before it is opened: opening a device can do things, and a socket cannot be opened at all.
    let handle = resolve(dir, rel, OFlags::PATH).map_err(failed)?;
    let seen = Meta::of(&rustix::fs::fstat(&handle).map_err(failed)?);
    match seen.kind {
        Kind::File => {}
        Kind::Symlink => return Err(BeneathError::Symlink { path: rel.to_owned() }),
        kind => return Err(BeneathError::NotRegular { path: rel.to_owned(), kind }),
    }
    let file = resolve(dir, rel, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY).map_err(failed)?;
    let meta = Meta::of(&rustix::fs::fstat(&file).map_err(failed)?);
    if (meta.dev, meta.ino) != (seen.dev, seen.ino) {
        return Err(BeneathError::Changed { path: rel.to_owned() });
    }
    Ok((File::from(file), meta))
}

/// Reads a regular file of at most `max_bytes`.
///
/// # Errors
/// [`BeneathError::TooLarge`] before anything is read if the size says so; else as [`open_file`].
pub fn read_capped(dir: BorrowedFd<'_>, rel: &Path, max_bytes: u64) -> Result<Vec<u8>, BeneathError> {
    let (file, meta) = open_file(dir, rel)?;
    let too_large = |size| BeneathError::TooLarge { path: rel.to_owned(), size, limit: max_bytes };
    if meta.size > max_bytes {
        return Err(too_large(meta.size));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(meta.size).unwrap_or(0));
    let read = file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|error| BeneathError::new(rel, Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > max_bytes {
        return Err(too_large(max_bytes.saturating_add(1)));
    }
    Ok(bytes)
}

/// Opens a directory for listing, or as the start of further calls here.
///
/// # Errors
/// [`BeneathError`] says which rule the path breaks; a file in its place is `Missing`.
pub fn open_dir(dir: BorrowedFd<'_>, rel: &Path) -> Result<OwnedFd, BeneathError> {
    check_relative(rel)?;
    resolve(dir, rel, OFlags::RDONLY | OFlags::DIRECTORY).map_err(|errno| BeneathError::new(rel, errno))
}

fn resolve(dir: BorrowedFd<'_>, rel: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let rel = if rel.as_os_str().is_empty() { Path::new(".") } else { rel };
    rustix::fs::openat2(
        dir.as_fd(),
        rel,
        flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        CONTAINED,
    )
}

/// The kernel refuses these as well; asked here, the answer can say why.
fn check_relative(rel: &Path) -> Result<(), BeneathError> {
    let inside = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if rel.as_os_str().as_bytes().contains(&0) || !rel.components().all(inside) {
        return Err(BeneathError::Escapes { path: rel.to_owned() });
    }
    Ok(())
}
