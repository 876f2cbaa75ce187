//! Where attempts are made: this machine, or a hardened pod. Both have a controller and a daemon, commands of an
//! unprivileged uid outside of any sandbox, and `runtimectl`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use runtimed_api::digest::Digest;
use runtimed_tests::binaries;
use runtimed_tests::cluster::{Cluster, Options, UNPRIVILEGED};
use runtimed_tests::container::{Container, Image, Pod, World};
use runtimed_tests::process::{Server, command};
use runtimed_tests::runs::shell;
use tempfile::TempDir;

use crate::program::{Programs, directory_of, shared_directory};
use crate::scene::Scene;

/// By which means Runs are set apart, as the daemon is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tier {
    Base,
    Namespaces,
    Exclusive,
}

impl Tier {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Base => "Base",
            Self::Namespaces => "Namespaces",
            Self::Exclusive => "Exclusive",
        }
    }

    /// Whether such a pod can give it.
    pub(crate) fn is_in(self, world: World) -> bool {
        match self {
            Self::Namespaces => world == World::UserNamespaces,
            Self::Base | Self::Exclusive => true,
        }
    }

    /// How many Runs its daemon may have at once.
    pub(crate) fn slots(self) -> u32 {
        if self == Self::Exclusive { 1 } else { 2 }
    }
}

/// Every tier that there is.
pub(crate) const TIERS: [Tier; 3] = [Tier::Base, Tier::Namespaces, Tier::Exclusive];

/// A place, with everything started.
#[derive(Debug)]
pub(crate) struct Place {
    kind: Kind,
    /// What the probes are told about the place itself.
    pub(crate) scene: Scene,
    /// The directory of the programs, as the place sees it.
    pub(crate) programs: String,
    // Gone after the processes that use it.
    dir: TempDir,
}

#[derive(Debug)]
enum Kind {
    Machine(Box<Cluster>),
    Pod { controller: Box<Container>, daemon: Box<Container> },
}

const SOURCE: &str = "a-secret-of-the-operator";
const RUNTIME: &str = "apiVersion: runtimed.dev/v1alpha1\nkind: Runtime\nmetadata: { name: test }\nspec:\n  namespaces: [\"*\"]\n  ceiling: { network: Full }\n";
/// In a pod: where what the daemon needs is, and what of it a Run may read.
const BIN: &str = "/runtimed/bin";
const CONF: &str = "/runtimed/conf";
const PROBES: &str = "/probes";
const IMAGE: [&str; 6] = ["/bin", "/sbin", "/lib", "/lib64", "/usr", "/etc"];

impl Place {
    /// This machine, with the daemon of a [`Cluster`].
    pub(crate) async fn machine(programs: &Programs, tier: Tier) -> Self {
        let dir = shared_directory();
        fs::write(dir.path().join("source"), SOURCE).expect("written");
        let uid = if rustix::process::geteuid().is_root() {
            UNPRIVILEGED
        } else {
            rustix::process::geteuid().as_raw()
        };
        let outside = directory_of(uid, dir.path().join("outside"));
        let read: Vec<String> =
            IMAGE.iter().copied().filter(|path| Path::new(path).is_dir()).map(str::to_owned).collect();
        let read = [read, vec![programs.dir().display().to_string()]].concat();
        let mut cluster = Cluster::start(Options {
            slots: tier.slots(),
            runtime_toml: settings(tier, &read, &dir.path().join("source").display().to_string()),
            daemon_env: vec![("CREDENTIALS_OF_THE_DAEMON", "x")],
            ..Options::default()
        })
        .await;
        // It has said where it listens once it has run something.
        cluster.run(shell("first", "true", "")).await;
        let roots = cluster.roots(0);
        let root = |name: &str| roots.join(name).display().to_string();
        let pid = cluster.daemon(0).pid();
        let address = cluster.address(0);
        let port = address.rsplit(':').next().expect("a port").to_owned();
        let session = session_of(pid.as_raw_pid());
        let config = cluster.config(0);
        let scene = [
            ("OUTSIDE", outside.display().to_string()),
            ("ROOT_TMP", root("tmp")),
            ("ROOT_HOME", root("home")),
            ("ROOT_WORKSPACE", root("workspace")),
            ("STATE_PARENT", cluster.state_dir(0).display().to_string()),
            ("TOKEN", config.with_file_name("daemon.token").display().to_string()),
            ("CONFIG", config.display().to_string()),
            ("SECRET_SOURCE", dir.path().join("source").display().to_string()),
            ("DAEMON_PID", pid.as_raw_pid().to_string()),
            ("DAEMON_PORT", port),
            ("SESSION", session.to_string()),
            ("SETUID", programs.dir().join("setuid").display().to_string()),
        ];
        Self {
            kind: Kind::Machine(Box::new(cluster)),
            scene: scene.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            programs: programs.dir().display().to_string(),
            dir,
        }
    }

