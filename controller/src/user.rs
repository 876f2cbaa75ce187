//! Whom the controller lives as: never root unless it was told so.
//!
//! Started as root, it gives the data directory to one unprivileged uid and becomes a new image of itself under that uid.
//! The image is named by `/proc/self/exe`, which needs no access to the directories above it; arguments and environment
//! stay as they are, and so does the process id.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::str::FromStr;

/// A uid and a gid, written `UID` or `UID:GID`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl User {
    /// Whom root becomes without being told: the uid that many images call `nonroot`.
    pub(crate) const NONROOT: Self = Self { uid: 65532, gid: 65532 };
}

impl FromStr for User {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            let invalid = || format!("{text:?} is no number of a user: write UID or UID:GID");
            // The highest is the kernel's word for nobody at all.
            text.parse().ok().filter(|id| *id != u32::MAX).ok_or_else(invalid)
        };
        match text.split_once(':') {
            Some((uid, gid)) => Ok(Self { uid: number(uid)?, gid: number(gid)? }),
            None => number(text).map(|id| Self { uid: id, gid: id }),
        }
    }
}

/// Becomes `user` where the process is root; does not return then. An ordinary user stays who it is.
///
/// # Errors
/// One sentence: why the process cannot go on.
pub(crate) fn settle(user: Option<User>, data: &Path, arguments: &[OsString]) -> Result<(), String> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if uid != 0 {
        return match user {
            Some(user) if user != (User { uid, gid }) => {
                Err(format!("only root can become user {}: this is user {uid}; leave --user out", user.uid))
            }
            _ => Ok(()),
        };
    }
    let user = user.unwrap_or(User::NONROOT);
    if user.uid == 0 {
        tracing::warn!("running as root (--user 0)");
        return Ok(());
    }
    give(data, user)
        .map_err(|error| format!("{} cannot be given to user {}: {error}", data.display(), user.uid))?;
    let error = again(user, arguments);
    Err(format!("the controller cannot become user {}: {error}; start it as that user", user.uid))
}

/// Makes the data directory where it is not there, and gives it and what is directly in it to `user`, if root has it.
fn give(data: &Path, user: User) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    DirBuilder::new().recursive(true).mode(0o700).create(data)?;
    if fs::symlink_metadata(data)?.uid() == 0 {
        chown(data, Some(user.uid), Some(user.gid))?;
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "this replaces the process by itself and spawns none")]
fn again(user: User, arguments: &[OsString]) -> io::Error {
    let name = arguments.first().cloned().unwrap_or_default();
    // With a uid and no list of groups, std drops root's supplementary groups first.
    Command::new("/proc/self/exe")
        .arg0(name)
        .args(arguments.iter().skip(1))
        .uid(user.uid)
        .gid(user.gid)
        .exec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_a_uid_and_perhaps_a_gid() {
        assert_eq!("1000".parse(), Ok(User { uid: 1000, gid: 1000 }));
        assert_eq!("1000:50".parse(), Ok(User { uid: 1000, gid: 50 }));
        for bad in ["", "root", "-1", "1:", ":1", "1:2:3", "4294967295"] {
            assert!(bad.parse::<User>().is_err(), "{bad}");
        }
    }
}
