//! What each child may do, and what the daemon's intent comes to in the sandbox's words.

use std::path::{Path, PathBuf};

use runtimed_api::enforcement as wire;
use runtimed_api::link::{Assign, Confinement, Trees, inside, layout};
use runtimed_api::rule::{self, Rule};
use runtimed_api::run::network::{Dns, NetworkMode};
use runtimed_sandbox::Prepared;
use runtimed_sandbox::enforcement::{Enforcement, Item, State, Tier};
use runtimed_sandbox::plan::{Refusal, plan};
use runtimed_sandbox::policy::{
    COMMON_DEVICES, CONTAINER_MOUNTS, HARMLESS_PROC, Network, Policy, Profile, Rlimits,
};
use runtimed_sandbox::support::Support;
use runtimed_sandbox::tree::TreeName;
use runtimed_sandbox::view::{Shown, View};

use crate::failure::Failure;
use crate::fetch::{Place, ssh};

/// Plans and prepares a policy, or says by which rule it cannot be.
pub(crate) fn prepare(policy: &Policy, support: &Support) -> Result<Prepared, Failure> {
    plan(policy, support).and_then(|plan| plan.prepare()).map_err(|refusal| refused(&refusal))
}

/// Says by which rule a command's policy cannot be, before anything is fetched or staged for it. When the command starts
/// it is judged again, with where its links lead.
pub(crate) fn judge(policy: &Policy, support: &Support) -> Result<(), Failure> {
    plan(policy, support).map_err(|refusal| refused(&refusal))?;
    match policy.execute.iter().chain(&policy.read).find(|path| !path.exists()) {
        None => Ok(()),
        Some(path) => {
            let message = format!("[run] read lists {}, which does not exist", path.display());
            let failure = Failure::refused(Rule::SANDBOX_GRANT, "sandbox.read", message);
            Err(failure.hint("correct [run] read, or put the path into the image"))
        }
    }
}

/// The port of name servers.
const DOMAIN: u16 = 53;
/// Where glibc finds out how to resolve names, and the libraries that it loads for it.
const RESOLVER: [&str; 10] = [
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/nsswitch.conf",
    "/etc/resolv.conf",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
];
/// The machine's configuration of git, which libgit2 looks for whenever it opens a repository.
const GIT_CONFIG: &str = "/etc/gitconfig";

/// What ssh reads beside its own files: whose home the uid's is, and how its cryptography is set up.
const SSH_FILES: [&str; 4] =
    ["/etc/passwd", "/etc/ssl/openssl.cnf", "/etc/pki/tls/openssl.cnf", "/etc/crypto-policies"];
/// Where programs' libraries are, which their loader must be able to execute.
const LIBRARIES: [&str; 5] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/nix/store"];

/// The fetch: the source alone, the private directory, and its own mirror.
pub(crate) fn fetch(place: &Place, assign: &Assign, support: &Support) -> Policy {
    let trees = &assign.trees;
    let mut policy =
        Policy { write: vec![private(trees)], ..phase(assign.confinement.profile, trees, assign.memory) };
    policy.write.extend(assign.mirror.iter().map(|mirror| PathBuf::from(&mirror.path)));
    let port = match place {
        Place::Local(path) => {
            policy.read.push(path.clone());
            // A mount inside the repository is part of what the operator has allowed.
            policy.mounts = support.mounts.clone();
            return policy;
        }
        Place::Https(port) => *port,
        Place::Ssh(port, programs) => {
            policy.execute.extend_from_slice(programs);
            policy.execute.extend(existing(&LIBRARIES));
            policy.read.extend(existing(&SSH_FILES));
            policy.devices.extend(existing(COMMON_DEVICES));
            policy.write.push(ssh::place(trees));
            *port
        }
    };
    policy.network = Network::Ports {
        connect: vec![port, DOMAIN],
        listen: Vec::new(),
        bind_ephemeral: false,
        udp_dns: true,
    };
    policy.read.extend(existing(&RESOLVER));
    // Drivers are mounted into directories of libraries; none of them is a secret.
    policy.mounts = support.mounts.clone();
    policy
}

