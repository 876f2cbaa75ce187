//! Whole Runs through the real binaries: each test is one behaviour that users rely on.

mod bad_input;
mod command_line;
mod durable;
mod exclusive;
mod given;
mod killed;
mod lifecycle;
mod limits;
mod logs;
mod many;
mod patches;
mod pressure;
mod provenance;
mod remotes;
mod results;
mod rotation;
mod sabotage;
mod secrets;
mod servers;
mod sources;
mod stores;
mod telemetry;
mod tiers;