    /// A pod of one container, and its controller in another that shares the network.
    pub(crate) fn pod(programs: &Programs, tier: Tier, world: World) -> Self {
        let dir = shared_directory();
        let conf = dir.path().join("conf");
        fs::create_dir(&conf).expect("made");
        let runtimes = conf.join("runtimes");
        fs::create_dir(&runtimes).expect("made");
        let write = |name: &str, text: &str| fs::write(conf.join(name), text).expect("written");
        write("runtimes/test.yaml", RUNTIME);
        write("source", SOURCE);
        write("resolv.conf", "nameserver 127.0.0.1\n");
        let (person, daemon) = ("person-token-of-a-test", "daemon-token-of-a-test");
        write("person.token", person);
        write("daemon.token", daemon);
        write(
            "tokens.toml",
            &format!(
                "[[people]]\nhash = \"{}\"\nsubject = \"tester\"\nnamespaces = [\"*\"]\nrole = \"admin\"\n\n[[daemons]]\nhash = \"{}\"\nruntime = \"test\"\n",
                Digest::of(person.as_bytes()),
                Digest::of(daemon.as_bytes())
            ),
        );
        let read: Vec<String> = IMAGE.iter().chain(&[PROBES]).map(|&path| path.to_owned()).collect();
        let (slots, settings) = (tier.slots(), settings(tier, &read, &format!("{CONF}/source")));
        write(
            "runtime.toml",
            &format!(
                "runtime = \"test\"\nname = \"pod\"\nslots = {slots}\n{settings}\n[state]\ndir = \"/state\"\n[controller]\nurl = \"http://127.0.0.1:8420\"\ntoken_file = \"{CONF}/daemon.token\"\n[worker]\npath = \"{BIN}/runtimed-worker\"\n[ceiling]\nnetwork = \"Full\"\n"
            ),
        );
        let image = Image::base();
        let with_binaries = |mut pod: Pod| {
            for name in ["runtimectl", "runtimed", "runtimed-worker", "runtimed-controller"] {
                pod = pod.mount(binaries::path(name), &format!("{BIN}/{name}"));
            }
            pod.mount(&conf, CONF)
        };
        let serve = format!(
            "exec {BIN}/runtimed-controller serve --listen 127.0.0.1:8420 --data /workspace/data --tokens {CONF}/tokens.toml --runtimes {CONF}/runtimes"
        );
        let controller =
            with_binaries(Pod::new(&image, World::UserNamespaces)).start(["sh", "-c", &serve]).ready();
        let outside = directory_of(1000, dir.path().join("outside"));
        let state = directory_of(1000, dir.path().join("state"));
        // Process numbers are used up first: inside a PID namespace the small ones are the Run's own.
        let serve =
            format!("{PROBES}/probe burn 3000 && exec {BIN}/runtimed serve --config {CONF}/runtime.toml");
        let daemon = with_binaries(Pod::new(&image, world))
            .network_of(&controller)
            .mount(programs.dir(), PROBES)
            .writable(&outside, "/outside")
            .writable(&state, "/state")
            .mount(conf.join("resolv.conf"), "/etc/resolv.conf")
            .env("CREDENTIALS_OF_THE_DAEMON", "x")
            .start(["sh", "-c", &serve])
            .ready();
        let scene = [
            ("OUTSIDE", "/outside"),
            ("ROOT_TMP", "/tmp"),
            ("ROOT_HOME", "/home/worker"),
            ("ROOT_WORKSPACE", "/workspace"),
            ("STATE_PARENT", "/state"),
            ("TOKEN", "/runtimed/conf/daemon.token"),
            ("CONFIG", "/runtimed/conf/runtime.toml"),
            ("SECRET_SOURCE", "/runtimed/conf/source"),
            ("DAEMON_PID", "1"),
            ("DAEMON_PORT", "8410"),
            ("SESSION", "1"),
            ("SETUID", "/probes/setuid"),
        ];
        Self {
            kind: Kind::Pod { controller: Box::new(controller), daemon: Box::new(daemon) },
            scene: scene.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            programs: PROBES.to_owned(),
            dir,
        }
    }

