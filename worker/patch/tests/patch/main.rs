//! Patches against real repositories, with the `git` command as the second opinion.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod accepted;
mod git;
mod hostile;
