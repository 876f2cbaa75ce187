//! `runtimed check`: what holds here, and what does not.
//!
//! [`facts`] looks, [`judge`] thinks and touches nothing, [`table`] shows. At build time of an image there is no pod to look
//! at: then [`image`] walks the image's files instead.

mod facts;
mod image;
mod judge;
mod table;
mod walk;

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use runtimed_api::problem::Chain;
use serde::Serialize;

use crate::args::Failure;
use crate::config::layers::{Effective, Overlay, Setting};
use judge::{Level, Posture};

pub use judge::Finding;

/// What is checked, and how it is shown.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Check the files of an image that is being built, as the last step of its Containerfile.
    #[arg(long)]
    image: bool,
    /// As one JSON object.
    #[arg(long)]
    json: bool,
    /// Warnings count as well: exit code 2.
    #[arg(long)]
    strict: bool,
    /// Started as root: look with the eyes of this uid.
    #[arg(long, default_value_t = crate::args::UNPRIVILEGED)]
    user: u32,
}

/// All that was found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// Empty when the configuration cannot be read.
    configuration: Vec<Setting>,
    /// Absent for an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    posture: Option<Posture>,
    findings: Vec<Finding>,
}

/// Checks, prints, and returns the exit code: 0, 1 for errors, 2 for warnings if they count.
///
/// # Errors
/// The report cannot be printed.
pub fn run(path: &std::path::Path, over: &Overlay, build: &str, args: &CheckArgs) -> Result<u8, Failure> {
    // What root gives up is the container's all the same.
    let container = facts::Container::look();
    if !args.image && container.root {
        // Root that cannot be given up is a finding as well, and the rest is looked at all the same.
        if let Err(error) = runtimed_sandbox::process::drop_to(args.user, args.user) {
            tracing::debug!(error = %Chain(&error), "root stays");
        }
    }
    let report = match Effective::read(path, over) {
        Ok(effective) if args.image => Report {
            configuration: effective.settings(),
            posture: None,
            findings: image::judge(&effective.config, &image::look(&effective.config, path, build)),
        },
        Ok(effective) => {
            let facts = facts::gather(&effective.config, build, container);
            let (posture, findings) = judge::judge(&effective.config, &facts);
            Report { configuration: effective.settings(), posture: Some(posture), findings }
        }
        Err(error) => Report {
            configuration: Vec::new(),
            posture: None,
            findings: vec![Finding::error(
                "config.invalid",
                error.to_string(),
                "mend it there, or name another file with --config",
            )],
        },
    };
    show(&report, args.json).map_err(Failure::fault)?;
    let worst = report.findings.iter().map(|finding| finding.level).max();
    Ok(match worst {
        Some(Level::Error) => 1,
        Some(Level::Warning) if args.strict => 2,
        _ => 0,
    })
}

fn show(report: &Report, json: bool) -> anyhow::Result<()> {
    let text = if json { serde_json::to_string(report)? + "\n" } else { table::of(report) };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("the report cannot be printed")
}

/// The executable's own directory, in which the worker lies beside it.
fn own_binaries() -> Vec<PathBuf> {
    let own = std::env::current_exe().ok();
    let beside = own.as_ref().and_then(|own| Some(own.parent()?.join("runtimed-worker")));
    own.into_iter().chain(beside).collect()
}
