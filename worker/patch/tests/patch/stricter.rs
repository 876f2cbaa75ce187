//! Where we refuse and git does not: the whole list, each with its reason.

use runtimed_patch::{Refusal, Rule, RuleKind, TreeId};

use crate::git::Git;

/// Why we refuse what git accepts; `None` if nothing of this list says so, which is a bug of ours.
pub(crate) fn stricter(
    git: &Git,
    style: &[&str],
    base: TreeId,
    patch: &[u8],
    refusal: &Refusal,
) -> Option<&'static str> {
    let says = |text: &str| refusal.message.contains(text);
    match refusal.rule {
        // git guesses names and modes where a patch does not say them.
        Rule::Malformed if says("without git's own header") => Some("a diff without git's own header"),
        // git passes over lines that follow a change and belong to none: what a wrong line count leaves over is lost.
        Rule::Malformed if says("unexpected line after") => Some("lines behind a change that belong to none"),
        // A file that is changed twice in one message has no one meaning. git applies the second to the result of the
        // first, and so depends on their order.
        Rule::Malformed if says("this file twice") => Some("a file twice in one message"),
        // git makes the file empty, or takes it as it was: seen where a maintainer cut a file out of a patch, but not its header.
        Rule::Malformed if says("a change of content that is missing") => {
            Some("a file whose changes were cut out")
        }
        Rule::Malformed => None,
        Rule::DoesNotApply => {
            let file = refusal.file.as_ref()?.to_string();
            let content = git.try_run(["cat-file", "-p", &format!("{base}:{file}")], b"").stdout;
            if style.contains(&"-U0") && !content.ends_with(b"\n") {
                // git glues the new line to the last one. No line of the patch says so.
                Some("no context, at the end of a file without a newline")
            } else if !applied_lines(git, base, patch, &file).is_sorted() {
                // Its own place is gone, and its context is also before the hunk that precedes it. We keep their order.
                Some("hunks out of their order")
            } else {
                None
            }
        }
        // `.git` in its disguises, links out of the tree, submodules, setuid modes.
        rule if rule.kind() == RuleKind::Always => Some("always refused"),
        _ => None,
    }
}

/// The lines at which git applies the hunks of a file, by its own account.
fn applied_lines(git: &Git, base: TreeId, patch: &[u8], file: &str) -> Vec<u64> {
    let text = String::from_utf8_lossy(patch);
    let section = text.split("diff --git ").find(|section| section.starts_with(&format!("a/{file} ")));
    let starts = section.unwrap_or_default().lines().filter_map(|line| line.strip_prefix("@@ -"));
    let number = |text: &str| text.split([',', ' ']).next()?.parse::<u64>().ok();
    let mut lines = starts.filter_map(|line| number(line.split_once('+')?.1)).collect::<Vec<_>>();
    git.run(["read-tree", &base.to_string()]);
    let told = git.try_run(["apply", "--cached", "--check", "--verbose", "-"], patch).stderr;
    let told = String::from_utf8_lossy(&told);
    let told = told.split("Checking patch ").find(|part| part.starts_with(&format!("{file}...")));
    for moved in told.unwrap_or_default().lines().filter_map(|line| line.strip_prefix("Hunk #")) {
        let Some((hunk, rest)) = moved.split_once(" succeeded at ") else { continue };
        let hunk = hunk.parse::<usize>().ok().and_then(|hunk| lines.get_mut(hunk.checked_sub(1)?));
        if let (Some(line), Some(at)) = (hunk, number(rest)) {
            *line = at;
        }
    }
    lines
}
