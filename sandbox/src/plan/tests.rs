use std::collections::BTreeSet;
use std::path::PathBuf;

use super::{Plan, Refusal, Step, plan};
use crate::enforcement::{Protection, State, Tier};
use crate::policy::{Network, Policy, Profile};
use crate::support::{Architecture, Missing, Support};
use crate::view::View;

fn support(abi: u8) -> Support {
    Support {
        landlock: if abi == 0 { Err(Missing::NotBuilt) } else { Ok(abi) },
        landlock_errata: 0,
        seccomp: Ok(()),
        kernel: "6.0.0".to_owned(),
        architecture: Architecture::X86_64,
        mounts: ["/", "/proc", "/tmp", "/etc/hosts", "/var/run/secrets/token"].map(PathBuf::from).into(),
    }
}

fn ports() -> Network {
    Network::Ports { connect: vec![443, 53], listen: vec![8080], bind_ephemeral: true, udp_dns: false }
}

fn policy(profile: Profile, network: Network) -> Policy {
    Policy {
        profile,
        network,
        execute: vec!["/usr".into()],
        write: vec!["/tmp/t".into()],
        ..Policy::default()
    }
}

fn rule(refused: Result<Plan, Refusal>) -> &'static str {
    refused.expect_err("a refusal").rule
}

#[test]
fn strict_needs_abi_6_and_names_what_is_missing() {
    for (abi, missing) in [
        (0, "support.files"),
        (1, "support.truncation"),
        (2, "support.truncation"),
        (3, "support.device-ioctls"),
        (4, "support.device-ioctls"),
        (5, "support.signals"),
    ] {
        assert_eq!(rule(plan(&policy(Profile::Strict, Network::None), &support(abi))), missing, "ABI {abi}");
    }
    for abi in [6, 7, 8] {
        let plan = plan(&policy(Profile::Strict, ports()), &support(abi)).unwrap();
        for protection in
            [Protection::Files, Protection::Signals, Protection::TcpPorts, Protection::SystemCalls]
        {
            assert_eq!(plan.enforcement().state(protection), Some(State::Active), "ABI {abi} {protection}");
        }
    }
}

#[test]
fn compatible_states_what_each_abi_gives_up() {
    use Protection::{AbstractUnixSockets, DeviceIoctls, Signals, Truncation};
    for abi in 1..=7 {
        let plan = plan(&policy(Profile::Compatible, Network::None), &support(abi)).unwrap();
        for (protection, since) in
            [(Truncation, 3), (DeviceIoctls, 5), (Signals, 6), (AbstractUnixSockets, 6)]
        {
            let expected = if abi >= since { State::Active } else { State::Unavailable };
            assert_eq!(plan.enforcement().state(protection), Some(expected), "ABI {abi} {protection}");
        }
        let listed = super::plan(&policy(Profile::Compatible, ports()), &support(abi));
        assert_eq!(listed.is_ok(), abi >= 4, "TCP ports at ABI {abi}");
    }
    assert_eq!(rule(plan(&policy(Profile::Compatible, Network::None), &support(0))), "support.files");
}

