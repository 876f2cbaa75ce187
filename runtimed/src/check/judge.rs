//! What the facts come to. Nothing here touches the pod, so that every pod can be thought of in a test.

mod finding;
mod posture;

use std::path::{Path, PathBuf};

use runtimed_api::enforcement::{Profile, Tier};
use runtimed_api::run::network::NetworkMode;
use runtimed_client::Endpoint;
use runtimed_sandbox::plan::{Plan, Refusal, plan};
use runtimed_sandbox::policy::{self, COMMON_DEVICES, CONTAINER_MOUNTS, HARMLESS_PROC, Policy};
use runtimed_sandbox::tree::Medium;

use super::facts::Facts;
use crate::attempt::image_directories;
use crate::config::{Config, SecretKind};
use crate::isolation::Isolation;

pub use finding::Finding;
pub(super) use finding::Level;
pub(super) use posture::Posture;
use posture::posture;

/// Judges the pod.
pub(super) fn judge(config: &Config, facts: &Facts) -> (Posture, Vec<Finding>) {
    let mut findings = Vec::new();
    let strict = planned(config, facts, policy::Profile::Strict);
    let compatible = planned(config, facts, policy::Profile::Compatible);
    let (profile, enforcement) = match (&strict, &compatible) {
        (Ok(plan), _) => (Some(Profile::Strict), Some(plan.enforcement().clone())),
        (Err(_), Ok(plan)) => (Some(Profile::Compatible), Some(plan.enforcement().clone())),
        (Err(_), Err(_)) => (None, None),
    };
    let wanted = match config.ceiling.profile {
        Profile::Strict => strict,
        Profile::Compatible => compatible,
    };
    if let Err(refusal) = wanted {
        findings.push(refused(config.ceiling.profile, &refusal, profile));
    }
    the_pod(config, facts, &mut findings);
    the_files(config, facts, &mut findings);
    combinations(config, facts, &mut findings);
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    (posture(config, facts, profile, enforcement.as_ref()), findings)
}

/// The plan for a Run that asks for nothing, as this configuration would have it.
fn planned(config: &Config, facts: &Facts, profile: policy::Profile) -> Result<Plan, Refusal> {
    let execute: Vec<PathBuf> =
        config.run.read.clone().unwrap_or_else(image_directories).into_iter().map(PathBuf::from).collect();
    let policy = Policy {
        profile,
        devices: COMMON_DEVICES.iter().map(PathBuf::from).collect(),
        proc_files: HARMLESS_PROC.iter().map(PathBuf::from).collect(),
        roots: facts.roots.iter().map(|root| root.path.clone()).collect(),
        mounts: CONTAINER_MOUNTS.iter().map(PathBuf::from).chain(execute.iter().cloned()).collect(),
        execute,
        ..Policy::default()
    };
    plan(&policy, &facts.support)
}

fn refused(wanted: Profile, refusal: &Refusal, fitting: Option<Profile>) -> Finding {
    let hint = match (refusal.protection, fitting) {
        (None, _) => {
            "mount it outside the directories that Runs may read, or list what they may read in [run] read"
        }
        (Some(_), Some(Profile::Compatible)) => {
            "set [ceiling] profile = \"Compatible\" and read what it gives up, or run on Linux 6.12 or later"
        }
        (Some(_), _) => "run on Linux 6.12 or later with Landlock in the boot option lsm=",
    };
    let id = if refusal.protection.is_some() { "sandbox.unavailable" } else { "sandbox.grant" };
    Finding::error(id, format!("every Run would be refused under {wanted:?}: {}", refusal.reason), hint)
}

