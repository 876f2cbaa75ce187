use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use runtimed_sandbox::staging::{ScrubReport, StagedName, Staging};
use runtimed_sandbox::tree::{Root, Tree};
use tempfile::TempDir;

const VALUE: &[u8] = b"correct horse battery staple";

fn name(text: &str) -> StagedName {
    text.parse().unwrap()
}

fn staged() -> (TempDir, Tree, Staging) {
    let place = tempfile::tempdir_in("/dev/shm").unwrap();
    let tree = Root::open(place.path()).unwrap().create().unwrap();
    let mut staging = Staging::create(&tree).unwrap();
    staging.stage(&name("token"), VALUE, 0o600).unwrap();
    staging.stage(&name(".npmrc"), VALUE, 0o400).unwrap();
    (place, tree, staging)
}

/// Asserts that no file under the tree holds the value, wherever the command has put it.
fn assert_destroyed(tree: &Tree) {
    let mut pending = vec![tree.path()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file() {
                let content = fs::read(entry.path()).unwrap();
                assert!(
                    !content.windows(VALUE.len()).any(|part| part == VALUE),
                    "{}",
                    entry.path().display()
                );
            }
        }
    }
}

fn scrub(tree: &Tree, staging: Staging) -> ScrubReport {
    let report = staging.scrub();
    assert!(report.verified, "{report:?}");
    assert!(!tree.path().join("s").exists());
    assert!(Staging::reopen(tree).unwrap().is_none());
    assert_destroyed(tree);
    report
}

both! {
    fn values_are_private_files_and_are_scrubbed() {
        let (_place, tree, mut staging) = staged();
        let dir = staging.dir_path();
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o7777, 0o700);
        for (file, mode) in [("token", 0o600), (".npmrc", 0o400)] {
            let meta = fs::metadata(dir.join(file)).unwrap();
            assert_eq!((meta.mode() & 0o7777, meta.nlink()), (mode, 1), "{file}");
            assert_eq!(fs::read(dir.join(file)).unwrap(), VALUE);
        }
        assert!(staging.stage(&name("token"), b"other", 0o600).is_err(), "never over a file that is there");
        assert!(staging.stage(&name("wide"), b"other", 0o644).is_err(), "never readable to others");
        symlink("/dev/shm/elsewhere", dir.join("trap")).unwrap();
        assert!(staging.stage(&name("trap"), VALUE, 0o600).is_err(), "never through a link");
        assert!(!Path::new("/dev/shm/elsewhere").exists());
        fs::remove_file(dir.join("trap")).unwrap();
        let report = scrub(&tree, staging);
        assert_eq!((report.staged, report.removed), (2, 2));
        assert_eq!(report.problems, Vec::<String>::new());
        tree.remove().unwrap();
    }

    fn rotation_is_one_step_and_spares_an_open_reader_once() {
        let (_place, tree, mut staging) = staged();
        let path = staging.dir_path().join("token");
        let mut reader = fs::File::open(&path).unwrap();
        staging.rotate(&name("token"), b"second", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        let mut former = Vec::new();
        reader.read_to_end(&mut former).unwrap();
        assert_eq!(former, VALUE);
        staging.rotate(&name("token"), b"third", 0o400).unwrap();
        assert_eq!(reader.metadata().unwrap().len(), 0, "the value before the last is destroyed");
        assert_eq!(fs::read_dir(staging.dir_path()).unwrap().count(), 2);
        scrub(&tree, staging);
    }

    fn modes_that_the_command_took_away_do_not_save_a_value() {
        let (_place, tree, staging) = staged();
        let dir = staging.dir_path();
        fs::set_permissions(dir.join("token"), PermissionsExt::from_mode(0o000)).unwrap();
        fs::set_permissions(&dir, PermissionsExt::from_mode(0o000)).unwrap();
        fs::set_permissions(tree.path(), PermissionsExt::from_mode(0o000)).unwrap();
        scrub(&tree, staging);
    }

    fn hard_links_and_moved_files_are_emptied_through_the_inode() {
        let (_place, tree, staging) = staged();
        let dir = staging.dir_path();
        fs::hard_link(dir.join("token"), tree.path().join("copy")).unwrap();
        fs::rename(dir.join(".npmrc"), tree.path().join("moved")).unwrap();
        let report = scrub(&tree, staging);
        assert!(report.problems.iter().any(|problem| problem.contains("hard link")), "{report:?}");
        assert_eq!(fs::metadata(tree.path().join("copy")).unwrap().len(), 0);
        assert_eq!(fs::metadata(tree.path().join("moved")).unwrap().len(), 0);
    }

    fn what_the_command_put_there_goes_and_is_named() {
        let (_place, tree, staging) = staged();
        let dir = staging.dir_path();
        fs::create_dir_all(dir.join("deep/er/still")).unwrap();
        fs::write(dir.join("deep/er/copy"), VALUE).unwrap();
        fs::set_permissions(dir.join("deep/er"), PermissionsExt::from_mode(0o000)).unwrap();
        fs::write(dir.join("notes"), VALUE).unwrap();
        symlink("/etc/passwd", dir.join("link")).unwrap();
        let report = scrub(&tree, staging);
        assert_eq!(report.removed, 5);
        assert_eq!(report.problems.len(), 2, "{report:?}");
        assert!(Path::new("/etc/passwd").exists());
    }

    fn a_directory_that_was_replaced_is_emptied_with_its_replacement() {
        let (_place, tree, staging) = staged();
        let dir = staging.dir_path();
        fs::rename(&dir, tree.path().join("hidden")).unwrap();
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("token"), "decoy").unwrap();
        let report = scrub(&tree, staging);
        assert!(report.problems.iter().any(|problem| problem.contains("replaced")), "{report:?}");
        assert_eq!(fs::read_dir(tree.path().join("hidden")).unwrap().count(), 0);
    }

    fn a_link_in_the_place_of_the_directory_is_removed_and_not_followed() {
        let (_place, tree, staging) = staged();
        let dir = staging.dir_path();
        let victim = tree.path().join("victim");
        fs::create_dir(&victim).unwrap();
        fs::write(victim.join("kept"), "x").unwrap();
        fs::rename(&dir, tree.path().join("hidden")).unwrap();
        symlink(&victim, &dir).unwrap();
        scrub(&tree, staging);
        assert!(victim.join("kept").exists());
    }

    fn a_later_process_scrubs_what_a_dead_one_staged() {
        let (_place, tree, staging) = staged();
        fs::hard_link(staging.dir_path().join("token"), tree.path().join("copy")).unwrap();
        fs::set_permissions(staging.dir_path(), PermissionsExt::from_mode(0o000)).unwrap();
        drop(staging);
        let again = Staging::reopen(&tree).unwrap().expect("it is there");
        let report = scrub(&tree, again);
        assert_eq!((report.staged, report.removed), (0, 2));
    }
}
