//! What the command may do, as intent; the worker's sandbox makes a plan of it, or refuses.

use std::path::Path;

use runtimed_api::link::Confinement;
use runtimed_api::policy::Granted;

use super::Attempt;
use crate::secrets::protected;

/// The intent for the command of an attempt.
pub(super) fn confinement(attempt: &Attempt, granted: &Granted, given: bool) -> Confinement {
    let config = &attempt.daemon.config;
    let limits = &granted.limits;
    let isolation = attempt.daemon.isolation;
    Confinement {
        tier: isolation.tier,
        own_proc: isolation.own_proc,
        given,
        profile: config.ceiling.profile,
        network: granted.network.clone(),
        watch: attempt.lease.run.spec.watch,
        read: config.run.read.clone().unwrap_or_else(image_directories),
        proc_files: config.run.proc_files.clone(),
        protected: protected(config, &attempt.daemon.state),
        cpu_seconds: limits
            .cpu
            .map(|cpu| cpu.get().as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)),
        open_files: limits.open_files.map(u64::from),
        file_size: limits.file_size.map(|size| size.0),
    }
}

/// The image's own directories: programs, libraries and their configuration, and nothing that is somebody's data.
pub(crate) fn image_directories() -> Vec<String> {
    let usual =
        ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr", "/etc", "/opt", "/nix/store"];
    usual.into_iter().filter(|path| Path::new(path).is_dir()).map(str::to_owned).collect()
}