fn the_pod(config: &Config, facts: &Facts, findings: &mut Vec<Finding>) {
    if let Err(why) = Isolation::of(config.sandbox.tier, facts.views, &facts.fitness) {
        findings.push(Finding::error("sandbox.tier", why.to_string(), "set [sandbox] tier = \"Auto\""));
    }
    for root in &facts.roots {
        if let Err(why) = &root.usable {
            findings.push(Finding::error(
                "root.unusable",
                format!("no tree can be made in [roots] {} = {}: {why}", root.key, root.path.display()),
                "mount an EmptyDir there, and give the pod the fsGroup of its user",
            ));
        }
    }
    if facts.container.root {
        findings.push(Finding::warning(
            "uid.root",
            format!(
                "the container starts as root; a server of ours becomes uid {} before anything else",
                facts.uid
            ),
            "set runAsNonRoot and runAsUser",
        ));
    }
    if !facts.container.no_new_privs {
        findings.push(Finding::warning(
            "privileges.new",
            "a program with a setuid bit could gain privileges in this container, though not in a Run",
            "set allowPrivilegeEscalation: false",
        ));
    }
    if facts.container.capabilities.is_some_and(|set| set != 0) {
        findings.push(Finding::warning(
            "capabilities.held",
            "the bounding set of capabilities is not empty",
            "set capabilities: { drop: [ALL] }",
        ));
    }
    if facts.container.seccomp_filters == 0 {
        findings.push(Finding::warning(
            "seccomp.unconfined",
            "the container itself has no system call filter; Runs have their own all the same",
            "set seccompProfile: { type: RuntimeDefault }",
        ));
    }
    if let Some(first) = facts.writable.first() {
        let more = facts.writable.len() - 1;
        let others = if more == 0 { String::new() } else { format!(" and {more} more") };
        findings.push(Finding::warning(
            "files.writable",
            format!("this uid may write {}{others}, beside the three directories", first.display()),
            "set readOnlyRootFilesystem: true, and mount nothing else writable",
        ));
    }
    if facts.passwd.is_none() {
        findings.push(Finding::note(
            "uid.no-passwd",
            format!("uid {} has no entry in /etc/passwd: ssh, whoami and getpass fail in Runs", facts.uid),
            "add an entry for the uid to the image, or live with it",
        ));
    }
    if facts.service_account {
        findings.push(Finding::warning(
            "service-account.mounted",
            "a service account's token is mounted in this container; Runs cannot read it, and nothing here needs it",
            "set automountServiceAccountToken: false",
        ));
    }
    if facts.metadata_service {
        let open = config.ceiling.network != NetworkMode::None;
        let what = if open {
            "and Runs with a network may ask it for the machine's credentials"
        } else {
            "though no Run may"
        };
        let make = if open { Finding::warning } else { Finding::note };
        findings.push(make(
            "metadata.reachable",
            format!("the cloud's metadata service answers in this pod, {what}"),
            "close 169.254.169.254 and fd00:ec2::254 by NetworkPolicy, for Landlock knows ports and not addresses",
        ));
    }
    if let Some((key, path, medium)) = staging(config, facts)
        && !medium.is_memory()
        && !config.secrets.is_empty()
    {
        findings.push(Finding::warning(
            "staging.disk",
            format!(
                "secrets are staged in {}, which is on a disk: overwriting guarantees nothing there",
                path.display()
            ),
            format!("give the EmptyDir of {key} the medium Memory"),
        ));
    }
}

/// Where secrets are staged: by which key of the configuration, and on what.
fn staging<'a>(config: &Config, facts: &'a Facts) -> Option<(&'static str, &'a Path, Medium)> {
    if tier(config, facts) == Tier::Exclusive {
        let (path, medium) = facts.state.as_ref()?;
        return Some(("[state] dir", path.as_path(), *medium));
    }
    let root = facts.roots.first()?;
    Some(("[roots] tmp", root.path.as_path(), *root.usable.as_ref().ok()?))
}

