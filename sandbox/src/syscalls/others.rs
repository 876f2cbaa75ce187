//! Other processes of the same uid: what the kernel lets one do to another without asking Landlock.
//!
//! The price of naming only the caller (0) is that a program cannot set a limit, a priority or an affinity for one of its
//! own threads or children by number, even where that would be harmless.

use super::{Rule, Test, always, when};

/// `RLIMIT_LOCKS` of asm-generic/resource.h: who has it reads it, and sets it no more.
const LOCKS: u32 = 10;
const MARK_OF_PRLIMIT: Test = Test::Is(1, LOCKS);

const NOT_SELF: &[&[Test]] = &[&[Test::Not(0, 0)]];

pub(super) const RULES: &[Rule] = &[
    always("ptrace", 101, 117, "controls another process"),
    always("process_vm_readv", 310, 270, "reads another process's memory"),
    always("process_vm_writev", 311, 271, "writes another process's memory"),
    always("pidfd_getfd", 438, 438, "takes another process's descriptors"),
    always("kcmp", 312, 272, "tells what two processes share"),
    always("process_madvise", 440, 440, "pushes another process's memory out"),
    always("process_mrelease", 448, 448, "takes a dying process's memory"),
    when(
        "prlimit64",
        302,
        261,
        &[&[Test::Not(0, 0)], &[MARK_OF_PRLIMIT, Test::Not(2, 0)], &[MARK_OF_PRLIMIT, Test::Above(2)]],
        "one RLIMIT_CPU on the daemon ends the pod; without its mark an orphan is not found",
    ),
    when("setrlimit", 160, 164, &[&[Test::Is(0, LOCKS)]], "without its mark an orphan is not found"),
    when(
        "setpriority",
        141,
        140,
        &[&[Test::Not(0, 0)], &[Test::Not(1, 0)]],
        "slows down another process, or all of the uid",
    ),
    when(
        "ioprio_set",
        251,
        30,
        &[&[Test::Not(0, 1)], &[Test::Not(1, 0)]],
        "slows down another process's input and output, or all of the uid's",
    ),
    when("sched_setparam", 142, 118, NOT_SELF, "changes another process's scheduling"),
    when("sched_setscheduler", 144, 119, NOT_SELF, "makes another process idle-only"),
    when("sched_setattr", 314, 274, NOT_SELF, "changes another process's scheduling"),
    when("sched_setaffinity", 203, 122, NOT_SELF, "crowds other processes onto one processor"),
    when("migrate_pages", 256, 238, NOT_SELF, "moves another process's memory"),
    when("move_pages", 279, 239, NOT_SELF, "moves another process's memory"),
];
