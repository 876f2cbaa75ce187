//! What the end-to-end tests and the benchmarks share: the real binaries of this very build, started as a person would
//! start them, in a directory that is gone afterwards.
#![forbid(unsafe_code)]

pub mod answering;
pub mod azure;
pub mod binaries;
pub mod broken_network;
pub mod cluster;
pub mod container;
pub mod fault;
pub mod marks;
pub mod process;
pub mod runs;
pub mod s3;
pub mod wait;
