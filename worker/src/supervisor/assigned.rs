use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use runtimed_api::ids::TreeId;
use runtimed_api::link::{Assign, Baseline, PriorPatch, Source, Up, layout};
use runtimed_api::problem::Code;
use runtimed_api::run::source::GitSource;
use runtimed_api::run::step::{Step, StepTime};
use rustix::fs::{CWD, Mode, OFlags};

use super::ready::Ready;
use super::{End, Session};
use crate::failure::{Failure, storage};
use crate::fetch::{self, Place, Sealed};
use crate::report::{Applied, Fetched};
use crate::{baseline, phase, policies};

/// The daemon has said what to do, and nothing of it is done.
#[derive(Debug)]
pub(super) struct Assigned<'s> {
    pub(super) session: &'s mut Session,
    pub(super) streams: (OwnedFd, OwnedFd),
    pub(super) credential: Option<Sealed>,
    pub(super) assign: Box<Assign>,
}

impl<'s> Assigned<'s> {
    /// Brings the source and applies every prior patch.
    pub(super) fn prepare(mut self) -> Result<Ready<'s>, End> {
        let mut baseline = Baseline { tree: None, commit: None, steps: Vec::new(), notes: Vec::new() };
        let credential = self.credential.take();
        if let Source::Git(git) = &self.assign.source {
            let started = Instant::now();
            let fetched = fetch(self.session, &self.assign, git, credential)?;
            baseline.steps.push(step(Step::Source, started));
            baseline.commit = Some(fetched.commit);
            baseline.notes.extend(fetched.notes);
        }
        // An empty workspace is there already: nothing is forked, and no library is woken, for it.
        if !(matches!(self.assign.source, Source::Empty) && self.assign.patches.is_empty()) {
            let started = Instant::now();
            let applied = apply(self.session, &self.assign, baseline.commit.as_ref())?;
            let name = if self.assign.patches.is_empty() { Step::Source } else { Step::Patches };
            match baseline.steps.last_mut() {
                Some(last) if last.step == name => last.micros += step(name, started).micros,
                _ => baseline.steps.push(step(name, started)),
            }
            baseline.tree = Some(applied.tree);
            baseline.notes.extend(applied.notes);
        }
        let path = Path::new(&self.assign.trees.workspace).join(layout::WORKSPACE);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Opened while its mode is ours: the command may take away the right to open it again.
        let workspace = rustix::fs::openat(CWD, &path, flags, Mode::empty())
            .map_err(|errno| storage("open the workspace", &errno.into()))?;
        let tree = baseline.tree.clone();
        self.session.events.send(&Up::Baseline(baseline))?;
        Ok(Ready { session: self.session, streams: self.streams, assign: self.assign, tree, workspace })
    }
}

fn step(step: Step, started: Instant) -> StepTime {
    StepTime { step, micros: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX) }
}

fn fetch(
    session: &mut Session,
    assign: &Assign,
    git: &GitSource,
    credential: Option<Sealed>,
) -> Result<Fetched, End> {
    let place = fetch::place(git)?;
    let profile = assign.confinement.profile;
    let policy = policies::fetch(&place, profile, &assign.trees, &session.support);
    let authorities = match place {
        Place::Https { .. } => Some(authorities(assign.ca_file.as_deref())?),
        Place::Local(_) => None,
    };
    let keep: Vec<_> = authorities
        .iter()
        .map(AsFd::as_fd)
        .chain(credential.iter().map(|credential| credential.bytes.as_fd()))
        .collect();
    // The child's copies of both are consumed in the child; the supervisor's own are closed when this returns.
    let fetched = phase::run(session, "fetch", &policy, &keep, || {
        fetch::fetch(git, &assign.trees, authorities.as_ref(), credential.as_ref())
    })?;
    if let Some(asked) = git.reference.as_deref().filter(|name| name.parse::<TreeId>().is_ok())
        && asked != fetched.commit.as_str()
    {
        let message = "the fetch reports another commit than the one that was asked for";
        return Err(Failure::fault(Code::SourceFailed, message).into());
    }
    Ok(fetched)
}

/// Where the usual distributions keep their bundle of certificate authorities.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The bundle to check a server with: the one that was named, or the system's.
fn authorities(named: Option<&str>) -> Result<OwnedFd, Failure> {
    let open = |path: &str| rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    if let Some(named) = named {
        return open(named).map_err(|errno| {
            let message = format!("the certificate authorities in {named} cannot be read: {errno}");
            Failure::fault(Code::SourceUnreachable, message).lasting().hint("correct [tls] ca_file")
        });
    }
    BUNDLES.iter().find_map(|path| open(path).ok()).ok_or_else(|| {
        let message = "the image has no certificate authorities to check an https server with";
        Failure::fault(Code::SourceUnreachable, message)
            .lasting()
            .hint("put the ca-certificates package into the image, or set [tls] ca_file")
    })
}

fn apply(session: &mut Session, assign: &Assign, commit: Option<&TreeId>) -> Result<Applied, End> {
    let patches = assign.patches.iter().map(open_patch).collect::<Result<Vec<_>, _>>()?;
    let keep: Vec<_> = patches.iter().map(AsFd::as_fd).collect();
    let policy = policies::apply(assign.confinement.profile, &assign.trees);
    phase::run(session, "apply", &policy, &keep, || baseline::apply(assign, commit, &patches))
}

/// Opened here, so that the child needs no right to the daemon's files.
fn open_patch(patch: &PriorPatch) -> Result<OwnedFd, Failure> {
    let path = PathBuf::from(&patch.path);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, &path, flags, Mode::empty())
        .map_err(|errno| storage(&format!("open prior patch {}", patch.label), &errno.into()))
}