/// Every ABI that has a meaning, in every tier that the plan knows, with and without ports: planned, or refused by name.
#[test]
fn every_abi_is_planned_in_every_tier() {
    use Protection::{
        AbstractUnixSockets, DeviceIoctls, FileMetadata, Files, LoopbackNeighbours, PathnameUnixSockets,
        Signals, TcpPorts, Truncation,
    };
    for abi in 0..=9 {
        for profile in [Profile::Strict, Profile::Compatible] {
            for network in [Network::None, ports(), Network::Full] {
                for own in [false, true] {
                    let view = own.then(|| View { shown: Vec::new(), own_proc: true });
                    let own_network = own && network == Network::None;
                    let asked = Policy { view, ..policy(profile, network.clone()) };
                    let planned = plan(&asked, &support(abi));
                    // In order of the report: the first protection that the kernel lacks and that may not be missing.
                    let listed = network == ports();
                    let strict = profile == Profile::Strict;
                    let needed = [
                        ("support.files", 1, true),
                        ("support.truncation", 3, strict),
                        ("support.device-ioctls", 5, strict),
                        ("support.tcp-ports", 4, listed),
                        ("support.signals", 6, strict && !own),
                        ("support.abstract-unix-sockets", 6, strict && !own_network),
                    ];
                    let lacking = needed.iter().find(|(_, since, needed)| *needed && abi < *since);
                    let what = format!("ABI {abi} {profile:?} {network:?} own view {own}");
                    let Ok(planned) = planned else {
                        assert_eq!(lacking.map(|(rule, ..)| *rule), Some(rule(planned)), "{what}");
                        continue;
                    };
                    assert_eq!(lacking, None, "{what}");
                    let report = planned.enforcement();
                    let since = |since: u8| if abi >= since { State::Active } else { State::Unavailable };
                    let either = |own: bool, state: State| if own { State::Active } else { state };
                    let tcp = if network == Network::Full { State::Disabled } else { State::Active };
                    let loopback = if network == Network::None { State::Active } else { State::Unavailable };
                    for (protection, expected) in [
                        (Files, State::Active),
                        (Truncation, since(3)),
                        (DeviceIoctls, since(5)),
                        (TcpPorts, tcp),
                        (Signals, either(own, since(6))),
                        (AbstractUnixSockets, either(own_network, since(6))),
                        (PathnameUnixSockets, either(own, since(9))),
                        (FileMetadata, either(own, State::Unavailable)),
                        (LoopbackNeighbours, loopback),
                    ] {
                        assert_eq!(report.state(protection), Some(expected), "{what} {protection}");
                    }
                    assert_eq!(report.tier, if own { Tier::Namespaces } else { Tier::Base }, "{what}");
                    assert_eq!(planned.steps.len(), if own { 7 } else { 6 }, "{what}");
                }
            }
        }
    }
}

/// No protection that base gives is weaker with a view.
#[test]
fn a_view_takes_nothing_away() {
    let rank = |state| match state {
        State::Active => 3,
        State::Degraded => 2,
        State::Disabled => 1,
        State::Unavailable => 0,
    };
    for network in [Network::None, ports(), Network::Full] {
        for abi in 6..=9 {
            let base = plan(&policy(Profile::Strict, network.clone()), &support(abi)).unwrap();
            let view = Some(View { shown: Vec::new(), own_proc: true });
            let own = Policy { view, ..policy(Profile::Strict, network.clone()) };
            let own = plan(&own, &support(abi)).unwrap();
            for item in &base.enforcement().items {
                let inside = own.enforcement().state(item.protection).unwrap();
                assert!(rank(inside) >= rank(item.state), "ABI {abi} {network:?} {item:?}");
            }
            // What base's filter refuses stays refused, but for sockets and Fast Open where nothing can be reached.
            let refused = |plan: &Plan| plan.refused_calls().map(|(name, _)| name).collect::<Vec<_>>();
            let missing: Vec<_> =
                refused(&base).into_iter().filter(|name| !refused(&own).contains(name)).collect();
            let open: &[&str] =
                if network == Network::None { &["sendto", "sendmsg", "sendmmsg"] } else { &[] };
            assert_eq!(missing, open, "ABI {abi} {network:?}");
        }
    }
}

#[test]
fn the_only_run_of_a_pod_is_confined_as_any_other() {
    for network in [Network::None, ports(), Network::Full] {
        let base = plan(&policy(Profile::Strict, network.clone()), &support(7)).expect("it is possible");
        let alone = Policy { alone: true, ..policy(Profile::Strict, network) };
        let alone = plan(&alone, &support(7)).expect("it is possible");
        assert_eq!(alone.enforcement().tier, Tier::Exclusive);
        assert_eq!(alone.enforcement().items, base.enforcement().items);
        assert_eq!(alone.describe(), base.describe());
    }
}

#[test]
fn only_the_policy_names_what_may_be_missing_and_never_files() {
    let mut named = policy(Profile::Compatible, ports());
    named.may_degrade = vec![Protection::TcpPorts, Protection::Files, Protection::SystemCalls];
    assert_eq!(
        plan(&named, &support(3)).unwrap().enforcement().state(Protection::TcpPorts),
        Some(State::Unavailable)
    );
    assert_eq!(rule(plan(&named, &support(0))), "support.files");
    let unfiltered = Support { seccomp: Err(Missing::SwitchedOff), ..support(7) };
    let refusal = plan(&named, &unfiltered).unwrap_err();
    assert_eq!((refusal.rule, refusal.protection), ("support.system-calls", Some(Protection::SystemCalls)));
}

