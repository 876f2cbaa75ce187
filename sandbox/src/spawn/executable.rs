use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::sys::Program;

/// A program, opened once: what is executed later is what was found now, wherever its path leads by then.
#[derive(Debug)]
pub struct Executable {
    path: PathBuf,
    /// What names it in the child.
    name: Name,
}

#[derive(Debug)]
enum Name {
    /// An ELF file, executed through its descriptor; nobody needs to be able to walk its path.
    Descriptor(OwnedFd),
    /// A script, or a file that only the kernel may read: an interpreter is given the path, so it must have one.
    Path([CString; 1]),
    /// Looked for by the child itself, in its own view.
    Searched(Vec<CString>),
}

impl Executable {
    /// Opens the program at `path`.
    ///
    /// # Errors
    /// The kernel's errno; `EACCES` for what is not a regular file with an execute bit.
    pub fn open(path: &Path) -> Result<Self, Errno> {
        let path = std::path::absolute(path).map_err(|_| Errno::INVAL)?;
        let handle = rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let stat = rustix::fs::fstat(&handle)?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() || stat.st_mode & 0o111 == 0 {
            return Err(Errno::ACCESS);
        }
        let name = match header(&path) {
            Some(header) if header == *b"\x7fELF" => {
                // High, so that no descriptor that the program is given takes its place.
                Name::Descriptor(rustix::io::fcntl_dupfd_cloexec(handle, super::FIRST_SOURCE)?)
            }
            _ => Name::Path([c_string(&path)?]),
        };
        Ok(Self { path, name })
    }

    /// Finds a command as a shell would: a name with a slash relative to `directory`, any other in `path_env`, whose
    /// relative entries are skipped.
    ///
    /// # Errors
    /// `ENOENT` when there is none, `EACCES` when there are only ones that may not be executed.
    pub fn path_lookup(name: &OsStr, path_env: &OsStr, directory: &Path) -> Result<Self, Errno> {
        if name.is_empty() {
            return Err(Errno::NOENT);
        }
        if name.as_bytes().contains(&b'/') {
            return Self::open(&directory.join(name));
        }
        let mut answer = Errno::NOENT;
        for entry in std::env::split_paths(path_env).filter(|entry| entry.is_absolute()) {
            match Self::open(&entry.join(name)) {
                Ok(executable) => return Ok(executable),
                Err(Errno::ACCESS) => answer = Errno::ACCESS,
                Err(_) => {}
            }
        }
        Err(answer)
    }

    /// Names a command for a child with a view of its own, which looks for it as [`Executable::path_lookup`] would, but
    /// there, when it executes it. That it is not there shows as `ENOENT` or `EACCES` at [`super::Stage::Execute`].
    ///
    /// # Errors
    /// `ENOENT` for an empty name or when `path_env` has no absolute entry, `EINVAL` for a NUL byte.
    pub fn within_view(name: &OsStr, path_env: &OsStr, directory: &Path) -> Result<Self, Errno> {
        let paths: Vec<PathBuf> = if name.as_bytes().contains(&b'/') {
            vec![directory.join(name)]
        } else {
            let entries = std::env::split_paths(path_env).filter(|entry| entry.is_absolute());
            entries.map(|entry| entry.join(name)).collect()
        };
        let first = paths.first().filter(|_| !name.is_empty()).ok_or(Errno::NOENT)?.clone();
        let searched = paths.iter().map(|path| c_string(path)).collect::<Result<_, _>>()?;
        Ok(Self { path: first, name: Name::Searched(searched) })
    }

    /// The absolute path under which it was found.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn program(&self) -> Program<'_> {
        match &self.name {
            Name::Descriptor(fd) => Program::Descriptor(fd.as_fd()),
            Name::Path(path) => Program::Paths(path),
            Name::Searched(paths) => Program::Paths(paths),
        }
    }
}

fn c_string(path: &Path) -> Result<CString, Errno> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)
}

/// The first four bytes, if the file has them and may be read.
fn header(path: &Path) -> Option<[u8; 4]> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    let mut header = [0; 4];
    (rustix::io::read(&file, &mut header).ok()? == header.len()).then_some(header)
}
