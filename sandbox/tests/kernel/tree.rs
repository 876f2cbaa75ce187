use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use runtimed_sandbox::tree::{Medium, Root, Seen, Tree, TreeError};
use rustix::fs::{Mode, OFlags};
use tempfile::TempDir;

use crate::identity::{NOBODY, also_as_ordinary, is_root, only_root_can};

/// Roots on whatever the temporary directory is, and on a tmpfs.
fn places() -> Vec<TempDir> {
    vec![tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap()]
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// A chain of directories so deep that no path leads to its end.
fn dig(tree: &Tree, levels: u32) {
    let mut at: OwnedFd = tree.create_dir("deep", 0o700).unwrap();
    for _ in 1..levels {
        rustix::fs::mkdirat(&at, c"d", Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, c"d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    rustix::fs::openat(&at, c"end", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
}

both! {
    fn trees_are_private_whatever_the_root_hands_on() {
        for place in places() {
            fs::set_permissions(place.path(), PermissionsExt::from_mode(0o2777)).unwrap();
            let root = Root::open(place.path()).unwrap();
            let tree = root.create().unwrap();
            assert_eq!(tree.path().parent(), Some(place.path()));
            assert_eq!(mode(&tree.path()), 0o700);
            assert_eq!(root.list().unwrap(), [tree.name().clone()]);
            let inner = tree.create_dir("home", 0o750).unwrap();
            assert_eq!(mode(&tree.path().join("home")), 0o750);
            drop(inner);
            assert!(matches!(root.create_named(tree.name()), Err(TreeError::Io { .. })), "a name is never reused");
            assert_eq!(tree.remove().unwrap().entries, 2);
            assert_eq!(root.list().unwrap(), []);
        }
    }

    fn a_tmpfs_is_told_from_a_disk() {
        assert_eq!(Root::open(Path::new("/dev/shm")).unwrap().medium(), Medium::Tmpfs);
        assert_eq!(Root::open(Path::new("/usr")).unwrap().medium(), Medium::Disk);
    }

    fn a_tree_is_found_again_after_its_mode_was_taken_away() {
        let place = tempfile::tempdir().unwrap();
        let root = Root::open(place.path()).unwrap();
        let tree = root.create().unwrap();
        let name = tree.name().clone();
        fs::write(tree.path().join("file"), "x").unwrap();
        fs::set_permissions(tree.path(), PermissionsExt::from_mode(0o000)).unwrap();
        drop(tree);
        let again = root.reopen(&name).unwrap().expect("it is still there");
        assert_eq!(mode(&again.path()), 0o700);
        assert_eq!(again.remove().unwrap().entries, 2);
        assert!(root.reopen(&name).unwrap().is_none());
    }

    fn a_link_in_the_place_of_a_tree_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let root = Root::open(place.path()).unwrap();
        let tree = root.create().unwrap();
        let name = tree.name().clone();
        tree.remove().unwrap();
        symlink("/etc", place.path().join(name.as_str())).unwrap();
        assert!(root.reopen(&name).is_err());
    }

    fn hostile_trees_are_removed_and_nothing_else() {
        for place in places() {
            let outside = place.path().join("outside");
            fs::create_dir(&outside).unwrap();
            fs::write(outside.join("kept"), "kept").unwrap();
            let root = Root::open(place.path()).unwrap();
            let tree = root.create().unwrap();
            // A disk may take milliseconds for each directory.
            let levels = if root.medium().is_memory() { 12_000 } else { 1000 };
            dig(&tree, levels);
            let path = tree.path();
            for (name, mode) in [("none", 0), ("unreadable", 0o300), ("unwritable", 0o500), ("unsearchable", 0o600)] {
                let dir = path.join(name);
                fs::create_dir_all(dir.join("inner/inner")).unwrap();
                fs::write(dir.join("inner/file"), "x").unwrap();
                fs::set_permissions(dir.join("inner"), PermissionsExt::from_mode(mode)).unwrap();
                fs::set_permissions(&dir, PermissionsExt::from_mode(mode)).unwrap();
            }
            symlink(&outside, path.join("to-directory")).unwrap();
            symlink(outside.join("kept"), path.join("to-file")).unwrap();
            symlink("loop", path.join("loop")).unwrap();
            let fifo = CString::new(path.join("fifo").to_str().unwrap()).unwrap();
            rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
            drop(UnixListener::bind(path.join("s")).unwrap());
            let wide = path.join("wide");
            fs::create_dir(&wide).unwrap();
            for number in 0..3000 {
                fs::write(wide.join(number.to_string()), "").unwrap();
            }
            fs::set_permissions(&path, PermissionsExt::from_mode(0o000)).unwrap();
            assert_eq!(tree.remove().unwrap().entries, u64::from(levels) + 1 + 4 * 4 + 5 + 3001 + 1);
            assert_eq!(root.list().unwrap(), []);
            assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "kept");
        }
    }

    fn a_root_is_emptied_and_stays() {
        for place in places() {
            let outside = tempfile::tempdir().unwrap();
            fs::write(outside.path().join("kept"), "kept").unwrap();
            let root = Root::open(place.path()).unwrap();
            assert_eq!(root.first().unwrap(), None);
            fs::create_dir_all(place.path().join(".closed/inner")).unwrap();
            fs::write(place.path().join(".closed/inner/file"), "x").unwrap();
            fs::set_permissions(place.path().join(".closed/inner"), PermissionsExt::from_mode(0o0)).unwrap();
            fs::set_permissions(place.path().join(".closed"), PermissionsExt::from_mode(0o0)).unwrap();
            symlink(outside.path(), place.path().join("link")).unwrap();
            assert_eq!(root.usage(100).unwrap().entries, 2 + if is_root() { 2 } else { 0 });
            fs::set_permissions(place.path(), PermissionsExt::from_mode(0o0)).unwrap();
            root.empty().unwrap();
            assert_eq!(root.first().unwrap(), None);
            assert_eq!(mode(place.path()) & 0o700, 0o700);
            assert_eq!(fs::read_to_string(outside.path().join("kept")).unwrap(), "kept");
        }
    }

    fn a_tree_whose_name_was_taken_is_emptied_and_the_other_left_alone() {
        let place = tempfile::tempdir().unwrap();
        let root = Root::open(place.path()).unwrap();
        let tree = root.create().unwrap();
        let path = tree.path();
        fs::write(path.join("ours"), "x").unwrap();
        let moved = place.path().join("moved");
        fs::rename(&path, &moved).unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("theirs"), "x").unwrap();
        assert!(matches!(tree.remove(), Err(TreeError::Replaced { .. })));
        assert!(!moved.join("ours").exists() && path.join("theirs").exists());
    }

    fn usage_is_bounded_and_counts_hard_links_once() {
        let place = tempfile::tempdir_in("/dev/shm").unwrap();
        let tree = Root::open(place.path()).unwrap().create().unwrap();
        fs::write(tree.path().join("big"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(tree.path().join("big"), tree.path().join("again")).unwrap();
        dig(&tree, 3000);
        let usage = tree.usage(100_000).unwrap();
        assert_eq!(usage.seen, Seen::Whole);
        assert_eq!(usage.entries, 3003);
        assert_eq!(usage.bytes, 1 << 20);
        let capped = tree.usage(10).unwrap();
        assert!(capped.seen == Seen::Capped && capped.entries <= 10);
        tree.remove().unwrap();
    }

    fn usage_says_that_there_may_be_more_where_a_mode_hides_it() {
        if is_root() {
            return; // No mode keeps root from reading; the run as an ordinary uid covers it.
        }
        let place = tempfile::tempdir_in("/dev/shm").unwrap();
        let tree = Root::open(place.path()).unwrap().create().unwrap();
        let hidden = tree.path().join("hidden");
        fs::create_dir(&hidden).unwrap();
        fs::write(hidden.join("big"), vec![1; 1 << 20]).unwrap();
        assert_eq!(tree.usage(10).map(|usage| (usage.seen, usage.bytes)).unwrap(), (Seen::Whole, 1 << 20));
        // Without the right to list, and without the right to look at what is listed.
        for mode in [0o300, 0o600, 0o000] {
            fs::set_permissions(&hidden, fs::Permissions::from_mode(mode)).unwrap();
            let usage = tree.usage(10).unwrap();
            assert_eq!((usage.seen, usage.bytes), (Seen::Part, 0), "{mode:o}");
            // It may be in use, and whoever made it so meant it.
            assert_eq!(fs::metadata(&hidden).unwrap().permissions().mode() & 0o777, mode);
        }
        tree.remove().unwrap();
    }
}

#[test]
fn another_mount_is_not_entered() {
    if !only_root_can("mount") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let tree = Root::open(place.path()).unwrap().create().unwrap();
    let (name, point) = (tree.name().clone(), tree.path().join("a/mount"));
    fs::create_dir_all(&point).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    if rustix::mount::mount("none", &point, "tmpfs", flags, None).is_err() {
        return; // A container's root, which may not mount; a real one covers it.
    }
    fs::write(point.join("foreign"), "x").unwrap();
    let refused = tree.remove();
    let kept = point.join("foreign").exists();
    rustix::mount::unmount(&point, rustix::mount::UnmountFlags::empty()).unwrap();
    assert!(matches!(&refused, Err(TreeError::Left { left: 1, .. })), "{refused:?}");
    assert!(kept);
    Root::open(place.path()).unwrap().reopen(&name).unwrap().unwrap().remove().unwrap();
}

const LEFTOVER: &str = "SANDBOX_TEST_LEFTOVER";

#[test]
fn what_another_uid_left_is_named_and_the_rest_is_removed() {
    if let Some(place) = std::env::var_os(LEFTOVER).map(PathBuf::from) {
        let root = Root::open(&place).unwrap();
        let tree = root.reopen(&root.list().unwrap()[0]).unwrap().unwrap();
        let path = tree.path();
        let refused = tree.remove().unwrap_err();
        assert!(refused.to_string().contains("foreign/file (uid 0)"), "{refused}");
        assert!(!path.join("own").exists() && path.join("foreign/file").exists());
        return;
    }
    if !only_root_can("make something that another uid owns") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let tree = Root::open(place.path()).unwrap().create().unwrap();
    fs::create_dir(tree.path().join("foreign")).unwrap();
    fs::write(tree.path().join("foreign/file"), "x").unwrap();
    fs::write(tree.path().join("own"), "x").unwrap();
    let owner = rustix::fs::Uid::from_raw(NOBODY);
    rustix::fs::fchown(tree.fd().as_fd(), Some(owner), None).unwrap();
    let name = concat!(module_path!(), "::what_another_uid_left_is_named_and_the_rest_is_removed");
    also_as_ordinary(name, &[(LEFTOVER, place.path())]);
}
