//! The filter as data, for both architectures: programs are run by a small interpreter, so that Arm's is judged here too.

use std::collections::BTreeMap;

use proptest::prelude::*;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::{Refuse, Rule, Test, compile, rules};
use crate::policy::{Network, Policy};
use crate::support::Architecture::{self, Aarch64, X86_64};

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | 1;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | 38;

/// `AUDIT_ARCH_X86_64`, `AUDIT_ARCH_AARCH64` and `AUDIT_ARCH_I386` of linux/audit.h.
const AUDIT: [u32; 3] = [0xc000_003e, 0xc000_00b7, 0x4000_0003];

/// Runs a program on one call, as the kernel's classic BPF does; only the instructions that filters are made of.
fn run(program: &[libc::sock_filter], audit: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = vec![number, audit, 0, 0];
    for argument in arguments {
        data.push((argument & 0xffff_ffff) as u32);
        data.push((argument >> 32) as u32);
    }
    let (mut accumulator, mut at) = (0_u32, 0_usize);
    loop {
        let one = &program[at];
        at += 1;
        let jump = |yes| usize::from(if yes { one.jt } else { one.jf });
        match one.code {
            0x20 => accumulator = data[one.k as usize / 4],
            0x54 => accumulator &= one.k,
            0x05 => at += one.k as usize,
            0x15 => at += jump(accumulator == one.k),
            0x25 => at += jump(accumulator > one.k),
            0x35 => at += jump(accumulator >= one.k),
            0x45 => at += jump(accumulator & one.k != 0),
            0x06 => return one.k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

struct Filter {
    program: Vec<libc::sock_filter>,
    audit: u32,
}

impl Filter {
    fn new(policy: &Policy, architecture: Architecture) -> Self {
        let audit = if architecture == X86_64 { AUDIT[0] } else { AUDIT[1] };
        Self { program: compile(&rules(policy), architecture), audit }
    }

    fn call(&self, number: u32, arguments: [u64; 6]) -> u32 {
        run(&self.program, self.audit, number, arguments)
    }
}

fn with(network: Network) -> Policy {
    Policy { network, ..Policy::default() }
}

fn ports(udp_dns: bool) -> Policy {
    with(Network::Ports { connect: vec![443], listen: vec![], bind_ephemeral: true, udp_dns })
}

/// Arm's numbers are those of the generic table. Since 424 a new call has one number everywhere (asm-generic/unistd.h), so
/// that a table older than the call says nothing and needs to say nothing.
#[cfg(target_arch = "x86_64")]
#[test]
fn numbers_are_those_of_the_kernels_headers() {
    let x86_64 = ["/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"];
    let tables = [(X86_64, headers(&x86_64)), (Aarch64, headers(&["/usr/include/asm-generic/unistd.h"]))];
    let watch = Policy { watch: true, ..Policy::default() };
    for policy in [with(Network::None), ports(false), ports(true), with(Network::Full), watch] {
        for rule in rules(&policy) {
            for (architecture, table) in &tables {
                let ours = if *architecture == X86_64 { rule.x86_64 } else { rule.aarch64 };
                let newest = table.values().max().copied();
                let theirs = table.get(rule.name).copied();
                let newer = theirs.is_none() && ours > newest && rule.x86_64 == rule.aarch64;
                assert!(newer || ours == theirs, "{architecture:?} {}: {ours:?}, {theirs:?}", rule.name);
            }
        }
    }
}

/// The numbers of the first of these files that is there: every C compiler on Linux needs them, and so every build of ours.
#[cfg(target_arch = "x86_64")]
fn headers(paths: &[&str]) -> BTreeMap<String, u32> {
    let text = paths.iter().find_map(|path| std::fs::read_to_string(path).ok());
    let text = text.unwrap_or_else(|| panic!("none of {paths:?} is there: install linux-libc-dev"));
    let number = |line: &str| {
        let (name, number) = line.strip_prefix("#define __NR")?.split_once([' ', '\t'])?;
        let name = name.strip_prefix("3264").unwrap_or(name).strip_prefix('_')?;
        Some((name.to_owned(), number.trim().parse().ok()?))
    };
    text.lines().filter_map(number).collect()
}

#[test]
fn every_rule_names_a_call_once_and_has_a_reason() {
    for policy in [with(Network::None), ports(false), ports(true), with(Network::Full)] {
        let rules = rules(&policy);
        let mut names: Vec<_> = rules.iter().map(|rule| rule.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), rules.len());
        assert!(rules.iter().all(|rule| rule.reason.len() > 10));
    }
}

#[test]
fn always_refused_calls_answer_eperm_and_no_other_is_touched() {
    for architecture in [X86_64, Aarch64] {
        let filter = Filter::new(&Policy::default(), architecture);
        let rules = rules(&Policy::default());
        for number in 0..600 {
            let of = |rule: &&super::Rule| {
                (if architecture == X86_64 { rule.x86_64 } else { rule.aarch64 }) == Some(number)
            };
            let expected = match rules.iter().find(of).map(|rule| rule.refuse) {
                Some(Refuse::Always) => EPERM,
                _ if number == 435 => ENOSYS,
                None => ALLOW,
                Some(Refuse::When(_)) => continue,
            };
            assert_eq!(filter.call(number, [0; 6]), expected, "{architecture:?} {number}");
        }
    }
}

#[test]
fn foreign_architectures_and_x32_end_the_process() {
    let filter = Filter::new(&Policy::default(), X86_64);
    assert_eq!(run(&filter.program, AUDIT[2], 20, [0; 6]), KILL);
    assert_eq!(filter.call(0x4000_0000, [0; 6]), KILL);
    assert_eq!(filter.call(0x4000_0000 | 20, [0; 6]), KILL);
    assert_eq!(filter.call(u32::MAX, [0; 6]), ALLOW);
    let arm = Filter::new(&Policy::default(), Aarch64);
    assert_eq!(run(&arm.program, AUDIT[0], 20, [0; 6]), KILL);
}

#[test]
fn namespaces_are_refused_by_each_flag_and_threads_are_not() {
    for (architecture, clone) in [(X86_64, 56), (Aarch64, 220)] {
        let filter = Filter::new(&Policy::default(), architecture);
        for flag in
            [0x0002_0000_u64, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000]
        {
            assert_eq!(filter.call(clone, [flag | 17, 0, 0, 0, 0, 0]), EPERM, "{flag:#x}");
        }
        assert_eq!(filter.call(clone, [0x003d_0f00, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(filter.call(clone, [17, 0, 0, 0, 0, 0]), ALLOW);
    }
}

#[test]
fn only_the_caller_itself_is_named() {
    let filter = Filter::new(&Policy::default(), X86_64);
    for (number, own, other) in [
        (302, [0; 6], [1, 0, 0, 0, 0, 0]),
        // Reading the limit that is a mark, and setting another, are everybody's.
        (302, [0, 10, 0, 1, 0, 0], [0, 10, 1, 0, 0, 0]),
        (302, [0, 7, 1 << 32, 0, 0, 0], [0, 10, 1 << 32, 0, 0, 0]),
        (160, [7, 1, 0, 0, 0, 0], [10, 1, 0, 0, 0, 0]),
        (141, [0; 6], [0, 7, 0, 0, 0, 0]),
        (141, [0; 6], [2, 0, 0, 0, 0, 0]),
        (251, [1, 0, 0, 0, 0, 0], [1, 9, 0, 0, 0, 0]),
        (251, [1, 0, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0]),
        (203, [0; 6], [5, 0, 0, 0, 0, 0]),
        (135, [0; 6], [0x0004_0000, 0, 0, 0, 0, 0]),
        (16, [0, 0x5401, 0, 0, 0, 0], [0, 0x5412, 0, 0, 0, 0]),
        // The kernel reads 32 bits, so what is above them must not hide a refused value.
        (16, [0, 0x5401, 0, 0, 0, 0], [0, 0x1_0000_5412, 0, 0, 0, 0]),
        (157, [38, 0, 0, 0, 0, 0], [0x5961_6d61, 0, 0, 0, 0, 0]),
    ] {
        assert_eq!(filter.call(number, own), ALLOW, "{number} {own:?}");
        assert_eq!(filter.call(number, other), EPERM, "{number} {other:?}");
    }
}

#[test]
fn socket_kinds_follow_the_network() {
    const CLOEXEC: u64 = 0x8_0000;
    // Domain, type, protocol; then None, Ports, Ports with UDP, Full.
    let table: [(u64, u64, u64, [u32; 4]); 17] = [
        (1, 1, 0, [ALLOW; 4]),
        (1, 5 | CLOEXEC, 0, [ALLOW; 4]),
        (16, 3 | CLOEXEC, 0, [ALLOW; 4]),
        (16, 3, 9, [EPERM; 4]),
        (2, 1 | CLOEXEC, 0, [EPERM, ALLOW, ALLOW, ALLOW]),
        (10, 1 | CLOEXEC | 0x800, 6, [EPERM, ALLOW, ALLOW, ALLOW]),
        (2, 1, 262, [EPERM, EPERM, EPERM, ALLOW]),
        (10, 1, 132, [EPERM, EPERM, EPERM, ALLOW]),
        (2, 2, 0, [EPERM, EPERM, ALLOW, ALLOW]),
        (10, 2 | CLOEXEC | 0x800, 17, [EPERM, EPERM, ALLOW, ALLOW]),
        (2, 2, 1, [EPERM, EPERM, EPERM, ALLOW]),
        (2, 3, 255, [EPERM; 4]),
        (10, 5, 0, [EPERM; 4]),
        (17, 3, 0, [EPERM; 4]),
        (40, 1, 0, [EPERM; 4]),
        (38, 5, 0, [EPERM; 4]),
        (0x1_0000_0002, 0x1_0000_0003, 0, [EPERM; 4]),
    ];
    let policies = [with(Network::None), ports(false), ports(true), with(Network::Full)];
    for (architecture, socket) in [(X86_64, 41), (Aarch64, 198)] {
        for (column, policy) in policies.iter().enumerate() {
            let filter = Filter::new(policy, architecture);
            for (domain, kind, protocol, expected) in table {
                let answer = filter.call(socket, [domain, kind, protocol, 0, 0, 0]);
                assert_eq!(
                    answer, expected[column],
                    "{architecture:?} {domain} {kind:#x} {protocol} in {column}"
                );
            }
        }
    }
}

#[test]
fn fast_open_is_refused_wherever_ports_are_judged() {
    for (number, position) in [(44, 3), (46, 2), (307, 3)] {
        let mut arguments = [0; 6];
        arguments[position] = 0x2000_0000 | 0x4000;
        assert_eq!(Filter::new(&ports(false), X86_64).call(number, arguments), EPERM);
        arguments[position] = 0x4000;
        assert_eq!(Filter::new(&ports(false), X86_64).call(number, arguments), ALLOW);
    }
}

#[test]
fn watching_is_a_choice_and_fanotify_is_not() {
    let policy = Policy { watch: true, ..Policy::default() };
    assert_eq!(Filter::new(&Policy::default(), X86_64).call(294, [0; 6]), EPERM);
    assert_eq!(Filter::new(&policy, X86_64).call(294, [0; 6]), ALLOW);
    assert_eq!(Filter::new(&policy, X86_64).call(300, [0; 6]), EPERM);
}

/// The same tables through seccompiler: one answer, a linear chain, and nothing about `clone3` or x32.
fn oracle(rules: &[Rule], architecture: Architecture) -> Vec<libc::sock_filter> {
    let condition = |argument, operator, value: u32| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value.into()).unwrap()
    };
    let mut table: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for rule in rules {
        let number = if architecture == X86_64 { rule.x86_64 } else { rule.aarch64 };
        let Some(number) = number else { continue };
        let chain = table.entry(number.into()).or_default();
        let Refuse::When(cases) = rule.refuse else { continue };
        for case in cases {
            // One rule for each bit of which any will do.
            let mut alternatives = vec![Vec::new()];
            for test in *case {
                let options = match *test {
                    Test::Is(argument, value) => vec![condition(argument, SeccompCmpOp::Eq, value)],
                    Test::Not(argument, value) => vec![condition(argument, SeccompCmpOp::Ne, value)],
                    Test::Above(argument) => vec![
                        SeccompCondition::new(
                            argument,
                            SeccompCmpArgLen::Qword,
                            SeccompCmpOp::Gt,
                            0xffff_ffff,
                        )
                        .unwrap(),
                    ],
                    Test::Any(argument, bits) => (0..32)
                        .map(|bit| 1_u32 << bit)
                        .filter(|bit| bits & bit != 0)
                        .map(|bit| condition(argument, SeccompCmpOp::MaskedEq(bit.into()), bit))
                        .collect(),
                };
                alternatives = alternatives
                    .iter()
                    .flat_map(|so_far| {
                        options
                            .iter()
                            .map(|option| [so_far.as_slice(), std::slice::from_ref(option)].concat())
                    })
                    .collect();
            }
            chain.extend(alternatives.into_iter().map(|conditions| SeccompRule::new(conditions).unwrap()));
        }
    }
    let target = if architecture == X86_64 { TargetArch::x86_64 } else { TargetArch::aarch64 };
    let filter = SeccompFilter::new(table, SeccompAction::Allow, SeccompAction::Errno(1), target).unwrap();
    let program = BpfProgram::try_from(filter).unwrap();
    program.iter().map(|one| libc::sock_filter { code: one.code, jt: one.jt, jf: one.jf, k: one.k }).collect()
}

fn values() -> impl Strategy<Value = u64> {
    let interesting = [
        0,
        1,
        2,
        3,
        5,
        6,
        10,
        16,
        17,
        28,
        262,
        0x800,
        0x5412,
        0x541c,
        0x8_0001,
        0x8_0802,
        0x2000_0000,
        0x5961_6d61,
        0xffff_ffff,
        0x1_0000_0002,
        u64::MAX,
    ];
    prop_oneof![4 => proptest::sample::select(interesting.to_vec()), 1 => any::<u64>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn the_tree_answers_as_seccompiler_does(
        number in prop_oneof![4 => 0_u32..480, 1 => 0_u32..X32],
        arguments in [values(), values(), values(), values(), values(), values()],
        choice in 0_usize..8,
    ) {
        thread_local! {
            static PAIRS: Vec<(Filter, Vec<libc::sock_filter>)> = [with(Network::None), ports(false), ports(true), with(Network::Full)]
                .iter()
                .flat_map(|policy| [X86_64, Aarch64].map(|one| (Filter::new(policy, one), oracle(&rules(policy), one))))
                .collect();
        }
        prop_assume!(number != 435);
        PAIRS.with(|pairs| {
            let (ours, theirs) = &pairs[choice];
            prop_assert_eq!(ours.call(number, arguments), run(theirs, ours.audit, number, arguments));
            Ok(())
        })?;
    }
}

const X32: u32 = 0x4000_0000;

#[test]
fn programs_are_short() {
    for policy in [with(Network::None), ports(false), ports(true), with(Network::Full)] {
        for architecture in [X86_64, Aarch64] {
            let length = Filter::new(&policy, architecture).program.len();
            assert!(length < 400, "{length} instructions");
        }
    }
}
