//! Where the symlinks of a tree lead, resolved in the tree as a kernel would resolve them in a checkout.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use git2::Repository;

use crate::{
    git_path::{Disguise, GitPath, MAX_PATH, disguise},
    rule::{Refusal, Rule},
    tree::{Difference, Mode, TreeId, flatten},
};

/// As many links as Linux follows in one path.
const MAX_FOLLOWED: usize = 40;

/// Refuses a change after which a symlink leads outside the tree, or into `.git`, that did not before. Not only new
/// links count: a link that stays can lead elsewhere once another link on its way has changed.
pub(crate) fn judge(
    repo: &Repository,
    before: TreeId,
    after: TreeId,
    changes: &[Difference],
) -> Result<Result<(), Refusal>, git2::Error> {
    let is_link = |change: &Difference| {
        [change.old, change.new].into_iter().flatten().any(|entry| entry.mode == Mode::Symlink)
    };
    if !changes.iter().any(is_link) {
        return Ok(Ok(()));
    }
    let known = Links::read(repo, before)?.outside();
    for path in Links::read(repo, after)?.outside() {
        let is_new = changes.iter().any(|change| change.path == path && change.new.is_some());
        if is_new || !known.contains(&path) {
            let message = "the symlink leads outside the tree, or into .git";
            return Ok(Err(Refusal::at(Rule::SymlinkEscapes, &path, message)));
        }
    }
    Ok(Ok(()))
}

/// Every symlink of a tree with its target.
struct Links(BTreeMap<GitPath, Vec<u8>>);

impl Links {
    fn read(repo: &Repository, tree: TreeId) -> Result<Self, git2::Error> {
        let mut links = BTreeMap::new();
        for (path, entry) in flatten(repo, tree)? {
            if entry.mode == Mode::Symlink {
                links.insert(path, repo.find_blob(entry.id)?.content().to_vec());
            }
        }
        Ok(Self(links))
    }

    fn outside(&self) -> BTreeSet<GitPath> {
        self.0.keys().filter(|path| !self.stays_inside(path)).cloned().collect()
    }

    /// Walks from the root, component by component. What does not exist counts as a directory, for it may become one.
    fn stays_inside(&self, link: &GitPath) -> bool {
        let mut ahead = link.components().map(<[u8]>::to_vec).collect::<VecDeque<_>>();
        let mut here = Vec::<Vec<u8>>::new();
        let mut followed = 0;
        while let Some(component) = ahead.pop_front() {
            match component.as_slice() {
                b"" | b"." => continue,
                b".." if here.pop().is_none() => return false,
                b".." => continue,
                name if disguise(name) == Some(Disguise::DotGit) => return false,
                _ => here.push(component),
            }
            let Some(target) = self.0.get(&GitPath::new(&here.join(&b"/"[..]))) else { continue };
            followed += 1;
            let usable = !target.is_empty() && target.len() < MAX_PATH && !target.contains(&0);
            if followed > MAX_FOLLOWED {
                // Nothing can be opened through it. Where a long chain leads outside, its last links do by themselves.
                return true;
            }
            if !usable || target.starts_with(b"/") {
                return false;
            }
            here.pop();
            for part in target.split(|byte| *byte == b'/').rev() {
                ahead.push_front(part.to_vec());
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outside(links: &[(&str, &str)]) -> Vec<String> {
        let links =
            links.iter().map(|(path, target)| (GitPath::new(path.as_bytes()), target.as_bytes().to_vec()));
        Links(links.collect()).outside().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn links_within_the_tree_stay_inside() {
        let links = [
            ("a", "b"),
            ("d/e", "../x"),
            ("d/f", "./e"),
            ("same", "d/../a"),
            ("dangling", "no/where"),
            ("loop", "loop"),
        ];
        assert_eq!(outside(&links), Vec::<String>::new());
    }

    #[test]
    fn links_that_leave_are_outside() {
        for target in ["/etc/passwd", "..", "../x", "d/../../x", ".git/config", "d/.GIT/hooks", "", "a\0b"] {
            assert_eq!(outside(&[("link", target)]), ["link"], "{target:?}");
        }
    }

    #[test]
    fn a_link_over_a_link_is_resolved_as_the_kernel_does() {
        // By its text the second link stays inside; but the first one leads to the root, whose parent is outside.
        assert_eq!(outside(&[("a/b/up", "../.."), ("x", "a/b/up/../f")]), ["x"]);
        assert_eq!(outside(&[("d", "p/q/r"), ("x", "d/../../f")]), Vec::<String>::new());
        assert_eq!(outside(&[("x", "d/../../f")]), ["x"]);
    }
}
