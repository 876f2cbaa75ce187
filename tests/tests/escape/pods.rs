//! The containers of these tests are what they claim to be: nothing that is tried in them is refused, or allowed, by a
//! pod that was not hardened.

use std::time::Duration;

use runtimed_tests::container::{Image, Pod, World, available};
use rustix::process::Signal;

#[test]
fn a_container_is_hardened_as_a_kubelet_does_it() {
    if let Err(why) = available() {
        assert!(!rustix::process::geteuid().is_root(), "{why}");
        return; // Only root can: tests/run says so.
    }
    let image = Image::base();
    for world in World::ALL {
        let mut pod = Pod::new(&image, world).start(["sleep", "1000"]).ready();
        let status = pod.output(["cat", "/proc/self/status"]);
        for line in
            ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"]
        {
            assert!(status.contains(line), "{line} is not in {status}");
        }
        assert_eq!(pod.output(["id", "-u"]).trim(), "1000");
        assert!(!pod.exec(["touch", "/made"]).output().expect("runs").status.success());
        // On the memory-backed one runc keeps the mode that the image's directory has.
        for (root, mode) in [("/tmp", "0 1777"), ("/home/worker", "0 2777"), ("/workspace", "0 2777")] {
            assert_eq!(pod.output(["stat", "-c", "%u %a", root]).trim(), mode, "{root}");
        }
        let unshared = pod.exec(["unshare", "--user", "true"]).output().expect("runs").status.success();
        assert_eq!(unshared, world == World::UserNamespaces, "{}", world.name());
        // The first process has no handler for TERM, and the kernel spares it.
        pod.signal(Signal::KILL);
        assert_eq!(pod.wait(Duration::from_secs(20)).code(), Some(137));
    }
}
