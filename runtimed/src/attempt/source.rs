//! Step 6, the daemon's part: what the worker is told of the source, and what is brought for it.

mod artifacts;

use runtimed_api::git_url::GitUrl;
use runtimed_api::https_url::HttpsUrl;
use runtimed_api::link::{Mirror, Source};
use runtimed_api::problem::{Code, Problem};
use runtimed_api::run::source::{GitSource, SourceKind};

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
                    sourced.proxy = proxy_for(attempt, &url)?;
                    sourced.mirror = mirror(attempt, git);
                }
                Ok(GitUrl::Ssh(_)) => sourced.mirror = mirror(attempt, git),
                // A repository on this machine is as near as any mirror.
                Ok(GitUrl::Local(_)) | Err(_) => {}
            }
            sourced.source = Source::Git(git.clone());
        }
        Some(SourceKind::Archive(archive)) => {
            if let Some(url) = HttpsUrl::parse(&archive.url) {
                sourced.proxy = proxy_for(attempt, &url)?;
            }
            sourced.source = Source::Archive(archive.clone());
        }
        Some(SourceKind::Inline(inline)) => sourced.source = Source::Inline(inline.clone()),
        Some(SourceKind::Artifacts(artifacts)) => {
            let brought = artifacts::bring(attempt, workspace, &artifacts.run).await?;
            sourced.source = Source::Artifacts(brought);
        }
        Some(SourceKind::Upload(upload)) => {
            sourced.source = Source::Upload(uploaded(attempt, workspace, upload).await?);
        }
        None => {}
    }
    Ok(sourced)
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

fn proxy_for(attempt: &Attempt, url: &HttpsUrl) -> Result<Option<String>, Ended> {
    let daemon = &attempt.daemon;
    proxy::of(&daemon.config.proxy, &daemon.environment, url.host()).map_err(|why| {
        Problem::new(Code::SourceUnreachable, why)
            .hint("set [proxy] url in the daemon's configuration")
            .into()
    })
}
