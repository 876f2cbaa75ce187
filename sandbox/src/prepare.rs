//! From a plan to descriptors and programs that a child applies without opening, building or allocating anything.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};

use crate::enforcement::Enforcement;
use crate::plan::{Access, Domain, Files, Grant, Plan, Refusal, Step, check_path};
use crate::policy::Rlimits;
use crate::spawn::{FIRST_SOURCE, SpawnError, Stage};
use crate::sys::{self, Steps};
use crate::syscalls;

/// A plan made ready to be applied once, in this process or in a child of it.
#[derive(Debug)]
pub struct Prepared {
    steps: Steps,
    enforcement: Enforcement,
}

impl Prepared {
    /// What holds once it has been applied.
    #[must_use]
    pub fn enforcement(&self) -> &Enforcement {
        &self.enforcement
    }

    pub(crate) fn steps(&self) -> &Steps {
        &self.steps
    }
}

impl Plan {
    /// Opens every path and builds the ruleset and the filter.
    ///
    /// # Errors
    /// [`Refusal`]: `grant.missing` for a path that cannot be opened, `grant.kind` for one that is not what its list
    /// says, the other `grant.` rules for one that leads elsewhere through links, `support.` rules when the kernel takes
    /// back what it said it could do.
    pub fn prepare(&self) -> Result<Prepared, Refusal> {
        let mut ready = Steps::default();
        for step in &self.steps {
            match step {
                Step::View => {
                    let view = self.policy.view.as_ref();
                    ready.view = view.map(|view| crate::view::prepare(&self.policy, view)).transpose()?;
                }
                Step::Session => ready.new_session = true,
                Step::Limits(limits) => ready.limits = rlimits(*limits),
                Step::NoNewPrivs => ready.no_new_privs = true,
                Step::DropCapabilities => ready.drop_capabilities = true,
                Step::Landlock(domain) => ready.landlock = Some(self.ruleset(domain)?),
                Step::Seccomp(rules, architecture) => ready.filter = syscalls::compile(rules, *architecture),
            }
        }
        Ok(Prepared { steps: ready, enforcement: self.enforcement.clone() })
    }

    fn ruleset(&self, domain: &Domain) -> Result<OwnedFd, Refusal> {
        let abi = ABI::from(i32::from(domain.abi));
        let failed = |error: RulesetError| {
            Refusal::new("support.files", format!("the Landlock ruleset cannot be built: {error}"))
        };
        let mut ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        match domain.files {
            Files::None => {}
            Files::Moving => ruleset = ruleset.handle_access(AccessFs::Refer).map_err(failed)?,
            Files::All => ruleset = ruleset.handle_access(AccessFs::from_all(abi)).map_err(failed)?,
        }
        if domain.ports.is_some() {
            ruleset = ruleset.handle_access(AccessNet::from_all(abi)).map_err(failed)?;
        }
        if domain.scopes {
            ruleset = ruleset.scope(Scope::from_all(abi)).map_err(failed)?;
        }
        let mut created = ruleset.create().map_err(failed)?;
        for grant in &domain.grants {
            let (path, access) = self.open(grant, abi)?;
            created = created.add_rule(PathBeneath::new(path, access)).map_err(failed)?;
        }
        if let Some(ports) = &domain.ports {
            for port in &ports.connect {
                created = created.add_rule(NetPort::new(*port, AccessNet::ConnectTcp)).map_err(failed)?;
            }
            for port in &ports.bind {
                created = created.add_rule(NetPort::new(*port, AccessNet::BindTcp)).map_err(failed)?;
            }
        }
        let ruleset: Option<OwnedFd> = created.into();
        let ruleset = ruleset.ok_or_else(|| Refusal::new("support.files", "Landlock went away"))?;
        // High, so that no descriptor that a child is given takes its place.
        rustix::io::fcntl_dupfd_cloexec(ruleset, FIRST_SOURCE).map_err(|errno| {
            Refusal::new("support.files", format!("the Landlock ruleset cannot be kept: {errno}"))
        })
    }

