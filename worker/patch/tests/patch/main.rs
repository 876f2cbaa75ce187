//! Patches against real repositories and real directories, with the `git` command as the second opinion.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod accepted;
mod captured;
mod checkouts;
mod git;
mod histories;
mod hostile;
mod ignored;
mod killed;
mod mutated;
mod properties;
mod repositories;
mod stricter;
mod workspace;
