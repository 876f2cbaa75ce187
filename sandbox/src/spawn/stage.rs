use std::fmt;

use rustix::io::Errno;

/// What a child was doing, in the order in which it does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Judging arguments, before there is a child.
    Arguments,
    /// Making the child.
    Launch,
    /// Giving every signal its default action.
    Signals,
    /// Asking for a signal at the parent's end.
    DeathSignal,
    /// Making a view of its own.
    View,
    /// Entering the working directory.
    Directory,
    /// Putting descriptors in their places and closing the others.
    Descriptors,
    /// Starting a session.
    Session,
    /// Setting resource limits.
    Limits,
    /// Giving up new privileges for ever.
    NoNewPrivs,
    /// Emptying the capability sets.
    Capabilities,
    /// Entering the Landlock domain.
    Landlock,
    /// Installing the system call filter.
    Seccomp,
    /// Executing the program, or running the function.
    Execute,
}

const ALL: [Stage; 14] = [
    Stage::Arguments,
    Stage::Launch,
    Stage::Signals,
    Stage::DeathSignal,
    Stage::View,
    Stage::Directory,
    Stage::Descriptors,
    Stage::Session,
    Stage::Limits,
    Stage::NoNewPrivs,
    Stage::Capabilities,
    Stage::Landlock,
    Stage::Seccomp,
    Stage::Execute,
];

impl Stage {
    pub(crate) fn number(self) -> u32 {
        self as u32
    }

    pub(crate) fn from_number(number: u32) -> Self {
        ALL.into_iter().find(|stage| stage.number() == number).unwrap_or(Self::Launch)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Arguments => "take its arguments",
            Self::Launch => "make the child",
            Self::Signals => "reset its signals",
            Self::Session => "start a session",
            Self::DeathSignal => "tie its life to its parent's",
            Self::View => "make its own view of the machine",
            Self::Directory => "enter its working directory",
            Self::Descriptors => "arrange its descriptors",
            Self::Limits => "set its resource limits",
            Self::NoNewPrivs => "give up new privileges",
            Self::Capabilities => "empty its capability sets",
            Self::Landlock => "enter its Landlock domain",
            Self::Seccomp => "install its system call filter",
            Self::Execute => "execute the program",
        })
    }
}

/// A child that never came to run what it was started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpawnError {
    /// What failed.
    pub stage: Stage,
    /// The kernel's reason; 0 when the child was killed at this stage.
    pub errno: i32,
}

impl SpawnError {
    pub(crate) fn new(stage: Stage, errno: Errno) -> Self {
        Self { stage, errno: errno.raw_os_error() }
    }
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stage, errno } = self;
        match errno {
            0 => write!(f, "the child was killed while it was to {stage}"),
            errno => write!(f, "could not {stage}: {}", std::io::Error::from_raw_os_error(*errno)),
        }
    }
}

impl std::error::Error for SpawnError {}

#[cfg(test)]
mod tests {
    use super::{ALL, Stage};

    #[test]
    fn numbers_lead_back_to_their_stage() {
        for stage in ALL {
            assert_eq!(Stage::from_number(stage.number()), stage);
        }
    }
}
