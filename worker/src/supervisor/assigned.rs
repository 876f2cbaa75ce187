use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

use runtimed_api::ids::TreeId;
use runtimed_api::link::{Assign, Baseline, PriorPatch, Source, Up};
use runtimed_api::problem::Code;
use runtimed_api::run::step::{Step, StepTime};
use rustix::fs::{CWD, Mode, OFlags};

use super::ready::Ready;
use super::{End, Session};
use crate::failure::{Failure, storage};
use crate::fetch::ssh::KeyPlace;
use crate::fetch::{self, Given, Place, Sealed};
use crate::report::{Applied, Content, Fetched};
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
        let policy = policies::command(&self.assign.confinement, &self.assign.trees, false);
        policies::judge(&policy, &self.session.support)?;
        let credential = self.credential.take();
        let mut content = None;
        if let Some(place) = fetch::place(&self.assign)? {
            let started = Instant::now();
            let fetched = fetch(self.session, &self.assign, &place, credential)?;
            baseline.steps.push(step(Step::Source, started));
            baseline.notes.extend(fetched.notes);
            if let Content::Commit(commit) = &fetched.content {
                baseline.commit = Some(commit.clone());
            }
            content = Some(fetched.content);
        }
        // An empty workspace is there already: nothing is forked, and no library is woken, for it.
        let nothing = matches!(self.assign.source, Source::Empty)
            && self.assign.patches.is_empty()
            && self.assign.inputs.is_empty();
        if !nothing {
            let started = Instant::now();
            let applied = apply(self.session, &self.assign, content.as_ref())?;
            let name = if self.assign.patches.is_empty() { Step::Source } else { Step::Patches };
            match baseline.steps.last_mut() {
                Some(last) if last.step == name => last.micros += step(name, started).micros,
                _ => baseline.steps.push(step(name, started)),
            }
            baseline.tree = Some(applied.tree);
            baseline.notes.extend(applied.notes);
        }
        let path = self.assign.trees.command_workspace();
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
    place: &Place,
    credential: Option<Sealed>,
) -> Result<Fetched, End> {
    let policy = policies::fetch(place, assign, &session.support);
    let authorities = match place {
        Place::Https(_) => Some(authorities(assign.ca_file.as_deref())?),
        Place::Local(_) | Place::Ssh(..) => None,
    };
    let keys = match place {
        Place::Ssh(..) => Some(KeyPlace::make(&assign.trees)?),
        Place::Local(_) | Place::Https(_) => None,
    };
    let connector = match place {
        Place::Ssh(_, programs) => programs.get(1).cloned(),
        Place::Local(_) | Place::Https(_) => None,
    };
    let given = Given { authorities, credential, connector };
    let keep: Vec<_> = given
        .authorities
        .iter()
        .map(AsFd::as_fd)
        .chain(given.credential.iter().map(|credential| credential.bytes.as_fd()))
        .collect();
    // The child's copies of both are consumed in the child; the supervisor's own are closed when this returns.
    let fetched = phase::run(session, "fetch", &policy, &keep, || fetch::fetch(assign, &given));
    // Whatever became of the fetch, it and all below it are dead: a stop leaves that to the end of the whole tree.
    if let Some(keys) = keys {
        keys.remove()?;
    }
    let fetched = fetched?;
    if let (Source::Git(git), content) = (&assign.source, &fetched.content)
        && let Some(asked) = git.reference.as_deref().and_then(|name| name.parse::<TreeId>().ok())
        && *content != Content::Commit(asked)
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

fn apply(session: &mut Session, assign: &Assign, content: Option<&Content>) -> Result<Applied, End> {
    let patches = assign.patches.iter().map(open_patch).collect::<Result<Vec<_>, _>>()?;
    let keep: Vec<_> = patches.iter().map(AsFd::as_fd).collect();
    let policy = policies::apply(assign);
    phase::run(session, "apply", &policy, &keep, || baseline::apply(assign, content, &patches))
}

/// Opened here, so that the child needs no right to the daemon's files.
fn open_patch(patch: &PriorPatch) -> Result<OwnedFd, Failure> {
    let path = PathBuf::from(&patch.path);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, &path, flags, Mode::empty())
        .map_err(|errno| storage(&format!("open prior patch {}", patch.label), &errno.into()))
}
