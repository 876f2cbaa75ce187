//! The sandbox against the real kernel, as root where the tests are, and always as an ordinary uid as well.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

#[macro_use]
mod identity;
mod beneath;
mod confine;
mod killed;
mod process;
mod spawn;
mod staging;
mod tree;
