//! The minimal controller: it takes Runs, gives them to daemons under fenced leases, and keeps what became of them.
//!
//! [`core`] decides, [`store`] keeps, [`engine`] is the one task that owns change, [`api`] is the network's boundary:
//! check, translate, forward. One process on one directory; queues and deadlines are in memory and made from the store
//! at every start.
#![forbid(unsafe_code)]

pub mod api;
pub mod arrivals;
pub mod audit;
pub mod auth;
pub mod core;
pub mod engine;
pub mod key;
pub mod metrics;
pub mod runtimes;
pub mod seal;
pub mod signing;
pub mod store;
pub mod uploads;

mod backup;
mod cli;
mod serve;
mod user;

pub use cli::run;
