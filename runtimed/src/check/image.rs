//! What an image is like, at the time when it is built: as root, with a writable root, on any kernel. So its files are
//! judged by their modes, for the uid that a cluster may choose: any, of group 0.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::judge::{Finding, Level};
use super::walk::walk;
use super::{facts, own_binaries};
use crate::config::Config;

/// What is judged.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    /// The three directories that an arbitrary uid of group 0 could not write.
    closed_roots: Vec<PathBuf>,
    setuid: Vec<PathBuf>,
    /// What such a uid could write beside them.
    writable: Vec<PathBuf>,
    /// Our own files that somebody but root could change.
    own_writable: Vec<PathBuf>,
    /// Files that hold secrets, and are in the image.
    baked: Vec<PathBuf>,
    worker: Option<String>,
    authorities: bool,
    /// Whether everything was looked at.
    whole: bool,
}

/// Where the distributions keep the authorities that TLS needs.
const AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// More files than any image that was seen has.
const MOST: usize = 4_000_000;

/// As many as help anybody.
const SHOWN: usize = 10;

/// Looks.
pub(super) fn look(config: &Config, path: &Path, build: &str) -> Image {
    let roots = [&config.roots.tmp, &config.roots.home, &config.roots.workspace];
    let except: BTreeSet<PathBuf> =
        roots.into_iter().cloned().chain(["/proc", "/sys", "/dev"].map(PathBuf::from)).collect();
    let mut image = Image::default();
    image.whole = walk(Path::new("/"), &except, MOST, |path, metadata| {
        if metadata.is_file() && metadata.mode() & 0o6000 != 0 && image.setuid.len() < SHOWN {
            image.setuid.push(path.to_owned());
        }
        let plain = metadata.is_file() || metadata.is_dir();
        if plain && open_to_any(metadata) && image.writable.len() < SHOWN {
            image.writable.push(path.to_owned());
        }
    });
    let closed = |path: &&&PathBuf| !fs::metadata(path).is_ok_and(|metadata| is_root_for_any(&metadata));
    image.closed_roots = roots.iter().filter(closed).map(|path| (*path).clone()).collect();
    let own = own_binaries().into_iter().chain([path.to_owned()]);
    image.own_writable = own.filter(|path| fs::metadata(path).is_ok_and(|m| not_roots_alone(&m))).collect();
    image.baked = facts::secret_files(config).into_iter().filter(|path| path.exists()).collect();
    image.worker = facts::worker(config, build).err();
    image.authorities = AUTHORITIES.iter().any(|path| Path::new(path).is_file());
    image
}

/// Whether an arbitrary uid of group 0 could write it.
fn open_to_any(metadata: &Metadata) -> bool {
    let mode = metadata.permissions().mode();
    mode & 0o002 != 0 || (metadata.gid() == 0 && mode & 0o020 != 0)
}

fn is_root_for_any(metadata: &Metadata) -> bool {
    let mode = metadata.permissions().mode();
    let by_group = metadata.gid() == 0 && mode & 0o070 == 0o070;
    metadata.is_dir() && (by_group || mode & 0o007 == 0o007)
}

fn not_roots_alone(metadata: &Metadata) -> bool {
    metadata.uid() != 0 || metadata.permissions().mode() & 0o022 != 0
}

/// Judges.
pub(super) fn judge(config: &Config, image: &Image) -> Vec<Finding> {
    let mut findings = Vec::new();
    let listed = [
        (
            Level::Error,
            "image.secret",
            &image.baked,
            "files that the configuration calls secret are in the image",
            "remove them, also from earlier layers, and mount them in the pod",
        ),
        (
            Level::Error,
            "image.own-files",
            &image.own_writable,
            "others than root could change files of ours",
            "chown them to root and chmod go-w",
        ),
        (
            Level::Error,
            "image.roots",
            &image.closed_roots,
            "a random uid of group 0 could not use all of the three directories",
            "mkdir them, chgrp 0, chmod g=rwx",
        ),
        (
            Level::Warning,
            "image.setuid",
            &image.setuid,
            "there are setuid or setgid programs, which no Run can use",
            "chmod a-s them",
        ),
        (
            Level::Warning,
            "image.writable",
            &image.writable,
            "a random uid of group 0 could write more than the three directories",
            "chmod go-w it",
        ),
    ];
    for (level, id, paths, what, hint) in listed.into_iter().filter(|row| !row.2.is_empty()) {
        let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
        let message = format!("{what}: {}", paths.join(" "));
        findings.push(Finding { level, id, message, hint: hint.to_owned() });
    }
    if let Some(why) = &image.worker {
        findings.push(Finding::error(
            "worker.unusable",
            why.clone(),
            "copy runtimed and runtimed-worker together",
        ));
    }
    if !image.authorities {
        findings.push(Finding::warning(
            "image.authorities",
            "the image has no certificate authorities: git over https cannot work",
            "install ca-certificates",
        ));
    }
    if config.roots.tmp.starts_with(&config.roots.workspace)
        || config.roots.home.starts_with(&config.roots.workspace)
    {
        findings.push(Finding::error(
            "image.nested",
            "one of the three directories lies in another",
            "keep them apart",
        ));
    }
    if !image.whole {
        findings.push(Finding::note(
            "image.not-whole",
            "not every directory of the image could be looked at",
            "run the check as root, as a step of the build",
        ));
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_judged_for_a_random_uid_of_group_0() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("d");
        fs::create_dir(&path).expect("made");
        let ours = rustix::process::getegid().is_root();
        for (mode, open, root) in
            [(0o755, false, false), (0o770, ours, ours), (0o1777, true, true), (0o702, true, false)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
            let metadata = fs::metadata(&path).expect("there");
            assert_eq!((open_to_any(&metadata), is_root_for_any(&metadata)), (open, root), "{mode:o}");
        }
    }

    #[test]
    fn what_is_open_is_an_error_and_what_is_untidy_a_warning() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("runtime.toml");
        fs::write(&path, "runtime = \"bash\"\n").expect("written");
        let config = Config::read(&path, &crate::config::layers::Overlay::default()).expect("reads");
        let good = Image { authorities: true, whole: true, ..Image::default() };
        assert_eq!(judge(&config, &good), []);
        let some = vec![PathBuf::from("/x")];
        let level = |image: Image| judge(&config, &image).first().map(|finding| finding.level);
        assert_eq!(level(Image { baked: some.clone(), ..good.clone() }), Some(Level::Error));
        assert_eq!(level(Image { closed_roots: some.clone(), ..good.clone() }), Some(Level::Error));
        assert_eq!(level(Image { setuid: some, ..good.clone() }), Some(Level::Warning));
        assert_eq!(level(Image { authorities: false, ..good }), Some(Level::Warning));
    }
}