#[test]
fn every_line_that_is_not_active_says_why() {
    for (network, watch) in [(Network::None, false), (ports(), true), (Network::Full, false)] {
        let policy = Policy { watch, ..policy(Profile::Compatible, network) };
        for item in &plan(&policy, &support(4)).unwrap().enforcement().items {
            assert_eq!(item.state == State::Active, item.why.is_none(), "{item:?}");
        }
    }
}

#[test]
fn the_steps_are_in_the_one_order_that_works() {
    let plan = plan(&policy(Profile::Strict, ports()), &support(7)).unwrap();
    let order: Vec<_> = plan
        .steps
        .iter()
        .map(|step| match step {
            Step::View => 6,
            Step::Session => 0,
            Step::Limits(_) => 1,
            Step::NoNewPrivs => 2,
            Step::DropCapabilities => 3,
            Step::Landlock(_) => 4,
            Step::Seccomp(..) => 5,
        })
        .collect();
    assert_eq!(order, [0, 1, 2, 3, 4, 5]);
    assert_eq!(plan.describe().len(), 6);
    assert!(plan.refused_calls().any(|(name, _)| name == "ptrace"));
}

#[test]
fn the_supervisor_gets_scopes_and_no_files() {
    let plan = plan(&Policy::scopes_only(), &support(7)).unwrap();
    assert!(plan.steps.iter().any(
        |step| matches!(step, Step::Landlock(domain) if domain.scopes && domain.files == super::Files::Moving)
    ));
    assert_eq!(plan.enforcement().state(Protection::Signals), Some(State::Active));
    assert_eq!(plan.enforcement().state(Protection::Files), None);
    assert_eq!(rule(super::plan(&Policy::scopes_only(), &support(5))), "support.signals");
    let old = Policy { profile: Profile::Compatible, ..Policy::scopes_only() };
    assert!(
        super::plan(&old, &support(0)).unwrap().steps.iter().all(|step| !matches!(step, Step::Landlock(_)))
    );
}

#[test]
fn bad_grants_are_refused_by_rule() {
    let base = Policy {
        protected: vec!["/var/run/secrets/token".into(), "/tmp/state".into()],
        roots: vec!["/tmp".into(), "/workspace".into()],
        mounts: ["/etc/hosts".into()].into(),
        ..Policy::default()
    };
    for (path, rule_id) in [
        ("usr", "grant.not-absolute"),
        ("/usr/../etc", "grant.not-absolute"),
        ("/var/run", "grant.protected"),
        ("/var/run/secrets/token", "grant.protected"),
        ("/tmp/state/journal", "grant.protected"),
        ("/workspace", "grant.root"),
        ("/proc", "grant.proc"),
        ("/proc/1/environ", "grant.proc"),
    ] {
        let policy = Policy { read: vec![path.into()], ..base.clone() };
        assert_eq!(rule(plan(&policy, &support(7))), rule_id, "{path}");
    }
    for path in ["/proc/self/environ", "/proc/1", "/proc/net/unix", "/proc/thread-self/status", "/etc/hosts"]
    {
        let policy = Policy { proc_files: vec![path.into()], ..base.clone() };
        assert_eq!(rule(plan(&policy, &support(7))), "grant.proc", "{path}");
    }
    for path in ["/etc", "/tmp/0123", "/usr"] {
        assert!(plan(&Policy { read: vec![path.into()], ..base.clone() }, &support(7)).is_ok(), "{path}");
    }
    let unlisted = Policy { mounts: BTreeSet::new(), read: vec!["/etc".into()], ..base.clone() };
    assert_eq!(rule(plan(&unlisted, &support(7))), "grant.mount");
    // Listed, it is allowed; what has a like name lies beside.
    let nested = Support {
        mounts: ["/etc", "/etc-other", "/etc.d/x", "/etc/a", "/etc/a/b"].map(PathBuf::from).into(),
        ..support(7)
    };
    for (listed, allowed) in
        [(&["/etc/a"][..], false), (&["/etc/a/b"], false), (&["/etc/a", "/etc/a/b"], true)]
    {
        let mounts = listed.iter().map(PathBuf::from).collect();
        let planned = plan(&Policy { mounts, read: vec!["/etc".into()], ..base.clone() }, &nested);
        assert_eq!(planned.is_ok(), allowed, "{listed:?}");
    }
    let zero = Network::Ports { connect: vec![0], listen: vec![], bind_ephemeral: false, udp_dns: false };
    assert_eq!(rule(plan(&Policy { network: zero, ..base }, &support(7))), "network.port-zero");
}
