use super::bounds::MAX_PATHS;
use super::naming::in_json;
use super::*;
use std::os::unix::fs::{PermissionsExt as _, symlink};

#[test]
fn only_plain_files_are_kept_and_everything_else_has_its_reason() {
    let dir = tempfile::tempdir().expect("a directory");
    let spool = tempfile::tempdir().expect("a spool");
    let at = |name: &str| dir.path().join(layout::ARTIFACTS).join(name);
    fs::create_dir_all(at("sub")).expect("made");
    fs::create_dir_all(dir.path().join(layout::WORKSPACE).join("dist")).expect("made");
    fs::write(dir.path().join(layout::WORKSPACE).join("dist/app"), "app").expect("written");
    fs::write(dir.path().join(layout::WORKSPACE).join("other"), "no").expect("written");
    fs::write(at("plain"), "the token is hunter22hunter22\n").expect("written");
    fs::write(at("sub/binary"), b"\0hunter22hunter22").expect("written");
    symlink("/etc/passwd", at("link")).expect("linked");
    let outside = tempfile::tempdir_in(dir.path().parent().expect("a parent")).expect("elsewhere");
    fs::write(outside.path().join("staged"), "a staged file").expect("written");
    fs::hard_link(outside.path().join("staged"), at("hard")).expect("linked");
    fs::hard_link(at("hard"), at("hard2")).expect("linked");
    // As Cargo leaves what it builds: one name that is wanted, and another that is in the tree as well.
    let deps = dir.path().join(layout::WORKSPACE).join("deps");
    fs::create_dir(&deps).expect("made");
    fs::hard_link(dir.path().join(layout::WORKSPACE).join("dist/app"), deps.join("app-0123"))
        .expect("linked");
    fs::create_dir_all(at("locked/deep")).expect("made");
    fs::write(at("locked/deep/file"), "kept\n").expect("written");
    for (name, mode) in [("locked/deep/file", 0), ("locked/deep", 0), ("locked", 0), ("", 0)] {
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).expect("set");
    }
    rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .expect("made");
    File::create(at("sparse")).expect("made").set_len(8 << 30).expect("grown");
    let redactor = Redactor::default();
    redactor.register(&[("x", b"hunter22hunter22")]).expect("registers");
    let places = Places { tree: File::open(dir.path()).expect("opens"), workspace: None };
    let manifest =
        collect(&places, &["dist/**".to_owned()], &redactor, spool.path(), 1 << 20, &AtomicBool::new(false))
            .expect("collects");
    let kept: Vec<_> = manifest.files.iter().map(|file| (file.path.as_str(), file.redacted)).collect();
    assert_eq!(kept, [("dist/app", false), ("locked/deep/file", false), ("plain", true)]);
    let bytes = fs::read(spool.path().join(manifest.files[2].digest.hex())).expect("spooled");
    assert_eq!(bytes, b"the token is ***x***\n");
    assert_eq!(Digest::of(&bytes), manifest.files[2].digest);
    let skipped: Vec<_> = manifest.skipped.iter().map(|file| file.path.as_str()).collect();
    for name in ["link", "hard", "hard2", "fifo", "sparse", "sub/binary"] {
        assert!(skipped.contains(&name), "{name} in {skipped:?}");
    }
}

/// A file that its disk does not give is no reason to have none of the others; a spool that takes nothing is.
#[test]
fn a_file_that_cannot_be_read_is_not_an_end_of_all() {
    let dir = tempfile::tempdir().expect("a directory");
    let spool = dir.path().join("spool");
    let redactor = Redactor::default();
    let collector = Collector {
        manifest: Manifest::default(),
        names: HashSet::new(),
        unlisted: 0,
        bounds: Bounds::new(1 << 20),
        redactor: &redactor,
        spool: spool.clone(),
        links: None,
        trees: Vec::new(),
        enough: &AtomicBool::new(false),
    };
    fs::write(dir.path().join("file"), "text").expect("written");
    let opened = |write: bool| {
        OpenOptions::new().read(!write).write(write).open(dir.path().join("file")).expect("opens")
    };
    assert!(collector.copy(opened(false), 4).is_err(), "there is no spool");
    fs::create_dir(&spool).expect("made");
    // Reading a descriptor that was opened for writing fails with EBADF, as reading a broken disk does with EIO.
    assert!(matches!(collector.copy(opened(true), 4), Ok(Copied::Unread(_))));
    assert!(matches!(collector.copy(opened(false), 4), Ok(Copied::Kept { size: 4, .. })));
}

