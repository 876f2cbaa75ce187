//! Whether a Run's source may be had.

use std::path::{Component, Path};

use crate::rule::{Refusal, Rule};
use crate::run::source::{GitSource, SourceKind};
use crate::run::spec::RunSpec;
use crate::runtime::Ceiling;

pub(super) fn judge(spec: &RunSpec, ceiling: &Ceiling) -> Vec<Refusal> {
    let mut out = Vec::new();
    match spec.source.as_ref().and_then(|source| source.kind()) {
        Some(SourceKind::Git(git)) => self::git(git, ceiling, &mut out),
        Some(SourceKind::Archive(_)) => out.push(not_yet("spec.source.archive", "an archive")),
        Some(SourceKind::Artifacts(_)) => {
            out.push(not_yet("spec.source.artifacts", "an earlier Run's artifacts"));
        }
        Some(SourceKind::Inline(_)) | None => {}
    }
    out
}

/// Whether a git URL is a path of the machine that fetches.
#[must_use]
pub fn is_local(url: &str) -> bool {
    url.starts_with('/')
}

fn not_yet(subject: &str, what: &str) -> Refusal {
    Refusal::new(Rule::SOURCE_NOT_YET, subject, format!("{what} cannot be a source yet"))
        .hint("use git or inline files")
}

fn git(git: &GitSource, ceiling: &Ceiling, out: &mut Vec<Refusal>) {
    let subject = "spec.source.git.url";
    let url = git.url.as_str();
    let printable =
        url.len() <= 2048 && url.bytes().all(|b| b.is_ascii_graphic() || (b == b' ' && is_local(url)));
    if is_local(url) {
        let normal =
            Path::new(url).components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
        let allowed = ceiling.local_paths.iter().any(|place| Path::new(url).starts_with(place));
        if !(printable && normal && allowed) {
            out.push(
                Refusal::new(Rule::SOURCE_LOCAL_PATH, subject, "this Runtime does not allow that local path")
                    .hint("use an https URL, or add the directory to the ceiling's localPaths"),
            );
        }
    } else if !printable || !url.starts_with("https://") || url.len() == "https://".len() {
        let scheme = url.split("://").next().filter(|_| url.contains("://"));
        let message = match scheme {
            Some("ssh") => "ssh cannot be used yet".to_owned(),
            Some("http" | "git") => "the connection would not be encrypted".to_owned(),
            _ => format!("{:?} is not an https URL", url.chars().take(80).collect::<String>()),
        };
        out.push(Refusal::new(Rule::SOURCE_URL, subject, message).hint("use https://host/path"));
    } else if url["https://".len()..].split('/').next().is_some_and(|authority| authority.contains('@')) {
        // The URL is stored and shown, so it is not repeated here either.
        out.push(
            Refusal::new(Rule::SOURCE_URL, subject, "the URL holds a user or password")
                .hint("name a secret in `credential` instead"),
        );
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
