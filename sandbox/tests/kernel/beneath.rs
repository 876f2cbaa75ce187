use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use runtimed_sandbox::beneath::{BeneathError, Kind, Limits, open_file, read_capped, walk};
use rustix::fs::{CWD, FileType, Mode};

both! {
    fn only_regular_files_are_opened_and_the_reason_is_told() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        fs::create_dir(at("dir")).unwrap();
        fs::write(at("dir/file"), "content").unwrap();
        symlink("dir/file", at("link")).unwrap();
        symlink("dir", at("dirlink")).unwrap();
        symlink("/etc/passwd", at("absolute")).unwrap();
        rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let _listener = UnixListener::bind(at("socket")).unwrap();
        let dir = fs::File::open(place.path()).unwrap();
        let dir = dir.as_fd();
        let open = |path: &str| open_file(dir, Path::new(path)).map(|(_, meta)| meta.size);
        assert_eq!(open("dir/file").unwrap(), 7);
        assert_eq!(open("./dir/file").unwrap(), 7);
        for path in ["link", "dirlink/file", "absolute"] {
            assert!(matches!(open(path), Err(BeneathError::Symlink { .. })), "{path}");
        }
        for path in ["../x", "dir/../dir/file", "/etc/passwd"] {
            assert!(matches!(open(path), Err(BeneathError::Escapes { .. })), "{path}");
        }
        for (path, kind) in [("fifo", Kind::Fifo), ("socket", Kind::Socket), ("dir", Kind::Directory), ("", Kind::Directory)] {
            assert!(matches!(open(path), Err(BeneathError::NotRegular { kind: found, .. }) if found == kind), "{path}");
        }
        assert!(matches!(open("none"), Err(BeneathError::Missing { .. })));
        assert!(matches!(open("dir/file/x"), Err(BeneathError::Missing { .. })));
        let devices = fs::File::open("/").unwrap();
        let outside = open_file(devices.as_fd(), Path::new("proc/version"));
        assert!(matches!(outside, Err(BeneathError::OtherMount { .. })), "{outside:?}");
    }

    fn reading_is_capped_even_for_sparse_giants() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("small"), "12345").unwrap();
        fs::File::create(place.path().join("sparse")).unwrap().set_len(1 << 40).unwrap();
        let dir = fs::File::open(place.path()).unwrap();
        assert_eq!(read_capped(dir.as_fd(), Path::new("small"), 5).unwrap(), b"12345");
        let refused = read_capped(dir.as_fd(), Path::new("small"), 4);
        assert!(matches!(refused, Err(BeneathError::TooLarge { size: 5, limit: 4, .. })));
        let (_, meta) = open_file(dir.as_fd(), Path::new("sparse")).unwrap();
        assert!(meta.size == 1 << 40 && meta.allocated < 1 << 20);
        assert!(read_capped(dir.as_fd(), Path::new("sparse"), 1 << 20).is_err());
    }

    fn a_walk_is_ordered_bounded_and_repairs_what_it_may() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir_all(place.path().join("top/b/locked")).unwrap();
        fs::write(place.path().join("top/b/locked/secret"), "x").unwrap();
        fs::write(place.path().join("top/a"), "x").unwrap();
        fs::hard_link(place.path().join("top/a"), place.path().join("top/c")).unwrap();
        symlink("/", place.path().join("top/link")).unwrap();
        fs::set_permissions(place.path().join("top/b/locked"), PermissionsExt::from_mode(0o000)).unwrap();
        let dir = fs::File::open(place.path()).unwrap();
        let paths = |limits| -> Vec<Result<PathBuf, String>> {
            let walk = walk(dir.as_fd(), Path::new("top"), limits).unwrap();
            walk.map(|entry| entry.map(|entry| entry.path).map_err(|error| error.to_string())).collect()
        };
        let all = paths(Limits { entries: 100, depth: 10 });
        let expected = ["top/a", "top/b", "top/b/locked", "top/b/locked/secret", "top/c", "top/link"];
        assert_eq!(all.into_iter().map(Result::unwrap).collect::<Vec<_>>(), expected.map(PathBuf::from));
        let few = paths(Limits { entries: 3, depth: 10 });
        assert!(few.len() == 4 && few.last().unwrap().is_err(), "{few:?}");
        let shallow = paths(Limits { entries: 100, depth: 0 });
        assert_eq!(shallow.iter().filter(|entry| entry.is_ok()).count(), 4, "{shallow:?}");
        assert!(shallow.last().unwrap().is_err());
        let linked = walk(dir.as_fd(), Path::new("top"), Limits { entries: 9, depth: 9 }).unwrap().next().unwrap();
        assert_eq!(linked.unwrap().meta.nlink, 2);
        assert!(walk(dir.as_fd(), Path::new("top/link"), Limits { entries: 9, depth: 9 }).is_err());
        // Repaired as far as reading goes; removing takes more.
        fs::set_permissions(place.path().join("top/b/locked"), PermissionsExt::from_mode(0o700)).unwrap();
        place.close().unwrap();
    }
}