fn the_files(config: &Config, facts: &Facts, findings: &mut Vec<Finding>) {
    if let Err(why) = &facts.worker {
        findings.push(Finding::error(
            "worker.unusable",
            why.clone(),
            "copy runtimed and runtimed-worker together",
        ));
    }
    for file in &facts.files {
        if let Some(problem) = &file.problem {
            let message = if file.key.starts_with("secrets.") {
                problem.clone()
            } else {
                format!("{} = {} cannot be read: {problem}", file.key, file.path.display())
            };
            findings.push(Finding::error(
                "file.unusable",
                message,
                "mount it, readable to this uid or its group",
            ));
        }
        if file.secret && readable_to_runs(config, &file.path) {
            findings.push(Finding::error(
                "secret.readable",
                format!("every Run may read {}, which {} names", file.path.display(), file.key),
                "keep it outside the directories that Runs may read, such as below /var/run",
            ));
        }
    }
    for path in &facts.missing_read {
        findings.push(Finding::error(
            "read.missing",
            format!("[run] read lists {path}, which is not there: every Run would be refused"),
            "take it out of the list, or add it to the image",
        ));
    }
}

/// Whether the grant for every Run holds a path. Its parent is resolved, for a mounted Secret is a chain of links.
fn readable_to_runs(config: &Config, path: &Path) -> bool {
    let granted = config.run.read.clone().unwrap_or_else(image_directories);
    let resolved = path.canonicalize().ok();
    granted
        .iter()
        .any(|grant| path.starts_with(grant) || resolved.as_ref().is_some_and(|r| r.starts_with(grant)))
}

/// What was written and has no effect, or another than was meant.
fn combinations(config: &Config, facts: &Facts, findings: &mut Vec<Finding>) {
    let mut warn =
        |message: String, hint: &str| findings.push(Finding::warning("config.ineffective", message, hint));
    if config.ceiling.ports.is_some() && config.ceiling.network != NetworkMode::Ports {
        let mode = config.ceiling.network;
        warn(format!("[ceiling] ports has no effect with network = \"{mode:?}\""), "set network = \"Ports\"");
    }
    for (name, secret) in &config.secrets {
        if secret.namespaces.is_empty() {
            warn(
                format!("[secrets.{name}] has no namespaces: no Run may use it"),
                "list the namespaces, or take it out",
            );
        }
        if secret.kind == SecretKind::Opaque && !secret.hosts.is_empty() {
            warn(
                format!("[secrets.{name}] hosts has no effect on an opaque secret"),
                "set kind = \"git-https\", or take hosts out",
            );
        }
    }
    for name in &facts.missing_env {
        warn(
            format!("[run] pass_env names {name}, which is not set here"),
            "set it in the image, or take it out",
        );
    }
    for alias in config.aliases.iter().filter(|(_, ours)| !ours.starts_with("RUNTIMED_")) {
        warn(
            format!("[aliases] {} = \"{}\" names no variable of ours", alias.0, alias.1),
            "name one that begins with RUNTIMED_",
        );
    }
    if !config.http.listen.ip().is_loopback() && config.http.tls_cert.is_none() {
        findings.push(Finding::error(
            "http.plain",
            format!("[http] listen = {} is not loopback and has no certificate", config.http.listen),
            "set tls_cert and tls_key, or listen on 127.0.0.1",
        ));
    }
    if let Some(controller) = &config.controller
        && !Endpoint::new(&controller.url).is_loopback()
        && config.http.listen.ip().is_loopback()
    {
        findings.push(Finding::note(
            "logs.not-proxied",
            "the endpoints listen on loopback alone: the controller shows a Run's log once it is stored, not live",
            "set [http] listen, tls_cert, tls_key and address, or use a port-forward",
        ));
    }
    if config.controller.is_none() {
        findings.push(Finding::note(
            "controller.none",
            "no controller is configured: only `runtimed job` with a Run of its own can work",
            "set [controller] url and token_file, or RUNTIMED_CONTROLLER_URL and RUNTIMED_CONTROLLER_TOKEN_FILE",
        ));
    }
}

/// The tier that the daemon would choose.
fn tier(config: &Config, facts: &Facts) -> Tier {
    let isolation = Isolation::of(config.sandbox.tier, facts.views, &facts.fitness);
    isolation.map_or(Tier::Base, |isolation| isolation.tier)
}

#[cfg(test)]
mod tests;
