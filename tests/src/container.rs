//! Real containers, hardened as a Runtime Pod is: not root, a read-only root, no capability, no new privileges, a system
//! call filter, no network but loopback, and three writable directories that the uid does not own.
//!
//! Podman starts them with runc, without a registry of images: [`image`] makes the image from the distribution's own
//! packages. Only root can do this here, so that what a container may do is the kernel's answer and not podman's.

pub mod image;
pub mod manifest;
pub mod ours;
mod world;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

pub use self::image::Image;
pub use self::world::World;
use crate::process::{Server, command};

/// How a container is made. What is not said is as a kubelet makes a hardened pod.
#[derive(Debug)]
pub struct Pod {
    image: Image,
    world: World,
    user: (u32, u32),
    network: String,
    extra: Vec<String>,
}

/// A running container, removed when dropped.
#[derive(Debug)]
pub struct Container {
    name: String,
    // The process first: it must not outlive the directories.
    server: Server,
    /// Unmounted before the directory goes that they are mounted in.
    memory: Vec<manifest::Memory>,
    volumes: TempDir,
}

impl Pod {
    /// A hardened pod of one container: uid and gid 1000, loopback only.
    #[must_use]
    pub fn new(image: &Image, world: World) -> Self {
        Self {
            image: image.clone(),
            world,
            user: (1000, 1000),
            network: "none".to_owned(),
            extra: Vec::new(),
        }
    }

    /// Another user, as OpenShift chooses one. The group is also the one that the writable directories have.
    #[must_use]
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.user = (uid, gid);
        self
    }

    /// A file or directory of this machine, read-only in the container.
    #[must_use]
    pub fn mount(mut self, from: impl AsRef<Path>, to: &str) -> Self {
        self.extra.push(format!("--volume={}:{to}:ro", from.as_ref().display()));
        self
    }

    /// A directory of this machine that the container may write to, as a volume of its own.
    #[must_use]
    pub fn writable(mut self, from: impl AsRef<Path>, to: &str) -> Self {
        self.extra.push(format!("--volume={}:{to}:rw", from.as_ref().display()));
        self
    }

    /// A variable of the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.extra.push(format!("--env={name}={value}"));
        self
    }

    /// A further option of `podman run`.
    #[must_use]
    pub fn option(mut self, option: impl Into<String>) -> Self {
        self.extra.push(option.into());
        self
    }

    /// Shares the network of another container, as the containers of one pod do.
    #[must_use]
    pub fn network_of(mut self, other: &Container) -> Self {
        self.network = format!("container:{}", other.name);
        self
    }

    /// Starts the container with this command as its first process; without words, with the image's own. It is there
    /// once [`Container::ready`] or a line of its output says so.
    ///
    /// # Panics
    /// Podman cannot be started.
    #[must_use]
    pub fn start<'a>(self, words: impl IntoIterator<Item = &'a str>) -> Container {
        let volumes = TempDir::with_prefix("runtimed-pod-").expect("a directory");
        fs::set_permissions(volumes.path(), fs::Permissions::from_mode(0o755)).expect("set");
        // The directory's random name is unique on this machine, and so is the container's.
        let name = volumes.path().file_name().expect("it has a name").to_string_lossy().into_owned();
        let mut run = podman();
        run.args(["run", "--rm", "--interactive", "--log-driver=none", "--name", &name]).args(HARDENED);
        run.arg(format!("--security-opt=seccomp={}", self.world.profile().display()));
        run.arg(format!("--user={}:{}", self.user.0, self.user.1)).arg(format!("--network={}", self.network));
        for (root, at) in [("home", "/home/worker"), ("workspace", "/workspace")] {
            let path = volumes.path().join(root);
            fs::create_dir(&path).expect("made");
            chown(&path, Some(0), Some(self.user.1)).expect("owned");
            // As a kubelet makes an EmptyDir; after the change of owner, which takes the bit away.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o2777)).expect("set");
            run.arg(format!("--volume={}:{at}", path.display()));
        }
        run.args(&self.extra).arg(self.image.reference()).args(words);
        let server = Server::start(&name, &mut run);
        Container { name, server, memory: Vec::new(), volumes }
    }
}

/// What every container gets. The memory-backed directory is not filled with what the image has there.
const HARDENED: [&str; 6] = [
    "--read-only",
    "--read-only-tmpfs=false",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--passwd=false",
    "--tmpfs=/tmp:rw,size=512m,notmpcopyup",
];

impl Container {
    /// Waits until commands can be executed in it.
    ///
    /// # Panics
    /// It ended, or does not come up within a minute.
    #[must_use]
    pub fn ready(mut self) -> Self {
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while !self.exec(["/bin/true"]).output().expect("podman runs").status.success() {
            assert!(self.server.ended().is_none(), "{} ended: {}", self.name, self.server.said());
            assert!(
                std::time::Instant::now() < deadline,
                "{} does not start: {}",
                self.name,
                self.server.said()
            );
        }
        self
    }

    /// A command to be executed inside, with the container's own user and confinement.
    #[must_use]
    pub fn exec<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Command {
        let mut exec = podman();
        exec.args(["exec", "--interactive", &self.name]).args(words);
        exec
    }

    /// What a command printed inside.
    ///
    /// # Panics
    /// It failed.
    #[must_use]
    pub fn output<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> String {
        let output = self.exec(words).output().expect("podman runs");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}: {}\n{out}{err}", self.name, output.status);
        out.into_owned()
    }

    /// Sends a signal to its first process.
    ///
    /// # Panics
    /// Podman cannot be started.
    pub fn signal(&self, signal: Signal) {
        let number = signal.as_raw().to_string();
        podman().args(["kill", "--signal", &number, &self.name]).output().expect("podman runs");
    }

    /// Waits for the end of its first process; the code is that process's own, or podman's 125.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        self.server.wait(patience)
    }

    /// What attends it on this machine: its output, and its input, which is open for as long as this is.
    pub fn server(&mut self) -> &mut Server {
        &mut self.server
    }

    /// The directories of this machine that are `home` and `workspace` inside.
    #[must_use]
    pub fn volume(&self, root: &str) -> PathBuf {
        self.volumes.path().join(root)
    }

    /// Its first process, as this machine sees it.
    ///
    /// # Panics
    /// It has ended.
    #[must_use]
    pub fn pid(&self) -> i32 {
        let output = podman().args(["inspect", "--format={{.State.Pid}}", &self.name]).output();
        let text = String::from_utf8(output.expect("podman runs").stdout).expect("text");
        text.trim().parse().expect("a process id")
    }

    /// The name that podman knows it by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // By its own name, and gone already is as good.
        let _gone = podman().args(["rm", "--force", "--time=0", "--ignore", &self.name]).output();
        self.memory.clear();
    }
}

/// Whether containers can be started here, or why not.
///
/// # Errors
/// Podman, runc or the right to use them is missing.
pub fn available() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root can start a hardened container without podman's own user namespace".to_owned());
    }
    for program in ["podman", "runc", "mmdebstrap"] {
        if command(program).arg("--version").output().is_err() {
            return Err(format!("{program} is not installed; tests/run installs it"));
        }
    }
    Ok(())
}

/// Podman with the configuration of these tests.
#[must_use]
pub fn podman() -> Command {
    let mut podman = command("podman");
    podman.env("CONTAINERS_CONF", world::configuration());
    podman
}
