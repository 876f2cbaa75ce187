//! What the pod is like. Everything here looks, and leaves nothing behind but the trees that it made and removed.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtimed_api::problem::Chain;
use runtimed_sandbox::support::{Missing, Support, views};
use runtimed_sandbox::tree::{Medium, Root, Tree};
use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::walk::walk;
use crate::config::Config;
use crate::exclusive::{self, Fitness};
use crate::{secrets, workers};

/// Everything that is judged.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) support: Support,
    /// Whether Runs can have views of their own, and in them a `/proc`.
    pub(super) views: Result<bool, Missing>,
    /// Whether it is a pod for a Run alone.
    pub(super) fitness: Fitness,
    pub(super) container: Container,
    /// The uid that looks, which is the daemon's.
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The name of the uid in the image's passwd.
    pub(super) passwd: Option<String>,
    pub(super) roots: Vec<RootFact>,
    /// Where the state is, and on what, if it has a place of its own.
    pub(super) state: Option<(PathBuf, Medium)>,
    /// Paths beside the three directories and the state that this uid may write.
    pub(super) writable: Vec<PathBuf>,
    pub(super) files: Vec<FileFact>,
    pub(super) worker: Result<(), String>,
    pub(super) service_account: bool,
    pub(super) metadata_service: bool,
    /// Names of `pass_env` that this environment does not have.
    pub(super) missing_env: Vec<String>,
    /// Directories of `[run] read` that are not there.
    pub(super) missing_read: Vec<String>,
}

/// What a process of this container is started with, before a server of ours gives any of it up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Container {
    pub(super) root: bool,
    pub(super) no_new_privs: bool,
    /// The bounding set.
    pub(super) capabilities: Option<u64>,
    /// Filters, as a container runtime installs them.
    pub(super) seccomp_filters: u32,
}

impl Container {
    pub(super) fn look() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        Self {
            root: rustix::process::geteuid().is_root(),
            no_new_privs: rustix::thread::no_new_privs().unwrap_or(false),
            capabilities: field("CapBnd").and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()),
            seccomp_filters: field("Seccomp_filters")
                .and_then(|count| count.trim().parse().ok())
                .unwrap_or(0),
        }
    }
}

/// One of the three directories.
#[derive(Debug, Clone)]
pub(super) struct RootFact {
    pub(super) key: &'static str,
    pub(super) path: PathBuf,
    /// What it is kept on, or why it cannot be used.
    pub(super) usable: Result<Medium, String>,
}

/// A file that the configuration names.
#[derive(Debug, Clone)]
pub(super) struct FileFact {
    pub(super) key: String,
    pub(super) path: PathBuf,
    /// Why it cannot be used; never what is in it.
    pub(super) problem: Option<String>,
    /// It holds a secret: no Run may read it.
    pub(super) secret: bool,
}

/// What every container has beside its mounts, and no Run is granted.
const USUAL: [&str; 3] = ["/dev/mqueue", "/dev/shm", "/dev/termination-log"];

/// Where Kubernetes mounts the token of a pod's service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// Looks.
pub(super) fn gather(config: &Config, build: &str, container: Container) -> Facts {
    let support = Support::probe();
    let uid = rustix::process::geteuid().as_raw();
    let roots =
        [("tmp", &config.roots.tmp), ("home", &config.roots.home), ("workspace", &config.roots.workspace)];
    let own: BTreeSet<PathBuf> = roots
        .iter()
        .map(|(_, path)| (*path).clone())
        .chain(config.state.dir.clone())
        .chain(["/proc", "/sys", "/dev/pts"].map(PathBuf::from))
        .chain(USUAL.map(PathBuf::from))
        .collect();
    Facts {
        views: views(),
        fitness: exclusive::fitness(config, &support.mounts),
        uid,
        gid: rustix::process::getegid().as_raw(),
        passwd: passwd_entry(uid),
        container,
        roots: roots.map(|(key, path)| RootFact { key, path: path.clone(), usable: usable(path) }).into(),
        state: config.state.dir.clone().and_then(|place| {
            let medium = Root::open(&place).ok()?.medium();
            Some((place, medium))
        }),
        writable: writable(&support.mounts, &own),
        files: files(config),
        worker: worker(config, build),
        service_account: fs::symlink_metadata(SERVICE_ACCOUNT).is_ok(),
        metadata_service: metadata_service(),
        missing_env: config
            .run
            .pass_env
            .iter()
            .filter(|name| std::env::var_os(name).is_none())
            .cloned()
            .collect(),
        missing_read: config
            .run
            .read
            .iter()
            .flatten()
            .filter(|path| !Path::new(path).exists())
            .cloned()
            .collect(),
        support,
    }
}

