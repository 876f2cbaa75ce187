//! Each claim: a probe that succeeds without the sandbox, and inside it gets exactly the refusal that the report promises.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

use runtimed_sandbox::enforcement::{Protection, State};
use runtimed_sandbox::plan::plan;
use runtimed_sandbox::policy::{COMMON_DEVICES, HARMLESS_PROC, Network, Policy, Rlimits};
use runtimed_sandbox::spawn::{Executable, Spawn, Status};
use runtimed_sandbox::support::Support;
use rustix::io::Errno;
use tempfile::TempDir;

use crate::identity::{only_root_can, probe_path};

/// A machine with a daemon and a Run: the Run's tree, and things outside that are the daemon's.
struct Scene {
    place: TempDir,
    probe: PathBuf,
}

const OK: Status = Status::Exited(0);

fn refused(errno: Errno) -> Status {
    Status::Exited(errno.raw_os_error())
}

impl Scene {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join("tree")).unwrap();
        std::fs::create_dir(place.path().join("outside")).unwrap();
        std::fs::write(place.path().join("outside/file"), "theirs").unwrap();
        std::fs::write(place.path().join("tree/file"), "ours").unwrap();
        Self { place, probe: probe_path() }
    }

    fn path(&self, name: &str) -> String {
        self.place.path().join(name).to_str().unwrap().to_owned()
    }

    fn policy(&self) -> Policy {
        let existing =
            |paths: &[&str]| paths.iter().map(PathBuf::from).filter(|path| path.exists()).collect();
        Policy {
            execute: ["/usr", "/bin", "/lib", "/lib64"]
                .iter()
                .map(PathBuf::from)
                .filter(|path| path.exists())
                .chain([self.probe.clone()])
                .collect(),
            write: vec![self.path("tree").into()],
            devices: existing(COMMON_DEVICES),
            proc_files: existing(HARMLESS_PROC),
            limits: Rlimits { nofile: Some(100), ..Rlimits::default() },
            ..Policy::default()
        }
    }

    fn bare(&self, words: &[&str]) -> Status {
        let probe = Executable::open(&self.probe).unwrap();
        Spawn::new(&probe, [&["probe"], words].concat()).spawn().unwrap().wait().unwrap().status
    }

    fn confined(&self, policy: &Policy, words: &[&str]) -> Status {
        let probe = Executable::open(&self.probe).unwrap();
        let prepared = plan(policy, &Support::probe()).unwrap().prepare().unwrap();
        let spawn =
            Spawn::new(&probe, [&["probe"], words].concat()).fd(2, rustix::stdio::stderr()).confine(prepared);
        spawn.spawn().unwrap().wait().unwrap().status
    }

    /// The probe succeeds outside, and inside the answer is this.
    fn claim(&self, words: &[&str], inside: Status) {
        self.claim_under(&self.policy(), words, inside);
    }

    fn claim_under(&self, policy: &Policy, words: &[&str], inside: Status) {
        assert_eq!(self.bare(words), OK, "{words:?} outside");
        assert_eq!(self.confined(policy, words), inside, "{words:?} inside");
    }
}

/// A process of the same uid that lives as long as this value: what a Run would like to reach.
struct Neighbour(runtimed_sandbox::spawn::Child, String);

impl Neighbour {
    fn new() -> Self {
        let sleep = Executable::open(Path::new("/bin/sleep")).unwrap();
        let child = Spawn::new(&sleep, ["sleep", "1000"]).spawn().unwrap();
        let pid = child.pid().as_raw_pid().to_string();
        Self(child, pid)
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.0.signal(runtimed_sandbox::process::Signal::KILL).unwrap();
        self.0.wait().unwrap();
    }
}

fn ports(connect: &[u16], listen: &[u16], bind_ephemeral: bool) -> Network {
    Network::Ports { connect: connect.to_vec(), listen: listen.to_vec(), bind_ephemeral, udp_dns: false }
}