/// The apply: the tree of the workspace, with the private directory in it.
pub(crate) fn apply(assign: &Assign) -> Policy {
    let trees = &assign.trees;
    let phase = phase(assign.confinement.profile, trees, assign.memory);
    let mut policy = Policy { write: vec![trees.workspace.clone().into()], ..phase };
    policy.write.extend(trees.whole.as_ref().map(|whole| PathBuf::from(&whole.workspace)));
    policy
}

/// The capture: reads the workspace, writes to the private directory.
pub(crate) fn capture(profile: wire::Profile, trees: &Trees, memory: Option<u64>) -> Policy {
    let mut policy = Policy { write: vec![private(trees)], ..phase(profile, trees, memory) };
    policy.read.push(trees.command_workspace());
    policy
}

/// The command: what the Run's own confinement says.
pub(crate) fn command(confinement: &Confinement, trees: &Trees, staged: bool) -> Policy {
    let own_view = confinement.tier == wire::Tier::Namespaces;
    let mut write = vec![
        trees.command_tmp(),
        trees.command_home(),
        trees.in_home(layout::OUTPUTS_DIR),
        trees.command_workspace(),
        trees.in_workspace(layout::ARTIFACTS),
    ];
    write.extend(own_view.then(|| trees.in_tmp(layout::SHARED_MEMORY)));
    let (proc_files, others): (Vec<PathBuf>, Vec<PathBuf>) =
        confinement.proc_files.iter().map(PathBuf::from).partition(|path| path.starts_with("/proc"));
    let (devices, mut read): (Vec<PathBuf>, Vec<PathBuf>) =
        others.into_iter().partition(|path| path.starts_with("/dev"));
    // The directory, for a file is replaced when its secret rotates. Only the daemon writes there, so that a scrub
    // knows all that it has to find.
    read.extend(staged.then(|| trees.in_tmp(layout::STAGED)));
    let mut execute: Vec<PathBuf> = confinement.read.iter().map(PathBuf::from).collect();
    // A mount that is listed is granted for itself, and so may lie inside another grant.
    let mounts = CONTAINER_MOUNTS.iter().map(PathBuf::from).chain(execute.iter().cloned()).collect();
    execute.extend(confinement.given.then(|| trees.in_workspace(layout::GIVEN)));
    Policy {
        profile: sandbox_profile(confinement.profile),
        read,
        execute,
        write,
        devices: existing(COMMON_DEVICES).chain(devices).collect(),
        proc_files: existing(HARMLESS_PROC).chain(proc_files).collect(),
        network: network(&confinement.network),
        view: own_view.then(|| view(trees, staged, confinement)),
        alone: confinement.tier == wire::Tier::Exclusive,
        watch: confinement.watch,
        limits: Rlimits {
            nofile: confinement.open_files,
            // The kernel counts the uid, not the Run: the daemon samples the tree instead.
            nproc: None,
            fsize: confinement.file_size,
            cpu_seconds: confinement.cpu_seconds,
            // What is held by the kernel to one process is no limit of a tree; that is sampled.
            data: None,
            mark: mark(trees),
        },
        protected: std::iter::once(private(trees))
            .chain(confinement.protected.iter().map(PathBuf::from))
            .collect(),
        roots: [&trees.tmp, &trees.home, &trees.workspace]
            .into_iter()
            .filter_map(|tree| Path::new(tree).parent().map(PathBuf::from))
            .collect(),
        mounts,
        ..Policy::default()
    }
}

