//! Terminals: what a program could type into the one that it was started from.

use super::{Rule, Test, when};

pub(super) const RULES: &[Rule] = &[when(
    "ioctl",
    16,
    29,
    &[&[Test::Is(1, 0x5412)], &[Test::Is(1, 0x541c)]],
    "TIOCSTI puts characters into the terminal's input, TIOCLINUX pastes and selects on a console",
)];
