//! Whether a Run's source may be had.

use std::path::{Component, Path};

use crate::git_url::{GitUrl, GitUrlError};
use crate::https_url::HttpsUrl;
use crate::rule::{Refusal, Rule};
use crate::run::source::{ArchiveSource, GitSource, SourceKind};
use crate::run::spec::RunSpec;
use crate::runtime::Ceiling;

pub(super) fn judge(spec: &RunSpec, ceiling: &Ceiling) -> Vec<Refusal> {
    let mut out = Vec::new();
    match spec.source.as_ref().and_then(|source| source.kind()) {
        Some(SourceKind::Git(git)) => self::git(git, ceiling, &mut out),
        Some(SourceKind::Archive(archive)) => out.extend(self::archive(archive)),
        // Whether that Run is there is found out when its artifacts are brought.
        Some(SourceKind::Artifacts(_) | SourceKind::Inline(_) | SourceKind::Upload(_)) | None => {}
    }
    out
}

fn git(git: &GitSource, ceiling: &Ceiling, out: &mut Vec<Refusal>) {
    const URL: &str = "spec.source.git.url";
    match GitUrl::parse(&git.url) {
        Ok(GitUrl::Local(path)) => {
            let path = Path::new(&path);
            let normal = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
            if !normal || !ceiling.local_paths.iter().any(|place| path.starts_with(place)) {
                out.push(not_local(URL));
            }
        }
        Ok(GitUrl::Ssh(_)) if git.credential.is_none() => out.push(
            Refusal::new(
                Rule::SOURCE_CREDENTIAL,
                "spec.source.git.credential",
                "ssh needs a credential: its key, and the host keys to expect",
            )
            .hint("name a secret of kind git-ssh in `credential`"),
        ),
        Ok(GitUrl::Https(_) | GitUrl::Ssh(_)) => {}
        Err(GitUrlError::Unprintable) if git.url.starts_with('/') => out.push(not_local(URL)),
        // The URL is stored and shown, so it is not repeated here either.
        Err(why) => out.push(Refusal::new(Rule::SOURCE_URL, URL, why.to_string()).hint(match why {
            GitUrlError::Login => "name a secret in `credential` instead",
            _ => "use https://host/path, ssh://user@host/path or user@host:path",
        })),
    }
    if let Some(reference) = &git.reference
        && !is_reference(reference)
    {
        out.push(
            Refusal::new(
                Rule::SOURCE_REF,
                "spec.source.git.ref",
                "not the name of a branch or tag, nor a commit id",
            )
            .hint("use a branch, a tag or all 40 digits of a commit id"),
        );
    }
}

fn not_local(subject: &str) -> Refusal {
    Refusal::new(Rule::SOURCE_LOCAL_PATH, subject, "this Runtime does not allow that local path")
        .hint("use an https URL, or add the directory to the ceiling's localPaths")
}

fn archive(archive: &ArchiveSource) -> Option<Refusal> {
    let Some(url) = &archive.url else {
        let why = if archive.digest.is_none() {
            "an archive needs a URL, or the digest of an uploaded one"
        } else if archive.credential.is_some() {
            "an uploaded archive is opened by no credential"
        } else {
            return None;
        };
        return Some(Refusal::new(Rule::SOURCE_URL, "spec.source.archive", why));
    };
    let fits = url.len() <= 2048 && HttpsUrl::parse(url).is_some();
    (!fits).then(|| {
        Refusal::new(
            Rule::SOURCE_URL,
            "spec.source.archive.url",
            "it is not an https URL without user, query and fragment",
        )
        .hint("use https://host/path, and name a secret in `credential` where one is needed")
    })
}

/// What `git check-ref-format --allow-onelevel` takes, and nothing that looks like an option.
fn is_reference(name: &str) -> bool {
    let forbidden = |b: u8| b <= b' ' || b == 0x7f || b"~^:?*[\\".contains(&b);
    !name.is_empty()
        && name.len() <= 256
        && name != "@"
        && !name.starts_with(['-', '/'])
        && !name.ends_with(['/', '.'])
        && !name.bytes().any(forbidden)
        && !["..", "@{", "//"].iter().any(|bad| name.contains(bad))
        && !name.split('/').any(|part| part.starts_with('.') || part.strip_suffix(".lock").is_some())
}