fn passwd_entry(uid: u32) -> Option<String> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let of = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    };
    passwd.lines().find_map(of)
}

/// Whether trees can be made there, found by making one.
fn usable(path: &Path) -> Result<Medium, String> {
    let tried = Root::open(path).and_then(|root| {
        root.create().and_then(Tree::remove)?;
        Ok(root.medium())
    });
    tried.map_err(|error| Chain(&error).to_string())
}

/// What can be written beside what should be: directories, and files in directories that cannot.
fn writable(mounts: &BTreeSet<PathBuf>, own: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
    let may_write = |path: &Path| accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok();
    let mut found = Vec::new();
    for mount in mounts.iter().filter(|mount| !own.iter().any(|own| mount.starts_with(own))) {
        let read_only = rustix::fs::statvfs(mount)
            .is_ok_and(|stat| stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
        if read_only || found.len() >= SHOWN {
            continue;
        }
        let mut beneath = own.clone();
        walk(mount, own, MOST, |path, metadata| {
            let below_one = path.parent().is_some_and(|parent| beneath.contains(parent));
            let plain = metadata.is_dir() || metadata.is_file();
            if below_one {
                // Whoever may write a directory may write all that is in it; it is named once.
                beneath.insert(path.to_owned());
            } else if plain && may_write(path) {
                beneath.insert(path.to_owned());
                found.push(path.to_owned());
            }
        });
    }
    found.truncate(SHOWN);
    found
}

/// Files looked at in each file system that is writable: a pod has none, and on another machine this is enough to say so.
const MOST: usize = 50_000;

/// As many as help anybody.
const SHOWN: usize = 20;

/// Every file that the configuration names, and whether it can be used.
fn files(config: &Config) -> Vec<FileFact> {
    let mut files = Vec::new();
    let mut add = |key: &str, path: Option<&PathBuf>, secret: bool| {
        if let Some(path) = path {
            let problem = fs::File::open(path).err().map(|error| error.to_string());
            files.push(FileFact { key: key.to_owned(), path: path.clone(), problem, secret });
        }
    };
    if let Some(controller) = &config.controller {
        add("controller.ca_file", controller.ca_file.as_ref(), false);
    }
    add("http.tls_cert", config.http.tls_cert.as_ref(), false);
    for (key, path) in secrets::own(config) {
        add(key, Some(&path), true);
    }
    for (name, secret) in &config.secrets {
        let problem = secrets::try_source(name, secret).err().map(|problem| problem.message);
        let key = format!("secrets.{name}");
        files.push(FileFact { key, path: secrets::path_of(&secret.source), problem, secret: true });
    }
    files
}

/// Every file that holds a secret.
pub(super) fn secret_files(config: &Config) -> Vec<PathBuf> {
    files(config).into_iter().filter(|file| file.secret).map(|file| file.path).collect()
}

/// Whether the worker is there and of this build.
pub(super) fn worker(config: &Config, build: &str) -> Result<(), String> {
    let executable = workers::find(config.worker.path.as_deref()).map_err(|error| error.to_string())?;
    let said = workers::version(&executable).map_err(|error| format!("the worker does not run: {error}"))?;
    if said == build {
        Ok(())
    } else {
        Err(format!("the worker is of build {said}, and this is {build}: install both from the same build"))
    }
}

/// Whether the address at which clouds hand out their machines' credentials answers.
fn metadata_service() -> bool {
    let addresses = [
        IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    ];
    let answers =
        |ip| TcpStream::connect_timeout(&SocketAddr::new(ip, 80), Duration::from_millis(300)).is_ok();
    // Where the network drops what it does not let through, each of them takes all of its time.
    std::thread::scope(|scope| {
        let asked = addresses.map(|ip| scope.spawn(move || answers(ip)));
        asked.map(|one| one.join().unwrap_or(false)).contains(&true)
    })
}
