//! Private trees of one attempt, held by directory descriptor.
//!
//! A [`Root`] is one of the three shared `EmptyDir`s, or a state mount. A [`Tree`] is a directory of mode 0700 with a
//! 128-bit random name directly in it: no directory that the shared uid owns is between root and tree, for a neighbour
//! could change that one's mode. Nothing here follows a link or crosses a mount, and a tree is removed however hostile
//! the Run left it.

mod error;
mod medium;
mod name;
mod remove;
mod usage;

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, Stat};
use rustix::io::Errno;

pub use self::error::TreeError;
pub use self::medium::Medium;
pub use self::name::{BadTreeName, TreeName};
pub use self::remove::Removed;
pub(crate) use self::remove::sweep;
pub use self::usage::{Seen, Usage};
use crate::dirs::{self, Identity, Repair};

/// One of the directories in which trees are made.
#[derive(Clone, Debug)]
pub struct Root {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    path: PathBuf,
    medium: Medium,
}

impl Root {
    /// Opens a directory as a root. The path may lead through links; it is resolved once, here.
    ///
    /// # Errors
    /// [`TreeError::Io`] if it is not a directory that this process may list.
    pub fn open(path: &Path) -> Result<Self, TreeError> {
        let failed = |source| TreeError::Io { action: "open the root", path: path.to_owned(), source };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        let medium = Medium::of(fd.as_fd()).map_err(failed)?;
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Ok(Self { inner: Arc::new(Inner { fd, path, medium }) })
    }

    /// The absolute path under which the root was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// What the root is stored on.
    #[must_use]
    pub fn medium(&self) -> Medium {
        self.inner.medium
    }

    /// Makes a tree with a fresh random name.
    ///
    /// # Errors
    /// [`TreeError::Io`] as `mkdirat` fails; [`TreeError::NotPrivate`] if the file system did not honour owner or mode.
    pub fn create(&self) -> Result<Tree, TreeError> {
        self.create_named(&TreeName::random())
    }

    /// Makes a tree whose name the caller has chosen, and usually journaled, before.
    ///
    /// # Errors
    /// As [`Root::create`]; an existing name is `EEXIST`, never reused.
    pub fn create_named(&self, name: &TreeName) -> Result<Tree, TreeError> {
        let failed = |action| {
            move |source| TreeError::Io { action, path: self.inner.path.join(name.as_str()), source }
        };
        rustix::fs::mkdirat(&self.inner.fd, name.c_name(), Mode::RWXU).map_err(failed("make the tree"))?;
        let made = self.admit(name);
        if made.is_err() {
            // It is empty and ours; the error that is returned says more than this one could.
            rustix::fs::unlinkat(&self.inner.fd, name.c_name(), rustix::fs::AtFlags::REMOVEDIR)
                .unwrap_or_default();
        }
        made
    }

