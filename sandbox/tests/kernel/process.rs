use std::path::Path;

use runtimed_sandbox::spawn::{Executable, Spawn, Status};

use crate::identity::{is_root, only_root_can, probe_path};

/// Runs a scenario of the probe program in a process of its own, which has one thread, and requires that it passes.
pub(crate) fn scenario(words: &[&str]) {
    let probe = Executable::open(&probe_path()).unwrap();
    let stderr = rustix::stdio::stderr();
    let argv = [&["probe"], words].concat();
    let mut child = Spawn::new(&probe, argv).cwd(Path::new("/")).fd(2, stderr).spawn().unwrap();
    assert_eq!(child.wait().unwrap().status, Status::Exited(0), "{words:?}");
}

both! {
    fn a_storm_is_killed_by_walking() {
        scenario(&["storm", "none"]);
    }

    fn a_storm_is_killed_in_its_domain() {
        // As root a mistake would kill the machine; the run as an ordinary uid is the one that counts.
        if !is_root() {
            scenario(&["storm", &std::process::id().to_string()]);
        }
    }

    fn what_ends_at_term_needs_no_kill() {
        scenario(&["term"]);
    }

    fn the_first_of_a_namespace_makes_views_and_loses_nobody() {
        // As root the kernel would map more than an ordinary uid gets; the run as an ordinary uid is the one that counts.
        if !is_root() {
            let place = tempfile::tempdir().unwrap();
            std::fs::create_dir(place.path().join("own")).unwrap();
            scenario(&["views"]);
            scenario(&["namespaces", place.path().to_str().unwrap()]);
        }
    }

    fn what_a_kernel_lacks_is_told_from_what_a_filter_forbids() {
        scenario(&["support"]);
    }

    fn strays_are_told_from_children() {
        scenario(&["strays"]);
    }

    fn the_supervisor_is_scoped_and_nothing_else() {
        scenario(&["supervisor", &std::process::id().to_string()]);
    }
}

#[test]
fn root_is_given_up_for_good() {
    if only_root_can("give root up") {
        scenario(&["drop"]);
    }
}