    /// A command of the daemon's own uid, without capabilities and outside of any sandbox.
    pub(crate) fn unconfined(&self, words: &[&str]) -> Command {
        match &self.kind {
            Kind::Machine(_) if rustix::process::geteuid().is_root() => {
                let mut run = command("setpriv");
                run.arg(format!("--reuid={UNPRIVILEGED}")).arg(format!("--regid={UNPRIVILEGED}"));
                run.args(["--clear-groups", "--inh-caps=-all", "--ambient-caps=-all"]).args(words);
                run
            }
            Kind::Machine(_) => {
                let (program, rest) = words.split_first().expect("a program");
                let mut run = command(program);
                run.args(rest);
                run
            }
            Kind::Pod { daemon, .. } => daemon.exec(words.iter().copied()),
        }
    }

    /// What such a command printed.
    pub(crate) fn printed(&self, words: &[&str]) -> String {
        let output = self.unconfined(words).output().expect("it runs");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{words:?}: {}\n{out}{err}", output.status);
        out.into_owned()
    }

    /// The command that people use.
    pub(crate) fn runtimectl(&self, words: &[&str]) -> Command {
        match &self.kind {
            Kind::Machine(cluster) => {
                let mut run = command(binaries::path("runtimectl"));
                run.args(["--server", &cluster.url, "--token-file"]).arg(&cluster.token_file).args(words);
                run
            }
            Kind::Pod { controller, .. } => {
                let (program, token) = (format!("{BIN}/runtimectl"), format!("{CONF}/person.token"));
                let fixed = [&program, "--server", "http://127.0.0.1:8420", "--token-file", &token];
                controller.exec(fixed.into_iter().chain(words.iter().copied()))
            }
        }
    }

    /// The daemon's own directory: its name is random, and whoever may list where it lies finds it.
    pub(crate) fn state(&self) -> String {
        let parent = &self.scene["STATE_PARENT"];
        let listed = self.printed(&["ls", parent]);
        let random = |name: &&str| name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        format!("{parent}/{}", listed.lines().find(random).expect("the daemon has made it"))
    }

    /// A name server of TCP alone on the loopback of a pod, which knows that `name.test` is 192.0.2.7.
    pub(crate) fn name_server(&self) -> Server {
        let Kind::Pod { daemon, .. } = &self.kind else { panic!("this machine has a resolver of its own") };
        let network = format!("--net=/proc/{}/ns/net", daemon.pid());
        let mut serve = command("nsenter");
        serve.args([&network, "python3", "-c", include_str!("name_server.py")]);
        let mut server = Server::start("the name server", &mut serve);
        assert_eq!(server.first_line().expect("it serves").trim(), "ready");
        server
    }

    /// Keeps a Run's document where `runtimectl` finds it, and gives that path.
    pub(crate) fn keep(&self, name: &str, document: &serde_json::Value) -> String {
        let file = format!("{name}.json");
        let (dir, shown) = match &self.kind {
            Kind::Machine(_) => (self.dir.path().to_owned(), self.dir.path().display().to_string()),
            Kind::Pod { .. } => (self.dir.path().join("conf"), CONF.to_owned()),
        };
        fs::write(dir.join(&file), document.to_string()).expect("written");
        format!("{shown}/{file}")
    }

    /// A file with a secret that somebody submits.
    pub(crate) fn submitted_secret(&self) -> String {
        match &self.kind {
            Kind::Machine(cluster) => cluster.token_file.display().to_string(),
            Kind::Pod { .. } => format!("{CONF}/person.token"),
        }
    }

    /// Ends everything in order, and gives what is left in the three roots.
    pub(crate) fn end(mut self) -> Vec<PathBuf> {
        match &mut self.kind {
            Kind::Machine(cluster) => cluster.drain(),
            Kind::Pod { daemon, .. } => {
                daemon.signal(rustix::process::Signal::TERM);
                daemon.wait(std::time::Duration::from_secs(60));
                let roots = ["home", "workspace"].map(|root| daemon.volume(root));
                roots
                    .iter()
                    .flat_map(|root| fs::read_dir(root).expect("a root").flatten())
                    .map(|e| e.path())
                    .collect()
            }
        }
    }
}

/// The lines of `runtime.toml` that the attempts need.
fn settings(tier: Tier, read: &[String], source: &str) -> String {
    format!(
        "[sandbox]\ntier = {:?}\n[run]\nread = {read:?}\n[secrets.transaction]\nsource = \"file:{source}\"\nnamespaces = [\"*\"]\n",
        tier.name()
    )
}

/// The session of `pid`, and 0 where its leader lies outside of this process's PID namespace: a container's process may
/// have such a one, and `getsid(2)` of a library that holds 0 for impossible does not return.
fn session_of(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
    fields
        .split_whitespace()
        .nth(3)
        .and_then(|field| field.parse().ok())
        .expect("the session is the sixth field")
}
