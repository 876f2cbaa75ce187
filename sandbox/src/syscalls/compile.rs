//! The assembler: a search tree over system call numbers, with several answers in one program.
//!
//! seccompiler, which the tests compare this with, makes a linear chain with one answer. For these tables that is 611
//! instructions, and installing them takes 0.3 ms of every start, for the kernel runs the program once for each number
//! there is to learn which are always allowed. A tree is half as long, and each of those runs takes a few steps. It also
//! has room for what one answer cannot say: `clone3` is `ENOSYS`, and numbers of the x32 ABI end the process.

use std::collections::BTreeMap;

use super::{Refuse, Rule, Test};
use crate::support::Architecture;

/// `clone3` has one number on every architecture that has it.
const CLONE3: u32 = 435;
/// Numbers of the x32 ABI begin here; they come with the audit architecture of ordinary x86-64.
const X32: u32 = 0x4000_0000;
/// What a tracer leaves behind for a call that it skips. It is not one of x32's.
const SKIPPED: u32 = u32::MAX;

/// `AUDIT_ARCH_X86_64` and `AUDIT_ARCH_AARCH64` of linux/audit.h.
const AUDIT_X86_64: u32 = 0xc000_003e;
const AUDIT_AARCH64: u32 = 0xc000_00b7;

/// Where `struct seccomp_data` of linux/seccomp.h has the number, the architecture, and the first argument's low half;
/// both architectures are little-endian.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// What becomes of the numbers of one interval.
#[derive(Clone, Debug)]
enum Leaf {
    /// This return value of linux/seccomp.h.
    Answer(u32),
    /// Refused in these cases, else allowed.
    Cases(&'static [&'static [Test]]),
}

const ALLOW: Leaf = Leaf::Answer(libc::SECCOMP_RET_ALLOW);
const KILL: Leaf = Leaf::Answer(libc::SECCOMP_RET_KILL_PROCESS);

const fn errno(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno.unsigned_abs()
}

/// Makes the program for an architecture.
pub(crate) fn compile(rules: &[Rule], architecture: Architecture) -> Vec<libc::sock_filter> {
    let audit = match architecture {
        Architecture::X86_64 => AUDIT_X86_64,
        Architecture::Aarch64 => AUDIT_AARCH64,
    };
    let mut program =
        vec![load(ARCHITECTURE), equal(audit, 1, 0), answer(libc::SECCOMP_RET_KILL_PROCESS), load(NUMBER)];
    program.extend(tree(&intervals(rules, architecture)));
    program
}

/// Every number's leaf, as the first number of each run of equal ones.
fn intervals(rules: &[Rule], architecture: Architecture) -> Vec<(u32, Leaf)> {
    let mut named = BTreeMap::from([(CLONE3, Leaf::Answer(errno(libc::ENOSYS)))]);
    for rule in rules {
        let number = match architecture {
            Architecture::X86_64 => rule.x86_64,
            Architecture::Aarch64 => rule.aarch64,
        };
        let leaf = match rule.refuse {
            Refuse::Always => Leaf::Answer(errno(libc::EPERM)),
            Refuse::When(cases) => Leaf::Cases(cases),
        };
        named.extend(number.map(|number| (number, leaf)));
    }
    let mut starts = BTreeMap::from([(0, ALLOW)]);
    if architecture == Architecture::X86_64 {
        starts.extend([(X32, KILL), (SKIPPED, ALLOW)]);
    }
    for (number, leaf) in named {
        starts.insert(number, leaf);
        starts.entry(number + 1).or_insert(ALLOW);
    }
    let mut runs: Vec<(u32, Leaf)> = Vec::new();
    for (start, leaf) in starts {
        let same =
            matches!((runs.last(), &leaf), (Some((_, Leaf::Answer(one))), Leaf::Answer(two)) if one == two);
        if !same {
            runs.push((start, leaf));
        }
    }
    runs
}

/// A binary search for the interval that the number in the accumulator is in.
fn tree(runs: &[(u32, Leaf)]) -> Vec<libc::sock_filter> {
    let (low, high) = runs.split_at(runs.len() / 2);
    let (Some((pivot, leaf)), false) = (high.first(), low.is_empty()) else {
        return high.first().map(|(_, leaf)| self::leaf(leaf)).unwrap_or_default();
    };
    if let ([(_, Leaf::Answer(below))], Leaf::Answer(above), 1) = (low, leaf, high.len()) {
        return vec![at_least(*pivot, 1, 0), answer(*below), answer(*above)];
    }
    let (low, high) = (tree(low), tree(high));
    let mut program = Vec::with_capacity(2 + low.len() + high.len());
    match u8::try_from(low.len()) {
        Ok(distance) => program.push(at_least(*pivot, distance, 0)),
        // A conditional jump reaches 255 instructions, an unconditional one any number.
        Err(_) => program.extend([at_least(*pivot, 0, 1), jump(low.len())]),
    }
    program.extend(low);
    program.extend(high);
    program
}

fn leaf(leaf: &Leaf) -> Vec<libc::sock_filter> {
    match leaf {
        Leaf::Answer(value) => vec![answer(*value)],
        Leaf::Cases(cases) => {
            let mut program: Vec<_> = cases.iter().flat_map(|tests| case(tests)).collect();
            program.push(answer(libc::SECCOMP_RET_ALLOW));
            program
        }
    }
}

/// Refuses if all tests hold; the first that does not goes on behind the case.
fn case(tests: &[Test]) -> Vec<libc::sock_filter> {
    // Built from the end, where the distance to what follows is known.
    let mut program = vec![answer(errno(libc::EPERM))];
    for (position, test) in tests.iter().enumerate().rev() {
        let behind = u8::try_from(program.len()).unwrap_or(u8::MAX);
        let compare = match *test {
            Test::Is(_, value) => equal(value, 0, behind),
            Test::Not(_, value) => equal(value, behind, 0),
            Test::Above(_) => equal(0, behind, 0),
            Test::Any(_, bits) => any_bit(bits, 0, behind),
        };
        program.insert(0, compare);
        let loaded =
            position.checked_sub(1).and_then(|before| tests.get(before)).map(|before| before.offset());
        if loaded != Some(test.offset()) {
            program.insert(0, load(test.offset()));
        }
    }
    program
}

impl Test {
    /// Where what it looks at is.
    fn offset(self) -> u32 {
        match self {
            Self::Is(argument, _) | Self::Not(argument, _) | Self::Any(argument, _) => {
                ARGUMENTS + 8 * u32::from(argument)
            }
            Self::Above(argument) => ARGUMENTS + 8 * u32::from(argument) + 4,
        }
    }
}

/// Instructions of linux/bpf_common.h: load a word, compare and jump, jump, return.
const fn load(offset: u32) -> libc::sock_filter {
    libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: offset }
}

const fn equal(k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: 0x15, jt, jf, k }
}

const fn at_least(k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: 0x35, jt, jf, k }
}

const fn any_bit(k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: 0x45, jt, jf, k }
}

fn jump(distance: usize) -> libc::sock_filter {
    libc::sock_filter { code: 0x05, jt: 0, jf: 0, k: u32::try_from(distance).unwrap_or(u32::MAX) }
}

const fn answer(value: u32) -> libc::sock_filter {
    libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: value }
}
