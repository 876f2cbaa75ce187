use runtimed_sandbox::support::{Architecture, Missing, Support};
use runtimed_sandbox::tree::Medium;

use super::*;
use crate::check::facts::{Container, FileFact, RootFact};
use crate::config::layers::{Effective, Overlay};
use crate::exclusive::Fitness;

/// A pod as it should be.
fn good() -> Facts {
    let root = |key, path: &str| RootFact { key, path: path.into(), usable: Ok(Medium::Tmpfs) };
    Facts {
        support: Support {
            landlock: Ok(7),
            landlock_errata: 0,
            seccomp: Ok(()),
            kernel: "6.18.0".to_owned(),
            architecture: Architecture::OURS,
            mounts: ["/".into(), "/proc".into(), "/etc/hosts".into()].into(),
        },
        views: Err(Missing::Forbidden),
        fitness: Fitness { possible: Ok(()), evident: false },
        uid: 1000,
        gid: 1000,
        passwd: Some("worker".to_owned()),
        container: Container { root: false, no_new_privs: true, capabilities: Some(0), seccomp_filters: 1 },
        roots: vec![root("tmp", "/tmp"), root("home", "/home/worker"), root("workspace", "/workspace")],
        state: Some(("/var/lib/runtimed".into(), Medium::Tmpfs)),
        writable: Vec::new(),
        files: Vec::new(),
        worker: Ok(()),
        service_account: false,
        metadata_service: false,
        missing_env: Vec::new(),
        missing_read: Vec::new(),
    }
}

fn config(more: &str) -> Config {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("runtime.toml");
    let text = format!(
        "runtime = \"bash\"\nslots = 4\n{more}\n[controller]\nurl = \"https://controller:8443\"\ntoken_file = \"/var/run/token\"\n"
    );
    std::fs::write(&path, text).expect("written");
    Effective::read(&path, &Overlay::default()).expect("reads").config
}

/// The ids of errors and warnings.
fn ids(config: &Config, facts: &Facts) -> Vec<&'static str> {
    let (_, findings) = judge(config, facts);
    findings.iter().filter(|finding| finding.level != Level::Note).map(|finding| finding.id).collect()
}

#[test]
fn a_good_pod_has_nothing_to_warn_of() {
    let facts = good();
    let (posture, findings) = judge(&config(""), &facts);
    assert!(findings.iter().all(|finding| finding.level == Level::Note), "{findings:?}");
    assert_eq!((posture.profile, posture.tier), (Some(Profile::Strict), Tier::Base));
    assert!(posture.protections.iter().any(|one| one.name == "files" && one.state == "active"));
}

#[test]
fn each_fault_of_a_pod_has_its_finding() {
    type Spoil = fn(&mut Facts);
    let cases: [(&str, Spoil); 12] = [
        ("root.unusable", |facts| facts.roots[1].usable = Err("EACCES".to_owned())),
        ("uid.root", |facts| facts.container.root = true),
        ("privileges.new", |facts| facts.container.no_new_privs = false),
        ("capabilities.held", |facts| facts.container.capabilities = Some(0xa80)),
        ("seccomp.unconfined", |facts| facts.container.seccomp_filters = 0),
        ("files.writable", |facts| facts.writable.push("/srv".into())),
        ("service-account.mounted", |facts| facts.service_account = true),
        ("metadata.reachable", |facts| facts.metadata_service = true),
        ("worker.unusable", |facts| facts.worker = Err("it is not there".to_owned())),
        ("sandbox.unavailable", |facts| facts.support.landlock = Ok(4)),
        ("sandbox.grant", |facts| facts.support.mounts.extend(["/etc/runtimed".into()])),
        ("read.missing", |facts| facts.missing_read.push("/nowhere".to_owned())),
    ];
    for (id, spoil) in cases {
        let mut facts = good();
        spoil(&mut facts);
        assert_eq!(ids(&config(""), &facts), [id]);
    }
}

#[test]
fn an_older_kernel_fits_the_profile_for_it() {
    let mut facts = good();
    facts.support.landlock = Ok(4);
    let (posture, _) = judge(&config("[ceiling]\nprofile = \"Compatible\"\n"), &facts);
    assert_eq!(posture.profile, Some(Profile::Compatible));
    assert!(ids(&config("[ceiling]\nprofile = \"Compatible\"\n"), &facts).is_empty());
    facts.support.landlock = Err(Missing::SwitchedOff);
    assert_eq!(judge(&config(""), &facts).0.profile, None);
}

#[test]
fn what_was_written_without_effect_is_told() {
    for more in [
        "[ceiling]\nnetwork = \"None\"\nports = [443]\n",
        "[secrets.a]\nsource = \"file:/var/run/a\"\n",
        "[secrets.a]\nsource = \"file:/var/run/a\"\nnamespaces = [\"*\"]\nhosts = [\"x\"]\n",
        "[aliases]\nORKA_WORKSPACE = \"WORKSPACE\"\n",
    ] {
        assert_eq!(ids(&config(more), &good()), ["config.ineffective"], "{more}");
    }
    assert_eq!(ids(&config("[http]\nlisten = \"0.0.0.0:8410\"\n"), &good()), ["http.plain"]);
}

#[test]
fn a_secret_where_runs_may_read_is_an_error() {
    let mut facts = good();
    let file =
        |path: &str| FileFact { key: "secrets.a".to_owned(), path: path.into(), problem: None, secret: true };
    facts.files.push(file("/etc/token"));
    assert_eq!(ids(&config(""), &facts), ["secret.readable"]);
    facts.files[0] = file("/var/run/secrets/token");
    assert!(ids(&config(""), &facts).is_empty());
}

#[test]
fn secrets_on_a_disk_are_told_of() {
    let mut facts = good();
    facts.roots[0].usable = Ok(Medium::Disk);
    let with = config("[secrets.a]\nsource = \"file:/var/run/a\"\nnamespaces = [\"*\"]\n");
    assert_eq!(ids(&with, &facts), ["staging.disk"]);
    // In a pod for a Run alone they are beside the state.
    facts.fitness.evident = true;
    assert!(ids(&with, &facts).is_empty());
    facts.state = Some(("/var/lib/runtimed".into(), Medium::Disk));
    assert_eq!(ids(&with, &facts), ["staging.disk"]);
}

#[test]
fn the_tier_is_the_one_that_the_daemon_would_choose() {
    let mut facts = good();
    let asked = config("[sandbox]\ntier = \"Namespaces\"\n");
    assert_eq!(ids(&asked, &facts), ["sandbox.tier"]);
    facts.views = Ok(true);
    assert_eq!(judge(&config(""), &facts).0.tier, Tier::Namespaces);
    assert!(ids(&asked, &facts).is_empty());
    assert_eq!(judge(&config("[sandbox]\ntier = \"Base\"\n"), &facts).0.tier, Tier::Base);
    // A pod for a Run alone is taken for one if it must be, or if it evidently is and there is nothing better.
    let alone = config("[sandbox]\ntier = \"Exclusive\"\n");
    assert_eq!(judge(&alone, &facts).0.tier, Tier::Exclusive);
    facts.fitness.evident = true;
    assert_eq!(judge(&config(""), &facts).0.tier, Tier::Namespaces);
    facts.views = Err(Missing::Forbidden);
    assert_eq!(judge(&config(""), &facts).0.tier, Tier::Exclusive);
    facts.fitness = Fitness { possible: Err("slots".to_owned()), evident: false };
    assert_eq!(judge(&config(""), &facts).0.tier, Tier::Base);
    assert_eq!(ids(&alone, &facts), ["sandbox.tier"]);
}