/// What the command sees beside the image: its own directories, where programs look for them.
fn view(trees: &Trees, staged: bool, confinement: &Confinement) -> View {
    let shown = [
        (&trees.tmp, layout::TMP, inside::TMP),
        (&trees.tmp, layout::SHARED_MEMORY, inside::SHARED_MEMORY),
        (&trees.home, layout::HOME, inside::HOME),
        (&trees.home, layout::OUTPUTS_DIR, inside::OUTPUTS_DIR),
        (&trees.workspace, layout::WORKSPACE, inside::WORKSPACE),
        (&trees.workspace, layout::ARTIFACTS, inside::ARTIFACTS),
    ];
    let staged = staged.then_some((&trees.tmp, layout::STAGED, inside::STAGED));
    let given = confinement.given.then_some((&trees.workspace, layout::GIVEN, inside::GIVEN));
    let show = |(tree, name, inside): (&String, &str, &str)| Shown {
        inside: inside.into(),
        outside: Path::new(tree).join(name),
    };
    let shown = shown.into_iter().chain(staged).chain(given).map(show).collect();
    View { shown, own_proc: confinement.own_proc }
}

/// A phase is one process, so that the kernel can hold it to the memory that it may use.
fn phase(profile: wire::Profile, trees: &Trees, memory: Option<u64>) -> Policy {
    Policy {
        profile: sandbox_profile(profile),
        read: existing(&[GIT_CONFIG]).collect(),
        limits: Rlimits { data: memory, mark: mark(trees), ..Rlimits::default() },
        ..Policy::default()
    }
}

/// What the daemon's next life finds it by, if this one and the supervisor are killed.
fn mark(trees: &Trees) -> Option<u64> {
    let name = Path::new(&trees.workspace).file_name()?.to_str()?;
    name.parse::<TreeName>().ok().map(|name| name.mark())
}

fn network(asked: &runtimed_api::run::network::Network) -> Network {
    match asked.mode {
        NetworkMode::None => Network::None,
        NetworkMode::Full => Network::Full,
        NetworkMode::Ports => {
            let mut connect = asked.ports.clone();
            if !connect.contains(&DOMAIN) {
                connect.push(DOMAIN);
            }
            Network::Ports {
                connect,
                listen: asked.listen.clone(),
                bind_ephemeral: true,
                udp_dns: asked.dns == Some(Dns::Udp),
            }
        }
    }
}

fn existing<'a>(paths: &'a [&'a str]) -> impl Iterator<Item = PathBuf> + 'a {
    paths.iter().map(PathBuf::from).filter(|path| path.exists())
}

fn private(trees: &Trees) -> PathBuf {
    trees.in_workspace(layout::PRIVATE)
}

fn sandbox_profile(profile: wire::Profile) -> Profile {
    match profile {
        wire::Profile::Strict => Profile::Strict,
        wire::Profile::Compatible => Profile::Compatible,
    }
}

/// A plan's refusal in the words of the wire.
fn refused(refusal: &Refusal) -> Failure {
    let area = refusal.rule.split('.').next().unwrap_or_default();
    let (rule, subject) = match area {
        "grant" => (Rule::SANDBOX_GRANT, "sandbox.read"),
        "network" => (Rule::NETWORK_PORT, "spec.network"),
        _ => (Rule::SANDBOX_UNAVAILABLE, "sandbox"),
    };
    let refusal = rule::Refusal::new(rule, subject, refusal.reason.clone());
    Failure::Refused(vec![
        refusal.hint("`runtimed check` shows what this pod can enforce, and why not the rest"),
    ])
}

/// A plan's report in the words of the wire.
pub(crate) fn reported(enforcement: &Enforcement, profile: wire::Profile) -> wire::Enforcement {
    let protection = |item: &Item| wire::Protection {
        name: item.protection.name().to_owned(),
        state: match item.state {
            State::Active => wire::State::Active,
            State::Degraded => wire::State::Degraded,
            State::Disabled => wire::State::Disabled,
            State::Unavailable => wire::State::Unavailable,
        },
        mechanism: item.mechanism.clone().into_owned(),
        why: item.why.clone().map(std::borrow::Cow::into_owned),
    };
    wire::Enforcement {
        tier: match enforcement.tier {
            Tier::Namespaces => wire::Tier::Namespaces,
            Tier::Exclusive => wire::Tier::Exclusive,
            _ => wire::Tier::Base,
        },
        profile,
        protections: enforcement.items.iter().map(protection).collect(),
    }
}
