//! The controller's program over real sockets, driven by the real client: a person on one side, a daemon on the other.

mod bad_input;
mod blobs;
mod harness;
mod keeping;
mod leases;
mod lives;
mod logs;
mod people;
mod restart;
mod store;