    /// Opens a tree that was made earlier, perhaps by a former process, whatever mode it has now; `None` when it is gone.
    ///
    /// # Errors
    /// [`TreeError::NotPrivate`] if it is not this uid's, [`TreeError::Io`] if it cannot be opened.
    pub fn reopen(&self, name: &TreeName) -> Result<Option<Tree>, TreeError> {
        match self.admit(name) {
            Ok(tree) => Ok(Some(tree)),
            Err(TreeError::Io { source: Errno::NOENT, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The names in the root that have the form of a tree's name, whoever owns them.
    ///
    /// # Errors
    /// [`TreeError::Io`] if the root cannot be listed.
    pub fn list(&self) -> Result<Vec<TreeName>, TreeError> {
        let failed = |source| TreeError::Io { action: "list", path: self.inner.path.clone(), source };
        let fd = dirs::again(self.fd()).map_err(failed)?;
        let (names, _) = dirs::names(fd.as_fd(), usize::MAX).map_err(failed)?;
        Ok(names.iter().filter_map(|name| name.to_str().ok()?.parse().ok()).collect())
    }

    /// The root's directory.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.inner.fd.as_fd()
    }

    /// The name of something in the root, whoever owns it; `None` when it is empty.
    ///
    /// # Errors
    /// [`TreeError::Io`] if the root cannot be listed.
    pub fn first(&self) -> Result<Option<OsString>, TreeError> {
        let failed = |source| TreeError::Io { action: "list", path: self.inner.path.clone(), source };
        let top = dirs::again(self.fd()).map_err(failed)?;
        let (names, _) = dirs::names(top.as_fd(), 1).map_err(failed)?;
        Ok(names.into_iter().next().map(|name| OsString::from_vec(name.into_bytes())))
    }

    /// Removes everything in the root, as [`Tree::remove`] does, and looks whether it is gone; the root itself, which may
    /// be a mount, stays. Whoever writes there must be dead.
    ///
    /// # Errors
    /// [`TreeError::Left`] when something is left; everything else is gone then.
    pub fn empty(&self) -> Result<(), TreeError> {
        let failed = |source| TreeError::Io { action: "empty", path: self.inner.path.clone(), source };
        self.mend()?;
        let swept = sweep(dirs::again(self.fd()).map_err(failed)?).map_err(failed)?;
        let left =
            |left, first, source| TreeError::Left { path: self.inner.path.clone(), left, first, source };
        if let Some((first, source)) = swept.first_left {
            return Err(left(swept.left, first, source));
        }
        match self.first()? {
            None => Ok(()),
            Some(name) => Err(left(1, name.to_string_lossy().into_owned(), Errno::NOTEMPTY)),
        }
    }

    /// Gives the owner's permissions back to the root where they were taken away, and says whether they were. The root of
    /// another owner is passed over: nobody here can have taken them.
    ///
    /// # Errors
    /// [`TreeError::Io`] if the mode cannot be repaired.
    pub fn mend(&self) -> Result<bool, TreeError> {
        match dirs::widen(self.fd(), 0o700) {
            Err(Errno::PERM) => Ok(false),
            mended => mended.map_err(|source| TreeError::Io {
                action: "repair the mode of",
                path: self.inner.path.clone(),
                source,
            }),
        }
    }

    /// Measures what is in the root, as [`Tree::usage`] does.
    ///
    /// # Errors
    /// [`TreeError::Io`] if the root cannot be listed.
    pub fn usage(&self, cap: u64) -> Result<Usage, TreeError> {
        usage::measure(self.fd(), cap).map_err(|source| TreeError::Io {
            action: "measure",
            path: self.inner.path.clone(),
            source,
        })
    }

    /// Opens and checks the tree `name`: a real directory of this uid, made 0700 with no set-id bit if it is not.
    fn admit(&self, name: &TreeName) -> Result<Tree, TreeError> {
        let path = self.inner.path.join(name.as_str());
        let failed = |action| {
            let path = path.clone();
            move |source| TreeError::Io { action, path, source }
        };
        let fd = dirs::enter(self.inner.fd.as_fd(), name.c_name(), Repair::Owner(0o700))
            .map_err(failed("open"))?;
        let stat = rustix::fs::fstat(&fd).map_err(failed("examine"))?;
        if !is_private(&stat) && stat.st_uid == rustix::process::geteuid().as_raw() {
            // A root with the setgid bit hands it on to what is made in it.
            rustix::fs::fchmod(&fd, Mode::RWXU).map_err(failed("make private"))?;
        }
        let stat = rustix::fs::fstat(&fd).map_err(failed("examine"))?;
        if !is_private(&stat) {
            return Err(TreeError::NotPrivate {
                path,
                uid: stat.st_uid,
                mode: stat.st_mode & dirs::MODE_BITS,
            });
        }
        Ok(Tree { root: self.clone(), name: name.clone(), fd, identity: Identity::of(&stat) })
    }
}

fn is_private(stat: &Stat) -> bool {
    stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & dirs::MODE_BITS == 0o700
}

/// One private directory of an attempt.
#[derive(Debug)]
pub struct Tree {
    root: Root,
    name: TreeName,
    fd: OwnedFd,
    identity: Identity,
}

impl Tree {
    /// The tree's name in its root.
    #[must_use]
    pub fn name(&self) -> &TreeName {
        &self.name
    }

    /// The root that the tree lies in.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The tree's absolute path.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.root.inner.path.join(self.name.as_str())
    }

    /// What the tree is stored on.
    #[must_use]
    pub fn medium(&self) -> Medium {
        self.root.inner.medium
    }

    /// The tree's directory.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Makes the directory `name`, one component, with exactly `mode`, and opens it.
    ///
    /// # Errors
    /// [`TreeError::Io`]: `EINVAL` for a name with a slash, `EEXIST` if it is there.
    pub fn create_dir(&self, name: &str, mode: u32) -> Result<OwnedFd, TreeError> {
        let failed =
            |source| TreeError::Io { action: "make the directory", path: self.path().join(name), source };
        if name.contains('/') {
            return Err(failed(Errno::INVAL));
        }
        rustix::fs::mkdirat(&self.fd, name, Mode::RWXU).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd =
            rustix::fs::openat2(&self.fd, name, flags, Mode::empty(), dirs::CONTAINED).map_err(failed)?;
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode)).map_err(failed)?;
        Ok(fd)
    }

    /// Gives the owner's permissions back to the tree and to these directories directly in it, where they were taken
    /// away; returns what was mended, the tree itself as `.`. A name that is gone, or no directory any more, is passed
    /// over.
    ///
    /// # Errors
    /// [`TreeError::Io`] if a mode cannot be repaired.
    pub fn mend(&self, names: &[&str]) -> Result<Vec<String>, TreeError> {
        let failed = |name: &str| {
            let path = self.path().join(name);
            move |source| TreeError::Io { action: "repair the mode of", path, source }
        };
        let mut mended = Vec::new();
        if dirs::widen(self.fd(), 0o700).map_err(failed("."))? {
            mended.push(".".to_owned());
        }
        for name in names {
            // An O_PATH descriptor needs no permission on the directory itself.
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat2(&self.fd, *name, flags, Mode::empty(), dirs::CONTAINED) {
                Ok(dir) => {
                    if dirs::widen(dir.as_fd(), 0o700).map_err(failed(name))? {
                        mended.push((*name).to_owned());
                    }
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(source) => return Err(failed(name)(source)),
            }
        }
        Ok(mended)
    }

    /// Measures the tree, looking at no more than `cap` entries and never changing a mode, for it may be in use.
    ///
    /// # Errors
    /// [`TreeError::Io`] if the tree itself cannot be listed.
    pub fn usage(&self, cap: u64) -> Result<Usage, TreeError> {
        usage::measure(self.fd(), cap).map_err(|source| TreeError::Io {
            action: "measure",
            path: self.path(),
            source,
        })
    }

    /// Empties and removes the tree, whatever is in it.
    ///
    /// Modes are repaired through descriptors, depth costs neither stack nor descriptors, links are removed and not
    /// followed, and a mount or another uid's directory is left and reported. The tree's processes must be dead.
    ///
    /// # Errors
    /// [`TreeError::Left`] when something could not be removed; everything else is gone then.
    pub fn remove(self) -> Result<Removed, TreeError> {
        remove::remove(&self)
    }
}
