use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::{Refuse, Rule, Test};
use crate::support::Architecture;

/// `clone3` has one number on every architecture that has it.
const CLONE3: u32 = 435;
/// Numbers of the x32 ABI have this bit, and the audit architecture of ordinary x86-64.
const X32_BIT: u32 = 0x4000_0000;

/// Makes the program for an architecture.
///
/// # Errors
/// The compiler's reason, which would be a mistake in a table.
pub(crate) fn compile(
    rules: &[Rule],
    architecture: Architecture,
) -> Result<Vec<libc::sock_filter>, seccompiler::Error> {
    let mut table: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for rule in rules {
        let number = match architecture {
            Architecture::X86_64 => rule.x86_64,
            Architecture::Aarch64 => rule.aarch64,
        };
        if let Some(number) = number {
            table.entry(number.into()).or_default().extend(cases(rule.refuse)?);
        }
    }
    let target = match architecture {
        Architecture::X86_64 => TargetArch::x86_64,
        Architecture::Aarch64 => TargetArch::aarch64,
    };
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(table, SeccompAction::Allow, refused, target)?;
    let body = BpfProgram::try_from(filter)?;
    let body = body.iter().map(|one| libc::sock_filter { code: one.code, jt: one.jt, jf: one.jf, k: one.k });
    Ok(prelude(architecture).into_iter().chain(body).collect())
}

/// An empty chain matches always, which is how the compiler spells it.
fn cases(refuse: Refuse) -> Result<Vec<SeccompRule>, seccompiler::Error> {
    let Refuse::When(cases) = refuse else { return Ok(Vec::new()) };
    cases
        .iter()
        .map(|tests| {
            let conditions = tests.iter().map(|test| {
                let (argument, operator, value) = match *test {
                    Test::Is(argument, value) => (argument, SeccompCmpOp::Eq, value),
                    Test::Not(argument, value) => (argument, SeccompCmpOp::Ne, value),
                    Test::Has(argument, bits) => (argument, SeccompCmpOp::MaskedEq(bits.into()), bits),
                };
                SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value.into())
            });
            Ok(SeccompRule::new(conditions.collect::<Result<_, _>>()?)?)
        })
        .collect()
}

/// Instructions that come first, written here because the compiler has one action for all rules of a filter, and a second
/// filter would be run for every call: `clone3` answers another errno, and x32 numbers end the process. The number -1 is
/// what a tracer leaves behind for a call that it skips, so it is not taken for one of x32's.
fn prelude(architecture: Architecture) -> Vec<libc::sock_filter> {
    // linux/bpf_common.h and linux/seccomp.h: load the word at offset 0, which is the number; compare; return.
    let load_number = libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 };
    let equal = |k, jt, jf| libc::sock_filter { code: 0x15, jt, jf, k };
    let at_least = |k, jt, jf| libc::sock_filter { code: 0x35, jt, jf, k };
    let answer = |k| libc::sock_filter { code: 0x06, jt: 0, jf: 0, k };
    let mut program = vec![load_number];
    if architecture == Architecture::X86_64 {
        program.extend([
            equal(u32::MAX, 2, 0),
            at_least(X32_BIT, 0, 1),
            answer(libc::SECCOMP_RET_KILL_PROCESS),
        ]);
    }
    program.extend([equal(CLONE3, 0, 1), answer(libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs())]);
    program
}