    /// Opens a grant's path, and judges where links have led and what is there.
    fn open(&self, grant: &Grant, abi: ABI) -> Result<(OwnedFd, BitFlags<AccessFs>), Refusal> {
        let shown = grant.path.display();
        let missing = |errno: Errno| {
            Refusal::new("grant.missing", format!("the granted path {shown} cannot be opened: {errno}"))
        };
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let plain = rustix::fs::openat2(CWD, &grant.path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
        let fd = match plain {
            // It leads where it says, which the plan has judged.
            Ok(fd) => fd,
            Err(Errno::LOOP) => {
                let fd = rustix::fs::open(&grant.path, flags, Mode::empty()).map_err(missing)?;
                let resolved = resolved(&fd).map_err(missing)?;
                check_path(&resolved, grant.access, &self.policy, &self.mounts)?;
                fd
            }
            Err(errno) => return Err(missing(errno)),
        };
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd).map_err(missing)?.st_mode);
        let fits = match grant.access {
            Access::Device => kind == FileType::CharacterDevice,
            Access::ProcFile => kind == FileType::RegularFile,
            Access::Read | Access::Execute | Access::Write | Access::Move => {
                matches!(kind, FileType::Directory | FileType::RegularFile)
            }
        };
        if !fits {
            return Err(Refusal::new(
                "grant.kind",
                format!("the granted path {shown} is a {kind:?}, which does not fit"),
            ));
        }
        let mut access = rights(grant.access, abi);
        if kind != FileType::Directory {
            access &= AccessFs::from_file(abi);
        }
        Ok((fd, access))
    }
}

/// The path of what a descriptor refers to.
fn resolved(fd: &OwnedFd) -> Result<PathBuf, Errno> {
    let target = rustix::fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new())?;
    Ok(PathBuf::from(std::ffi::OsString::from_vec(target.into_bytes())))
}

fn rights(access: Access, abi: ABI) -> BitFlags<AccessFs> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    match access {
        Access::Read | Access::ProcFile => read,
        Access::Execute => read | AccessFs::Execute,
        Access::Move => AccessFs::Refer.into(),
        Access::Device => AccessFs::ReadFile | AccessFs::WriteFile,
        // Device nodes are nothing that work makes, and a device that is there is not talked to.
        Access::Write => {
            AccessFs::from_all(abi) & !(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev)
        }
    }
}

/// The limits to set: no limit is raised above the hard one that this process has, which only a privileged one could.
fn rlimits(limits: Rlimits) -> Vec<(Resource, Rlimit)> {
    let wanted = [
        (Resource::Core, Some(0)),
        (Resource::Nofile, limits.nofile),
        (Resource::Nproc, limits.nproc),
        (Resource::Fsize, limits.fsize),
        (Resource::Cpu, limits.cpu_seconds),
        (Resource::Data, limits.data),
    ];
    // One that is lowered already is somebody else's mark, and may not be raised.
    let unmarked = rustix::process::getrlimit(Resource::Locks).maximum.is_none();
    let mark = (Resource::Locks, limits.mark.filter(|_| unmarked));
    let set = wanted.into_iter().chain([mark]).filter_map(|(resource, limit)| Some((resource, limit?)));
    set.map(|(resource, limit)| {
        let hard = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
        // SIGXCPU comes at the soft limit and says what it is about, SIGKILL at the hard one does not: a second between
        // them lets the first be seen (setrlimit(2)).
        let beyond = if resource == Resource::Cpu { limit.saturating_add(1) } else { limit };
        (resource, Rlimit { current: Some(limit.min(hard)), maximum: Some(beyond.min(hard)) })
    })
    .collect()
}

/// Confines the calling process, which must have one thread, for good.
///
/// # Errors
/// [`SpawnError`] with the stage that failed; the process may be confined in part and must not go on. At
/// [`Stage::Launch`], `EBUSY` means that it has more than one thread: the others would stay unconfined.
pub fn enforce_self(prepared: Prepared) -> Result<Enforcement, SpawnError> {
    crate::process::require_one_thread().map_err(|errno| SpawnError::new(Stage::Launch, errno))?;
    if prepared.steps.view.is_some() {
        return Err(SpawnError::new(Stage::View, Errno::OPNOTSUPP));
    }
    let reached = std::cell::Cell::new(Stage::Session);
    sys::apply(prepared.steps(), |stage| reached.set(stage))
        .map_err(|errno| SpawnError::new(reached.get(), errno))?;
    Ok(prepared.enforcement)
}