/// The artifacts directory with what `make` puts there, collected within a limit.
fn collected(most: u64, make: impl FnOnce(&Path)) -> (Manifest, u64) {
    let dir = tempfile::tempdir().expect("a directory");
    let spool = tempfile::tempdir().expect("a spool");
    let artifacts = dir.path().join(layout::ARTIFACTS);
    fs::create_dir(&artifacts).expect("made");
    make(&artifacts);
    let places = Places { tree: File::open(dir.path()).expect("opens"), workspace: None };
    let enough = AtomicBool::new(false);
    let manifest = collect(&places, &[], &Redactor::default(), spool.path(), most, &enough);
    let spooled = fs::read_dir(spool.path()).expect("lists").flatten();
    let spooled = spooled.map(|entry| entry.metadata().expect("its metadata").len()).sum();
    (manifest.expect("collects"), spooled)
}

#[test]
fn small_sparse_files_do_not_add_up_to_more_than_was_on_the_disk() {
    let holes = |dir: &Path| {
        for index in 0..200_u64 {
            let mut file = File::create(dir.join(index.to_string())).expect("made");
            file.write_all(&index.to_le_bytes()).expect("written");
            file.set_len(1 << 20).expect("grown");
        }
    };
    let (manifest, spooled) = collected(u64::MAX, holes);
    assert!(spooled < 20 << 20, "{spooled} bytes of {} files", manifest.files.len());
    assert!(manifest.skipped.iter().all(|skipped| skipped.reason.contains("sparse")));
    // Many small ones that take a block each are what they are.
    let small = |dir: &Path| {
        (0..2000)
            .for_each(|index| fs::write(dir.join(index.to_string()), vec![b'x'; 1000]).expect("written"));
    };
    assert_eq!(collected(u64::MAX, small).0.files.len(), 2000);
}

#[test]
fn what_is_spooled_stays_within_the_limit_and_one_content_counts_once() {
    let (manifest, spooled) = collected(2500, |dir| {
        for name in ["a", "b", "c"] {
            fs::write(dir.join(name), vec![name.as_bytes()[0]; 1000]).expect("written");
        }
        fs::hard_link(dir.join("a"), dir.join("aa")).expect("linked");
    });
    let kept: Vec<_> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!((kept, spooled), (vec!["a", "aa", "b"], 2000));
    assert_eq!(manifest.skipped[0].reason, "all files together are more than 2500 bytes");
}

#[test]
fn a_manifest_of_long_names_is_one_that_can_be_read_again() {
    // Each is some 1,900 bytes in the manifest.
    let names = |count: usize| {
        move |dir: &Path| {
            let deep = dir.join("\u{1}".repeat(240)).join("\u{1}".repeat(240)).join("\"".repeat(240));
            fs::create_dir_all(&deep).expect("made");
            (0..count).for_each(|index| {
                File::create(deep.join(index.to_string())).expect("made");
            });
        }
    };
    let (manifest, _) = collected(u64::MAX, names(6000));
    let json = serde_json::to_vec(&manifest).expect("JSON");
    assert!(manifest.files.len() < 6000 && json.len() < 12 << 20, "{} bytes", json.len());
    let paths: usize = manifest.files.iter().map(|file| in_json(&file.path)).sum();
    assert!((MAX_PATHS - 4096..=MAX_PATHS).contains(&paths), "{paths}");
    let skipped = &manifest.skipped[0];
    assert!(skipped.reason.contains("paths of all files") && skipped.path.len() <= MAX_SAID, "{skipped:?}");
    assert!(manifest.skipped.last().is_some_and(|last| last.reason.contains("more files were skipped")));
}
