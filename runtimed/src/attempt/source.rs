//! Step 6, the daemon's part: what the worker is told of the source, and what is brought for it.

mod artifacts;

use runtimed_api::git_url::GitUrl;
use runtimed_api::https_url::HttpsUrl;
use runtimed_api::link::{Input, Mirror, Source, Uploaded};
use runtimed_api::problem::{Code, Problem};
use runtimed_api::run::source::{ArchiveSource, GitSource, SourceKind};
use runtimed_api::run::spec::Input as Asked;

use super::prior::uploaded;
use super::workspace::Workspace;
use super::{Attempt, Ended};
use crate::proxy;

/// What the worker is told.
#[derive(Debug)]
pub(super) struct Sourced {
    pub(super) source: Source,
    pub(super) proxy: Option<String>,
    pub(super) mirror: Option<Mirror>,
}

/// Finds out what the worker needs for the Run's source.
pub(super) async fn source(attempt: &Attempt, workspace: &Workspace) -> Result<Sourced, Ended> {
    let mut sourced = Sourced { source: Source::Empty, proxy: None, mirror: None };
    let asked = attempt.lease.run.spec.source.as_ref().and_then(|source| source.kind());
    match asked {
        Some(SourceKind::Git(git)) => {
            match GitUrl::parse(&git.url) {
                Ok(GitUrl::Https(url)) => {
                    sourced.proxy = proxy_for(attempt, url.host())?;
                    sourced.mirror = mirror(attempt, git);
                }
                Ok(GitUrl::Ssh(url)) => {
                    if attempt.daemon.config.proxy.ssh {
                        sourced.proxy = proxy_for(attempt, url.host())?;
                    }
                    sourced.mirror = mirror(attempt, git);
                }
                // A repository on this machine is as near as any mirror.
                Ok(GitUrl::Local(_)) | Err(_) => {}
            }
            sourced.source = Source::Git(git.clone());
        }
        Some(SourceKind::Archive(ArchiveSource { url: None, digest: Some(digest), .. })) => {
            sourced.source = Source::UploadedArchive(uploaded(attempt, workspace, digest).await?);
        }
        Some(SourceKind::Archive(archive)) => {
            if let Some(url) = archive.url.as_deref().and_then(HttpsUrl::parse) {
                sourced.proxy = proxy_for(attempt, url.host())?;
            }
            sourced.source = Source::Archive(archive.clone());
        }
        Some(SourceKind::Inline(inline)) => sourced.source = Source::Inline(inline.clone()),
        Some(SourceKind::Artifacts(artifacts)) => {
            let subject = "spec.source.artifacts";
            let brought = artifacts::bring(attempt, workspace, &artifacts.run, "artifacts", subject);
            sourced.source = Source::Artifacts(brought.await?);
        }
        Some(SourceKind::Upload(upload)) => {
            let path = uploaded(attempt, workspace, &upload.digest).await?;
            sourced.source = Source::Upload(Uploaded { path, commit: upload.commit.clone() });
        }
        None => {}
    }
    Ok(sourced)
}

/// Brings the artifacts of every earlier Run that the command is to find.
pub(super) async fn inputs(attempt: &Attempt, workspace: &Workspace) -> Result<Vec<Input>, Ended> {
    let mut inputs = Vec::new();
    for (index, Asked { run }) in attempt.lease.run.spec.inputs.iter().enumerate() {
        let (name, subject) = (format!("input-{index}"), format!("spec.inputs[{index}]"));
        let artifacts = artifacts::bring(attempt, workspace, run, &name, &subject).await?;
        inputs.push(Input { run: run.clone(), artifacts });
    }
    Ok(inputs)
}

/// Without a mirror a fetch takes longer, and that is all. One that opens its source with a submitted credential has none:
/// the same name stands for another credential each time.
fn mirror(attempt: &Attempt, git: &GitSource) -> Option<Mirror> {
    if git.credential.as_ref().is_some_and(|name| attempt.lease.secrets.contains_key(name)) {
        return None;
    }
    let mirrors = &attempt.daemon.mirrors;
    match mirrors.of(&attempt.key().namespace, &git.url, git.credential.as_ref()) {
        Ok(mirror) => mirror,
        Err(error) => {
            tracing::warn!(%error, "a mirror cannot be made");
            None
        }
    }
}

fn proxy_for(attempt: &Attempt, host: &str) -> Result<Option<String>, Ended> {
    let daemon = &attempt.daemon;
    proxy::of(&daemon.config.proxy, &daemon.environment, host).map_err(|why| {
        Problem::new(Code::SourceUnreachable, why)
            .hint("set [proxy] url in the daemon's configuration")
            .into()
    })
}
