//! The images of images/, started as the manifests of controller/deploy say, in both kinds of pod.

mod cluster;
mod install;
mod job;
mod manifests;
mod pods;
mod posture;
mod surface;

/// Whether containers can be started; only root can, and tests/run says so. A root that cannot is an error.
#[expect(clippy::print_stderr, reason = "a person who runs the tests is told what was not run")]
fn needed() -> bool {
    let available = runtimed_tests::container::available();
    if let Err(why) = &available {
        assert!(!rustix::process::geteuid().is_root(), "{why}");
        eprintln!("not run, for only root can: {why}");
    }
    available.is_ok()
}