both! {
    fn files_outside_the_grants_are_closed() {
        let scene = Scene::new();
        let (file, dir) = (scene.path("outside/file"), scene.path("outside"));
        for words in [["read", &file], ["write", &file], ["truncate", &file], ["list", &dir], ["read", "/etc/passwd"]] {
            scene.claim(&words, refused(Errno::ACCESS));
        }
        scene.claim(&["link", &file, &scene.path("tree/linked-outside")], refused(Errno::EXIST));
        std::fs::remove_file(scene.path("tree/linked-outside")).unwrap();
        assert_eq!(scene.confined(&scene.policy(), &["link", &file, &scene.path("tree/linked")]), refused(Errno::XDEV));
        assert_eq!(scene.confined(&scene.policy(), &["create", &scene.path("outside/new")]), refused(Errno::ACCESS));
        assert_eq!(scene.bare(&["create", &scene.path("outside/new")]), OK);
        for words in [["read", "tree/file"], ["write", "tree/file"], ["create", "tree/new"], ["list", "tree"]] {
            assert_eq!(scene.confined(&scene.policy(), &[words[0], &scene.path(words[1])]), OK, "{words:?}");
        }
        for path in ["/dev/null", "/proc/meminfo", "/usr/bin"] {
            assert_eq!(scene.confined(&scene.policy(), &["read", path]), OK, "{path}");
        }
        assert_eq!(scene.confined(&scene.policy(), &["write", "/dev/null"]), OK);
    }

    fn what_is_reported_unavailable_really_is_open() {
        let scene = Scene::new();
        let report = plan(&scene.policy(), &Support::probe()).unwrap();
        assert_eq!(report.enforcement().state(Protection::FileMetadata), Some(State::Unavailable));
        scene.claim(&["chmod", &scene.path("outside/file")], OK);
        assert_eq!(report.enforcement().state(Protection::MemoryFiles), Some(State::Disabled));
        scene.claim(&["memfd"], OK);
    }

    fn only_what_is_granted_is_executed() {
        let scene = Scene::new();
        let program = scene.path("outside/true");
        std::fs::copy("/bin/true", &program).unwrap();
        scene.claim(&["exec", &program], refused(Errno::ACCESS));
        assert_eq!(scene.confined(&scene.policy(), &["exec", "/usr/bin/true"]), OK);
        let readable = Policy { read: vec![scene.path("outside").into()], ..scene.policy() };
        assert_eq!(scene.confined(&readable, &["exec", &program]), refused(Errno::ACCESS));
        let tree = scene.path("tree/true");
        std::fs::copy("/bin/true", &tree).unwrap();
        assert_eq!(scene.confined(&scene.policy(), &["exec", &tree]), OK, "work runs what it builds");
    }

    fn other_processes_are_out_of_reach() {
        let scene = Scene::new();
        let neighbour = Neighbour::new();
        let pid = neighbour.1.as_str();
        scene.claim(&["kill", pid], refused(Errno::PERM));
        for attempt in ["prlimit", "setpriority", "ioprio", "affinity", "read-memory"] {
            scene.claim(&[attempt, pid], refused(Errno::PERM));
        }
        for file in ["environ", "maps", "cmdline", "status"] {
            scene.claim(&["read", &format!("/proc/{pid}/{file}")], refused(Errno::ACCESS));
        }
    }

    fn the_network_is_closed_by_default() {
        let scene = Scene::new();
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port().to_string();
        scene.claim(&["tcp-connect", &port], refused(Errno::PERM));
        scene.claim(&["tcp-bind", "0"], refused(Errno::PERM));
        scene.claim(&["socket", "2", "2", "0"], refused(Errno::PERM));
        scene.claim(&["socket", "10", "1", "0"], refused(Errno::PERM));
        scene.claim(&["socket", "16", "3", "0"], OK);
        scene.claim(&["socket", "16", "3", "15"], refused(Errno::PERM));
        scene.claim(&["socket", "1", "1", "0"], OK);
    }

    fn tcp_goes_by_ports_and_no_other_way() {
        let scene = Scene::new();
        let (listed, other) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let port = |server: &TcpListener| server.local_addr().unwrap().port();
        let policy = Policy { network: ports(&[port(&listed)], &[], true), ..scene.policy() };
        let other = port(&other).to_string();
        scene.claim_under(&policy, &["tcp-connect", &port(&listed).to_string()], OK);
        scene.claim_under(&policy, &["tcp-connect", &other], refused(Errno::ACCESS));
        scene.claim_under(&policy, &["tcp-bind", "0"], OK);
        scene.claim_under(&policy, &["socket", "2", "2", "0"], refused(Errno::PERM));
        scene.claim_under(&policy, &["fast-open", &other], refused(Errno::PERM));
        let mptcp = ["socket", "2", "1", "262"];
        assert_eq!(scene.confined(&policy, &mptcp), refused(Errno::PERM));
        assert!(matches!(scene.bare(&mptcp), OK | Status::Exited(libc::EPROTONOSUPPORT | libc::ENOPROTOOPT | libc::EINVAL)));

        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let (allowed, denied) = (port(&free), port(&free).wrapping_add(1).max(1024));
        drop(free);
        let policy = Policy { network: ports(&[], &[allowed], false), ..scene.policy() };
        scene.claim_under(&policy, &["tcp-bind", &allowed.to_string()], OK);
        assert_eq!(scene.confined(&policy, &["tcp-bind", &denied.to_string()]), refused(Errno::ACCESS));
        assert_eq!(scene.confined(&policy, &["tcp-bind", "0"]), refused(Errno::ACCESS));
    }

    fn abstract_sockets_of_others_are_out_of_reach() {
        let scene = Scene::new();
        let name = format!("sandbox-test-{}-{}", std::process::id(), rustix::process::geteuid().as_raw());
        let _server = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        scene.claim(&["abstract-connect", &name], refused(Errno::PERM));
    }

    fn ways_around_are_closed() {
        let scene = Scene::new();
        for words in [
            &["shmget"][..],
            &["msgget"],
            &["semget"],
            &["personality"],
            &["ptracer"],
            &["name-to-handle"],
        ] {
            let outside = scene.bare(words);
            // What the machine itself has switched off proves nothing, and shows here.
            assert!(matches!(outside, OK | Status::Exited(libc::EINVAL | libc::EOVERFLOW | libc::EOPNOTSUPP)), "{words:?} {outside:?}");
            assert_eq!(scene.confined(&scene.policy(), words), refused(Errno::PERM), "{words:?}");
        }
        scene.claim(&["keyring"], refused(Errno::PERM));
        scene.claim(&["inotify", &scene.path("outside")], refused(Errno::PERM));
        scene.claim(&["device-ioctl"], refused(Errno::ACCESS));
        // Devices that the policy does not list are closed altogether; listed ones take no device ioctl.
        assert_eq!(scene.confined(&scene.policy(), &["tiocsti"]), refused(Errno::PERM));
        assert_eq!(scene.bare(&["tiocsti"]), refused(Errno::NOTTY));
        assert_eq!(scene.confined(&scene.policy(), &["clone3"]), refused(Errno::NOSYS));
        assert_eq!(scene.bare(&["clone3"]), refused(Errno::INVAL));
        assert_eq!(scene.confined(&scene.policy(), &["thread"]), OK, "threads fall back to clone");
    }

    fn namespaces_and_rings_are_closed_where_the_machine_has_them() {
        let scene = Scene::new();
        for words in [&["unshare-user"][..], &["clone-user"], &["io-uring"], &["userfaultfd"]] {
            let outside = scene.bare(words);
            assert!(matches!(outside, OK | Status::Exited(libc::EPERM | libc::ENOSYS | libc::ENOSPC)), "{words:?} {outside:?}");
            assert_eq!(scene.confined(&scene.policy(), words), refused(Errno::PERM), "{words:?}");
        }
    }

    fn watching_is_allowed_when_the_policy_says_so() {
        let scene = Scene::new();
        let policy = Policy { watch: true, ..scene.policy() };
        assert_eq!(scene.confined(&policy, &["inotify", &scene.path("tree")]), OK);
        let planned = plan(&policy, &Support::probe()).unwrap();
        assert_eq!(planned.enforcement().state(Protection::FileWatching), Some(State::Degraded));
    }

    fn a_confined_process_has_nothing_that_it_was_not_given() {
        let scene = Scene::new();
        assert_eq!(scene.confined(&scene.policy(), &["self"]), OK);
        assert_ne!(scene.bare(&["self"]), OK);
    }

    fn grants_are_judged_where_their_links_lead() {
        let scene = Scene::new();
        let link = scene.path("link");
        std::os::unix::fs::symlink(scene.path("outside"), &link).unwrap();
        let refusal = |policy: &Policy| plan(policy, &Support::probe()).unwrap().prepare().unwrap_err().rule;
        let through = Policy { read: vec![link.into()], protected: vec![scene.path("outside").into()], ..Policy::default() };
        assert_eq!(refusal(&through), "grant.protected");
        let missing = Policy { read: vec![scene.path("none").into()], ..Policy::default() };
        assert_eq!(refusal(&missing), "grant.missing");
        let kind = Policy { devices: vec![scene.path("outside/file").into()], ..Policy::default() };
        assert_eq!(refusal(&kind), "grant.kind");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn x32_numbers_end_the_process() {
    let scene = Scene::new();
    assert_eq!(scene.confined(&scene.policy(), &["x32"]), Status::Signalled(libc::SIGSYS));
    assert!(matches!(scene.bare(&["x32"]), Status::Exited(0 | libc::ENOSYS)));
}

#[test]
fn root_keeps_no_power_inside() {
    if !only_root_can("lose root's power over files") {
        return;
    }
    let scene = Scene::new();
    std::fs::write(scene.path("tree/shadowed"), "x").unwrap();
    std::os::unix::fs::chown(scene.path("tree/shadowed"), Some(1), Some(1)).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(scene.path("tree/shadowed"), mode).unwrap();
    scene.claim(&["read", &scene.path("tree/shadowed")], refused(Errno::ACCESS));
}
